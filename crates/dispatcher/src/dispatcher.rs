//! The dispatcher of one cluster: events in (a question, a load, a death), decisions and news out.
//! It owns the loads, each pool's policy, and what distributors have yet to be told. The node
//! daemon calls it from one task, the simulator from its event loop; it never waits or sends.

use std::collections::BTreeMap;
use std::time::Duration;

use baton_cluster::{Cluster, Consult, Guide, NodeId, PHttp, PolicyConfig, Pool, PoolId, Target};
use thiserror::Error;

use crate::pushes::Pushes;
use crate::shared::SharedChanges;
use crate::{Decision, DistributorPush, Loads, Policy, PushedChange, Remembered, Replicas, Suspects, policy};

/// Decides which server serves what.
///
/// A decision is advice about performance, never about correctness, so nothing here needs to
/// survive the process: a new dispatcher learns loads from the next reports and targets from the
/// next questions.
///
/// ```
/// # use std::time::Duration;
/// # use baton_cluster::{NodeId, PolicyConfig, PolicyKind, PoolId, Target};
/// # use baton_dispatcher::{Dispatcher, PoolRule, PoolQuestion, NoDecision};
/// # fn main() -> Result<(), NoDecision> {
/// let servers = [NodeId(0), NodeId(1)];
/// let rule = PoolRule::new(servers, PolicyConfig::new(PolicyKind::Lard));
/// let mut dispatcher = Dispatcher::new(servers.map(|server| (server, 1)), [rule], 1000);
/// dispatcher.server_up(NodeId(0));
/// dispatcher.server_up(NodeId(1));
///
/// let distributor = NodeId(2);
/// let picture = PoolQuestion { pool: PoolId(0), target: Some(Target(7)), at: None };
/// let first = dispatcher.ask(distributor, picture, Duration::ZERO)?;
/// let again = dispatcher.ask(distributor, picture, Duration::from_millis(1))?;
/// assert_eq!(again.server, first.server); // the picture is in that server's cache by now
///
/// dispatcher.load_reported(first.server, 66, 0); // above T_high, and the other one is idle
/// let moved = dispatcher.ask(distributor, picture, Duration::from_millis(2))?;
/// assert_ne!(moved.server, first.server);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Dispatcher {
    loads: Loads,
    /// Servers that went down and whose targets are remembered still, with when they did.
    gone: BTreeMap<NodeId, Duration>,
    pools: BTreeMap<PoolId, PoolDispatcher>,
    suspects: Suspects,
    /// How many targets each pool remembers.
    targets_max: usize,
    pushes: Pushes,
    shared: SharedChanges,
    learned: u64,
    asked: u64,
    refused: u64,
    moved: u64,
}

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

/// Which server should serve this request? The pool is named by its number on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolQuestion {
    /// The pool that the request belongs to.
    pub pool: PoolId,
    /// What is requested, if that could be told.
    pub target: Option<Target>,
    /// The server that has the connection, when the request is not its first one.
    pub at: Option<NodeId>,
}

/// What a distributor has to know before its first decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The servers that are up, in order of id.
    pub live: Vec<NodeId>,
    /// A guide for each pool, in order of id.
    pub guides: Vec<(PoolId, Guide)>,
}

/// Why there is no decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoDecision {
    /// The cluster file of this node has no such pool.
    #[error("no {0} in the cluster file: give the same file to every node")]
    UnknownPool(PoolId),
    /// There is nobody to serve the request.
    #[error("no server of {0} is up: start the web server on one of its nodes, or see `baton status`")]
    NoServer(PoolId),
}

/// What the dispatcher has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Questions, refused ones included.
    pub asked: u64,
    /// Questions without a decision.
    pub refused: u64,
    /// Decisions that changed a known target's servers.
    pub moved: u64,
    /// Mappings that other dispatchers have made.
    pub learned: u64,
    /// Changes that distributors or other dispatchers were not told of, because too many waited.
    pub changes_dropped: u64,
    /// Targets remembered now, over all pools.
    pub targets: usize,
    /// Targets forgotten for want of room.
    pub targets_evicted: u64,
}

#[derive(Debug)]
struct PoolDispatcher {
    /// Its servers in ascending order, each once.
    rule: PoolRule,
    /// Those that are given new work.
    favoured: Vec<NodeId>,
    /// Distributors are to ask, so that a doubted server can be tried.
    asking: bool,
    policy: Box<dyn Policy>,
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

impl Dispatcher {
    /// For how long the targets of a server that went down are remembered. Longer than a node is thought to be dead
    /// for a moment's silence or a daemon is started again: its failure timeout (1 s), the dials until it is found
    /// again (2 s apart at most), its programs' loading (1 s; 4 s on slow machines). Shorter than it takes a machine
    /// to boot, after which its cache is empty and nothing of it worth remembering.
    pub const REMEMBERS_FOR: Duration = Duration::from_secs(10);

    /// For how long a distributor remembers what it was told of a server that went down: it must not believe in more
    /// than the dispatcher does, and hears of a death later than it, by a failure timeout at most.
    pub const DISTRIBUTORS_REMEMBER_FOR: Duration = Duration::from_secs(7);

    /// The dispatcher of `cluster`. It remembers as many targets per pool as a distributor
    /// caches decisions.
    pub fn of(cluster: &Cluster) -> Self {
        let servers = cluster.with_role(|roles| roles.server).map(|node| (node.id, node.weight));
        let targets_max = usize::try_from(cluster.limits.decisions).unwrap_or(usize::MAX);
        let mut dispatcher = Self::new(servers, [], targets_max);
        dispatcher.set_pools(cluster.pools.iter().map(|pool| (pool.id, PoolRule::from(pool))));
        dispatcher
    }

    /// A dispatcher for `servers` with their weights, all of them down, and for `pools`, numbered from 0.
    /// Each pool remembers at most `targets_max` targets.
    pub fn new(
        servers: impl IntoIterator<Item = (NodeId, u16)>,
        pools: impl IntoIterator<Item = PoolRule>,
        targets_max: usize,
    ) -> Self {
        let pools =
            (0..).map(PoolId).zip(pools).map(|(id, rule)| (id, PoolDispatcher::new(rule, targets_max)));
        Self {
            loads: Loads::new(servers),
            gone: BTreeMap::new(),
            pools: pools.collect(),
            suspects: Suspects::default(),
            targets_max,
            pushes: Pushes::default(),
            shared: SharedChanges::default(),
            learned: 0,
            asked: 0,
            refused: 0,
            moved: 0,
        }
    }

    /// Goes by other pools from now on. One that was there before remembers its targets, but for those of
    /// servers that it has lost; unless it has another policy. Distributors are told by the next
    /// [`Dispatcher::take_pushes`].
    pub fn set_pools(&mut self, pools: impl IntoIterator<Item = (PoolId, PoolRule)>) {
        let mut before = std::mem::take(&mut self.pools);
        let after = pools.into_iter().map(|(id, rule)| {
            let pool = match before.remove(&id) {
                Some(pool) => pool.under(rule, self.targets_max),
                None => PoolDispatcher::new(rule, self.targets_max),
            };
            (id, pool)
        });
        self.pools = after.collect();
        self.favour();
        self.pushes.pools_changed(|id, mapping| {
            let pool = self.pools.get(&id);
            pool.is_some_and(|pool| mapping.servers.as_slice().iter().all(|server| pool.has(*server)))
        });
    }

    /// Node `from` (a distributor, or the server that has the connection) asks who is to serve a
    /// request; the server in the answer counts as busier by one from now on. If a target's servers
    /// change by this, the other nodes that decide are told with the next
    /// [`Dispatcher::take_pushes`]. `now` is the time by the cluster's clock; of a dispatcher alone any will do.
    ///
    /// # Errors
    /// [`NoDecision`] when there is no such pool, or none of its servers is up.
    pub fn ask(
        &mut self,
        from: NodeId,
        question: PoolQuestion,
        now: Duration,
    ) -> Result<Decision, NoDecision> {
        self.asked += 1;
        let decided = self.decide(question, now);
        match decided {
            Ok(decision) => {
                self.account(from, question, &decision);
                self.share(question, now);
            }
            Err(_) => self.refused += 1,
        }
        decided
    }

    /// A server reports how many connections it is serving, and how busy its disk is, in percent.
    pub fn load_reported(&mut self, node: NodeId, serving: u32, pressure: u8) {
        self.loads.report(node, serving, pressure);
    }

    /// A server came up: it may be chosen from now on, and has the targets that it had and nobody was given meanwhile,
    /// unless [`Dispatcher::forget_gone`] has come before. Ignored if it was up.
    pub fn server_up(&mut self, node: NodeId) {
        if self.loads.set_live(node, true) {
            self.gone.remove(&node);
            self.favour();
            for pool in self.pools.values_mut().filter(|pool| pool.has(node)) {
                pool.policy.server_joined(node);
            }
            self.pushes.server_joined();
        }
    }

    /// A server died, failed its health check or is being drained: it is not chosen again before
    /// [`Dispatcher::server_up`], and what is asked of its targets goes to others. Ignored if it was down.
    pub fn server_down(&mut self, node: NodeId, now: Duration) {
        if !self.loads.set_live(node, false) {
            return;
        }
        self.gone.insert(node, now);
        self.favour();
        self.pushes.server_left(node);
        for pool in self.pools.values_mut().filter(|pool| pool.has(node)) {
            pool.policy.server_down(node);
        }
    }

    /// A server of a pool is doubted, or not any more: while it is, and some other server of the pool is not, it is given
    /// nothing but a request now and then, and its targets go to others. `chance`: a number that nobody can guess.
    pub fn doubt(&mut self, pool: PoolId, node: NodeId, doubted: bool, now: Duration, chance: u64) {
        if !self.suspects.set(pool, node, doubted, now, chance) {
            return;
        }
        self.favour();
        if let Some(known) = self.pools.get_mut(&pool).filter(|known| known.has(node)) {
            if doubted {
                known.policy.server_down(node);
            } else {
                known.policy.server_joined(node);
            }
        }
        if doubted {
            self.pushes.server_left(node);
        } else {
            self.pushes.server_joined();
        }
    }

    /// To be called often: distributors are told to ask when a doubted server is to be tried.
    pub fn tick(&mut self, now: Duration) {
        let Self { pools, suspects, loads, pushes, .. } = self;
        for (id, pool) in pools.iter_mut().filter(|(_, pool)| pool.has_suspects() || pool.asking) {
            let due = suspects.due(*id, &pool.rule.servers, |node| loads.is_live(node), now).is_some();
            if due != pool.asking {
                pool.asking = due;
                pushes.guides_changed();
            }
        }
        suspects.retain(now, |pool, node| pools.get(&pool).is_some_and(|pool| pool.has(node)));
    }

    /// The targets of servers that have been down for [`Dispatcher::REMEMBERS_FOR`] count as never assigned from now on.
    /// To be called now and then, and before [`Dispatcher::server_up`]. Returns how many targets have no server now.
    pub fn forget_gone(&mut self, now: Duration) -> usize {
        let over = |since: &Duration| now.saturating_sub(*since) >= Self::REMEMBERS_FOR;
        let long: Vec<NodeId> =
            self.gone.iter().filter(|(_, since)| over(since)).map(|(node, _)| *node).collect();
        let mut forgotten = 0;
        for node in long {
            self.gone.remove(&node);
            let pools = self.pools.values_mut().filter(|pool| pool.has(node));
            forgotten += pools.map(|pool| pool.policy.server_left(node)).sum::<usize>();
        }
        forgotten
    }

    /// A distributor connected; from now on it gets pushes. It must have forgotten whatever it
    /// cached before: moves in the meantime were not kept for it.
    pub fn distributor_up(&mut self, node: NodeId) -> Welcome {
        self.pushes.add_distributor(node);
        Welcome { live: self.live(), guides: self.guides().collect() }
    }

    /// A distributor is gone: nothing is kept for it.
    pub fn distributor_down(&mut self, node: NodeId) {
        self.pushes.remove_distributor(node);
    }

    /// Whether [`Dispatcher::take_pushes`] has anything to give.
    pub fn has_pushes(&self) -> bool {
        !self.pushes.is_empty()
    }

    /// Takes what distributors have to be told, each distributor at most once, in order of id. To
    /// be sent after the answers to the questions asked so far, on the same connections. Calling
    /// it after each batch of questions keeps messages few.
    pub fn take_pushes(&mut self) -> Vec<DistributorPush> {
        let mut pushes = std::mem::take(&mut self.pushes);
        let taken = pushes.take(|| {
            let guides = self.guides().map(|(pool, guide)| PushedChange::Guide { pool, guide });
            std::iter::once(PushedChange::Live(self.live())).chain(guides).collect()
        });
        self.pushes = pushes;
        taken
    }

    /// Whether other dispatchers are there, to be told what is remembered of targets. One that comes has to ask for what
    /// was so before ([`Dispatcher::piece`]).
    pub fn set_shared(&mut self, wanted: bool) {
        self.shared.wanted = wanted;
        if !wanted {
            self.shared.take();
        }
    }

    /// Takes what other dispatchers have to be told: targets that were given other servers, or their first ones.
    pub fn take_shared(&mut self) -> impl Iterator<Item = (PoolId, Target, Remembered)> + use<> {
        self.shared.take().into_iter().map(|((pool, target), remembered)| (pool, target, remembered))
    }

    /// Another dispatcher has told a target's servers, and since when, by the cluster's clock; `now` is by it, too. Servers
    /// that the pool does not have here count as not told. Whether that was news.
    pub fn learn(
        &mut self,
        pool: PoolId,
        target: Target,
        (servers, changed): (&[NodeId], Duration),
        now: Duration,
    ) -> bool {
        let Some(pool) = self.pools.get_mut(&pool) else { return false };
        let mut own = servers.iter().copied().filter(|server| pool.has(*server));
        let Some(first) = own.next() else { return false };
        let mut servers = Replicas::one(first);
        for server in own {
            servers.add(server);
        }
        let news = pool.policy.learn(target, Remembered { servers, changed }, now);
        self.learned += u64::from(news);
        news
    }

    /// What is remembered of a pool's targets, from a place on (0 is the first), at most `most` of them; and the place of the
    /// next, if there are more. Places move when targets are forgotten: what is missed then is asked for anew.
    pub fn piece(
        &self,
        pool: PoolId,
        from: usize,
        most: usize,
    ) -> (Vec<(Target, Remembered)>, Option<usize>) {
        self.pools.get(&pool).map(|pool| pool.policy.piece(from, most)).unwrap_or_default()
    }

    /// The loads as known now.
    pub fn loads(&self) -> &Loads {
        &self.loads
    }

    /// A pool's servers; none if there is no such pool.
    pub fn servers(&self, pool: PoolId) -> &[NodeId] {
        self.pools.get(&pool).map_or(&[], |pool| &pool.rule.servers)
    }

    /// A pool's policy, to look at; `None` if there is no such pool.
    pub fn policy(&self, pool: PoolId) -> Option<&dyn Policy> {
        self.pools.get(&pool).map(|pool| pool.policy.as_ref())
    }

    /// What was done since the start.
    pub fn stats(&self) -> Stats {
        let remembered = self.pools.values().map(|pool| pool.policy.remembered());
        let (targets, targets_evicted) = remembered.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        Stats {
            asked: self.asked,
            refused: self.refused,
            moved: self.moved,
            learned: self.learned,
            changes_dropped: self.pushes.dropped() + self.shared.dropped(),
            targets,
            targets_evicted,
        }
    }

    fn decide(&mut self, question: PoolQuestion, now: Duration) -> Result<Decision, NoDecision> {
        let id = question.pool;
        let pool = self.pools.get_mut(&id).ok_or(NoDecision::UnknownPool(id))?;
        if question.at.is_none() && pool.has_suspects() {
            let is_live = |node| self.loads.is_live(node);
            if let Some(node) = self.suspects.due(id, &pool.rule.servers, is_live, now) {
                self.suspects.tried(id, node, now);
                return Ok(Decision::unmapped(node));
            }
        }
        pool.decide(question, &self.loads, now).ok_or(NoDecision::NoServer(id))
    }

    fn favour(&mut self) {
        for (id, pool) in &mut self.pools {
            let is_live = |node| self.loads.is_live(node);
            pool.favoured = self.suspects.favoured(*id, &pool.rule.servers, is_live);
        }
    }

    fn account(&mut self, from: NodeId, question: PoolQuestion, decision: &Decision) {
        self.loads.assign(decision.server);
        if !decision.moved {
            return;
        }
        self.moved += 1;
        if let (Some(target), Some(mapping)) = (question.target, decision.mapping) {
            self.pushes.target_moved(question.pool, target, mapping, from);
        }
    }

    /// A decision may have changed what is remembered of its target: then other dispatchers are to remember it, too.
    fn share(&mut self, question: PoolQuestion, now: Duration) {
        let (Some(target), true) = (question.target, self.shared.wanted) else { return };
        let pool = self.pools.get(&question.pool);
        let remembered = pool.and_then(|pool| pool.policy.remembers(target));
        if let Some(remembered) = remembered.filter(|remembered| remembered.changed >= now) {
            self.shared.add(question.pool, target, remembered);
        }
    }

    fn live(&self) -> Vec<NodeId> {
        self.loads.live().map(|(node, _)| node).collect()
    }

    fn guides(&self) -> impl Iterator<Item = (PoolId, Guide)> {
        self.pools.iter().map(|(id, pool)| (*id, pool.guide(&self.loads)))
    }
}

impl PoolDispatcher {
    fn new(rule: PoolRule, targets_max: usize) -> Self {
        let rule = rule.sorted();
        let favoured = rule.servers.clone();
        Self { policy: policy::build(&rule, targets_max), rule, favoured, asking: false }
    }

    /// The same pool by another rule.
    fn under(self, rule: PoolRule, targets_max: usize) -> Self {
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

    fn has(&self, node: NodeId) -> bool {
        self.rule.servers.binary_search(&node).is_ok()
    }

    fn has_suspects(&self) -> bool {
        self.favoured.len() < self.rule.servers.len()
    }

    fn decide(&mut self, question: PoolQuestion, loads: &Loads, now: Duration) -> Option<Decision> {
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

    fn guide(&self, loads: &Loads) -> Guide {
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
