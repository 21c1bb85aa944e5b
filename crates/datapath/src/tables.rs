//! The programs' maps as typed tables: the only way user space speaks to the packet path.

use std::net::IpAddr;
use std::time::Duration;

use baton_cluster::{NodeId, PoolId, Roles, ServiceId, Target};

use crate::constants::{
    GUIDE_ASK, GUIDE_CACHED, GUIDE_ROTA, MAX_REPLICAS, POPULATION_MADE, POPULATION_REMOVED, ROTA_SLOTS,
};
use crate::counters::{Counter, Counters};
use crate::error::DatapathError;
use crate::map::{get, nanoseconds, put, remove, sum_over_cpus, sum_parts};
use crate::programs::{Datapath, role_bits};
use crate::shared::{addr_of, types};

/// A pool's guide as the programs have it, its rota beside it. Of each kind the rota is the kernel's own
/// answer while user space is silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuideKind {
    /// Ask for every connection.
    Ask,
    /// A cached decision holds while its server's load is at most `load_limit`.
    Cached {
        /// Connections being served.
        load_limit: u32,
    },
    /// Take turns by the rota.
    Rota,
}

/// A node, as packets are sent to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its own address, of the same family as every node's.
    pub address: IpAddr,
    /// Its roles.
    pub roles: Roles,
    /// Whether it is behind a router, so that packets for it are wrapped.
    pub routed: bool,
    /// The interface towards it.
    pub ifindex: u32,
}

/// Values that change while the programs run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveValues {
    /// How far the cluster's clock is ahead of the kernel's monotonic clock.
    pub clock_ahead: Duration,
    /// Until when, by the monotonic clock, user space promises to answer held packets.
    pub daemon_until: Duration,
    /// TCP port on 127.0.0.1 where the reader listens; 0: nowhere.
    pub reader_port: u16,
    /// The same on ::1.
    pub reader_port_v6: u16,
    /// The largest packet that reaches every other node, bytes; 0: as large as the settings' MTU.
    pub path_mtu: u16,
    /// Whether some service's later requests may move.
    pub follows: bool,
    /// The interface towards the other nodes; 0: that of the settings.
    pub cluster_ifindex: u32,
    /// Answers to clients leave by the node's own routes: perhaps not where the question came in.
    pub own_routes: bool,
}

const SELF: u32 = 0; // the one entry of the one-entry maps

impl Datapath {
    /// What may be decided in the kernel for a pool, and the turns of its rota (at most 256). Decisions
    /// cached under another generation count as absent from now on.
    ///
    /// # Errors
    /// When there are more turns than slots.
    pub fn set_guide(
        &self,
        pool: PoolId,
        guide: &GuideKind,
        rota: &[NodeId],
        generation: u32,
    ) -> Result<(), DatapathError> {
        let slots = ROTA_SLOTS as usize;
        if rota.len() > slots {
            return Err(DatapathError::TooMany { what: "turns of a rota", given: rota.len(), limit: slots });
        }
        for (turn, node) in rota.iter().enumerate() {
            let slot = u32::from(pool.0) * ROTA_SLOTS + turn as u32;
            put(&self.skel.maps.rota, "rota", &slot, &node.0)?;
        }
        let (kind, load_limit) = match guide {
            GuideKind::Ask => (GUIDE_ASK, 0),
            GuideKind::Cached { load_limit } => (GUIDE_CACHED, *load_limit),
            GuideKind::Rota => (GUIDE_ROTA, 0),
        };
        let value = types::guide { kind, load_limit, rota_len: rota.len() as u32, generation };
        put(&self.skel.maps.guides, "guides", &u32::from(pool.0), &value)
    }

    /// Makes a node known: its address and roles, and whether it is behind a router.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn set_node(&self, node: NodeId, peer: &Peer) -> Result<(), DatapathError> {
        let value = types::node {
            address: addr_of(peer.address),
            roles: role_bits(peer.roles) as u16,
            routed: u16::from(peer.routed),
            ifindex: peer.ifindex,
        };
        put(&self.skel.maps.nodes, "nodes", &u32::from(node.0), &value)
    }

    /// Makes a member known by the MAC address its packets come from.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn set_member(&self, mac: [u8; 6], node: NodeId) -> Result<(), DatapathError> {
        put(&self.skel.maps.members, "members", &mac_key(mac), &node.0)
    }

    /// Forgets a member's MAC address.
    ///
    /// # Errors
    /// When the map refuses; an unknown address is no error.
    pub fn remove_member(&self, mac: [u8; 6]) -> Result<(), DatapathError> {
        remove(&self.skel.maps.members, "members", &mac_key(mac))
    }

    /// The cluster's keys for cookies, clocks, handoff packets and targets.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn set_keys(&self, keys: &baton_cluster::Keys) -> Result<(), DatapathError> {
        let value = types::keys {
            cookie: keys.cookie,
            clock: keys.clock,
            handoff: keys.handoff,
            target: keys.target,
            pad: 0,
        };
        self.target_secret.set(keys.target);
        put(&self.skel.maps.keys, "keys", &SELF, &value)
    }

    /// Values that change while the programs run: how far the cluster's clock is ahead of the kernel's
    /// monotonic clock, until when (monotonic) user space promises to answer held packets, where the
    /// reader listens, how large packets between nodes may be, and whether anything is to be followed.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn set_live(&self, live: &LiveValues) -> Result<(), DatapathError> {
        let value = types::live {
            clock_ahead_ns: nanoseconds(live.clock_ahead),
            daemon_until_ns: nanoseconds(live.daemon_until),
            reader_port: live.reader_port.to_be(),
            reader_port_v6: live.reader_port_v6.to_be(),
            path_mtu: live.path_mtu,
            follows: u16::from(live.follows),
            cluster_ifindex: live.cluster_ifindex,
            own_routes: u32::from(live.own_routes),
        };
        put(&self.skel.maps.live, "live", &SELF, &value)
    }

    /// A server's load as it reported it; what was assigned since is cleared. Limits are given for a
    /// server of the smallest weight, `least_weight`; one of twice that may have twice the load.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn set_load(
        &self,
        node: NodeId,
        reported: u32,
        weight: u16,
        least_weight: u16,
        live: bool,
    ) -> Result<(), DatapathError> {
        let value = types::load {
            reported,
            assigned: 0,
            weight,
            least_weight,
            live: u8::from(live),
            gone: 0,
            pad: 0,
        };
        put(&self.skel.maps.loads, "loads", &u32::from(node.0), &value)
    }

    /// Says that a node's machine is there no more, or is again: its connections are refused meanwhile. A
    /// server that is there again says so by its load, too.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn set_gone(&self, node: NodeId, gone: bool) -> Result<(), DatapathError> {
        let key = u32::from(node.0);
        let load = get::<u32, types::load>(&self.skel.maps.loads, "loads", &key)?.unwrap_or_default();
        put(&self.skel.maps.loads, "loads", &key, &types::load { gone: u8::from(gone), ..load })
    }

    /// What this distributor handed to a server since its last report.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn assigned(&self, node: NodeId) -> Result<u32, DatapathError> {
        let load: Option<types::load> = get(&self.skel.maps.loads, "loads", &u32::from(node.0))?;
        Ok(load.map_or(0, |l| l.assigned))
    }

    /// Counts one more connection as handed to a server: for those that user space decided.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn add_assigned(&self, node: NodeId) -> Result<(), DatapathError> {
        let key = u32::from(node.0);
        if let Some(mut load) = get::<u32, types::load>(&self.skel.maps.loads, "loads", &key)? {
            // Not atomic with the programs' own adding: a lost one is put right by the next report.
            load.assigned = load.assigned.wrapping_add(1);
            put(&self.skel.maps.loads, "loads", &key, &load)?;
        }
        Ok(())
    }

    /// Caches a decision. `expires`: monotonic time after which it must be asked again.
    ///
    /// # Errors
    /// When it names more servers than an entry has room for, or none.
    pub fn set_decision(
        &self,
        pool: PoolId,
        target: Target,
        servers: &[NodeId],
        expires: Option<Duration>,
        generation: u32,
    ) -> Result<(), DatapathError> {
        let limit = MAX_REPLICAS as usize;
        if servers.is_empty() || servers.len() > limit {
            return Err(DatapathError::TooMany {
                what: "servers of a decision",
                given: servers.len(),
                limit,
            });
        }
        let mut value = types::decision {
            expires_ns: expires.map_or(0, nanoseconds),
            count: servers.len() as u16,
            generation,
            ..Default::default()
        };
        for (to, from) in value.servers.iter_mut().zip(servers) {
            *to = from.0;
        }
        put(&self.skel.maps.decisions, "decisions", &decision_key(pool, target), &value)
    }

    /// Forgets a decision.
    ///
    /// # Errors
    /// When the map refuses; an unknown target is no error.
    pub fn remove_decision(&self, pool: PoolId, target: Target) -> Result<(), DatapathError> {
        remove(&self.skel.maps.decisions, "decisions", &decision_key(pool, target))
    }

    /// The programs' counters, summed over CPUs.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn counters(&self) -> Result<Counters, DatapathError> {
        let mut all = Vec::with_capacity(Counter::COUNT);
        for c in Counter::all() {
            all.push(sum_over_cpus(&self.skel.maps.counters, "counters", c as u32)?);
        }
        Ok(Counters(all))
    }

    /// Entries of the table of live connections: made, less those that were removed, but for those that sweeps
    /// have removed, and those that were displaced.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn population(&self) -> Result<u64, DatapathError> {
        let count = |which| sum_over_cpus(&self.skel.maps.population, "population", which);
        Ok(count(POPULATION_MADE)?.wrapping_sub(count(POPULATION_REMOVED)?))
    }

    /// One counter, summed over CPUs.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn counter(&self, counter: Counter) -> Result<u64, DatapathError> {
        sum_over_cpus(&self.skel.maps.counters, "counters", counter as u32)
    }

    /// Connections that this distributor's programs handed to a server.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn handed_to(&self, node: NodeId) -> Result<u64, DatapathError> {
        sum_over_cpus(&self.skel.maps.handed_to, "handed_to", u32::from(node.0))
    }

    /// Connections of a service of which this node's socket has spoken: the kernel had taken them.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn spoken(&self, service: ServiceId) -> Result<u64, DatapathError> {
        sum_over_cpus(&self.skel.maps.spoken, "spoken", u32::from(service.0))
    }

    /// Handoff packets that this distributor has sent to a node, repeated ones included.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn handoffs_sent(&self, to: NodeId) -> Result<u64, DatapathError> {
        self.passed(to, |passed| passed.sent)
    }

    /// Handoff packets that this node has taken from a distributor, repeated ones included.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn handoffs_taken(&self, from: NodeId) -> Result<u64, DatapathError> {
        self.passed(from, |passed| passed.taken)
    }

    fn passed(&self, with: NodeId, of: impl Fn(&types::passed) -> u64) -> Result<u64, DatapathError> {
        let map = &self.skel.maps.handoffs_passed;
        sum_parts(map, "handoffs_passed", u32::from(with.0), of)
    }
}

fn mac_key(mac: [u8; 6]) -> u64 {
    u64::from_ne_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0])
}

pub(crate) fn decision_key(pool: PoolId, target: Target) -> types::decision_key {
    types::decision_key { target: target.0, pool: pool.0, pad: [0; 3] }
}
