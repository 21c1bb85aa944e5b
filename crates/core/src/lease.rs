//! The distributor role's right to decide: what the switches have granted, told to the programs
//! ([`baton_dispatcher::leases`] is the rule).

use std::collections::BTreeMap;
use std::time::Duration;

use baton_cluster::NodeId;
use baton_control::{Grant, Message, Term};
use baton_datapath::{DatapathError, Lease};
use baton_dispatcher::leases::{Entry, Leases};

use crate::outside::Outside;
use crate::post::Post;

/// The leases of this node.
#[derive(Debug)]
pub(crate) struct LeaseRole {
    leases: Leases,
    /// How many times each switch has come up: the number of its present connection.
    sessions: BTreeMap<NodeId, u64>,
    /// What the programs know.
    written: Vec<Lease>,
}

impl LeaseRole {
    pub(crate) fn new(leases: Leases) -> Self {
        Self { leases, sessions: BTreeMap::new(), written: Vec::new() }
    }

    /// The term of what comes by no switch but, perhaps, this node.
    pub(crate) fn direct(&self) -> u32 {
        self.leases.direct()
    }

    /// A node that may be a switch came up.
    pub(crate) fn up(&mut self, node: NodeId, is_switch: bool, now: Duration, chance: u32, post: &mut Post) {
        let session = self.sessions.entry(node).or_default();
        *session += 1;
        if is_switch {
            let term = self.leases.up(node, *session, now, chance);
            post.send(node, Message::Term(Term { term }));
        }
    }

    pub(crate) fn down(&mut self, node: NodeId) {
        self.leases.down(node);
    }

    /// A switch answers to a term.
    pub(crate) fn answered(
        &mut self,
        switch: NodeId,
        grant: Grant,
        now: Duration,
        chance: u32,
        post: &mut Post,
    ) {
        let again = self.leases.answered(switch, grant.term, grant.granted, now, chance);
        if let Some(term) = again {
            post.send(switch, Message::Term(Term { term }));
        }
    }

    /// A switch leaves another distributor's connections to this one.
    pub(crate) fn inherit(&mut self, switch: NodeId, term: u32, now: Duration) {
        tracing::info!(%switch, "inherits connections of a distributor that is gone");
        self.leases.inherit(switch, term, now);
    }

    /// This node stops: it decides nothing any more, and says so before it says goodbye.
    pub(crate) fn end(&mut self, outside: &mut impl Outside) -> Result<(), DatapathError> {
        self.sessions.clear();
        self.written.clear();
        outside.set_leases(&[])
    }

    /// Tells the programs what holds now.
    pub(crate) fn refresh(&mut self, now: Duration, outside: &mut impl Outside) -> Result<(), DatapathError> {
        for (node, session) in &self.sessions {
            if let Some((of, ago)) = outside.heard_by(*node).filter(|(of, _)| of == session) {
                self.leases.heard(*node, of, now.saturating_sub(ago));
            }
        }
        let entries = self.leases.entries(now);
        let leases: Vec<Lease> =
            entries.iter().take(baton_datapath::constants::LEASES_MAX as usize).map(lease).collect();
        if leases != self.written {
            outside.set_leases(&leases)?;
            self.written = leases;
        }
        Ok(())
    }
}

fn lease(entry: &Entry) -> Lease {
    Lease {
        until: entry.until.unwrap_or_default(),
        term: entry.term,
        from: entry.from,
        is_heir: entry.is_heir,
    }
}
