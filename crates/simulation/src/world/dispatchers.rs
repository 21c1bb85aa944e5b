//! Several dispatchers: in the end all of them remember the same, and nobody hands a connection to a server that it does
//! not reach.

use std::collections::BTreeMap;

use baton_cluster::{NodeId, PoolHash, Target};
use baton_control::Message;
use baton_dispatcher::Remembered;

use super::{Ended, World};
use crate::planted::Planted;

type Mappings = BTreeMap<(PoolHash, Target), Remembered>;

impl World<'_> {
    /// Whether a message is lost by a planted fault.
    pub(super) fn is_swallowed(&self, message: &Message) -> bool {
        match self.planted {
            Some(Planted::ChangesAreNotShared) => matches!(message, Message::Mapped(_)),
            Some(Planted::NothingIsRecalled) => matches!(message, Message::Recalled(_)),
            _ => false,
        }
    }

    /// A core has decided for a server.
    pub(super) fn reaches(&mut self, node: usize) -> Ended {
        match self.nodes[node].shell.unreached.take() {
            Some(server) => Err(format!("n{node} gives a connection to {server}, which it does not reach")),
            None => Ok(()),
        }
    }

    /// What a node's dispatcher remembers, by what all nodes know pools by.
    fn mappings(&self, node: usize) -> Option<Mappings> {
        let core = self.nodes[node].core.as_ref()?;
        let pools: BTreeMap<_, _> =
            core.services().known().pools().map(|pool| (pool.id, pool.hash)).collect();
        let all = core.remembered()?.into_iter();
        Some(all.filter_map(|(pool, target, known)| Some(((*pools.get(&pool)?, target), known))).collect())
    }

    /// When all has been calm for a while.
    pub(super) fn dispatchers_agree(&self) -> Ended {
        let all: Vec<(usize, Mappings)> =
            (0..self.nodes.len()).filter_map(|node| Some((node, self.mappings(node)?))).collect();
        for (one, mappings) in &all {
            let core = self.nodes[*one].core.as_ref();
            if core.and_then(baton_core::Core::is_ready) != Some(true) {
                return Err(format!("n{one} never gets ready to be asked"));
            }
            for (other, others) in all.iter().filter(|(other, _)| other > one) {
                self.agree((*one, mappings), (*other, others))?;
            }
        }
        Ok(())
    }

    fn agree(&self, (one, mappings): (usize, &Mappings), (other, others): (usize, &Mappings)) -> Ended {
        let up = |a: usize, b: usize| {
            self.nodes[a].shell.sessions.get(&NodeId(b as u16)).is_some_and(|session| session.is_up)
        };
        let same_file = self.nodes[one].goes_by == self.nodes[other].goes_by;
        if !(up(one, other) && up(other, one) && same_file) {
            return Ok(());
        }
        // What is forgotten of a server that one of them did not reach for long need not be forgotten by the other; and a
        // file that one has earlier lets it forget earlier.
        let is_plain = self.plan.mishaps.is_empty() && self.plan.rollouts.is_empty();
        for (key, known) in mappings {
            match others.get(key) {
                Some(theirs) if theirs == known => {}
                Some(theirs) => {
                    return Err(format!("n{one} remembers {known:?}, n{other} {theirs:?} of {key:?}"));
                }
                None if is_plain => return Err(format!("n{other} has not heard of {key:?}, n{one} has")),
                None => {}
            }
        }
        match others.keys().find(|key| is_plain && !mappings.contains_key(key)) {
            Some(key) => Err(format!("n{one} has not heard of {key:?}, n{other} has")),
            None => Ok(()),
        }
    }
}
