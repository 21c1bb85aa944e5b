//! Weighted round robin over the servers that are up, in nginx's *smooth* order: a server of
//! weight 3 among others gets its three turns apart, not in a row. Blind to content and load, so
//! a distributor may follow the turns by itself: the guide is the order of one round. Turns are for
//! connections: who has one keeps it.

use std::time::Duration;

use baton_cluster::{Guide, NodeId, Target};

use super::{Decision, Policy};
use crate::View;

/// Whose turn it is.
#[derive(Clone, Debug)]
pub struct WeightedRoundRobin {
    /// Per node, what it is owed: grows by its weight at each turn of anyone, and falls by all
    /// weights together at its own turn. The sum over the live servers is always 0.
    credits: Vec<i64>,
}

impl WeightedRoundRobin {
    /// Starts a round.
    pub fn new() -> Self {
        Self { credits: vec![0; NodeId::MAX_NODES] }
    }

    /// Whose turn is next among `servers`; ties go to the first of them.
    fn turn(&mut self, servers: impl Iterator<Item = (NodeId, u16)>) -> Option<NodeId> {
        let mut total = 0;
        let mut next: Option<(NodeId, i64)> = None;
        for (node, weight) in servers {
            let Some(credit) = self.credits.get_mut(node.index()) else { continue };
            *credit += i64::from(weight);
            total += i64::from(weight);
            if next.is_none_or(|(_, most)| *credit > most) {
                next = Some((node, *credit));
            }
        }
        let (node, _) = next?;
        if let Some(credit) = self.credits.get_mut(node.index()) {
            *credit -= total;
        }
        Some(node)
    }

    /// A changed set of servers starts a round anew: exact from its first turn on.
    fn restart(&mut self) {
        self.credits.fill(0);
    }
}

impl Default for WeightedRoundRobin {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for WeightedRoundRobin {
    fn decide(
        &mut self,
        _target: Option<Target>,
        at: Option<NodeId>,
        loads: View<'_>,
        _now: Duration,
    ) -> Option<Decision> {
        let keeper = loads.keeper(at);
        keeper.or_else(|| self.turn(loads.live())).map(Decision::unmapped)
    }

    fn guide(&self, loads: View<'_>) -> Guide {
        let servers = shares(loads.live().collect());
        let turns = servers.iter().map(|(_, share)| usize::from(*share)).sum();
        let mut round = Self::new();
        Guide::Rota((0..turns).filter_map(|_| round.turn(servers.iter().copied())).collect())
    }

    fn server_left(&mut self, _node: NodeId) -> usize {
        0
    }

    fn server_down(&mut self, _node: NodeId) {
        self.restart();
    }

    fn server_joined(&mut self, _node: NodeId) {
        self.restart();
    }
}

/// How many turns of a rota each server gets: its weight, cancelled down, when that fits the
/// longest rota. Otherwise one each, and the other turns one by one to the server with the largest
/// `weight / (2 * turns + 1)` (Webster's method of dividing seats), which is nearest to the
/// weights.
fn shares(mut servers: Vec<(NodeId, u16)>) -> Vec<(NodeId, u16)> {
    let divisor = servers.iter().fold(0, |divisor, (_, weight)| gcd(divisor, *weight)).max(1);
    for (_, weight) in &mut servers {
        *weight /= divisor;
    }
    let turns: usize = servers.iter().map(|(_, weight)| usize::from(*weight)).sum();
    if turns <= Guide::ROTA_MAX {
        return servers;
    }
    let weights: Vec<u64> = servers.iter().map(|(_, weight)| u64::from(*weight)).collect();
    let mut shares: Vec<u64> = vec![1; servers.len()];
    for _ in servers.len()..Guide::ROTA_MAX {
        let neediest = weights
            .iter()
            .zip(&mut shares)
            .reduce(|a, b| if b.0 * (2 * *a.1 + 1) > a.0 * (2 * *b.1 + 1) { b } else { a });
        if let Some((_, share)) = neediest {
            *share += 1;
        }
    }
    for ((_, weight), share) in servers.iter_mut().zip(shares) {
        *weight = u16::try_from(share).unwrap_or(u16::MAX);
    }
    servers
}

fn gcd(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Loads;

    fn rota(weights: &[u16]) -> Vec<u16> {
        let mut loads = Loads::new((0u16..).map(NodeId).zip(weights.iter().copied()));
        for id in (0u16..).take(weights.len()) {
            loads.set_live(NodeId(id), true);
        }
        let all: Vec<_> = loads.servers().map(|(node, _)| node).collect();
        match WeightedRoundRobin::new().guide(loads.of(&all)) {
            Guide::Rota(order) => order.iter().map(|node| node.0).collect(),
            other => panic!("not a rota: {other:?}"),
        }
    }

    #[test]
    fn turns_are_spread_over_the_round() {
        assert_eq!(rota(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(rota(&[100, 100, 100]), [0, 1, 2]);
        assert_eq!(rota(&[]), [0u16; 0]);
    }

    #[test]
    fn a_rota_too_long_is_shortened_to_the_nearest_shares() {
        let order = rota(&[100, 99, 98, 1]);
        assert_eq!(order.len(), Guide::ROTA_MAX);
        let turns = |id| order.iter().filter(|node| **node == id).count();
        assert_eq!([turns(0), turns(1), turns(2), turns(3)], [86, 85, 84, 1]);
        let many = rota(&[[1u16; 200].as_slice(), [100u16; 56].as_slice()].concat());
        assert_eq!(many.len(), Guide::ROTA_MAX);
        assert!((0..256).all(|id| many.contains(&id)));
    }
}
