//! A request that must be asked about: its question, in batches to the dispatcher, and the answer; or none.

use std::fmt::Debug;

use baton_cluster::{Flow, NodeId};
use baton_control::{Answer, Message, Question, Verdict};
use baton_datapath::DatapathError;

use super::Placing;
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
        let Some(question) = question.filter(|_| tools.peers.is_up(self.dispatcher)) else {
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
        if !tools.peers.is_up(self.dispatcher) {
            return self.dispatcher_lost(tools);
        }
        self.tally.batches += 1;
        tools.post.send(self.dispatcher, Message::Ask(ask));
        Ok(())
    }

    /// The dispatcher's answer to a batch.
    pub(crate) fn answered(
        &mut self,
        answer: Answer,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        match self.batcher.answered(answer, tools.now) {
            Ok((verdicts, next)) => {
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
                tracing::error!(%error, "dispatcher");
                self.dispatcher_lost(tools)
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
        self.settle(ticket, server, tools)
    }

    /// The dispatcher went away: whatever was asked of it is decided here.
    pub(crate) fn dispatcher_lost(
        &mut self,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        self.guides.named(None);
        let told = self.guides.refresh(tools.peers, tools.outside, tools.now);
        let decided = for_all(self.batcher.drain(), |ticket| self.decide_alone(ticket, tools));
        told.and(decided)
    }
}
