//! The kernel's share of deciding: looking up what was decided, and taking turns.

use baton_cluster::{NodeId, PoolId, Target};

use crate::request::Read;
use crate::{Clock, Guided, Model, Run, Verdict};
use baton_datapath::{Counter, GuideKind};

/// Turns of a rota that one request passes over because their servers are dead.
const PASSED_OVER_MAX: u32 = 8;

/// What the kernel decides of a request.
pub(super) enum Choice {
    Server(NodeId, Counter),
    Hold(Counter),
    /// Its pool has no live server.
    NobodyAlive,
    /// Only user space could decide, and it is silent.
    NoServer,
}

impl Model {
    /// The server for a first request that user space has read, if the tables say it (`Datapath::decided`).
    pub fn decided(&mut self, pool: PoolId, target: Option<Target>, clock: Clock) -> Option<NodeId> {
        let mut server = None;
        let _ = Run::over(self, &[], clock, |run| {
            let Some(guided) = run.model.tables.guides.get(&pool).cloned() else { return Verdict::Next };
            server = match (guided.guide, target) {
                (GuideKind::Rota, _) => {
                    let place = run.turn(pool);
                    run.rota_at(&guided.rota, place)
                }
                (GuideKind::Cached { load_limit }, Some(target)) => {
                    match run.cached(pool, target, load_limit, guided.generation) {
                        Choice::Server(server, _) => Some(server),
                        _ => None,
                    }
                }
                _ => None,
            };
            Verdict::Next
        });
        server
    }
}

impl Run<'_> {
    /// Whether user space promises to answer.
    pub(super) fn daemon_listens(&self) -> bool {
        self.clock.kernel_ns < self.model.tables.daemon_until_ns
    }

    /// `read`: `None` for a request in doubt.
    pub(super) fn decide(&mut self, read: Option<&Read>, pool: PoolId) -> Choice {
        let none = Guided { guide: GuideKind::Ask, rota: Vec::new(), generation: 0 };
        let Guided { guide, rota, generation } = self.model.tables.guides.get(&pool).cloned().unwrap_or(none);
        let target = self.target(read, pool);
        if !self.daemon_listens() {
            // Any server of the pool may serve it: the same target keeps to the same one.
            let place = target.map_or_else(|| self.turn(pool), |t| t.0 as u32);
            let found = (0..PASSED_OVER_MAX).find_map(|i| self.rota_at(&rota, place.wrapping_add(i)));
            return match found {
                Some(server) => Choice::Server(server, Counter::DecidedAlone),
                None => Choice::NobodyAlive,
            };
        }
        match guide {
            GuideKind::Ask => Choice::Hold(Counter::HeldAsk),
            GuideKind::Rota if rota.is_empty() => Choice::Hold(Counter::HeldAsk),
            GuideKind::Rota => {
                let place = self.turn(pool);
                match self.rota_at(&rota, place) {
                    Some(server) => Choice::Server(server, Counter::DecidedRota),
                    None => Choice::Hold(Counter::HeldAsk),
                }
            }
            GuideKind::Cached { load_limit } => match target {
                Some(target) => self.cached(pool, target, load_limit, generation),
                None => Choice::Hold(Counter::HeldHead),
            },
        }
    }

    /// Whose turn it is; the next is another's.
    fn turn(&mut self, pool: PoolId) -> u32 {
        let turn = self.model.tables.turns.entry(pool).or_default();
        let place = *turn;
        *turn = turn.wrapping_add(1);
        place
    }

    fn rota_at(&self, rota: &[NodeId], place: u32) -> Option<NodeId> {
        let server = *rota.get((place as usize).checked_rem(rota.len())?)?;
        self.model.tables.loads.get(&server)?.live.then_some(server)
    }

    /// Whether a cached decision for the request names this node.
    pub(super) fn names_this_node(&self, read: &Read, pool: PoolId) -> bool {
        let tables = &self.model.tables;
        let guided = tables.guides.get(&pool).filter(|g| matches!(g.guide, GuideKind::Cached { .. }));
        let (Some(guided), Some(target)) = (guided, self.target(Some(read), pool)) else { return false };
        tables.decisions.get(&(pool, target)).is_some_and(|d| {
            d.generation == guided.generation
                && d.expires_ns.is_none_or(|at| at >= self.clock.kernel_ns)
                && d.servers.contains(&self.model.settings.node)
        })
    }

    /// The least loaded for its weight of the live servers that the decision names, the first of equals.
    fn cached(&self, pool: PoolId, target: Target, load_limit: u32, generation: u32) -> Choice {
        let tables = &self.model.tables;
        let named = tables.decisions.get(&(pool, target)).filter(|d| {
            d.generation == generation && d.expires_ns.is_none_or(|at| at >= self.clock.kernel_ns)
        });
        let alive = named.iter().flat_map(|d| &d.servers).filter_map(|server| {
            let load = tables.loads.get(server).filter(|load| load.live)?;
            Some((*server, u64::from(load.reported.wrapping_add(load.assigned)), *load))
        });
        // a / weight(a) against b / weight(b), without dividing
        let least =
            alive.min_by(|(_, a, x), (_, b, y)| (a * u64::from(y.weight)).cmp(&(b * u64::from(x.weight))));
        match least {
            None => Choice::Hold(Counter::HeldMiss),
            Some((_, n, l))
                if n * u64::from(l.least_weight) > u64::from(load_limit) * u64::from(l.weight) =>
            {
                Choice::Hold(Counter::HeldLoad)
            }
            Some((server, ..)) => Choice::Server(server, Counter::DecidedCache),
        }
    }
}
