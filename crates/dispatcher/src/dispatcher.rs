//! The dispatcher of one cluster: events in (a question, a load, a death), decisions and news out.
//! It owns the loads, each service's policy, and what distributors have yet to be told. The node
//! daemon calls it from one task, the simulator from its event loop; it never waits or sends.

use std::time::Duration;

use baton_cluster::{Cluster, Consult, NodeId, PolicyConfig, ServiceId, Target};
use thiserror::Error;

use crate::pushes::Pushes;
use crate::{Change, Decision, Guide, Loads, Policy, Push, policy};

/// Decides which server serves what.
///
/// A decision is advice about performance, never about correctness, so nothing here needs to
/// survive the process: a new dispatcher learns loads from the next reports and targets from the
/// next questions.
///
/// ```
/// # use std::time::Duration;
/// # use baton_cluster::{Consult, NodeId, PolicyConfig, PolicyKind, ServiceId, Target};
/// # use baton_dispatcher::{Dispatcher, Refusal, ServiceRule};
/// # fn main() -> Result<(), Refusal> {
/// let rule = ServiceRule { policy: PolicyConfig::new(PolicyKind::Lard), consult: Consult::Cached };
/// let mut dispatcher = Dispatcher::new([(NodeId(0), 1), (NodeId(1), 1)], [rule], 1000);
/// dispatcher.server_up(NodeId(0));
/// dispatcher.server_up(NodeId(1));
///
/// let (distributor, web, picture) = (NodeId(2), ServiceId(0), Some(Target(7)));
/// let first = dispatcher.ask(distributor, web, picture, Duration::ZERO)?;
/// let again = dispatcher.ask(distributor, web, picture, Duration::from_millis(1))?;
/// assert_eq!(again.server, first.server); // the picture is in that server's cache by now
///
/// dispatcher.load_reported(first.server, 66); // above T_high, and the other one is idle
/// let moved = dispatcher.ask(distributor, web, picture, Duration::from_millis(2))?;
/// assert_ne!(moved.server, first.server);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Dispatcher {
    loads: Loads,
    /// `ServiceId` -> its policy.
    services: Vec<Service>,
    pushes: Pushes,
    asked: u64,
    refused: u64,
    moved: u64,
}

/// How one service's requests are spread.
#[derive(Clone, Copy, Debug)]
pub struct ServiceRule {
    /// The policy and its constants.
    pub policy: PolicyConfig,
    /// Whether distributors may decide anything by themselves.
    pub consult: Consult,
}

/// What a distributor has to know before its first decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The servers that are up, in order of id.
    pub live: Vec<NodeId>,
    /// A guide for each service, in order of id.
    pub guides: Vec<(ServiceId, Guide)>,
}

/// Why there is no decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The cluster file of this node has no such service.
    #[error("no service {0:?} in the cluster file: give the same file to every node")]
    UnknownService(ServiceId),
    /// There is nobody to serve the request.
    #[error("no server is up: start the web server on a node with the server role, or see `baton status`")]
    NoServer,
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
    /// Moves that distributors were not told of, because too many waited.
    pub changes_dropped: u64,
    /// Targets remembered now, over all services.
    pub targets: usize,
    /// Targets forgotten for want of room.
    pub targets_evicted: u64,
}

#[derive(Debug)]
struct Service {
    policy: Box<dyn Policy>,
    consult: Consult,
}

impl Dispatcher {
    /// The dispatcher of `cluster`. It remembers as many targets per service as a distributor
    /// caches decisions.
    pub fn of(cluster: &Cluster) -> Self {
        let servers = cluster.with_role(|roles| roles.server).map(|node| (node.id, node.weight));
        let services = cluster
            .services
            .iter()
            .filter_map(|service| cluster.pool(*service.pools.first()?))
            .map(|pool| ServiceRule { policy: pool.policy, consult: pool.consult });
        let targets_max = usize::try_from(cluster.limits.decisions).unwrap_or(usize::MAX);
        Self::new(servers, services, targets_max)
    }

    /// A dispatcher for `servers` with their weights, all of them down, and for `services` in
    /// order of id. Each service remembers at most `targets_max` targets.
    pub fn new(
        servers: impl IntoIterator<Item = (NodeId, u16)>,
        services: impl IntoIterator<Item = ServiceRule>,
        targets_max: usize,
    ) -> Self {
        let services = services
            .into_iter()
            .map(|rule| Service { policy: policy::build(&rule.policy, targets_max), consult: rule.consult })
            .collect();
        let loads = Loads::new(servers);
        Self { loads, services, pushes: Pushes::default(), asked: 0, refused: 0, moved: 0 }
    }

    /// Distributor `from` asks who is to serve a request; the server in the answer counts as
    /// busier by one from now on. If a target's servers change by this, the other distributors
    /// are told with the next [`Dispatcher::take_pushes`]. `now` is the time since any fixed start.
    ///
    /// # Errors
    /// [`Refusal`] when there is no such service or no server.
    pub fn ask(
        &mut self,
        from: NodeId,
        service: ServiceId,
        target: Option<Target>,
        now: Duration,
    ) -> Result<Decision, Refusal> {
        self.asked += 1;
        let decided = self.decide(service, target, now);
        match decided {
            Ok(decision) => self.account(from, service, target, &decision),
            Err(_) => self.refused += 1,
        }
        decided
    }

    /// A server reports how many connections it is serving.
    pub fn load_reported(&mut self, node: NodeId, serving: u32) {
        self.loads.report(node, serving);
    }

    /// A server came up: it may be chosen from now on. Ignored if it was up.
    pub fn server_up(&mut self, node: NodeId) {
        if self.loads.set_live(node, true) {
            for service in &mut self.services {
                service.policy.server_joined(node);
            }
            self.pushes.server_joined();
        }
    }

    /// A server died, failed its health check or is being drained: it is not chosen again before
    /// [`Dispatcher::server_up`], and its targets count as never assigned. Ignored if it was down.
    /// Returns how many targets have no server now.
    pub fn server_down(&mut self, node: NodeId) -> usize {
        if !self.loads.set_live(node, false) {
            return 0;
        }
        self.pushes.server_left(node);
        self.services.iter_mut().map(|service| service.policy.server_left(node)).sum()
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
    pub fn take_pushes(&mut self) -> Vec<Push> {
        let mut pushes = std::mem::take(&mut self.pushes);
        let taken = pushes.take(|| {
            let guides = self.guides().map(|(service, guide)| Change::Guide { service, guide });
            std::iter::once(Change::Live(self.live())).chain(guides).collect()
        });
        self.pushes = pushes;
        taken
    }

    /// The loads as known now.
    pub fn loads(&self) -> &Loads {
        &self.loads
    }

    /// A service's policy, to look at; `None` if there is no such service.
    pub fn policy(&self, service: ServiceId) -> Option<&dyn Policy> {
        self.services.get(service.index()).map(|service| service.policy.as_ref())
    }

    /// What was done since the start.
    pub fn stats(&self) -> Stats {
        let remembered = self.services.iter().map(|service| service.policy.remembered());
        let (targets, targets_evicted) = remembered.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        Stats {
            asked: self.asked,
            refused: self.refused,
            moved: self.moved,
            changes_dropped: self.pushes.dropped(),
            targets,
            targets_evicted,
        }
    }

    fn decide(
        &mut self,
        service: ServiceId,
        target: Option<Target>,
        now: Duration,
    ) -> Result<Decision, Refusal> {
        let known = self.services.get_mut(service.index()).ok_or(Refusal::UnknownService(service))?;
        let decision = known.policy.decide(target, &self.loads, now).ok_or(Refusal::NoServer)?;
        Ok(match known.consult {
            Consult::Cached => decision,
            Consult::Always => Decision { mapping: None, ..decision },
        })
    }

    fn account(&mut self, from: NodeId, service: ServiceId, target: Option<Target>, decision: &Decision) {
        self.loads.assign(decision.server);
        if !decision.moved {
            return;
        }
        self.moved += 1;
        if let (Some(target), Some(mapping)) = (target, decision.mapping) {
            self.pushes.target_moved(service, target, mapping, from);
        }
    }

    fn live(&self) -> Vec<NodeId> {
        self.loads.live().map(|(node, _)| node).collect()
    }

    fn guides(&self) -> impl Iterator<Item = (ServiceId, Guide)> {
        self.services.iter().zip(0..).map(|(service, id)| (ServiceId(id), service.guide(&self.loads)))
    }
}

impl Service {
    fn guide(&self, loads: &Loads) -> Guide {
        match self.consult {
            Consult::Cached => self.policy.guide(loads),
            Consult::Always => Guide::AskAlways,
        }
    }
}
