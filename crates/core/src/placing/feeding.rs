//! Packets that came before their connection could take them, on their way through [`Early`]: when one of them is
//! to wait, when it goes on, and what its server's socket and its client are to hear of it meanwhile.
//!
//! [`Early`]: crate::early::Early

use std::fmt::Debug;

use baton_cluster::{Flow, PoolId};
use baton_datapath::{DatapathError, Frame, State, answer};
use baton_http::Request;

use super::Placing;
use crate::early::{Owner, Untold};
use crate::outside::Outside;
use crate::tools::Tools;
use crate::waiting::release;

impl<S: Debug> Placing<S> {
    /// What a packet acknowledges must not wait with it: the server's socket would send that again, and
    /// not know that its connection is idle.
    pub(super) fn tell_socket(
        &mut self,
        frame: &Frame,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        let binding = tools.outside.binding(&frame.flow)?;
        let ours = |state| match state {
            State::Asking => true,
            State::Bound(node) | State::Releasing(node) => node == self.me,
            State::Open | State::Held | State::Reading => false,
        };
        if binding.is_some_and(|b| b.is_adopted && ours(b.state))
            && self.early.is_news(frame, tools.now)
            && let Some(acknowledgement) = frame.acknowledgement()
        {
            release(tools.outside, &acknowledgement, None);
        }
        Ok(())
    }

    /// Of a packet behind a gap the server's socket knows nothing. Without a word the client would repeat the
    /// missing one only after its timeout, and take that for the time that the network needs.
    pub(super) fn tell_client(
        &mut self,
        flow: &Flow,
        untold: Untold,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        let Some((receipt, at)) = tools.outside.receipt(flow)? else { return Ok(()) };
        if at != untold.at {
            // It has gone on: nothing was missing, or something else is now.
            self.early.came(flow, at, untold.newest, tools.now);
            return Ok(());
        }
        let kept = self.early.behind_a_gap(flow, at, untold.newest);
        if kept.is_empty() {
            return Ok(());
        }
        // Without the ranges it takes three to tell of a loss (RFC 5681 3.2).
        for _ in 0..if receipt.selective { 1 } else { 3 } {
            if let Err(error) = tools.outside.send_packet(&answer::selective(flow, &receipt, &kept), flow) {
                tracing::debug!(%error, %flow, "the client could not be told what came; it will repeat all of it");
            }
        }
        Ok(())
    }

    /// A connection may be able to take what came too early.
    pub(crate) fn feed(
        &mut self,
        flow: &Flow,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        let Some(binding) = tools.outside.binding(flow)? else { return Ok(()) };
        match binding.state {
            State::Bound(node) | State::Releasing(node) if node == self.me => {}
            // It has moved.
            State::Bound(_) | State::Releasing(_) => {
                self.early.let_go(flow, tools.outside);
                return Ok(());
            }
            State::Reading => {
                let asked = tools.outside.asked(flow)?;
                if let Some(asked) = asked.filter(|asked| asked.start_seq == binding.start_seq) {
                    self.early.read_on(flow, &asked, tools.outside);
                }
                return Ok(());
            }
            State::Open | State::Held | State::Asking => return Ok(()),
        }
        let asked = tools.outside.asked(flow)?.filter(|asked| asked.start_seq == binding.start_seq);
        let (Some(asked), Some(service)) = (asked, tools.services.of(flow)) else { return Ok(()) };
        let (guides, me) = (&self.guides, self.me);
        let owner = |request: &Request<'_>| {
            let index = service.rules.choose(request);
            let pool = service.pools.get(index).copied().unwrap_or(PoolId(0));
            Owner { pool: pool.0, own: guides.is_member(pool, me) }
        };
        self.early.feed(flow, &asked, owner, tools.now, tools.outside);
        Ok(())
    }
}

/// Whether a packet came before the connection could take it.
pub(super) fn is_early(frame: &Frame, tools: &mut Tools<'_, impl Outside>) -> Result<bool, DatapathError> {
    if !tools.services.of(&frame.flow).is_some_and(|service| service.strict) {
        return Ok(false);
    }
    let binding = tools.outside.binding(&frame.flow)?;
    let asked = tools.outside.asked(&frame.flow)?;
    let asked = asked.filter(|asked| binding.is_some_and(|b| b.start_seq == asked.start_seq));
    let from = asked.and_then(|asked| asked.early_seq);
    Ok(from.is_some_and(|from| frame.seq.wrapping_sub(from).cast_signed() >= 0))
}
