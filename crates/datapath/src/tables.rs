//! The programs' maps as typed tables: the only way user space speaks to the packet path.

use std::net::IpAddr;
use std::time::Duration;

use baton_cluster::{Flow, NodeId, PoolId, Target};
use libbpf_rs::{MapCore, MapFlags, ProgramInput};

use crate::constants::{
    FLAG_CLOSED, FLAG_FIN_IN, FLAG_SERVING, GUIDE_ASK, GUIDE_CACHED, GUIDE_ROTA, MAGLEV_SLOTS, MAX_REPLICAS,
    NO_NODE, OPTION_TIMESTAMPS, ORDER_BIND_HELD, ORDER_BIND_READ, ORDER_BIND_TOLD, ORDER_CLOSE_TOLD,
    ORDER_DECIDE_ASKED, ORDER_FREEZE, ORDER_READ_HELD, ORDER_RELEASED, PHASE_START, ROTA_SLOTS, STATE_ASKING,
    STATE_BOUND, STATE_HELD, STATE_OPEN, STATE_READING, STATE_RELEASING,
};
use crate::counters::{Counter, Counters};
use crate::error::DatapathError;
use crate::programs::{Datapath, Roles};
use crate::shared::{Shared, addr_of, as_bytes, as_bytes_mut, flow_of, from_bytes, key_of, types};

/// What a distributor may decide by itself for one service. In each, the rota is the kernel's own
/// answer while user space is silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guide {
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

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Handshake complete, no request yet.
    Open,
    /// Its request waits in user space.
    Held,
    /// This node serves it, but a later request of it waits in user space.
    Asking,
    /// This node's reader has it.
    Reading,
    /// Decided for a node; what user space holds is given back before anything else may pass.
    Releasing(NodeId),
    /// Its packets belong to a node.
    Bound(NodeId),
}

/// A binding, as user space reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Where the connection stands.
    pub state: State,
    /// Sequence number of the client's first data byte.
    pub start_seq: u32,
    /// Ended, or about to: the client's FIN was seen. Kept for late packets.
    pub ending: bool,
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
pub struct Live {
    /// How far the wall clock is ahead of the kernel's monotonic clock.
    pub wall_offset: Duration,
    /// Until when, by the monotonic clock, user space promises to answer held packets.
    pub daemon_until: Duration,
    /// TCP port on 127.0.0.1 where the reader listens; 0: nowhere.
    pub reader_port: u16,
    /// The same on ::1.
    pub reader_port_v6: u16,
    /// The largest packet that reaches every other node, bytes; 0: as large as the interface's MTU.
    pub path_mtu: u16,
}

/// A connection that the reader has, as its first packet was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Sequence number of the first byte that the reader got.
    pub start_seq: u32,
    /// What the client had acknowledged.
    pub start_ack: u32,
    /// Its receive window, unscaled as in the header.
    pub window: u16,
    /// That packet's timestamp, and what our own clock for the client read then, when the connection has
    /// timestamps.
    pub timestamps: Option<(u32, u32)>,
    /// When that packet came, by the monotonic clock.
    pub since: Duration,
}

/// What a client's last packet without payload said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// What it has acknowledged.
    pub ack: u32,
    /// Its receive window, as in the header.
    pub window: u16,
    /// TSval and TSecr, when the connection has timestamps.
    pub timestamps: Option<(u32, u32)>,
}

impl Reading {
    /// The timestamps for a replay at a time `now` of the monotonic clock: what our own clock for the client
    /// reads then at most. It counts milliseconds (RFC 7323 5.4).
    pub fn timestamps_at(&self, now: Duration) -> Option<(u32, u32)> {
        let passed = now.saturating_sub(self.since).as_millis() as u32;
        self.timestamps.map(|(client, ours)| (client, ours.wrapping_add(passed).wrapping_add(1)))
    }
}

/// What is followed of a connection: of the request that waits at its owner, or is at the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Where the connection began: tells it from earlier ones of the same flow.
    pub start_seq: u32,
    /// Where the next request of the connection begins, if none is under way.
    pub boundary: Option<u32>,
    /// Packets from here on have come too early.
    pub early_seq: Option<u32>,
    /// Nothing is under way and all is acknowledged: what the client's last packet said.
    pub idle: Option<Heard>,
    /// Where in the packet the next request begins, when it must not go along with the first.
    pub cut_seq: Option<u32>,
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
        guide: &Guide,
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
            Guide::Ask => (GUIDE_ASK, 0),
            Guide::Cached { load_limit } => (GUIDE_CACHED, *load_limit),
            Guide::Rota => (GUIDE_ROTA, 0),
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
            roles: peer.roles.bits() as u16,
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

    /// The switch's table: for each slot a distributor, or none at all.
    ///
    /// # Errors
    /// When it has more slots than the map.
    pub fn set_maglev(&mut self, slots: &[Option<NodeId>]) -> Result<(), DatapathError> {
        let limit = MAGLEV_SLOTS as usize;
        if slots.len() != limit {
            return Err(DatapathError::TooMany { what: "Maglev slots", given: slots.len(), limit });
        }
        for (slot, node) in slots.iter().enumerate() {
            let value = node.map_or(NO_NODE as u16, |n| n.0);
            // The map begins as zeroes, which name node 0: written in full the first time.
            if self.maglev.get(slot) != Some(&value) {
                put(&self.skel.maps.maglev, "maglev", &(slot as u32), &value)?;
            }
        }
        self.maglev = slots.iter().map(|n| n.map_or(NO_NODE as u16, |n| n.0)).collect();
        Ok(())
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

    /// Values that change while the programs run: how far the wall clock is ahead of the kernel's
    /// monotonic clock, until when (monotonic) user space promises to answer held packets, where the
    /// reader listens, and how large packets between nodes may be.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn set_live(&self, live: &Live) -> Result<(), DatapathError> {
        let value = types::live {
            wall_offset_ns: nanoseconds(live.wall_offset),
            daemon_until_ns: nanoseconds(live.daemon_until),
            reader_port: live.reader_port.to_be(),
            reader_port_v6: live.reader_port_v6.to_be(),
            path_mtu: live.path_mtu,
            pad: 0,
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
        let value = types::load { reported, assigned: 0, weight, least_weight, live: u32::from(live) };
        put(&self.skel.maps.loads, "loads", &u32::from(node.0), &value)
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

    /// What the reader must know of a connection to give its bytes to a server; `None` when the reader
    /// does not have it.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn reading(&self, flow: &Flow) -> Result<Option<Reading>, DatapathError> {
        Ok(self.raw_binding(flow)?.filter(|b| u32::from(b.state) == STATE_READING).map(|b| Reading {
            start_seq: b.start_seq,
            start_ack: b.start_ack,
            window: b.window,
            timestamps: (u32::from(b.options) & OPTION_TIMESTAMPS != 0).then_some((b.tsval, b.clock)),
            since: Duration::from_nanos(b.since_ns),
        }))
    }

    /// The flow's binding, whatever its age.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn binding(&self, flow: &Flow) -> Result<Option<Binding>, DatapathError> {
        Ok(self.raw_binding(flow)?.and_then(|b| read_binding(&b)))
    }

    /// Binds a held connection to a server; the wall clock of that, nanoseconds. Until
    /// [`Datapath::released`] only packets that user space gives back pass. `None`
    /// when it is not held any more (the client gave up, or it was decided meanwhile): its packets
    /// need not be released then.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn bind_held(
        &self,
        flow: &Flow,
        start_seq: u32,
        server: NodeId,
    ) -> Result<Option<u64>, DatapathError> {
        let order = types::order { start_seq, node: server.0, ..new_order(flow, ORDER_BIND_HELD) };
        self.apply(order).map(|o| (o.done != 0).then_some(o.issued))
    }

    /// `held` packets of the connection have been read from the hold device, and those that count were
    /// given back. `false` when more are on their way up: call again when they have been given back.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn released(&self, flow: &Flow, start_seq: u32, held: u32) -> Result<bool, DatapathError> {
        let order = types::order { start_seq, held, ..new_order(flow, ORDER_RELEASED) };
        self.apply(order).map(|o| o.done != 0)
    }

    /// Gives a held connection to this node's reader. Whether it was held. Until [`Datapath::released`] only
    /// packets that user space gives back pass.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn read_held(&self, flow: &Flow, start_seq: u32) -> Result<bool, DatapathError> {
        let order = types::order { start_seq, ..new_order(flow, ORDER_READ_HELD) };
        self.apply(order).map(|o| o.done != 0)
    }

    /// What is known of the later request that a connection waits with; `None` when it waits no more.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn asked(&self, flow: &Flow) -> Result<Option<Asked>, DatapathError> {
        let x: Option<types::exchange> = get(&self.skel.maps.exchanges, "exchanges", &key_of(flow))?;
        Ok(x.map(|x| Asked {
            start_seq: x.start_seq,
            boundary: (u32::from(x.requests.scan.phase) == PHASE_START).then_some(x.requests.at),
            early_seq: (x.early != 0).then_some(x.early_seq),
            idle: is_idle(&x).then_some(Heard {
                ack: x.heard_ack,
                window: x.heard_window,
                timestamps: (x.heard_timestamps != 0).then_some((x.heard_tsval, x.heard_tsecr)),
            }),
            cut_seq: (x.cut != 0).then_some(x.cut_seq),
        }))
    }

    /// Decides a later request, which begins at `seq`, for a server. As after [`Datapath::bind_held`],
    /// only packets that user space gives back pass from then on; the number is for
    /// [`Datapath::released`]. `None` when it waits no more.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn decide_asked(&self, flow: &Flow, seq: u32, server: NodeId) -> Result<Option<u32>, DatapathError> {
        let order = types::order { start_seq: seq, node: server.0, ..new_order(flow, ORDER_DECIDE_ASKED) };
        self.apply(order).map(|o| (o.done != 0).then_some(o.start_seq))
    }

    /// From now on no packet of the connection passes, neither way: the reader is about to hand it off.
    /// Whether the reader has it.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn freeze(&self, flow: &Flow, start_seq: u32) -> Result<bool, DatapathError> {
        let order = types::order { start_seq, ..new_order(flow, ORDER_FREEZE) };
        self.apply(order).map(|o| o.done != 0)
    }

    /// Binds what the reader had to a server, which is to be given the client's bytes from `start_seq`
    /// to `replay_end`; else as [`Datapath::bind_held`].
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn bind_read(
        &self,
        flow: &Flow,
        start_seq: u32,
        server: NodeId,
        replay_end: u32,
    ) -> Result<Option<u64>, DatapathError> {
        let order =
            types::order { start_seq, node: server.0, held: replay_end, ..new_order(flow, ORDER_BIND_READ) };
        self.apply(order).map(|o| (o.done != 0).then_some(o.issued))
    }

    /// What an update message says: the flow's packets go to this server now. Of two connections of
    /// one flow the one decided later stands. Whether it was news.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn bind_told(
        &self,
        flow: &Flow,
        start_seq: u32,
        server: NodeId,
        distributor: NodeId,
        issued: u64,
    ) -> Result<bool, DatapathError> {
        self.apply(types::order {
            start_seq,
            issued,
            node: server.0,
            distributor: distributor.0,
            ..new_order(flow, ORDER_BIND_TOLD)
        })
        .map(|o| o.done != 0)
    }

    /// What a close message says: the connection has ended at its server. Later ones of the same flow
    /// are not meant. Whether there was such a binding.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn close_told(&self, flow: &Flow, start_seq: u32) -> Result<bool, DatapathError> {
        let order = types::order { start_seq, ..new_order(flow, ORDER_CLOSE_TOLD) };
        self.apply(order).map(|o| o.done != 0)
    }

    fn apply(&self, mut order: types::order) -> Result<types::order, DatapathError> {
        let input = ProgramInput { context_in: Some(as_bytes_mut(&mut order)), ..Default::default() };
        self.skel.progs.apply_order.test_run(input).map_err(failed("bindings"))?;
        Ok(order)
    }

    /// Forgets a flow altogether.
    ///
    /// # Errors
    /// When the map refuses; an unknown flow is no error.
    pub fn remove_binding(&self, flow: &Flow) -> Result<(), DatapathError> {
        remove(&self.skel.maps.bindings, "bindings", &key_of(flow))
    }

    /// Every flow that has a binding now. Slow: for status and tests.
    pub fn flows(&self) -> Vec<Flow> {
        self.skel.maps.bindings.keys().filter_map(|k| from_bytes(&k).map(|k| flow_of(&k))).collect()
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

    /// One counter, summed over CPUs.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn counter(&self, counter: Counter) -> Result<u64, DatapathError> {
        sum_over_cpus(&self.skel.maps.counters, "counters", counter as u32)
    }

    /// Connections that are busy by their binding, of which a packet was seen since `silent_since`
    /// (monotonic). The counters drift from this when the table evicts a busy connection, or a client
    /// vanishes. Slow: reads the whole table.
    pub fn busy(&self, silent_since: Duration) -> u64 {
        let since = nanoseconds(silent_since);
        let map = &self.skel.maps.bindings;
        let busy = |key: &Vec<u8>| {
            let bytes = map.lookup(key, MapFlags::ANY).ok().flatten()?;
            from_bytes::<types::binding>(&bytes).filter(|b| b.flags & FLAG_SERVING != 0 && b.seen_ns >= since)
        };
        map.keys().filter_map(|k| busy(&k)).count() as u64
    }

    /// Connections that this distributor's programs handed to a server.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn handed_to(&self, node: NodeId) -> Result<u64, DatapathError> {
        sum_over_cpus(&self.skel.maps.handed_to, "handed_to", u32::from(node.0))
    }

    fn raw_binding(&self, flow: &Flow) -> Result<Option<types::binding>, DatapathError> {
        get(&self.skel.maps.bindings, "bindings", &key_of(flow))
    }
}

fn is_idle(x: &types::exchange) -> bool {
    let between = |f: &types::follower| u32::from(f.scan.phase) == PHASE_START;
    x.asked == x.answered
        && between(&x.requests)
        && between(&x.responses)
        && x.heard_ack == x.responses.at
        && x.doubt == 0
}

fn read_binding(b: &types::binding) -> Option<Binding> {
    let state = match u32::from(b.state) {
        STATE_OPEN => State::Open,
        STATE_HELD => State::Held,
        STATE_ASKING => State::Asking,
        STATE_READING => State::Reading,
        STATE_BOUND => State::Bound(NodeId(b.node)),
        STATE_RELEASING => State::Releasing(NodeId(b.node)),
        _ => return None,
    };
    Some(Binding { state, start_seq: b.start_seq, ending: b.flags & (FLAG_CLOSED | FLAG_FIN_IN) != 0 })
}

fn new_order(flow: &Flow, kind: u32) -> types::order {
    types::order { flow: key_of(flow), kind: kind as u16, ..Default::default() }
}

fn mac_key(mac: [u8; 6]) -> u64 {
    u64::from_ne_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0])
}

fn decision_key(pool: PoolId, target: Target) -> types::decision_key {
    types::decision_key { target: target.0, pool: pool.0, pad: [0; 3] }
}

fn nanoseconds(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

fn failed(table: &'static str) -> impl Fn(libbpf_rs::Error) -> DatapathError {
    move |e| DatapathError::Table { table, cause: e.to_string() }
}

pub(crate) fn put<K: Shared, V: Shared>(
    map: &impl MapCore,
    table: &'static str,
    key: &K,
    value: &V,
) -> Result<(), DatapathError> {
    map.update(as_bytes(key), as_bytes(value), MapFlags::ANY).map_err(failed(table))
}

fn get<K: Shared, V: Shared>(
    map: &impl MapCore,
    table: &'static str,
    key: &K,
) -> Result<Option<V>, DatapathError> {
    let bytes = map.lookup(as_bytes(key), MapFlags::ANY).map_err(failed(table))?;
    Ok(bytes.and_then(|b| from_bytes(&b)))
}

fn remove<K: Shared>(map: &impl MapCore, table: &'static str, key: &K) -> Result<(), DatapathError> {
    match map.delete(as_bytes(key)) {
        Err(e) if e.kind() != libbpf_rs::ErrorKind::NotFound => Err(failed(table)(e)),
        _ => Ok(()),
    }
}

fn sum_over_cpus(map: &impl MapCore, table: &'static str, index: u32) -> Result<u64, DatapathError> {
    let per_cpu = map.lookup_percpu(as_bytes(&index), MapFlags::ANY).map_err(failed(table))?;
    Ok(per_cpu.unwrap_or_default().iter().filter_map(|b| from_bytes::<u64>(b)).sum())
}
