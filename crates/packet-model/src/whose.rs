//! A packet of a connection that nobody here knows: `bpf/whose.h`.

use baton_cluster::NodeId;

use crate::cookie::echoes;
use crate::packet::flag::{ACK, FIN, RST};
use crate::{Binding, Packet, Run, Verdict, cookie_age, prefix_slot};
use baton_datapath::Counter;
use baton_datapath::constants::{
    HEIR_MAC, SENDER_MAC, UNKNOWN_MAC, UNKNOWN_MAX, UNKNOWN_PREFIX_MAX, UNKNOWN_SLOTS, UNKNOWN_WINDOW_SHIFT,
};

impl Binding {
    /// Told that the connection is this node's own: without its handoff packet it is nobody's here.
    pub(super) fn is_nobody(&self, this: NodeId) -> bool {
        self.owner(this) == Some(this) && self.is_hearsay()
    }
}

/// Why user space is given a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Whose,
    /// It is this node's to decide if nobody has it.
    Heir,
    /// User space has given it back, but what it knew is gone again.
    Again,
}

impl Run<'_> {
    /// Given to user space, which asks the other nodes. `alone`: how the RST is counted where there is none.
    pub(super) fn ask_whose(
        &mut self,
        p: &Packet,
        from: Option<NodeId>,
        question: Question,
        alone: Counter,
    ) -> Verdict {
        if question != Question::Heir && self.is_last_ack(p, from) {
            return self.drop(Counter::LastAck);
        }
        if question == Question::Again {
            return self.drop(Counter::DropUnknownFlow);
        }
        // User space can tell whether it has just begun, and its first packets were lost.
        let new = self.model.settings.roles.distributor
            && p.has(ACK)
            && !p.has(RST)
            && alone != Counter::ResetExpired
            && echoes(&self.model.tables.keys, p, self.clock)
            && self.daemon_listens();
        if !self.model.settings.others && !new {
            return self.refuse(p, alone);
        }
        if !self.daemon_listens() {
            return self.drop(Counter::DropUnknownFlow);
        }
        if !self.may_ask(p) {
            return self.drop(Counter::DropUnknownRate);
        }
        if let Some(destination) = self.frame.get_mut(..4) {
            let mark = if question == Question::Heir { HEIR_MAC } else { UNKNOWN_MAC };
            destination.copy_from_slice(&mark.to_be_bytes());
        }
        // When it is given back, it must be known who sent it.
        if let (Some((sender, _)), Some(source)) = (self.wrapped, self.frame.get_mut(6..12)) {
            source[..4].copy_from_slice(&SENDER_MAC.to_be_bytes());
            source[4..].copy_from_slice(&sender.0.to_be_bytes());
        }
        self.count(Counter::HeldUnknown);
        Verdict::Redirect
    }

    /// The client's last ACK, behind the FIN that was answered for a connection without request.
    fn is_last_ack(&self, p: &Packet, from: Option<NodeId>) -> bool {
        let (roles, keys) = (self.model.settings.roles, &self.model.tables.keys);
        let before = Packet { seq: p.seq.wrapping_sub(1), ack: p.ack.wrapping_sub(1), ..p.clone() };
        roles.distributor
            && p.payload.is_empty()
            && !p.has(FIN)
            && self
                .lease_of(from)
                .is_some_and(|mine| cookie_age(keys, &before, mine.term, self.clock).is_some())
    }

    fn may_ask(&mut self, p: &Packet) -> bool {
        let slot = prefix_slot(&self.model.tables.keys, p.flow.client);
        self.is_within(slot, UNKNOWN_PREFIX_MAX) && self.is_within(UNKNOWN_SLOTS, UNKNOWN_MAX)
    }

    fn is_within(&mut self, slot: u32, most: u32) -> bool {
        let window = (self.clock.kernel_ns >> UNKNOWN_WINDOW_SHIFT) as u32;
        let budget = self.model.tables.unknowns.entry(slot).or_default();
        if budget.0 != window {
            *budget = (window, 0);
        }
        let is_within = budget.1 < most;
        budget.1 += u32::from(is_within);
        is_within
    }
}
