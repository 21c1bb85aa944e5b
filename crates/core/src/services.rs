//! The services that this node knows: those of the cluster file, and those that have left it and end. What
//! the programs' tables hold of them is made here, and follows each change of the file.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use baton_cluster::{Cluster, Flow, PHttp, Pool, PoolHash, PoolId, Roles, Service, ServiceId, Succession};
use baton_datapath::{DatapathError, PoolEntry, ServiceEntry};
use baton_http::Rules;

use crate::outside::{Moment, Outside};

/// An address ends for this long at least, for as long as it may take an operator to give all nodes the
/// new file: a node without it could not take what another still hands it.
const ENDS_FOR: Duration = Duration::from_secs(30);
/// The connections of ending services are counted at most this often. Counting takes longer the more connections there
/// are, and stops everything else: so the pause after it is `COUNT_SHARE` times as long as it took.
const COUNT_EVERY: Duration = Duration::from_secs(1);
const COUNT_SHARE: u32 = 50;

/// The services of this node.
#[derive(Debug)]
pub struct Services {
    known: Succession,
    open: Vec<ServiceEntry>,
    ending: Vec<ServiceEntry>,
    /// Since when each address ends, and how many connections it has left.
    left: BTreeMap<(IpAddr, u16), (Instant, u64)>,
    count_at: Instant,
    /// Services and pools whose last address has just gone: packets may be under way by them for a moment.
    gone: (Vec<ServiceId>, Vec<PoolId>),
}

impl Services {
    pub(crate) fn new(known: Succession, now: Instant) -> Self {
        let cluster = &known.cluster;
        let open = cluster.services.iter().map(|service| entry(cluster, service)).collect();
        let ending = known.ending.iter().map(|ending| {
            let pools: Vec<&Pool> = ending.pools.iter().collect();
            entry_of(&ending.service, &pools, ending.strict)
        });
        let left = known.ending_addresses().map(|address| (address, (now, 0))).collect();
        Self { open, ending: ending.collect(), left, count_at: now, gone: (Vec::new(), Vec::new()), known }
    }

    /// The cluster file in force.
    pub fn cluster(&self) -> &Cluster {
        &self.known.cluster
    }

    /// The file, and what is left of those before it.
    pub fn known(&self) -> &Succession {
        &self.known
    }

    /// The service that a connection is for.
    pub fn of(&self, flow: &Flow) -> Option<&ServiceEntry> {
        let is_its = |s: &&ServiceEntry| s.port == flow.vip_port && s.vips.contains(&flow.vip);
        self.open.iter().chain(&self.ending).find(is_its)
    }

    /// What other nodes know a pool by.
    pub(crate) fn hash(&self, pool: PoolId) -> Option<PoolHash> {
        self.known.pools().find(|known| known.id == pool).map(|pool| pool.hash)
    }

    /// Whether requests of some service's connections may have to move.
    pub fn follow(&self) -> bool {
        self.open.iter().chain(&self.ending).any(|service| service.follows)
    }

    /// The names of services that end, with the connections that each has left.
    pub fn ending(&self) -> impl Iterator<Item = (&str, u64)> {
        self.known.ending.iter().map(|ending| {
            let Service { name, vips, port, .. } = &ending.service;
            let left = vips.iter().filter_map(|vip| self.left.get(&(*vip, *port)));
            (name.as_str(), left.map(|(_, connections)| connections).sum())
        })
    }

    /// Fills the programs' tables, which know nothing yet.
    pub(crate) fn furnish(&self, outside: &mut impl Outside) -> Result<(), DatapathError> {
        self.set_pools(outside)?;
        self.open.iter().try_for_each(|service| outside.set_service(service))
    }

    /// Goes by another file from now on: what is new comes before what uses it, what has gone leaves after
    /// it. No connection of a service that stays or ends meets a gap. When a table refuses something, all counts as
    /// before, and may be tried again: writing a thing once more changes nothing.
    pub(crate) fn follow_up(
        &mut self,
        known: Succession,
        outside: &mut impl Outside,
        now: Instant,
    ) -> Result<(), DatapathError> {
        self.sweep(outside)?;
        let mut after = Self::new(known, now);
        for (address, left) in &mut after.left {
            *left = self.left.get(address).copied().unwrap_or(*left);
        }
        after.count_at = self.count_at;

        after.set_pools(outside)?;
        for service in after.open.iter().filter(|s| self.open.iter().all(|known| known.id != s.id)) {
            outside.set_service(service)?;
        }
        for (vip, port) in after.known.ending_addresses() {
            outside.end_address(vip, port)?;
        }
        for (vip, port) in self.known.addresses().difference(&after.known.addresses()) {
            outside.remove_address(*vip, *port)?;
        }
        let services = self.known.service_ids().difference(&after.known.service_ids()).copied().collect();
        let is_gone = |pool: &&Pool| after.known.pools().all(|known| known.id != pool.id);
        after.gone = (services, self.known.pools().filter(is_gone).map(|pool| pool.id).collect());
        *self = after;
        Ok(())
    }

    /// Called on every tick: removes what no packet can be under way by any more.
    pub(crate) fn sweep(&mut self, outside: &mut impl Outside) -> Result<(), DatapathError> {
        let (services, pools) = &self.gone;
        services.iter().try_for_each(|service| outside.remove_service(*service))?;
        pools.iter().try_for_each(|pool| outside.remove_pool(*pool))?;
        self.gone = (Vec::new(), Vec::new());
        Ok(())
    }

    /// Counts what is left of ending services, now and then. What follows when some address has nothing left.
    pub(crate) fn count(&mut self, outside: &mut impl Outside, now: Moment) -> Option<Succession> {
        if self.left.is_empty() || now.instant < self.count_at {
            return None;
        }
        let addresses: Vec<_> = self.left.keys().copied().collect();
        let (counts, took) = outside.connections_at(&addresses, now.monotonic);
        self.count_at = now.instant + COUNT_EVERY.max(took * COUNT_SHARE);
        for ((_, connections), count) in self.left.values_mut().zip(counts) {
            *connections = count;
        }
        let over =
            |(since, connections): &(Instant, u64)| *connections == 0 && now.instant - *since >= ENDS_FOR;
        let over: Vec<_> = self.left.iter().filter(|(_, left)| over(left)).map(|(at, _)| *at).collect();
        let without = |known: Succession, (vip, port): (IpAddr, u16)| known.without(vip, port);
        (!over.is_empty()).then(|| over.into_iter().fold(self.known.clone(), without))
    }

    fn set_pools(&self, outside: &mut impl Outside) -> Result<(), DatapathError> {
        self.known.pools().try_for_each(|pool| {
            outside.set_pool(&PoolEntry {
                id: pool.id,
                service: pool.service,
                key: pool.key.clone(),
                p_http: pool.p_http,
                servers: pool.servers.clone(),
            })
        })
    }
}

/// The service as the programs are to know it.
pub(crate) fn entry(cluster: &Cluster, service: &Service) -> ServiceEntry {
    let pools: Vec<&Pool> = cluster.pools_of(service.id).collect();
    entry_of(service, &pools, service.is_strict(cluster))
}

fn entry_of(service: &Service, pools: &[&Pool], strict: bool) -> ServiceEntry {
    ServiceEntry {
        id: service.id,
        vips: service.vips.clone(),
        port: service.port,
        protocol: service.protocol,
        rules: Rules::new(service.routes.clone(), 0, pools.iter().map(|pool| pool.key.clone()).collect()),
        names: service.names.clone(),
        pools: service.pools.clone(),
        strict,
        follows: strict || pools.iter().any(|pool| pool.p_http != PHttp::Stay),
    }
}

/// Whether a node may have a connection that another node does not know: with its server, or before the decision.
pub fn may_own(roles: Roles) -> bool {
    roles.server || roles.distributor
}

/// Whether requests are decided on a node: first ones, or those of connections that it serves.
pub fn decides(roles: Roles) -> bool {
    roles.distributor || roles.server
}
