//! What this node has seen of servers: of its own web server, by what becomes of the connections that it adopts; of the
//! other servers, by what becomes of its handoff packets on their way. Told to all who decide; what that changes they
//! know by `standing`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use baton_cluster::{Flow, NodeId, ServiceId, Sign};
use baton_control::message::DOUBTS_MAX;
use baton_control::{Doubted, Doubts, Message};
use baton_datapath::DatapathError;
use baton_dispatcher::{AcceptQueue, Judge};

use crate::outside::{Moment, Outside};
use crate::peers::Peers;
use crate::post::Post;
use crate::services::{Services, decides};

/// Between two looks at what the programs have counted.
const LOOKS_EVERY: Duration = Duration::from_millis(100);
/// It is told at least this often, changed or not: a lost message heals, and distributors hear that packets arrive.
const REPEAT_EVERY: Duration = Duration::from_secs(1);
/// Between two words of a server about a distributor's packets that are compared: what was on its way has arrived.
const COMPARES_EVERY: Duration = Duration::from_millis(400);

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// This node's web server, by service.
    ports: BTreeMap<ServiceId, Port>,
    /// The ways to the other servers.
    ways: BTreeMap<NodeId, Passage>,
    looked: Option<Duration>,
    told: Option<Duration>,
    last: Vec<Doubted>,
}

#[derive(Debug, Default)]
struct Port {
    judge: Judge,
    queue: AcceptQueue,
    /// The number of the last look at the queue.
    looked: u64,
    spoken: u64,
}

#[derive(Debug)]
struct Passage {
    judge: Judge,
    /// What had been sent when the other node last spoke, and what it had taken.
    sent: u64,
    taken: u64,
    at: Duration,
}

impl Witness {
    /// A connection has shown that this node's server seems not to work.
    pub(crate) fn failed(
        &mut self,
        flow: &Flow,
        (sign, spoke): (Sign, bool),
        services: &Services,
        outside: &mut impl Outside,
        now: Duration,
    ) -> Result<(), DatapathError> {
        let Some(service) = services.of(flow).map(|service| service.id) else { return Ok(()) };
        let port = self.ports.entry(service).or_default();
        // What has been taken before does not speak against the sign.
        let looked = port.look(service, outside, now);
        let client: IpAddr = flow.client;
        port.judge.seen(sign, Some(client), spoke, now);
        looked
    }

    /// A server says how many handoff packets of this node it has taken.
    pub(crate) fn arrived(
        &mut self,
        server: NodeId,
        taken: u64,
        outside: &mut impl Outside,
        now: Duration,
    ) -> Result<(), DatapathError> {
        let sent = outside.handoffs_sent(server)?;
        let way =
            self.ways.entry(server).or_insert(Passage { judge: Judge::default(), sent, taken, at: now });
        if taken != way.taken {
            way.judge.works(now);
        } else if now.saturating_sub(way.at) < COMPARES_EVERY {
            return Ok(());
        } else if sent != way.sent {
            way.judge.seen(Sign::HandoffsLost, None, false, now);
        }
        (way.sent, way.taken, way.at) = (sent, taken, now);
        Ok(())
    }

    /// A node is there no more, or not yet: its next word begins anew.
    pub(crate) fn gone(&mut self, node: NodeId) {
        self.ways.remove(&node);
    }

    /// Called on every tick: looks, and tells what has changed.
    pub(crate) fn tick(
        &mut self,
        services: &Services,
        peers: &Peers,
        outside: &mut impl Outside,
        post: &mut Post,
        moment: Moment,
    ) -> Result<(), DatapathError> {
        let now = moment.monotonic;
        if self.looked.is_some_and(|at| now.saturating_sub(at) < LOOKS_EVERY) {
            return Ok(());
        }
        self.looked = Some(now);
        let mut looked = Ok(());
        self.ports.retain(|id, _| services.cluster().services.iter().any(|service| service.id == *id));
        for service in &services.cluster().services {
            let port = self.ports.entry(service.id).or_default();
            looked = looked.and(port.look(service.id, outside, now));
            port.look_at_queue(service.port, outside, now);
        }
        let doubted = self.doubted(services, post.me());
        if doubted == self.last && self.told.is_some_and(|at| now.saturating_sub(at) < REPEAT_EVERY) {
            return looked;
        }
        (self.last, self.told) = (doubted, Some(now));
        let cluster = services.cluster();
        for to in peers.others(cluster, |roles| decides(roles) || roles.dispatcher).chain([post.me()]) {
            let taken = outside.handoffs_taken(to)?;
            post.send(to, Message::Doubts(Doubts { taken, servers: self.last.clone() }));
        }
        looked
    }

    fn doubted(&self, services: &Services, me: NodeId) -> Vec<Doubted> {
        let cluster = services.cluster();
        let ports =
            self.ports.iter().filter_map(|(id, port)| Some((id, port.judge.doubt().or(port.queue.doubt())?)));
        let own = ports.flat_map(|(id, doubt)| {
            let pools = cluster.pools_of(*id).filter(|pool| pool.has(me));
            pools.map(move |pool| Doubted {
                server: me,
                pool: Some(pool.hash),
                sign: doubt.sign.number(),
                count: doubt.count,
            })
        });
        let ways = self.ways.iter().filter_map(|(node, way)| Some((node, way.judge.doubt()?)));
        let others = ways.map(|(node, doubt)| Doubted {
            server: *node,
            pool: None,
            sign: doubt.sign.number(),
            count: doubt.count,
        });
        own.chain(others).take(DOUBTS_MAX).collect()
    }
}

impl Port {
    fn look(
        &mut self,
        service: ServiceId,
        outside: &mut impl Outside,
        now: Duration,
    ) -> Result<(), DatapathError> {
        let spoken = outside.spoken(service)?;
        let more = spoken.saturating_sub(std::mem::replace(&mut self.spoken, spoken));
        self.judge.taken(more, now);
        Ok(())
    }

    fn look_at_queue(&mut self, port: u16, outside: &mut impl Outside, now: Duration) {
        match outside.waiting(port) {
            Some((look, _)) if look == self.looked => {}
            Some((look, waiting)) => {
                self.looked = look;
                self.queue.look(waiting, self.spoken, now);
            }
            None => self.queue = AcceptQueue::default(),
        }
    }
}
