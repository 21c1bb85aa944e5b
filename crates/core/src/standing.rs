//! Which servers are doubted, as all nodes that have seen something of them say. A server is doubted in a pool while any
//! node doubts it there: its own node, or one whose packets do not get there.

use std::collections::BTreeMap;

use baton_cluster::{NodeId, PoolHash, Sign};
use baton_control::Doubted;

/// What each node has said last.
#[derive(Debug, Default)]
pub struct Standing(BTreeMap<NodeId, Vec<Doubted>>);

/// A doubt, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// Who doubts.
    pub by: NodeId,
    /// Which server.
    pub server: NodeId,
    /// In which pool; `None`: in all.
    pub pool: Option<PoolHash>,
    /// Why, if this version knows the word for it.
    pub sign: Option<Sign>,
    /// How often that was seen since the server last worked.
    pub count: u32,
}

impl Standing {
    /// A node says which servers it doubts. Whether that is news.
    pub(crate) fn told(&mut self, by: NodeId, servers: Vec<Doubted>) -> bool {
        let before = self.0.get(&by).map(Vec::as_slice).unwrap_or_default();
        let key = |doubted: &Doubted| (doubted.server, doubted.pool);
        let changed = !before.iter().map(key).eq(servers.iter().map(key));
        if servers.is_empty() {
            self.0.remove(&by);
        } else {
            self.0.insert(by, servers);
        }
        changed
    }

    /// Says what a node has said last.
    pub(crate) fn log(&self, by: NodeId) {
        let mut any = false;
        for Suspicion { server, pool, sign, .. } in self.suspicions().filter(|doubt| doubt.by == by) {
            any = true;
            let pool = pool.map(|pool| pool.to_string());
            let seen = sign.map_or("it does not work", Sign::text);
            let help = sign.map_or("see its log", Sign::help);
            tracing::warn!(%server, pool, seen, %by, help, "a server seems not to work");
        }
        if !any {
            tracing::info!(%by, "doubts no server any more");
        }
    }

    /// A node is there no more: what it said may not be so any more. Whether that changes anything.
    pub(crate) fn gone(&mut self, node: NodeId) -> bool {
        self.0.remove(&node).is_some()
    }

    /// Whether a server is doubted in a pool.
    pub(crate) fn is_doubted(&self, server: NodeId, pool: PoolHash) -> bool {
        let about = |doubted: &Doubted| {
            doubted.server == server && doubted.pool.is_none_or(|doubted_in| doubted_in == pool)
        };
        self.0.values().flatten().any(about)
    }

    /// All doubts.
    pub fn suspicions(&self) -> impl Iterator<Item = Suspicion> + '_ {
        self.0.iter().flat_map(|(by, servers)| {
            servers.iter().map(|Doubted { server, pool, sign, count }| Suspicion {
                by: *by,
                server: *server,
                pool: *pool,
                sign: Sign::from_number(*sign),
                count: *count,
            })
        })
    }
}
