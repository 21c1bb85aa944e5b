//! The dispatcher role: questions, loads and deaths in; answers and news out. The deciding itself is
//! baton-dispatcher's; here messages become its calls and back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use baton_cluster::{Cluster, NodeId, PoolHash, PoolId};
use baton_control::message::CHANGES_MAX;
use baton_control::{Answer, Ask, Change, Guidance, Live, Load, Message, Push, Verdict};
use baton_dispatcher::{Decision, Dispatcher, NoDecision, PoolQuestion, PoolRule, PushedChange, Stats};

use crate::peers::Peers;
use crate::post::Post;
use crate::services::decides;
use crate::standing::Standing;

/// The dispatcher of this node.
#[derive(Debug)]
pub(crate) struct DispatcherRole {
    dispatcher: Dispatcher,
    /// Pools as other nodes know them, and as this one does.
    pools: BTreeMap<PoolHash, PoolId>,
    /// Servers that may be chosen.
    serving: BTreeSet<NodeId>,
}

impl DispatcherRole {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        Self { dispatcher: Dispatcher::of(cluster), pools: hashes(cluster), serving: BTreeSet::new() }
    }

    /// Goes by another file from now on.
    pub(crate) fn pools_changed(&mut self, cluster: &Cluster, post: &mut Post) {
        self.pools = hashes(cluster);
        self.dispatcher.set_pools(cluster.pools.iter().map(|pool| (pool.id, PoolRule::from(pool))));
        self.push(post);
    }

    pub(crate) fn stats(&self) -> Stats {
        self.dispatcher.stats()
    }

    pub(crate) fn ask(&mut self, from: NodeId, ask: &Ask, now: Duration, post: &mut Post) {
        let answers = ask
            .questions
            .iter()
            .map(|q| {
                let Some(pool) = self.pools.get(&q.pool) else {
                    tracing::debug!(pool = %q.pool, %from, "of another cluster file");
                    return Verdict { server: None, keep: None };
                };
                let question = PoolQuestion { pool: *pool, target: q.target, at: q.at };
                verdict(self.dispatcher.ask(from, question, now))
            })
            .collect();
        post.send(from, Message::Answer(Answer { batch: ask.batch, answers }));
        self.push(post);
    }

    pub(crate) fn load(&mut self, from: NodeId, load: &Load) {
        self.dispatcher.load_reported(from, load.serving, load.pressure);
    }

    /// The nodes that are up are others than before: so may be the servers that can be chosen.
    pub(crate) fn serving(&mut self, cluster: &Cluster, peers: &Peers, now: Duration) {
        for node in cluster.with_role(|roles| roles.server) {
            if peers.is_known_to_all(node.id) == self.serving.contains(&node.id) {
                continue;
            }
            if self.serving.remove(&node.id) {
                self.dispatcher.server_down(node.id, now);
            } else {
                self.serving.insert(node.id);
                self.dispatcher.forget_gone(now);
                self.dispatcher.server_up(node.id);
            }
        }
    }

    /// A node came up, perhaps as distributor.
    pub(crate) fn up(&mut self, node: &baton_cluster::Node, post: &mut Post) {
        if decides(node.roles) {
            let welcome = self.dispatcher.distributor_up(node.id);
            post.send(node.id, Message::Live(Live { nodes: welcome.live }));
            let guides = welcome.guides.into_iter();
            let changes = guides.map(|(pool, guide)| PushedChange::Guide { pool, guide });
            for message in self.messages(changes.collect()) {
                post.send(node.id, message);
            }
        }
        self.push(post);
    }

    /// Called on every tick.
    pub(crate) fn tick(&mut self, now: Duration, post: &mut Post) {
        self.dispatcher.forget_gone(now);
        self.dispatcher.tick(now);
        self.push(post);
    }

    /// Some servers are doubted that were not, or the other way round.
    pub(crate) fn doubts_changed(
        &mut self,
        standing: &Standing,
        now: Duration,
        mut chance: impl FnMut() -> u64,
        post: &mut Post,
    ) {
        for (hash, pool) in &self.pools {
            for node in self.dispatcher.servers(*pool).to_vec() {
                self.dispatcher.doubt(*pool, node, standing.is_doubted(node, *hash), now, chance());
            }
        }
        self.push(post);
    }

    pub(crate) fn down(&mut self, node: &baton_cluster::Node, post: &mut Post) {
        if decides(node.roles) {
            self.dispatcher.distributor_down(node.id);
        }
        self.push(post);
    }

    /// Sends what distributors have to be told.
    fn push(&mut self, post: &mut Post) {
        if !self.dispatcher.has_pushes() {
            return;
        }
        for push in self.dispatcher.take_pushes() {
            for message in self.messages(push.changes) {
                post.send(push.to, message);
            }
        }
    }

    /// News as messages, in order; neighbouring mappings of one pool share a message.
    fn messages(&self, changes: Vec<PushedChange>) -> Vec<Message> {
        let mut out: Vec<Message> = Vec::new();
        let known = |pool| self.pools.iter().find(|(_, id)| **id == pool).map(|(hash, _)| *hash);
        for change in changes {
            match change {
                PushedChange::Live(nodes) => out.push(Message::Live(Live { nodes })),
                PushedChange::Guide { pool, guide } => {
                    out.extend(known(pool).map(|pool| Message::Guide(Guidance { pool, guide })));
                }
                PushedChange::Mapping { pool, target, mapping } => {
                    let Some(pool) = known(pool) else { continue };
                    let change = Change { target, servers: mapping.servers.as_slice().to_vec() };
                    match out.last_mut() {
                        Some(Message::Push(push))
                            if push.pool == pool && push.changes.len() < CHANGES_MAX =>
                        {
                            push.changes.push(change);
                        }
                        _ => out.push(Message::Push(Push { pool, changes: vec![change] })),
                    }
                }
            }
        }
        out
    }
}

fn hashes(cluster: &Cluster) -> BTreeMap<PoolHash, PoolId> {
    cluster.pools.iter().map(|pool| (pool.hash, pool.id)).collect()
}

fn verdict(decided: Result<Decision, NoDecision>) -> Verdict {
    match decided {
        Ok(decision) => Verdict {
            server: Some(decision.server),
            keep: decision.mapping.map(|m| m.servers.as_slice().to_vec()),
        },
        Err(refusal) => {
            tracing::debug!(%refusal, "no decision");
            Verdict { server: None, keep: None }
        }
    }
}
