//! The dispatcher role: questions, loads and deaths in; answers and news out. The deciding itself is
//! baton-dispatcher's; here messages become its calls and back. What is remembered of targets has times of the
//! cluster's clock; all else goes by the monotonic one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use baton_cluster::{Cluster, NodeId, PoolHash, PoolId};
use baton_control::message::{CHANGES_MAX, MAPPED_MAX};
use baton_control::{
    Answer, Ask, Change, Guidance, Live, Load, Mapped, MappedTarget, Message, Push, Ready, Recall, Recalled,
    Verdict,
};
use baton_dispatcher::{
    Decision, Dispatcher, NoDecision, PoolQuestion, PoolRule, PushedChange, Remembered, Stats,
};

use crate::peers::Peers;
use crate::post::Post;
use crate::services::decides;
use crate::standby::Standby;
use crate::standing::Standing;

/// The dispatcher of this node.
#[derive(Debug)]
pub(crate) struct DispatcherRole {
    me: NodeId,
    /// What other dispatchers remember, on its way here.
    standby: Standby,
    /// The nodes that are there and are told whether this dispatcher is ready: those that ask, and other dispatchers.
    listeners: BTreeSet<NodeId>,
    dispatcher: Dispatcher,
    /// Pools as other nodes know them, and as this one does.
    pools: BTreeMap<PoolHash, PoolId>,
    /// Servers that may be chosen.
    serving: BTreeSet<NodeId>,
}

impl DispatcherRole {
    pub(crate) fn new(cluster: &Cluster, me: NodeId, now: Duration) -> Self {
        let has_others = cluster.dispatchers().any(|node| node.id != me);
        Self {
            me,
            standby: Standby::new(me, has_others, now),
            listeners: BTreeSet::new(),
            dispatcher: Dispatcher::of(cluster),
            pools: hashes(cluster),
            serving: BTreeSet::new(),
        }
    }

    /// Goes by another file from now on.
    pub(crate) fn pools_changed(&mut self, cluster: &Cluster, post: &mut Post) {
        self.pools = hashes(cluster);
        self.dispatcher.set_pools(cluster.pools.iter().map(|pool| (pool.id, PoolRule::from(pool))));
        self.standby.pools_changed();
        self.push(post);
    }

    pub(crate) fn stats(&self) -> Stats {
        self.dispatcher.stats()
    }

    /// Whether it remembers what the dispatchers of the cluster have decided.
    pub(crate) fn is_ready(&self) -> bool {
        self.standby.is_ready()
    }

    /// Whether it is taking over what another one remembers.
    pub(crate) fn is_busy(&self) -> bool {
        self.standby.is_busy()
    }

    /// What it remembers of all targets: for who watches.
    pub(crate) fn remembered(&self) -> Vec<(PoolId, baton_cluster::Target, Remembered)> {
        let of = |pool: PoolId| self.dispatcher.piece(pool, 0, usize::MAX).0.into_iter();
        self.pools.values().flat_map(|pool| of(*pool).map(|(target, known)| (*pool, target, known))).collect()
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

    /// A node came up, perhaps as distributor, perhaps as dispatcher.
    pub(crate) fn up(&mut self, node: &baton_cluster::Node, post: &mut Post) {
        let is_other = node.roles.dispatcher && node.id != self.me;
        if is_other {
            self.standby.up(node.id);
            self.dispatcher.set_shared(true);
        }
        if is_other || decides(node.roles) {
            self.listeners.insert(node.id);
            post.send(node.id, Message::Ready(Ready { ready: self.is_ready() }));
        }
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
    /// `time`: by the cluster's clock.
    pub(crate) fn tick(&mut self, cluster: &Cluster, (now, time): (Duration, Duration), post: &mut Post) {
        self.dispatcher.forget_gone(now);
        self.dispatcher.tick(time);
        self.push(post);
        let pools = cluster.pools.iter().filter(|pool| pool.policy.kind.is_lard()).map(|pool| pool.hash);
        let step = self.standby.tick(now, pools);
        if let Some((from, recall)) = step.ask {
            post.send(from, Message::Recall(recall));
        }
        if step.became_ready {
            self.tell_ready(post);
        }
    }

    fn tell_ready(&self, post: &mut Post) {
        for to in &self.listeners {
            post.send(*to, Message::Ready(Ready { ready: self.is_ready() }));
        }
    }

    /// What another dispatcher says to this one.
    pub(crate) fn heard(&mut self, from: NodeId, message: Message, now: Duration, post: &mut Post) {
        match message {
            Message::Ready(Ready { ready }) => self.standby.says(from, ready),
            Message::Mapped(Mapped { pool, targets }) => self.learn(pool, targets, now),
            Message::Recall(recall) => post.send(from, Message::Recalled(self.piece(recall))),
            Message::Recalled(piece) => {
                let (awaited, became_ready) = self.standby.recalled(from, &piece);
                if awaited {
                    self.learn(piece.place.pool, piece.targets, now);
                }
                if became_ready {
                    self.tell_ready(post);
                }
            }
            _ => {}
        }
    }

    fn learn(&mut self, pool: PoolHash, targets: Vec<MappedTarget>, now: Duration) {
        // Of another cluster file: this node will ask for all of it when it has that.
        let Some(pool) = self.pools.get(&pool) else { return };
        for MappedTarget { target, servers, changed } in targets {
            self.dispatcher.learn(*pool, target, (&servers, Duration::from_nanos(changed)), now);
        }
    }

    fn piece(&self, Recall { place }: Recall) -> Recalled {
        let from = usize::try_from(place.from).unwrap_or(usize::MAX);
        let pool = self.pools.get(&place.pool);
        let (piece, next) = pool.map(|p| self.dispatcher.piece(*p, from, MAPPED_MAX)).unwrap_or_default();
        let targets = piece.into_iter().map(|(target, remembered)| mapped(target, &remembered)).collect();
        Recalled { place, next: next.and_then(|next| u32::try_from(next).ok()), targets }
    }

    /// Tells the other dispatchers what has changed of targets.
    fn share(&mut self, post: &mut Post) {
        let mut changed: BTreeMap<PoolId, Vec<MappedTarget>> = BTreeMap::new();
        for (pool, target, remembered) in self.dispatcher.take_shared() {
            changed.entry(pool).or_default().push(mapped(target, &remembered));
        }
        for (pool, targets) in &changed {
            let Some((pool, _)) = self.pools.iter().find(|(_, id)| *id == pool) else { continue };
            for targets in targets.chunks(MAPPED_MAX) {
                for to in self.standby.others() {
                    post.send(to, Message::Mapped(Mapped { pool: *pool, targets: targets.to_vec() }));
                }
            }
        }
    }

    /// Some servers are doubted that were not, or the other way round. `time`: by the cluster's clock.
    pub(crate) fn doubts_changed(
        &mut self,
        standing: &Standing,
        time: Duration,
        mut chance: impl FnMut() -> u64,
        post: &mut Post,
    ) {
        for (hash, pool) in &self.pools {
            for node in self.dispatcher.servers(*pool).to_vec() {
                self.dispatcher.doubt(*pool, node, standing.is_doubted(node, *hash), time, chance());
            }
        }
        self.push(post);
    }

    pub(crate) fn down(&mut self, node: &baton_cluster::Node, post: &mut Post) {
        self.listeners.remove(&node.id);
        self.standby.down(node.id);
        self.dispatcher.set_shared(self.standby.others().next().is_some());
        if decides(node.roles) {
            self.dispatcher.distributor_down(node.id);
        }
        self.push(post);
    }

    /// Sends what distributors have to be told.
    fn push(&mut self, post: &mut Post) {
        self.share(post);
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

fn mapped(target: baton_cluster::Target, remembered: &Remembered) -> MappedTarget {
    let changed = u64::try_from(remembered.changed.as_nanos()).unwrap_or(u64::MAX);
    MappedTarget { target, servers: remembered.servers.as_slice().to_vec(), changed }
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
