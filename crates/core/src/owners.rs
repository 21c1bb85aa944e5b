//! Connections that nobody here knows, and those that other nodes ask about: what [`crate::whose`] decides, carried out.

use std::time::Instant;

use baton_cluster::{Cluster, Flow, NodeId};
use baton_control::{Claim, Lost, Message, Move, Owned, Pace, Update, Whose};
use baton_datapath::{DatapathError, Frame, Known, Numbers, State, answer};
use baton_host::SocketState;

use crate::outside::Outside;
use crate::services::may_own;
use crate::tools::Tools;
use crate::whose::{Search, Step, UnknownTally, claim, is_about};

/// Both sides of the question on this node.
#[derive(Debug)]
pub struct Owners {
    me: NodeId,
    search: Search<Frame>,
    mac: [u8; 6],
    pace: Pace,
    pace_plain: Pace,
}

impl Owners {
    /// Resets a second: to find out whether a connection has just begun takes a few milliseconds. Where clients have
    /// timestamps strangers cannot cause that; else they can.
    const RESETS: u32 = 50;
    const RESETS_PLAIN: u32 = 10;

    /// `mac`: of the interface that held packets come back to.
    pub(crate) fn new(cluster: &Cluster, me: NodeId, mac: [u8; 6], now: Instant) -> Self {
        let others = cluster.with_role(may_own).map(|node| node.id).filter(|id| *id != me);
        Self {
            me,
            search: Search::new(me, others, now),
            mac,
            pace: Pace::new(Self::RESETS, Self::RESETS),
            pace_plain: Pace::new(Self::RESETS_PLAIN, Self::RESETS_PLAIN),
        }
    }

    /// What has become of them; and how many are in question now.
    pub fn tally(&self) -> (UnknownTally, usize) {
        (self.search.tally, self.search.in_question())
    }

    /// Connections in question, and those that are to come here.
    pub(crate) fn kept(&self) -> (usize, usize) {
        (self.search.in_question(), self.search.to_come())
    }

    pub(crate) fn came_up(&mut self, node: NodeId, tools: &Tools<'_, impl Outside>) {
        self.search.came_up(node, tools.now);
        self.search.others_know_more(tools.peers.know_more());
    }

    pub(crate) fn went_down(
        &mut self,
        node: NodeId,
        tools: &mut Tools<'_, impl Outside>,
    ) -> Result<(), DatapathError> {
        let steps = self.search.went_down(node, tools.now);
        self.search.others_know_more(tools.peers.know_more());
        self.carry_out(steps, tools)
    }

    /// A held packet that nobody here knew.
    pub(crate) fn packet(
        &mut self,
        frame: Frame,
        tools: &mut Tools<'_, impl Outside>,
    ) -> Result<(), DatapathError> {
        let inherited = frame.is_inherited();
        let frame = frame.readdressed(self.mac);
        // It has become known while the packet was on its way up here.
        if self.is_known(&frame.flow, &frame.numbers(), tools)? {
            release(&frame, tools);
            return Ok(());
        }
        self.search.packet(frame.flow, frame.numbers(), inherited, frame);
        Ok(())
    }

    fn is_known(
        &self,
        flow: &Flow,
        numbers: &Numbers,
        tools: &mut Tools<'_, impl Outside>,
    ) -> Result<bool, DatapathError> {
        let known = tools.outside.known(flow, tools.monotonic)?;
        Ok(known.is_some_and(|known| !self.is_nobody(&known) && is_about(&known, numbers.seq)))
    }

    /// Called when all that woke the node has been done: what has gathered is asked about.
    pub(crate) fn flush(&mut self, tools: &mut Tools<'_, impl Outside>) -> Result<(), DatapathError> {
        let steps = self.search.flush(tools.now);
        self.carry_out(steps, tools)
    }

    pub(crate) fn tick(&mut self, tools: &mut Tools<'_, impl Outside>) -> Result<(), DatapathError> {
        let steps = self.search.tick(tools.now);
        self.carry_out(steps, tools)
    }

    /// A node's answer.
    pub(crate) fn answered(
        &mut self,
        from: NodeId,
        owned: &Owned,
        tools: &mut Tools<'_, impl Outside>,
    ) -> Result<(), DatapathError> {
        let steps = self.search.answered(from, owned);
        self.carry_out(steps, tools)
    }

    /// Another node asks. The switches are told of what is found, too, so that the detour over the asker ends.
    pub(crate) fn asked(
        &mut self,
        from: NodeId,
        whose: &Whose,
        tools: &mut Tools<'_, impl Outside>,
    ) -> Result<(), DatapathError> {
        let mut claims = Vec::with_capacity(whose.lost.len());
        let mut moves = Vec::new();
        for lost in &whose.lost {
            let Ok(claim) = self.claim(from, lost, tools)? else {
                // Nothing is known here now: silence, which the asker does not take for "no".
                return Ok(());
            };
            if let Some((claim, true)) = claim {
                let Claim { start_seq, issued, .. } = claim;
                moves.push(Move { flow: lost.flow, server: self.me, start_seq, issued, from: self.me });
            }
            claims.push(claim.map(|(claim, _)| claim));
        }
        tools.post.send(from, Message::Owned(Owned { batch: whose.batch, claims }));
        let switches: Vec<NodeId> =
            tools.peers.others(tools.services.cluster(), |r| r.switch).filter(|to| *to != from).collect();
        for to in switches {
            for moves in moves.chunks(baton_control::message::MOVES_MAX) {
                tools.post.send(to, Message::Update(Update { moves: moves.to_vec() }));
            }
        }
        Ok(())
    }

    /// What this node has of a connection, and whether its server serves it; `Err` when that cannot be said.
    fn claim(
        &mut self,
        from: NodeId,
        lost: &Lost,
        tools: &mut Tools<'_, impl Outside>,
    ) -> Result<Result<Option<(Claim, bool)>, std::io::Error>, DatapathError> {
        let now = tools.monotonic;
        let known = tools.outside.known(&lost.flow, now)?;
        let socket = match tools.outside.socket(&lost.flow) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!(%error, flow = %lost.flow, "sockets cannot be asked for");
                return Ok(Err(error));
            }
        };
        let claim = claim((self.me, from), lost, known, socket, now);
        let serves =
            |claim: &Claim| claim.owner == self.me && !claim.ended && socket == Some(SocketState::Live);
        Ok(Ok(claim.map(|claim| (claim, serves(&claim)))))
    }

    /// Told that the connection is this node's own: without its handoff packet it is nobody's here, as for the
    /// programs (`is_nobody` in `bpf/binding.h`).
    fn is_nobody(&self, known: &Known) -> bool {
        known.hearsay && matches!(known.state, State::Bound(node) | State::Releasing(node) if node == self.me)
    }

    fn carry_out(
        &mut self,
        steps: Vec<Step<Frame>>,
        tools: &mut Tools<'_, impl Outside>,
    ) -> Result<(), DatapathError> {
        for step in steps {
            match step {
                Step::Ask { to, whose } => {
                    for node in to {
                        // Who cannot be sent to has gone, or answers too late: it counts as not heard.
                        tools.post.send(node, Message::Whose(whose.clone()));
                    }
                }
                Step::Bind { flow, claim, frames } => {
                    tools.outside.bind_found(&flow, claim.start_seq, claim.owner, claim.issued)?;
                    frames.iter().for_each(|frame| release(frame, tools));
                }
                Step::Decide { frames } => frames.iter().for_each(|frame| release(frame, tools)),
                Step::Reset { flow, numbers } => {
                    // A connection may have begun meanwhile.
                    if self.is_known(&flow, &numbers, tools)? {
                        continue;
                    }
                    // Of a flood of them each is looked at in its turn; the others' clients repeat their packets.
                    let pace = if numbers.echo.is_some() { &mut self.pace } else { &mut self.pace_plain };
                    if !pace.allows(tools.monotonic) {
                        self.search.tally.reset -= 1;
                        self.search.tally.unanswered += 1;
                        continue;
                    }
                    if tools.outside.has_begun(&flow, &numbers)? {
                        self.search.tally.reset -= 1;
                        self.search.tally.begun += 1;
                        continue;
                    }
                    let packet = answer::reset(&flow, numbers.ack, numbers.end);
                    if let Err(error) = tools.outside.send_packet(&packet, &flow) {
                        tracing::debug!(%error, %flow, "the client could not be told that its connection is lost");
                    }
                }
            }
        }
        Ok(())
    }
}

fn release(frame: &Frame, tools: &mut Tools<'_, impl Outside>) {
    if let Err(error) = tools.outside.release(&frame.bytes) {
        tracing::debug!(%error, flow = %frame.flow, "held packet lost; the client repeats it");
    }
}
