//! A request that must be asked about: its question, in batches to a dispatcher, and the answer; to the next one, if the
//! first does not answer; or none.

use std::fmt::Debug;

use baton_cluster::{Flow, NodeId};
use baton_control::{Answer, Message, Question, Verdict};
use baton_datapath::DatapathError;

use super::{ANSWER_PATIENCE, Placing};
use crate::outside::Outside;
use crate::tools::Tools;
use crate::trouble::for_all;
use crate::waiting::{Ticket, Waiting};

impl<S: Debug> Placing<S> {
    pub(super) fn ask(
        &mut self,
        flow: Flow,
        waiting: Waiting<S>,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        let at = waiting.is_ours.then_some(self.me);
        let pool = tools.services.hash(waiting.pool);
        let question = pool.map(|pool| Question { pool, target: waiting.target, at });
        let ticket = match self.waits.begin(flow, waiting) {
            Ok(ticket) => ticket,
            Err(rejected) => {
                self.give_up(Some(*rejected), tools.outside);
                return Ok(());
            }
        };
        if let Some(server) = self.known(&ticket, tools)? {
            self.tally.known += 1;
            return self.settle(ticket, server, tools);
        }
        let Some(question) = question.filter(|_| self.line.asked().is_some()) else {
            return self.decide_alone(ticket, tools);
        };
        self.tally.asked += 1;
        match self.batcher.ask(question, ticket, tools.now) {
            Ok(Some(ask)) => self.send_batch(ask, tools),
            Ok(None) => Ok(()),
            Err((ticket, _full)) => self.decide_alone(ticket, tools),
        }
    }

    /// The server for a first request by what the dispatcher has said before, as the programs would have
    /// decided it if they could have read it.
    fn known(
        &self,
        ticket: &Ticket,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<Option<NodeId>, DatapathError> {
        match self.waits.get(ticket) {
            Some(waiting) if !waiting.is_ours => {
                tools.outside.decided(waiting.pool, waiting.target, tools.monotonic)
            }
            _ => Ok(None),
        }
    }

    fn send_batch(
        &mut self,
        ask: baton_control::Ask,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        let Some(to) = self.line.asked() else {
            return for_all(self.batcher.drain(), |ticket| self.decide_alone(ticket, tools));
        };
        self.tally.batches += 1;
        self.put_to = Some(to);
        tools.post.send(to, Message::Ask(ask));
        Ok(())
    }

    /// A dispatcher's answer to a batch: of any of them, whoever was asked last.
    pub(crate) fn answered(
        &mut self,
        from: NodeId,
        answer: Answer,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        if !self.line.has(from) {
            return Ok(());
        }
        match self.batcher.answered(answer, tools.now) {
            Ok((verdicts, next)) => {
                self.line.answered(from);
                let settled = for_all(verdicts, |(ticket, verdict)| {
                    self.tally.answered += 1;
                    self.verdict(ticket, &verdict, tools)
                });
                let sent = next.map_or(Ok(()), |ask| self.send_batch(ask, tools));
                settled.and(sent)
            }
            Err(baton_control::BatchError::Stale { batch }) => {
                tracing::debug!(batch, "late answer ignored");
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, dispatcher = %from, "left alone for a while");
                self.refuses(from, tools)
            }
        }
    }

    fn verdict(
        &mut self,
        ticket: Ticket,
        verdict: &Verdict,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        let known = |server: &NodeId| tools.services.cluster().node(*server).is_some();
        let Some(server) = verdict.server.filter(known) else {
            // Nobody is there to serve it, or the dispatcher's file has no such pool, yet or any more; or a server that
            // this node's does not have.
            return self.decide_alone(ticket, tools);
        };
        if let (Some(waiting), Some(keep)) = (self.waits.get(&ticket), &verdict.keep)
            && let Some(target) = waiting.target
        {
            self.guides.keep(waiting.pool, target, keep, tools.monotonic, tools.outside)?;
        }
        if server == self.me || self.guides.may_have(server) {
            return self.settle(ticket, server, tools);
        }
        // The dispatcher reaches it, but this node does not.
        self.tally.unreachable += 1;
        let other = verdict.keep.iter().flatten().find(|server| self.guides.may_have(**server));
        match other {
            Some(server) => self.settle(ticket, *server, tools),
            None => self.decide_alone(ticket, tools),
        }
    }

    /// A node is there. A dispatcher among them may be asked.
    pub(crate) fn came_up(
        &mut self,
        node: NodeId,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        self.line.came_up(node, tools.now);
        self.follow(tools)
    }

    /// A node is not there any more: what a dispatcher was asked, another one is asked.
    pub(crate) fn went_down(
        &mut self,
        node: NodeId,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        self.line.went_down(node);
        self.guides.silent(node);
        self.follow(tools)
    }

    /// A dispatcher says whether it remembers what has been decided.
    pub(crate) fn dispatcher_says(
        &mut self,
        node: NodeId,
        ready: bool,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        self.line.says(node, ready);
        self.follow(tools)
    }

    /// A dispatcher does not take what it is asked, or answers it wrongly.
    pub(crate) fn refuses(
        &mut self,
        node: NodeId,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        self.line.was_late(node, tools.now);
        self.follow(tools)
    }

    /// Called on every tick: no question waits for longer than it may.
    pub(super) fn ask_in_time(
        &mut self,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        let now = tools.now;
        let failed = self.batcher.expire(now);
        let is_late = |at| now - at >= ANSWER_PATIENCE;
        if let Some(to) = self.put_to
            && (!failed.is_empty()
                || (self.batcher.asked_at().is_some_and(is_late) && self.line.has_other(to, now)))
        {
            self.line.was_late(to, now);
        }
        let decided = for_all(failed, |ticket| self.decide_alone(ticket, tools));
        decided.and(self.follow(tools))
    }

    /// Asks whoever is to be asked now, also what another dispatcher has not answered.
    fn follow(&mut self, tools: &mut Tools<'_, impl Outside<Stream = S>>) -> Result<(), DatapathError> {
        self.lapsed |= !self.line.any_up();
        let before = self.line.asked();
        let asked = self.line.choose(tools.now);
        let mut told = Ok(());
        if asked != before {
            let name = |id| tools.services.cluster().node(id).map_or("nobody", |node| node.name.as_str());
            tracing::info!(dispatcher = asked.map_or("nobody", name), "asked from now on");
            let knows = asked.is_some_and(|node| self.line.is_ready(node));
            let anew = asked.is_some() && (std::mem::take(&mut self.lapsed) || !knows);
            self.guides.follow(asked, anew);
            told = self.guides.refresh(tools.peers, tools.outside, tools.now);
        }
        told.and(self.ask_again(tools))
    }

    /// What a dispatcher was asked that cannot be asked any more goes to the one that is asked now.
    fn ask_again(&mut self, tools: &mut Tools<'_, impl Outside<Stream = S>>) -> Result<(), DatapathError> {
        let has_it = self.put_to.is_some_and(|node| self.line.is_usable(node, tools.now));
        if has_it || self.batcher.asked_at().is_none() {
            return Ok(());
        }
        let Some(to) = self.line.asked() else {
            return for_all(self.batcher.drain(), |ticket| self.decide_alone(ticket, tools));
        };
        let Some(ask) = self.batcher.again(tools.now) else { return Ok(()) };
        self.tally.reasked += ask.questions.len() as u64;
        self.tally.batches += 1;
        self.put_to = Some(to);
        tools.post.send(to, Message::Ask(ask));
        Ok(())
    }

    pub(super) fn decide_alone(
        &mut self,
        ticket: Ticket,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        let Some(waiting) = self.waits.get(&ticket) else { return Ok(()) };
        let (pool, target, first) = (waiting.pool, waiting.target, !waiting.is_ours);
        let stays = waiting.is_ours && self.guides.is_member(waiting.pool, self.me);
        let chosen = self.guides.choose_alone(pool, target, first, tools.monotonic);
        // What is here already may as well stay.
        match chosen.filter(|_| !stays).or(stays.then_some(self.me)) {
            Some(server) => {
                self.tally.fallback += 1;
                self.settle(ticket, server, tools)
            }
            None => {
                self.tally.failed += 1;
                match self.waits.take(&ticket) {
                    Some(waited) => self.nobody(ticket.flow, waited, tools),
                    None => Ok(()),
                }
            }
        }
    }
}
