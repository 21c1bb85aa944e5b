//! One phase: the workload on a running cluster for some seconds, with a look at it every second.
//! Many clients at once, each with one connection for each request, every body checked byte by byte.

use std::io;
use std::net::IpAddr;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use baton_cluster::PolicyKind;
use baton_node::status::{ClusterStatus, NodeStatus};
use baton_testbed::Dial;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::live::{Frame, Live, Row};
use crate::site::{Cluster, NODES, Site};
use crate::stop::Stop;
use crate::tally::{Counts, Tally};
use crate::workload::Workload;

/// Connections at once. LARD (ASPLOS'98 2.4) admits (n - 1) T_high + T_low - 1, which is 219 here.
const CONNECTIONS: usize = 160;
/// For one connection or response; far longer than the queue at the origin.
const PATIENCE: Duration = Duration::from_secs(15);
/// After a fault, before the same client tries again.
const PAUSE: Duration = Duration::from_millis(200);
/// How often the live table is renewed.
const TICK: Duration = Duration::from_secs(1);

/// How a phase went.
#[derive(Clone, Debug)]
pub struct Phase {
    /// What decided.
    pub policy: PolicyKind,
    /// How long it took.
    pub took: Duration,
    /// What the clients saw.
    pub counts: Counts,
    /// What the first faults were.
    pub samples: Vec<String>,
    /// Requests that no cache could answer, as the origin counts them.
    pub origin_requests: u64,
    /// Connections that one node handed to another.
    pub handoffs: u64,
    /// Connections adopted on the very node that they arrived at.
    pub at_home: u64,
}

/// Runs the workload on `cluster`, under this policy, for `length` or until asked to stop.
///
/// # Errors
/// When the cluster does not say how it is.
pub fn play(
    site: &Site,
    cluster: &Cluster<'_>,
    policy: PolicyKind,
    workload: &Workload,
    length: Duration,
    stop: &Stop,
) -> io::Result<Phase> {
    let tally = Tally::new(NODES);
    let origin_before = site.origin().requests();
    let start = Instant::now();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients = scope.spawn(|| clients(site, workload, &tally, &over));
        watch(cluster, policy, &tally, start, length, stop);
        over.store(true, Ordering::Relaxed);
        // A panic's own message, not that of the scope.
        clients.join().unwrap_or_else(|panic| resume_unwind(panic));
    });
    // With the answers that were still under way: they are counted too.
    let took = start.elapsed();
    let status = cluster.settled()?;
    let [handoffs, at_home] = adopted(&status);
    Ok(Phase {
        policy,
        took,
        counts: tally.counts(),
        samples: tally.samples(),
        origin_requests: site.origin().requests() - origin_before,
        handoffs,
        at_home,
    })
}

/// All clients, until it is over.
fn clients(site: &Site, workload: &Workload, tally: &Tally, over: &AtomicBool) {
    // Threads started inside are inside.
    site.client().inside(|| {
        thread::scope(|scope| {
            for (i, from) in (0..CONNECTIONS).zip(site.sources().iter().cycle()) {
                scope.spawn(move || client(i, *from, site, workload, tally, over));
            }
        });
    });
}

fn client(i: usize, from: IpAddr, site: &Site, workload: &Workload, tally: &Tally, over: &AtomicBool) {
    // The client's number is its seed: both policies get the same requests.
    let mut random = StdRng::seed_from_u64(i as u64);
    let dial = Dial::new(site.service()).from_address(from).patience(PATIENCE);
    while !over.load(Ordering::Relaxed) {
        let content = workload.draw(&mut random);
        let outcome = dial.open_here().and_then(|connection| connection.fetch_last(content));
        tally.note(&outcome);
        if outcome.is_err() {
            thread::sleep(PAUSE);
        }
    }
}

/// Shows every second how it goes.
fn watch(
    cluster: &Cluster<'_>,
    policy: PolicyKind,
    tally: &Tally,
    start: Instant,
    length: Duration,
    stop: &Stop,
) {
    let mut live = Live::new();
    let mut before = (start, tally.counts());
    let mut next = start + TICK;
    while start.elapsed() < length && !stop.is_asked() {
        let moment = next.min(start + length);
        thread::sleep(moment.saturating_duration_since(Instant::now()).min(Duration::from_millis(100)));
        if Instant::now() < next {
            continue;
        }
        next += TICK;
        let now = (Instant::now(), tally.counts());
        // A daemon that is too busy to answer is no reason to stop watching.
        let status = cluster.status().unwrap_or_default();
        let passed = now.0.duration_since(before.0);
        live.show(&frame(policy, start.elapsed(), length, passed, (&before.1, &now.1), &status));
        before = now;
    }
    live.end();
}

fn frame(
    policy: PolicyKind,
    elapsed: Duration,
    length: Duration,
    passed: Duration,
    (before, now): (&Counts, &Counts),
    status: &ClusterStatus,
) -> Frame {
    let rows = NODES.iter().enumerate().map(|(i, name)| {
        let earlier = before.nodes.get(i).copied().unwrap_or_default();
        let answers = now.nodes.get(i).copied().unwrap_or_default().since(earlier);
        let node = status.nodes.iter().find(|node| node.name == *name && node.reachable);
        Row {
            node: (*name).to_owned(),
            index: i,
            rate: answers.answers as f64 / passed.as_secs_f64(),
            hit_rate: answers.hit_rate(),
            serving: node.map(|node| node.serving),
            handed_off: node.map(handed_off),
        }
    });
    let right = now.right().since(before.right());
    Frame {
        policy,
        elapsed,
        length,
        rate: right.answers as f64 / passed.as_secs_f64(),
        hit_rate: right.hit_rate(),
        faults: now.faults(),
        rows: rows.collect(),
    }
}

/// Connections that a node handed to other nodes.
fn handed_off(node: &NodeStatus) -> u64 {
    node.handoffs.iter().filter(|handoff| handoff.to != node.name).map(|handoff| handoff.count).sum()
}

/// Connections that changed nodes, and those that did not.
fn adopted(status: &ClusterStatus) -> [u64; 2] {
    let all: u64 = status.nodes.iter().flat_map(|node| &node.handoffs).map(|handoff| handoff.count).sum();
    let moved = status.nodes.iter().map(handed_off).sum();
    [moved, all.saturating_sub(moved)]
}
