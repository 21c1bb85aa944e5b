//! The server role's share in user space: how busy this node's web server is, told to those who
//! decide, and which connections have ended, told to those who forward.

use std::time::{Duration, Instant};

use baton_cluster::{Cluster, Flow, NodeId};
use baton_control::message::ENDS_MAX;
use baton_control::{Close, End, Load, Message};
use baton_datapath::{Counter, DatapathError};

use crate::outside::{Moment, Outside};
use crate::peers::Peers;
use crate::post::Post;

/// How often the count of busy connections is compared with the bindings themselves.
const RECOUNT_EVERY: Duration = Duration::from_secs(30);
/// A busy connection that is silent for this long is not load any more: its client is gone.
const SILENT_AFTER: Duration = Duration::from_secs(60);
/// The load is told at least this often, changed or not, so that a lost message heals.
const REPEAT_EVERY: Duration = Duration::from_secs(1);

/// The server of this node, as Baton sees it.
#[derive(Debug)]
pub(crate) struct ServerRole {
    last: Option<Load>,
    told: Instant,
    recounted: Instant,
    /// Busy by the counters, but not by the bindings.
    drift: i64,
}

impl ServerRole {
    pub(crate) fn new(now: Instant) -> Self {
        Self { last: None, told: now, recounted: now, drift: 0 }
    }

    /// Connections being served now.
    pub(crate) fn serving(&self, outside: &mut impl Outside) -> Result<u32, DatapathError> {
        let busy = self.counted(outside)? - self.drift;
        Ok(u32::try_from(busy.max(0)).unwrap_or(u32::MAX))
    }

    /// How busy the node is now.
    fn load(&self, now: Instant, outside: &mut impl Outside) -> Result<Load, DatapathError> {
        Ok(Load {
            serving: self.serving(outside)?,
            pressure: outside.pressure(now),
            adopted_total: outside.counter(Counter::Adopted)?,
            closed_total: outside.counter(Counter::Closed)?,
        })
    }

    /// Called on every tick: tells the load if it changed. Whether it did.
    pub(crate) fn tick(
        &mut self,
        moment: Moment,
        outside: &mut impl Outside,
        cluster: &Cluster,
        peers: &Peers,
        me: NodeId,
        post: &mut Post,
    ) -> Result<bool, DatapathError> {
        let now = moment.instant;
        if now - self.recounted >= RECOUNT_EVERY {
            self.recounted = now;
            self.recount(moment.monotonic, outside)?;
        }
        let load = self.load(now, outside)?;
        let changed = self.last != Some(load);
        if !changed && now - self.told < REPEAT_EVERY {
            return Ok(false);
        }
        self.last = Some(load);
        self.told = now;
        for to in peers.others(cluster, |r| r.distributor || r.dispatcher) {
            post.send(to, Message::Load(load));
        }
        post.send(me, Message::Load(load));
        Ok(changed)
    }

    fn counted(&self, outside: &mut impl Outside) -> Result<i64, DatapathError> {
        let started = outside.counter(Counter::ServingStarted)?;
        let ended = outside.counter(Counter::ServingEnded)?;
        Ok(started.wrapping_sub(ended).cast_signed())
    }

    fn recount(&mut self, monotonic: Duration, outside: &mut impl Outside) -> Result<(), DatapathError> {
        let counted = self.counted(outside)?;
        if counted == 0 {
            self.drift = 0;
            return Ok(());
        }
        let busy = outside.busy(monotonic.saturating_sub(SILENT_AFTER));
        self.drift = counted - busy.cast_signed();
        Ok(())
    }
}

/// Connections that ended here, on their way to the switches and to the distributor that knew them.
#[derive(Debug, Default)]
pub(crate) struct Ends(Vec<(NodeId, End)>);

impl Ends {
    pub(crate) fn add(&mut self, flow: Flow, start_seq: u32, distributor: NodeId) {
        self.0.push((distributor, End { flow, start_seq }));
    }

    pub(crate) fn send(&mut self, cluster: &Cluster, peers: &Peers, post: &mut Post) {
        if self.0.is_empty() {
            return;
        }
        let ended = std::mem::take(&mut self.0);
        for to in peers.others(cluster, |r| r.switch || r.distributor) {
            let is_switch = cluster.node(to).is_some_and(|n| n.roles.switch);
            let theirs = ended.iter().filter(|(from, _)| is_switch || *from == to).map(|(_, end)| *end);
            let theirs: Vec<End> = theirs.collect();
            for ends in theirs.chunks(ENDS_MAX) {
                post.send(to, Message::Close(Close { ends: ends.to_vec() }));
            }
        }
    }
}
