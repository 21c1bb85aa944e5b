//! What a distributor decides the requests of one pool by: the dispatcher's guide, and what the
//! fallback needs. Filled by the distributor role.

use std::time::Duration;

use baton_cluster::{Cluster, NodeId, Pool, PoolId, ServiceId};
use baton_control::message;
use baton_dispatcher::fallback::Ring;

/// What a pool's requests are decided by.
#[derive(Debug)]
pub(crate) struct Guided {
    /// As last told.
    pub(crate) guide: message::Guide,
    /// The pool's servers, in ascending order.
    pub(crate) servers: Vec<NodeId>,
    /// By which they are chosen without a dispatcher.
    pub(crate) ring: Ring,
    /// LARD/R: how long a mapping of several servers may be used before it is asked again.
    pub(crate) replicas_for: Duration,
}

impl Guided {
    /// Nothing is told yet, so everything is asked.
    pub(crate) fn new(pool: &Pool, servers: &[(NodeId, u16)]) -> Self {
        let own = servers.iter().copied().filter(|(node, _)| pool.has(*node));
        Self {
            guide: message::Guide::AskAlways,
            servers: pool.servers.clone(),
            ring: Ring::new(own),
            replicas_for: pool.policy.k,
        }
    }
}

/// What the programs call a pool: they know services alone yet, and each stands for its first pool.
/// `None` for the others, for which nothing is decided in the kernel.
pub(crate) fn known_as(cluster: &Cluster, pool: PoolId) -> Option<ServiceId> {
    let service = cluster.service(cluster.pool(pool)?.service)?;
    (service.pools.first() == Some(&pool)).then_some(service.id)
}
