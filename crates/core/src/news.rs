//! Connections that this node's server has taken, on their way to those who forward: the switches, and
//! the distributor that had handed the connection off first, when it has moved since. Only the taker
//! tells (docs/decisions/0007): so nobody sends packets to a node that does not know them.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use baton_cluster::{Cluster, NodeId};
use baton_control::message::MOVES_MAX;
use baton_control::{Message, Move, Update};
use baton_datapath::DatapathError;
use baton_datapath::constants::LASTING_MS;

use crate::outside::Outside;
use crate::peers::Peers;
use crate::post::Post;

/// What has yet to be told.
#[derive(Debug, Default)]
pub(crate) struct News(VecDeque<(Instant, NodeId, Move)>);

impl News {
    /// This node's server has taken a connection, of which `distributor` must hear.
    pub(crate) fn add(&mut self, moved: Move, distributor: NodeId, now: Instant) {
        self.0.push_back((now, distributor, moved));
    }

    /// Whether moves wait for being told.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells what has moved, of the connections that last and are where they were.
    pub(crate) fn send(
        &mut self,
        me: NodeId,
        now: Instant,
        cluster: &Cluster,
        peers: &Peers,
        outside: &mut impl Outside,
        post: &mut Post,
    ) -> Result<(), DatapathError> {
        let mut failed = None;
        let lasting = Duration::from_millis(u64::from(LASTING_MS));
        let mut due: BTreeMap<NodeId, Vec<Move>> = BTreeMap::new();
        let switches: Vec<NodeId> = peers.others(cluster, |r| r.switch).collect();
        while let Some((since, distributor, moved)) = self.0.front().copied() {
            if now - since < lasting {
                break;
            }
            self.0.pop_front();
            let binding = outside.binding(&moved.flow).unwrap_or_else(|error| {
                failed.get_or_insert(error);
                None
            });
            if !binding.is_some_and(|b| b.start_seq == moved.start_seq && !b.ending) {
                continue;
            }
            for to in &switches {
                due.entry(*to).or_default().push(moved);
            }
            if distributor != me && !switches.contains(&distributor) && peers.is_up(distributor) {
                due.entry(distributor).or_default().push(moved);
            }
        }
        for (to, moves) in due {
            for moves in moves.chunks(MOVES_MAX) {
                post.send(to, Message::Update(Update { moves: moves.to_vec() }));
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
