//! Fills in what this node says of itself.

use std::fmt::Display;
use std::time::Instant;

use baton_cluster::Sign;
use baton_control::{PeerState, PeerStatus};
use baton_core::{SeatState, Suspicion, UnknownTally};
use baton_datapath::{Counter, CounterKind};

use crate::NodeError;
use crate::daemon::Daemon;
use crate::reader::Reader;
use crate::status::{
    ConnectionState, ConnectionStatus, CounterStatus, DecisionStatus, DispatcherStanding, DispatcherStatus,
    DoubtStatus, EndingStatus, HandoffStatus, LoadStatus, NodeStatus, ReaderStatus, TroubleStatus,
    UnknownStatus,
};

impl Daemon {
    /// What this node says of itself now.
    pub(crate) fn status(&mut self) -> NodeStatus {
        let counters = self.outside.datapath.counters();
        let serving = self.core.serving(&mut self.outside);
        let (loads, handoffs) = (self.loads(), self.handoffs());
        let counters = self.readable_part("counters", counters);
        let serving = self.readable_part("connections being served", serving);
        let loads = self.readable_part("loads", loads);
        let handoffs = self.readable_part("handoffs", handoffs);
        let held_back = self.too_big.held_back();
        let (errors, last) = (self.core.troubles.errors(), self.core.troubles.last().map(str::to_owned));
        let troubles = TroubleStatus { errors, last, icmp_held_back: held_back };
        let Some(node) = self.cluster().node(self.core.me()) else { return NodeStatus::default() };
        NodeStatus {
            name: node.name.clone(),
            id: node.id.0,
            address: node.address.to_string(),
            roles: node.roles.names().map(str::to_owned).collect(),
            reachable: true,
            since_s: self.started.elapsed().as_secs(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            file: short(&self.cluster().digest()),
            ending: self.ending(),
            link_mtu: self.host.mtu(),
            connections: self.mesh.peers().iter().map(|p| self.connection(p)).collect(),
            loads,
            doubts: self.doubts(),
            decisions: self.decisions(&counters),
            unknown: self.unknown(),
            reader: self.reader(),
            handoffs,
            counters: counters.nonzero().map(counter).chain(displaced(self.core.displaced())).collect(),
            serving: serving.map_or(0, u64::from),
            adopted: counters.get(Counter::Adopted),
            closed: counters.get(Counter::Closed),
            bytes_served: counters.get(Counter::BytesServed),
            troubles,
            host: self.host.status(),
        }
    }

    /// A status tells what can be told.
    fn readable_part<T: Default>(&mut self, what: &'static str, read: Result<T, impl Display>) -> T {
        read.unwrap_or_else(|error| {
            self.note(what, Err(error));
            T::default()
        })
    }

    fn name_of(&self, id: baton_cluster::NodeId) -> String {
        self.cluster().node(id).map_or_else(|| id.to_string(), |n| n.name.clone())
    }

    fn ending(&self) -> Vec<EndingStatus> {
        let ending = self.core.services().ending();
        ending
            .map(|(service, connections)| EndingStatus { service: service.to_owned(), connections })
            .collect()
    }

    fn connection(&self, peer: &PeerStatus) -> ConnectionStatus {
        // Of a connection that is there, what was wrong before it came about is no news.
        let last_error = peer.last_error.as_ref().filter(|_| peer.state == PeerState::Down);
        let last_error = last_error.map(|error| cut(&error.to_string(), ConnectionStatus::ERROR_BYTES_MAX));
        ConnectionStatus {
            peer: self.name_of(peer.node),
            state: match peer.state {
                PeerState::Up => ConnectionState::Up,
                PeerState::Down => ConnectionState::Down,
            },
            since_s: Instant::now().saturating_duration_since(peer.since).as_secs(),
            rtt_us: peer.rtt_us,
            clock_ahead_us: peer.clock_ahead_us,
            path_mtu: self.paths.proved.get(&peer.node).copied(),
            messages_in: peer.messages_in,
            messages_out: peer.messages_out,
            bytes_in: peer.bytes_in,
            bytes_out: peer.bytes_out,
            last_error,
        }
    }

    fn unknown(&self) -> UnknownStatus {
        let Some(placing) = self.core.placing() else { return UnknownStatus::default() };
        let (tally, asking_now) = placing.owners().tally();
        let UnknownTally { asked, found, reset, begun, unanswered, coming, overflowed } = tally;
        let asking_now = asking_now as u64;
        UnknownStatus { asking_now, asked, found, reset, begun, unanswered, coming, overflowed }
    }

    fn reader(&self) -> ReaderStatus {
        let status = self.outside.reader.as_ref().map(Reader::status).unwrap_or_default();
        let Some(placing) = self.core.placing() else { return status };
        let replays = placing.replays();
        ReaderStatus { replayed: replays.begun, repeated: replays.repeated, failed: replays.failed, ..status }
    }

    fn loads(&self) -> Result<Vec<LoadStatus>, NodeError> {
        let Some(placing) = self.core.placing() else { return Ok(Vec::new()) };
        let loads = placing.guides().loads();
        let mut out = Vec::new();
        for (server, weight) in loads.servers() {
            let assigned = self.outside.datapath.assigned(server)?;
            out.push(LoadStatus {
                server: self.name_of(server),
                serving: u64::from(loads.load(server).unwrap_or(0).saturating_sub(assigned)),
                assigned: u64::from(assigned),
                live: loads.is_live(server),
                weight,
            });
        }
        Ok(out)
    }

    /// What this node has seen itself.
    fn doubts(&self) -> Vec<DoubtStatus> {
        let own = self.core.standing().suspicions().filter(|suspicion| suspicion.by == self.core.me());
        own.map(|Suspicion { server, pool, sign, count, .. }| DoubtStatus {
            server: self.name_of(server),
            pool: pool.and_then(|hash| {
                let pool = self.cluster().pools.iter().find(|pool| pool.hash == hash)?;
                let service = self.cluster().services.iter().find(|service| service.id == pool.service)?;
                Some(format!("{}/{}", service.name, pool.name))
            }),
            seen: sign.map_or("it does not work", Sign::text).to_owned(),
            count: u64::from(count),
            help: sign.map_or("look at its log", Sign::help).to_owned(),
        })
        .collect()
    }

    fn decisions(&self, counters: &baton_datapath::Counters) -> DecisionStatus {
        let tally = self.core.placing().map(|placing| placing.tally()).unwrap_or_default();
        let decided = self.core.dispatched();
        DecisionStatus {
            in_kernel: [Counter::DecidedCache, Counter::DecidedRota, Counter::DecidedAlone]
                .map(|c| counters.get(c))
                .iter()
                .sum(),
            known: tally.known,
            asked: tally.asked,
            reasked: tally.reasked,
            unreachable: tally.unreachable,
            answered: tally.answered,
            batches: tally.batches,
            held_now: self.core.placing().map_or(0, |placing| placing.held_now() as u64),
            failed: tally.failed + tally.overflowed,
            fallback: tally.fallback,
            decided: decided.map_or(0, |s| s.asked - s.refused),
            moves: decided.map_or(0, |s| s.moved),
            targets: decided.map(|s| s.targets as u64),
            learned: decided.map_or(0, |s| s.learned),
            ready: self.core.is_ready(),
            dispatchers: self.dispatchers(),
        }
    }

    fn dispatchers(&self) -> Vec<DispatcherStatus> {
        let Some(placing) = self.core.placing() else { return Vec::new() };
        let all = placing.dispatchers(Instant::now());
        all.map(|(node, standing, late)| DispatcherStatus {
            dispatcher: self.name_of(node),
            standing: match standing {
                SeatState::Asked => DispatcherStanding::Asked,
                SeatState::Standby => DispatcherStanding::Standby,
                SeatState::Cold => DispatcherStanding::Cold,
                SeatState::Slow => DispatcherStanding::Slow,
                SeatState::Down => DispatcherStanding::Down,
            },
            late,
        })
        .collect()
    }

    fn handoffs(&self) -> Result<Vec<HandoffStatus>, NodeError> {
        let Some(placing) = self.core.placing() else { return Ok(Vec::new()) };
        let mut out = Vec::new();
        for (server, _) in placing.guides().loads().servers() {
            let count = self.outside.datapath.handed_to(server)? + placing.handed_to(server);
            out.push(HandoffStatus { to: self.name_of(server), count });
        }
        Ok(out)
    }
}

/// A text as far as `most` bytes, with a mark where it was longer.
pub(crate) fn cut(text: &str, most: usize) -> String {
    const MORE: &str = "...";
    if text.len() <= most {
        return text.to_owned();
    }
    let end =
        (0..=most.saturating_sub(MORE.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}{MORE}", text.get(..end).unwrap_or_default())
}

fn short(digest: &[u8; 32]) -> String {
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Live connections that the kernel has forgotten, counted in user space.
fn displaced(count: u64) -> Option<CounterStatus> {
    (count > 0).then(|| CounterStatus {
        name: "live_displaced".to_owned(),
        kind: CounterKind::Fault,
        count,
        text: "live connection forgotten: more are there than `bindings` in [limits] has room for".to_owned(),
    })
}

fn counter((counter, count): (Counter, u64)) -> CounterStatus {
    CounterStatus {
        name: counter.name().to_owned(),
        kind: counter.kind(),
        count,
        text: counter.text().to_owned(),
    }
}
