//! What the node's stack sends: load and ends are read off it, and one kind of RST is kept in.

use baton_cluster::Flow;

use crate::binding::age_ns;
use crate::packet::flag::{ACK, RST};
use crate::packet::{be16, be32, ip, l4};
use crate::{Run, Verdict};
use baton_datapath::constants::{
    FLAG_ADOPTED, FLAG_CLOSED, FLAG_FROZEN, FLAG_REPEATED, OPTION_TIMESTAMPS, YOUNG_MS,
};
use baton_datapath::{Counter, State};

/// A packet of the server.
pub(super) struct Sent {
    pub(super) flow: Flow,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    pub(super) payload: Vec<u8>,
    /// Of the timestamps option, where Linux puts it.
    pub(super) tsval: Option<u32>,
}

/// A TCP packet without IP options: its flow, and its segment. `None` for anything else.
fn segment(frame: &[u8]) -> Option<(Flow, &[u8])> {
    let ip = ip(frame)?;
    let tcp = frame.get(l4(frame)..)?;
    if ip.protocol != 6 || !ip.is_whole() || tcp.len() < 20 {
        return None;
    }
    let flow = Flow { client: ip.to, client_port: be16(tcp, 2)?, vip: ip.from, vip_port: be16(tcp, 0)? };
    Some((flow, tcp))
}

/// `None` for lengths that cannot be.
fn sent(flow: Flow, tcp: &[u8]) -> Option<Sent> {
    let header = usize::from(tcp.get(12)? >> 4) * 4;
    if header < 20 {
        return None;
    }
    Some(Sent {
        flow,
        seq: be32(tcp, 4)?,
        ack: be32(tcp, 8)?,
        flags: *tcp.get(13)?,
        payload: tcp.get(header..)?.to_vec(),
        tsval: if header >= 32 && be32(tcp, 20)? == 0x0101_080a { be32(tcp, 24) } else { None },
    })
}

impl Run<'_> {
    pub(super) fn egress(&mut self) -> Verdict {
        let frame = self.frame.clone();
        let Some((flow, tcp)) = segment(&frame) else { return Verdict::Next };
        let Some(mut b) = self.model.tables.bindings.get(&flow).copied() else { return Verdict::Next };
        if b.has(FLAG_FROZEN) {
            return self.drop(Counter::DropFrozen);
        }
        // A packet that overtook the adopting one finds no socket: its RST would kill the connection.
        let young = age_ns(self.clock.kernel_ns, b.since_ns) < u64::from(YOUNG_MS) * 1_000_000;
        // When the client has repeated its first packet, that one has passed long ago: it is a firewall's.
        let stray = |flags: u8| young && !b.has(FLAG_REPEATED) && flags & (RST | ACK) == RST;
        if b.state == State::Reading && stray(tcp.get(13).copied().unwrap_or(0)) {
            return self.drop(Counter::DropOvertakenReset);
        }
        let this = self.model.settings.node;
        match b.owner(this) {
            None => return Verdict::Next,
            // A socket of ours that has not heard yet that its connection has moved.
            Some(owner) if owner != this => return self.drop(Counter::DropMovedAway),
            Some(_) => {}
        }
        // Nor that it has come back.
        let resets = tcp.get(13).is_some_and(|flags| flags & RST != 0);
        if !b.has(FLAG_ADOPTED) && !b.is_hearsay() && !resets {
            return self.drop(Counter::DropMovedAway);
        }
        let Some(s) = sent(flow, tcp) else { return Verdict::Next };
        // A closed binding has no connection to protect: its client is to hear the refusal.
        let to_replay = b.replay_end != 0 && s.seq == b.start_ack && b.snd_end != b.start_ack;
        if stray(s.flags) && (!b.has(FLAG_CLOSED) || to_replay) {
            return self.drop(Counter::DropOvertakenReset);
        }
        if self.model.tables.follows {
            if let Some(tsval) = s.tsval.filter(|_| u32::from(b.options) & OPTION_TIMESTAMPS != 0)
                && tsval.wrapping_sub(b.clock).cast_signed() > 0
            {
                b.clock = tsval;
            }
            if !s.payload.is_empty() {
                self.follow_response(&s, &b);
            }
        }
        self.track_out(&s, &mut b);
        self.put(s.flow, b);
        Verdict::Next
    }
}
