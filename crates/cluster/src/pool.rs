//! A pool: the servers that may serve a request, and how one of them is chosen. Types of the cluster
//! file, made by parsing alone; read by dispatchers, distributors and the nodes that own connections.

use std::fmt;
use std::time::Duration;

use baton_http::Key;
use serde::{Deserialize, Serialize};

use crate::{NodeId, PoolHash, PoolId, ServiceId};

/// A set of servers with a policy of its own. Every server of a pool may serve every request that is
/// routed to the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its number on this node.
    pub id: PoolId,
    /// What other nodes know it by.
    pub hash: PoolHash,
    /// Its name: as a node's; unique within its service. The only pool of a service that names none
    /// has the service's name.
    pub name: String,
    /// The service whose requests it serves.
    pub service: ServiceId,
    /// Its servers, in ascending order; one at least.
    pub servers: Vec<NodeId>,
    /// Which server serves a target.
    pub policy: PolicyConfig,
    /// When the dispatcher is asked.
    pub consult: Consult,
    /// Which part of a request names its target.
    pub key: Key,
    /// Where the later requests of a persistent connection are served.
    pub p_http: PHttp,
    /// Extended LARD: a server whose disk is busy for less than this share of the time, in percent,
    /// may as well read what it does not have in its cache. 1 to 100, default 10.
    pub pressure_low: u8,
}

impl Pool {
    /// Below this pressure a disk is idle enough, unless the cluster file says otherwise.
    pub const PRESSURE_LOW: u8 = 10;

    /// Whether the server belongs to the pool.
    pub fn has(&self, server: NodeId) -> bool {
        self.servers.binary_search(&server).is_ok()
    }
}

/// Where the later requests of a persistent connection are served (P-HTTP: USENIX'99). A request that
/// belongs to a pool without the server that has the connection moves in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PHttp {
    /// Where the first one was.
    #[default]
    Stay,
    /// Where the policy would have each, as if it were a connection of its own: the live connection
    /// moves there (multiple handoff, USENIX'99 section 3).
    Move,
    /// Where it costs least: here if the server has the target or an idle disk, else on the server
    /// that is cheapest among those that have it (USENIX'99 section 4.2). Needs LARD; it keeps sets of
    /// servers of its own, so that LARD and LARD/R are the same under it.
    ExtendedLard,
}

/// When a distributor asks the dispatcher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consult {
    /// Only when the kernel's decision cache does not hold the answer.
    #[default]
    Cached,
    /// For every request, as ATC'00 did: the baseline for measuring the cache.
    Always,
}

/// The rule that chooses a server for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PolicyKind {
    /// Weighted round robin: blind to content and load.
    #[serde(rename = "wrr")]
    WeightedRoundRobin,
    /// The server with the least load for its weight: blind to content.
    #[serde(rename = "least-loaded")]
    LeastLoaded,
    /// Locality-aware request distribution, one server a target (ASPLOS'98 section 2.4).
    #[serde(rename = "lard")]
    Lard,
    /// LARD with replication, a set of servers a target (ASPLOS'98 section 2.5).
    #[serde(rename = "lard/r")]
    LardReplicated,
}

/// A policy with its constants, which LARD and LARD/R alone use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PolicyConfig {
    /// The rule.
    pub kind: PolicyKind,
    /// Below this many active connections a server is under-used. Less than `t_high`.
    pub t_low: u32,
    /// Above this many active connections a server's latency suffers.
    pub t_high: u32,
    /// LARD/R: a target whose set of servers has not changed for this long gives one up.
    pub k: Duration,
}

impl Consult {
    /// Every value.
    pub const ALL: [Self; 2] = [Self::Cached, Self::Always];

    /// The value's name in the cluster file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Always => "always",
        }
    }
}

impl PHttp {
    /// Every value.
    pub const ALL: [Self; 3] = [Self::Stay, Self::Move, Self::ExtendedLard];

    /// The value's name in the cluster file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stay => "stay",
            Self::Move => "move",
            Self::ExtendedLard => "extended-lard",
        }
    }
}

impl PolicyKind {
    /// Every policy, in the order in which documentation lists them.
    pub const ALL: [Self; 4] =
        [Self::WeightedRoundRobin, Self::LeastLoaded, Self::Lard, Self::LardReplicated];

    /// The policy's name in the cluster file, the CLI and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::WeightedRoundRobin => "wrr",
            Self::LeastLoaded => "least-loaded",
            Self::Lard => "lard",
            Self::LardReplicated => "lard/r",
        }
    }

    /// Whether the policy looks at targets, and so has the constants of LARD.
    pub fn is_lard(self) -> bool {
        matches!(self, Self::Lard | Self::LardReplicated)
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl PolicyConfig {
    /// The policy with the papers' constants: T_low 25, T_high 65, K 20 s (ASPLOS'98 section 2.4).
    pub fn new(kind: PolicyKind) -> Self {
        Self { kind, t_low: 25, t_high: 65, k: Duration::from_secs(20) }
    }
}
