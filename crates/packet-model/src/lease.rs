//! Who decides a connection: `bpf/lease.h`.

use std::collections::HashMap;
use std::sync::Arc;

use baton_cluster::{Flow, Heirs, Maker, NodeId, SLOT_MAKERS, SpreadLine, SpreadTable};

use crate::cookie::{Age, cookie_age, echoes, latest_syn_slot, maglev_slot};
use crate::packet::flag::{ACK, SYN};
use crate::{Binding, Clock, Model, Options, Packet, Run};
use baton_datapath::constants::{BEGUN_REACH, FLAG_ASKED, FLAG_MOVED, LOST_TERM_MS};
use baton_datapath::{Counter, Lease, Numbers};

/// The tables of a switch.
#[derive(Clone, Debug, Default)]
pub struct Spread {
    /// Until then, kernel time, a cookie may be of an earlier table.
    pub unsettled_ns: u64,
    /// Without a distributor SYNs are refused from then on.
    pub refuse_ns: u64,
    /// The number of the table in use.
    pub table: Option<u8>,
    /// The tables: for each slot its makers.
    pub tables: HashMap<u8, Arc<SpreadTable>>,
    /// Makers by number.
    pub makers: HashMap<u16, Maker>,
}

impl Spread {
    fn line(&self, slot: usize) -> Option<&SpreadLine> {
        self.tables.get(&self.table?)?.line(slot)
    }

    fn maker(&self, line: &SpreadLine, place: usize) -> Option<&Maker> {
        self.makers.get(&line.makers[place]?)
    }
}

impl Model {
    /// Whether a packet that nobody knows is of a connection that has just begun here (`Datapath::has_begun`).
    pub fn has_begun(&self, flow: &Flow, numbers: &Numbers, clock: Clock) -> bool {
        let keys = &self.tables.keys;
        let timestamps = numbers.echo.map(|echo| (0, echo));
        let mut p = Packet {
            flow: *flow,
            seq: numbers.seq.wrapping_add(1),
            ack: numbers.ack,
            flags: ACK,
            window: 0,
            ttl: 0,
            options: Options { timestamps, ..Options::default() },
            payload: Vec::new(),
        };
        let made_by = |p: &Packet, lease: &Lease| cookie_age(keys, p, lease.term, clock) == Some(Age::Good);
        echoes(keys, &p, clock)
            && (0..BEGUN_REACH + 2).any(|_| {
                let found = self.leases_of(&p, made_by);
                p.seq = p.seq.wrapping_sub(1);
                found
            })
    }

    fn leases_of(&self, p: &Packet, made_by: impl Fn(&Packet, &Lease) -> bool) -> bool {
        self.tables.leases.iter().any(|lease| made_by(p, lease))
    }
}

impl Run<'_> {
    /// Whether distributors have been missing for so long that clients are to be told.
    pub(super) fn refuses(&self) -> bool {
        self.clock.kernel_ns >= self.model.tables.spread.refuse_ns
    }

    /// The distributor that the switch sends a flow's packets to, by the table in force.
    pub(super) fn choice(&self, flow: &Flow) -> Option<NodeId> {
        let (tables, spread) = (&self.model.tables, &self.model.tables.spread);
        let slot = maglev_slot(&tables.keys, flow);
        spread.maker(spread.line(slot)?, 0).map(|maker| maker.node)
    }

    /// As above, but what follows a handshake goes to who answered that, or to its heir.
    pub(super) fn choice_for(&mut self, p: &Packet) -> Option<NodeId> {
        let (tables, spread) = (&self.model.tables, &self.model.tables.spread);
        if p.has(SYN) || self.clock.kernel_ns >= spread.unsettled_ns {
            return self.choice(&p.flow);
        }
        let line = *spread.line(maglev_slot(&tables.keys, &p.flow))?;
        let made_by = |maker: &Maker| cookie_age(&tables.keys, p, maker.term, self.clock) == Some(Age::Good);
        let place = (0..SLOT_MAKERS).find(|place| spread.maker(&line, *place).is_some_and(made_by));
        let Some(place) = place else { return self.choice(&p.flow) };
        // Heirs may be gone too, and have heirs: nobody else has inherited the flow.
        let (mut at, mut decides) = (Some(place), None);
        for _ in 0..SLOT_MAKERS {
            let Some(maker) = at.and_then(|at| spread.maker(&line, at)) else { break };
            match maker.over {
                None => {
                    decides = Some(maker.node);
                    break;
                }
                Some(Heirs::Soon) => break,
                Some(Heirs::Told) => at = at.and_then(|at| line.heirs[at]).map(usize::from),
            }
        }
        let nobody = at.and_then(|at| spread.maker(&line, at)).is_none();
        if place > 0 || spread.maker(&line, place).is_some_and(|maker| maker.over.is_some()) {
            self.count(Counter::SpreadEarlier);
        }
        if nobody { self.choice(&p.flow) } else { decides }
    }

    pub(super) fn note_syn(&mut self, p: &Packet) {
        let (slot, half) = latest_syn_slot(&self.model.tables.keys, &p.flow);
        self.model.tables.latest_syns.insert(slot, (half, p.seq));
    }

    /// Whether a connection began before the flow's latest SYN.
    pub(super) fn is_past(&self, flow: &Flow, start_seq: u32) -> bool {
        let (slot, half) = latest_syn_slot(&self.model.tables.keys, flow);
        let latest = self.model.tables.latest_syns.get(&slot).filter(|latest| latest.0 == half);
        latest.is_some_and(|latest| start_seq.wrapping_sub(latest.1).cast_signed() <= 0)
    }

    /// The lease for packets that came by this switch.
    pub(super) fn lease_of(&self, from: Option<NodeId>) -> Option<Lease> {
        let leases = &self.model.tables.leases;
        let own = |lease: &&Lease| from.is_some() && lease.from == from && !lease.is_heir;
        leases.iter().skip(1).find(own).or(leases.first()).copied()
    }

    pub(super) fn holds(&self, lease: &Lease) -> bool {
        u128::from(self.clock.kernel_ns) < lease.until.as_nanos()
    }

    /// What was left to this node may have been decided by who left it.
    pub(super) fn must_ask(&self, b: &Binding) -> bool {
        self.model.tables.lease_of_term(b.term).is_some_and(|lease| lease.is_heir)
            && !b.has(FLAG_ASKED | FLAG_MOVED)
    }

    /// The node knows the connection's term no more, and will not be left it again.
    pub(super) fn is_left(&self, b: &Binding) -> bool {
        let age = self.clock.kernel_ns.saturating_sub(b.since_ns);
        !b.has(FLAG_MOVED)
            && self.model.tables.lease_of_term(b.term).is_none()
            && age > u64::from(LOST_TERM_MS) * 1_000_000
    }

    /// The lease of the term that the packet's cookie was made in, if it is this node's to decide.
    pub(super) fn proven(&mut self, p: &Packet, from: Option<NodeId>) -> Option<Lease> {
        let mine = self.lease_of(from)?;
        let keys = self.model.tables.keys;
        if !echoes(&keys, p, self.clock) {
            return None;
        }
        let takes = |lease: &&Lease| {
            lease.from.is_none() == mine.from.is_none() && (!lease.is_heir || lease.from == from)
        };
        let good = |lease: &&Lease| cookie_age(&keys, p, lease.term, self.clock) == Some(Age::Good);
        self.model.tables.leases.iter().filter(takes).find(good).copied()
    }
}
