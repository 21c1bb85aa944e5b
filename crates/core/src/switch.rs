//! The switch role's share in user space: which distributors there are, and where flows went.

use std::collections::VecDeque;
use std::time::Duration;

use baton_cluster::{Cluster, NodeId};
use baton_control::{Close, Heir, Message, Update};
use baton_datapath::DatapathError;
use baton_dispatcher::spread::{Spread, SpreadChange};

use crate::outside::Outside;
use crate::post::Post;
use crate::trouble::for_all;

/// The switch of this node.
#[derive(Debug)]
pub(crate) struct SwitchRole {
    spread: Spread,
    /// What has not been carried out yet.
    pending: VecDeque<SpreadChange>,
}

impl SwitchRole {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let distributors = cluster.with_role(|r| r.distributor).map(|n| (n.id, n.weight));
        Self { spread: Spread::new(distributors, cluster.failure_timeout), pending: VecDeque::new() }
    }

    /// A distributor says what its cookies are made with. Whether it may decide what they are made for.
    pub(crate) fn term(&mut self, node: NodeId, term: u32, now: Duration) -> bool {
        self.spread.term(node, term, now)
    }

    /// A distributor went down.
    pub(crate) fn down(&mut self, node: NodeId, ended: bool, now: Duration) {
        self.spread.down(node, ended, now);
    }

    /// Makes the tables what they must be by now.
    pub(crate) fn refresh(
        &mut self,
        now: Duration,
        outside: &mut impl Outside,
        post: &mut Post,
    ) -> Result<(), DatapathError> {
        self.pending.extend(self.spread.tick(now));
        while let Some(change) = self.pending.front() {
            self.carry_out(change, outside, post)?;
            self.pending.pop_front();
        }
        Ok(())
    }

    fn carry_out(
        &self,
        change: &SpreadChange,
        outside: &mut impl Outside,
        post: &mut Post,
    ) -> Result<(), DatapathError> {
        match change {
            SpreadChange::Table { table, spread } => {
                tracing::info!(distributors = self.spread.distributors(), "switch table made");
                outside.set_spread_table(*table, spread)
            }
            SpreadChange::Maker { number, maker } => outside.set_maker(*number, maker),
            SpreadChange::Use { table, until, refuse } => outside.set_spread(*table, *until, *refuse),
            SpreadChange::Heirs { term, nodes } => {
                for node in nodes {
                    post.send(*node, Message::Heir(Heir { term: *term }));
                }
                Ok(())
            }
        }
    }
}

/// An update message: flows that have moved.
pub(crate) fn updated(outside: &mut impl Outside, update: &Update) -> Result<(), DatapathError> {
    for_all(&update.moves, |m| {
        if m.issued == 0 {
            // Found by its socket alone: nobody knows when it was decided, so whatever else is known stands.
            outside.bind_found(&m.flow, m.start_seq, m.server, 0).map(drop)
        } else {
            outside.bind_told(&m.flow, m.start_seq, m.server, m.from, m.issued).map(drop)
        }
    })
}

/// A close message: flows that have ended.
pub(crate) fn closed(outside: &mut impl Outside, close: &Close) -> Result<(), DatapathError> {
    for_all(&close.ends, |end| outside.close_told(&end.flow, end.start_seq).map(drop))
}
