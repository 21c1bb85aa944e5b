//! The cluster that the scripts play on. It outlives every test; the testbed's janitor takes it away when
//! the process has ended.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use baton_testbed::rawtcp::{RawClient, RawTcp};
use baton_testbed::{Cluster, Content, DocRoot, Figure, Testbed, WebServer, get, node_status, wait_until};

/// Clients' ports, in turn.
const PORTS: std::ops::Range<u16> = 2000..60_000;

pub struct Field {
    pub bed: &'static Testbed,
    pub cluster: Cluster<'static>,
    pub raw: RawClient,
    pub to: SocketAddr,
    /// Of each pool: a page within one window, and one over many.
    pub pages: [Content; 2],
    pub large: [Content; 2],
    port: Cell<u16>,
}

/// The nodes that serve the pools.
pub const NODES: [&str; 2] = ["c", "d"];

/// The figure and two pools of one server each; what is under /second/ belongs to the other one.
pub fn two_pools() -> String {
    let mut text = String::new();
    for (pool, node) in ["first", "second"].iter().zip(NODES) {
        let _ = writeln!(text, "[[service.pool]]\nname = {pool:?}\nservers = [{node:?}]\npolicy = \"lard\"");
    }
    text + "[[service.route]]\npool = \"second\"\npath = \"/second/\"\n"
}

pub fn contents(name: &str, bytes: u64) -> [Content; 2] {
    let both = [name.to_owned(), format!("second/{name}")].map(|name| Content::new(&name, bytes));
    both.iter().for_each(|content| drop(DocRoot::shared().add(content)));
    both
}

impl Field {
    fn build() -> Self {
        let bed = Testbed::builder().figure(Figure::Seven).one_cpu().without_offloads().build();
        let bed: &'static Testbed = Box::leak(Box::new(bed));
        let cluster = Figure::Seven.start(bed, WebServer::nginx_before_app, &DocRoot::shared(), &two_pools());
        Self {
            bed,
            raw: bed.raw_client(0),
            to: cluster.service(),
            cluster,
            pages: contents("page", 3000),
            large: contents("large", 200_000),
            port: Cell::new(PORTS.start),
        }
    }

    /// A port that was not used for long.
    pub fn port(&self) -> u16 {
        let next = self.port.get() + 1;
        self.port.replace(if PORTS.contains(&next) { next } else { PORTS.start })
    }

    /// A connection from a new port.
    pub fn tcp(&self) -> RawTcp<'_> {
        self.raw.tcp(self.port(), self.to)
    }
}

/// Requests a content, and checks that the right node answers rightly.
#[track_caller]
pub fn fetch(raw: &mut RawTcp<'_>, content: &Content) {
    raw.write(&get(content, false));
    answered(raw, content);
}

/// Checks the answer.
#[track_caller]
pub fn answered(raw: &mut RawTcp<'_>, content: &Content) {
    let node = raw.answer_of(content);
    assert_eq!(node, NODES[usize::from(content.path().starts_with("/second/"))], "{}", content.path());
}

/// Packets dropped, resets and faults, by their reasons.
fn lost(cluster: &Cluster<'_>) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for baton in &cluster.batons {
        let status = baton.status();
        let counters = node_status(&status, baton.host().name())["counters"].as_array().cloned();
        for counter in counters.unwrap_or_default() {
            if counter["kind"] != "normal" {
                let name = counter["name"].as_str().unwrap_or_default().to_owned();
                *all.entry(name).or_default() += counter["count"].as_u64().unwrap_or_default();
            }
        }
    }
    all
}

/// Plays on the field, which must have dropped and refused nothing then, but for `expected` reasons: each
/// of those at least once, or perhaps, if it ends in a question mark.
#[track_caller]
pub fn play(expected: &[&str], script: impl FnOnce(&mut Field) + Send) {
    static FIELD: Mutex<Option<Field>> = Mutex::new(None);
    let mut field = FIELD.lock().unwrap_or_else(PoisonError::into_inner);
    let field = field.get_or_insert_with(Field::build);
    let before = lost(&field.cluster);
    let bed = field.bed;
    // On the one CPU that keeps packets in order.
    let played =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bed.client(0).inside(|| script(field))));
    let mut after = lost(&field.cluster);
    // The last word of a reader's socket is kept in by this.
    after.remove("drop_frozen");
    after.retain(|name, count| *count != before.get(name).copied().unwrap_or_default());
    if let Err(panic) = played {
        eprintln!("packets dropped, and why: {after:?}, before {before:?}");
        std::panic::resume_unwind(panic);
    }
    let reasons: Vec<&str> = after.keys().map(String::as_str).collect();
    let missing = expected.iter().filter(|reason| !reason.ends_with('?') && !reasons.contains(reason));
    let known = |reason: &str| expected.iter().any(|known| known.trim_end_matches('?') == reason);
    let unexpected: Vec<_> = after.iter().filter(|(reason, _)| !known(reason)).collect();
    assert!(unexpected.is_empty(), "packets dropped, and why: {unexpected:?}");
    assert_eq!(missing.collect::<Vec<_>>(), [&""; 0], "no packet was dropped for this reason");
}

/// Waits for a counter to have grown to this.
#[track_caller]
pub fn counted(field: &Field, counter: &str, count: u64) {
    let soon = std::time::Duration::from_secs(5);
    wait_until(soon, counter, || field.cluster.counted(counter) >= count);
}
