//! One pool of a dispatcher: the rule by which its requests are spread, and the policy that does it.

use std::time::Duration;

use baton_cluster::{Consult, Guide, NodeId, PHttp, PolicyConfig, Pool};

use crate::{Decision, Loads, Policy, PoolQuestion, policy};

/// How one pool's requests are spread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRule {
    /// The pool's servers.
    pub servers: Vec<NodeId>,
    /// The policy and its constants.
    pub policy: PolicyConfig,
    /// Whether distributors may decide anything by themselves.
    pub consult: Consult,
    /// Where the later requests of a connection are served.
    pub p_http: PHttp,
    /// Extended LARD: below this pressure, in percent, a disk is idle enough.
    pub pressure_low: u8,
}

/// One pool: its rule, and the policy that goes by it.
#[derive(Debug)]
pub(crate) struct PoolDispatcher {
    /// Its servers in ascending order, each once.
    pub(crate) rule: PoolRule,
    /// Those that are given new work.
    pub(crate) favoured: Vec<NodeId>,
    /// Distributors are to ask, so that a doubted server can be tried.
    pub(crate) asking: bool,
    pub(crate) policy: Box<dyn Policy>,
}

impl PoolRule {
    /// The rule of a pool that lets distributors cache, and in which connections stay.
    pub fn new(servers: impl Into<Vec<NodeId>>, policy: PolicyConfig) -> Self {
        Self {
            servers: servers.into(),
            policy,
            consult: Consult::Cached,
            p_http: PHttp::Stay,
            pressure_low: Pool::PRESSURE_LOW,
        }
    }
}

impl PoolRule {
    fn sorted(mut self) -> Self {
        self.servers.sort_unstable();
        self.servers.dedup();
        self
    }
}

impl From<&Pool> for PoolRule {
    fn from(pool: &Pool) -> Self {
        let Pool { policy, consult, p_http, pressure_low, .. } = *pool;
        Self { servers: pool.servers.clone(), policy, consult, p_http, pressure_low }
    }
}

impl PoolDispatcher {
    pub(crate) fn new(rule: PoolRule, targets_max: usize) -> Self {
        let rule = rule.sorted();
        let favoured = rule.servers.clone();
        Self { policy: policy::build(&rule, targets_max), rule, favoured, asking: false }
    }

    /// The same pool by another rule.
    pub(crate) fn under(self, rule: PoolRule, targets_max: usize) -> Self {
        let rule = rule.sorted();
        if (PoolRule { servers: rule.servers.clone(), consult: rule.consult, ..self.rule.clone() }) != rule {
            return Self::new(rule, targets_max);
        }
        let Self { rule: before, favoured, asking, mut policy } = self;
        for server in before.servers.iter().filter(|server| !rule.servers.contains(server)) {
            policy.server_down(*server);
            policy.server_left(*server);
        }
        for server in rule.servers.iter().filter(|server| !before.servers.contains(server)) {
            policy.server_joined(*server);
        }
        Self { rule, favoured, asking, policy }
    }

    pub(crate) fn has(&self, node: NodeId) -> bool {
        self.rule.servers.binary_search(&node).is_ok()
    }

    pub(crate) fn has_suspects(&self) -> bool {
        self.favoured.len() < self.rule.servers.len()
    }

    pub(crate) fn decide(
        &mut self,
        question: PoolQuestion,
        loads: &Loads,
        now: Duration,
    ) -> Option<Decision> {
        let PoolQuestion { target, at, .. } = question;
        // Who has a connection already has taken it.
        if let (PHttp::Stay, Some(here)) = (self.rule.p_http, loads.of(&self.rule.servers).keeper(at)) {
            return Some(Decision::unmapped(here));
        }
        let loads = loads.of(&self.favoured);
        let decision = self.policy.decide(target, at, loads, now)?;
        Some(match self.rule.consult {
            Consult::Cached => decision,
            Consult::Always => Decision { mapping: None, ..decision },
        })
    }

    pub(crate) fn guide(&self, loads: &Loads) -> Guide {
        let servers = &self.favoured;
        match self.rule.consult {
            Consult::Cached if self.asking => Guide::AskAlways,
            // There is nothing to ask when there is nothing to choose.
            Consult::Cached if self.rule.servers.len() == 1 => {
                Guide::Rota(loads.of(servers).live().map(|(node, _)| node).collect())
            }
            Consult::Cached => self.policy.guide(loads.of(servers)),
            Consult::Always => Guide::AskAlways,
        }
    }
}
