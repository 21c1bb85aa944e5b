//! Connections that this node's reader has, or is to have.

use super::packet::flag::{FIN, RST};
use super::{Binding, Packet, Run, Verdict};
use crate::constants::{FLAG_ADOPTED, FLAG_FIN_IN, FLAG_FROZEN, FLAG_MOVED};
use crate::counters::Counter;
use crate::tables::State;

impl Run<'_> {
    pub(super) fn reading(&mut self, p: &Packet, mut b: Binding) -> Verdict {
        let verdict = self.read(p, &mut b);
        self.put(p.flow, b);
        verdict
    }

    fn read(&mut self, p: &Packet, b: &mut Binding) -> Verdict {
        b.seen_ns = self.clock.kernel_ns;
        if p.has(FIN) || p.has(RST) {
            b.flags |= FLAG_FIN_IN;
        }
        if b.has(FLAG_FROZEN) {
            return self.drop(Counter::DropFrozen);
        }
        if b.has(FLAG_ADOPTED) {
            self.count(Counter::ReaderPacket);
            return Verdict::Stack;
        }
        if p.payload.is_empty() || p.seq != b.start_seq {
            self.count(Counter::ReaderPacket);
            return self.drop(Counter::DropEarlySegment);
        }
        let stale = self.model.stack.sockets.get(&p.flow).copied();
        if let Some(socket) = stale.filter(|s| s.start_seq != Some(b.start_seq)) {
            return self.end_stale_socket(p, b, socket);
        }
        if !self.model.stack.reader {
            return self.drop(Counter::DropNoReader);
        }
        if !self.model.stack.adopts {
            return self.refuse(p, Counter::ResetRefused);
        }
        b.tries = 0;
        (b.tsval, b.tsecr) = p.options.timestamps.unwrap_or_default();
        b.window = p.window;
        b.flags |= FLAG_ADOPTED;
        self.count(Counter::ReaderAdopted);
        Verdict::Stack
    }

    /// A later request is the reader's: the server's socket ends.
    pub(super) fn read_later(&mut self, p: &Packet, b: &mut Binding) -> Verdict {
        self.leave(p, b);
        b.flags |= FLAG_MOVED;
        b.snd_end = p.ack;
        b.state = State::Reading;
        self.read(p, b)
    }
}
