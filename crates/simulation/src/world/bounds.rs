//! Everything is bounded, and everything ends.

use baton_datapath::State;
use baton_packet_model::Binding;

use super::{Ended, Happening, World};
use crate::client::Stage;
use crate::plan::MS;

/// Steps between two looks at how much the nodes keep.
const LOOK_EVERY: u64 = 16;
/// When all clients are content, nodes may keep for so long what they know of them: the longest of their patiences (whose.rs).
const CALM: u64 = 130_000 * MS;
/// What a core says of bindings that it will hear of again.
const GIVEN_BACK: &str = "connections whose packets are given back";
/// Clients of a cluster with a server that does not work which are not served, at most.
const UNSERVED: usize = 10;
/// A daemon's tick while nothing happens.
pub(super) const CALM_TICK: u64 = 2000 * MS;

impl World<'_> {
    /// What a node keeps is within its bounds.
    pub(super) fn within_bounds(&mut self, node: usize) -> Ended {
        self.steps += 1;
        let Some(core) = self.nodes[node].core.as_ref().filter(|_| self.steps.is_multiple_of(LOOK_EVERY))
        else {
            return Ok(());
        };
        let limits = &self.files[self.nodes[node].goes_by].limits;
        match core.kept(limits).iter().find(|kept| kept.now > kept.most) {
            Some(kept) => Err(format!("n{node} has {} {}, {} are the most", kept.now, kept.what, kept.most)),
            None => Ok(()),
        }
    }

    /// All clients are content. Then nobody may keep anything of them for ever.
    pub(super) fn calms_down(&mut self) -> Ended {
        let until = self.now.max(self.calm_from).max(self.last_file()) + CALM;
        self.is_calm = true;
        self.tell("all clients are content".into());
        while let Some((at, what)) = self.next_happening()
            && at <= until
        {
            self.now = at;
            // Nothing begins any more.
            if !matches!(what, Happening::Mishap(_)) {
                self.step(what)?;
            }
        }
        self.nothing_is_left()
    }

    /// Of a pool with a server that works nearly all clients are served, whatever another one does: but for those by which
    /// it shows, and those that are tried.
    pub(super) fn sick_was_avoided(&self) -> Ended {
        let Some(sick) = self.plan.sick else { return Ok(()) };
        let unserved = self.clients.iter().filter(|client| client.stage != Stage::Done).count();
        if unserved > UNSERVED {
            return Err(format!("{unserved} clients are not served because of n{}: {sick:?}", sick.node));
        }
        Ok(())
    }

    fn last_file(&self) -> u64 {
        self.plan.rollouts.iter().map(|rollout| rollout.at).max().unwrap_or(0)
    }

    fn nothing_is_left(&self) -> Ended {
        self.dispatchers_agree()?;
        for (number, node) in self.nodes.iter().enumerate() {
            let Some(core) = &node.core else { continue };
            // A connection whose end a node was not told it counts for minutes; and for as long as a binding says that
            // packets are given back, the core knows that they are.
            let gives_back = |b: &&Binding| matches!(b.state, State::Releasing(_) | State::Reading);
            let lasts = |what: &str| match what {
                "services that end" => core.services().ending().filter(|(_, left)| *left > 0).count(),
                GIVEN_BACK => node.shell.model.tables.bindings.values().filter(gives_back).count(),
                _ => 0,
            };
            let limits = &core.services().cluster().limits;
            if let Some(kept) = core.kept(limits).iter().find(|kept| kept.now > lasts(kept.what)) {
                return Err(format!("n{number} has {} {} for ever", kept.now, kept.what));
            }
            let is_done = |number: usize| self.clients.get(number).is_some_and(|c| c.stage == Stage::Done);
            let mut flows = node.shell.sockets.keys();
            if let Some(flow) = flows.find(|flow| is_done(usize::from(flow.client_port - 40_000))) {
                return Err(format!("n{number} has a socket of {flow} for ever"));
            }
        }
        Ok(())
    }
}
