//! What the node's stack sends: load and ends are read off it, and one kind of RST is kept in.

use baton_cluster::Flow;

use super::packet::flag::{ACK, RST};
use super::packet::{L3, L4, be16, be32};
use super::{Run, Verdict};
use crate::constants::{FLAG_CLOSED, FLAG_CONFIRMED, YOUNG_MS};
use crate::counters::Counter;

struct Sent {
    flow: Flow,
    seq: u32,
    flags: u8,
    payload: u32,
}

/// A TCP packet without IP options; `None` for anything else, and for lengths that cannot be.
fn sent(frame: &[u8]) -> Option<Sent> {
    let tcp = frame.get(L4..)?;
    if be16(frame, 12)? != 0x0800 || frame.get(L3)? & 15 != 5 || *frame.get(L3 + 9)? != 6 || tcp.len() < 20 {
        return None;
    }
    let header = usize::from(tcp.get(12)? >> 4) * 4;
    if header < 20 {
        return None;
    }
    Some(Sent {
        flow: Flow {
            client: be32(frame, L3 + 16)?.into(),
            client_port: be16(tcp, 2)?,
            vip: be32(frame, L3 + 12)?.into(),
            vip_port: be16(tcp, 0)?,
        },
        seq: be32(tcp, 4)?,
        flags: *tcp.get(13)?,
        payload: u32::try_from(tcp.len().checked_sub(header)?).ok()?,
    })
}

impl Run<'_> {
    pub(super) fn egress(&mut self) -> Verdict {
        let Some(s) = sent(&self.frame) else { return Verdict::Next };
        let owned = self.model.tables.bindings.get(&s.flow).copied();
        let Some(mut b) = owned.filter(|b| b.owner() == Some(self.model.settings.node)) else {
            return Verdict::Next;
        };
        // A packet that overtook the adopting one finds no socket: its RST would kill the connection.
        // A closed binding has no connection to protect: its client is to hear the refusal.
        let young = self.clock.kernel_ns.saturating_sub(b.since_ns) < u64::from(YOUNG_MS) * 1_000_000;
        if s.flags & (RST | ACK) == RST && young && !b.has(FLAG_CONFIRMED | FLAG_CLOSED) {
            return self.drop(Counter::DropOvertakenReset);
        }
        self.track_out(s.flow, &mut b, s.seq, s.payload, s.flags);
        self.put(s.flow, b);
        Verdict::Next
    }
}
