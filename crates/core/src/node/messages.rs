//! What nodes say to this one: each message goes to the part that it concerns.

use std::fmt::Debug;

use baton_cluster::NodeId;
use baton_control::{Doubts, Grant, Heir, Mac, Message, Term};

use super::Core;
use crate::outside::{Moment, Outside};
use crate::switch;

impl<S: Debug> Core<S> {
    /// What a node says, this one included; but for what is about the status, which is the daemon's.
    pub fn message(
        &mut self,
        from: NodeId,
        message: Message,
        outside: &mut impl Outside<Stream = S>,
        now: Moment,
    ) {
        match message {
            Message::Ask(_)
            | Message::Ready(_)
            | Message::Mapped(_)
            | Message::Recall(_)
            | Message::Recalled(_) => self.dispatching(from, message, outside, now),
            Message::Load(load) => {
                if let Some(dispatcher) = &mut self.dispatcher {
                    dispatcher.load(from, &load);
                }
                self.with_placing("a load", outside, now, |d, tools| {
                    d.guides.load(from, &load, tools.outside)
                });
            }
            Message::Doubts(doubts) => self.doubts(from, doubts, outside, now),
            Message::Answer(answer) => {
                self.with_placing("an answer", outside, now, |d, tools| d.answered(from, answer, tools));
            }
            Message::Push(push) => self.with_placing("a push", outside, now, |d, tools| {
                d.guides.pushed(&push, tools.monotonic, tools.outside)
            }),
            Message::Guide(g) => self.with_placing("a guide", outside, now, |d, tools| {
                d.guides.guide(from, g.pool, g.guide, tools.outside)
            }),
            Message::Live(live) => self.with_placing("live servers", outside, now, |d, tools| {
                d.guides.named(from, live.nodes);
                d.guides.refresh(tools.peers, tools.outside, tools.now)
            }),
            Message::Taken(taken) => {
                if let Some(placing) = &mut self.placing {
                    placing.replays.taken(&taken.flow, taken.start_seq);
                }
            }
            Message::Term(Term { term }) => {
                if let Some(switch) = &mut self.switch {
                    let granted = switch.term(from, term, now.monotonic);
                    self.post.send(from, Message::Grant(Grant { term, granted }));
                }
            }
            Message::Grant(grant) => {
                if let Some(lease) = &mut self.lease {
                    lease.answered(from, grant, now.monotonic, outside.random(), &mut self.post);
                }
                self.refresh_leases(outside, now);
            }
            Message::Heir(Heir { term }) => {
                if let Some(lease) = &mut self.lease {
                    lease.inherit(from, term, now.monotonic);
                }
                self.refresh_leases(outside, now);
            }
            Message::Whose(whose) => {
                self.with_placing("a question", outside, now, |d, tools| d.owners.asked(from, &whose, tools));
            }
            Message::Owned(owned) => {
                self.with_placing("an answer", outside, now, |d, tools| {
                    d.owners.answered(from, &owned, tools)
                });
            }
            Message::Update(update) => {
                self.troubles.note(now.monotonic, "an update", switch::updated(outside, &update));
            }
            Message::Close(close) => {
                self.troubles.note(now.monotonic, "a close", switch::closed(outside, &close));
            }
            Message::Mac(Mac { mac }) => self.is_member(from, mac, outside, now),
            Message::StatusRequest(_) | Message::StatusReply(_) | Message::Probed(_) => {}
        }
    }

    /// A node says which servers it doubts.
    fn doubts(&mut self, from: NodeId, doubts: Doubts, outside: &mut impl Outside<Stream = S>, now: Moment) {
        if let Some(witness) = self.witness.as_mut().filter(|_| from != self.me) {
            let arrived = witness.arrived(from, doubts.taken, outside, now.monotonic);
            self.troubles.note(now.monotonic, "handoff packets", arrived);
        }
        if self.standing.told(from, doubts.servers) {
            self.standing.log(from);
            self.doubts_changed(outside, now);
        }
    }

    pub(super) fn doubts_changed(&mut self, outside: &mut impl Outside<Stream = S>, now: Moment) {
        if let Some(dispatcher) = &mut self.dispatcher {
            let time = outside.cluster_time();
            let chance = || u64::from(outside.random());
            dispatcher.doubts_changed(&self.standing, time, chance, &mut self.post);
        }
        let Self { placing, standing, .. } = self;
        let Some(placing) = placing else { return };
        let told = placing.guides.doubts_changed(standing, outside, now.monotonic);
        self.troubles.note(now.monotonic, "guides without doubted servers", told);
    }

    /// Takes the next message from this node to itself. Whether there was one.
    pub fn local_message(&mut self, outside: &mut impl Outside<Stream = S>, now: Moment) -> bool {
        let Some(message) = self.post.take_local() else { return false };
        self.message(self.me, message, outside, now);
        true
    }
}
