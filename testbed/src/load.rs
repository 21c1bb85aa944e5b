//! Many clients at once: a bounded number of connections with a bounded number of requests each,
//! every body checked, and a typed summary of how it went.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::client::{Connection, Dial, Fault, Response};
use crate::content::Content;
use crate::netns::Namespace;

/// How many faults a summary describes; it counts all.
const SAMPLES_MAX: usize = 8;
/// The longest latency told apart: an hour in microseconds.
const LATENCY_MAX_US: u64 = 3_600_000_000;

/// A load to put on a cluster.
#[derive(Debug, Clone)]
pub struct Load {
    dial: Dial,
    connections: usize,
    requests: usize,
    keep_alive: bool,
}

impl Load {
    /// One connection with one request, made as `dial` says; then say how many.
    pub fn new(dial: Dial) -> Self {
        Self { dial, connections: 1, requests: 1, keep_alive: true }
    }

    /// So many clients at once, each on a thread of its own.
    pub fn connections(self, connections: usize) -> Self {
        Self { connections, ..self }
    }

    /// So many requests by each, one after the other.
    pub fn requests(self, requests: usize) -> Self {
        Self { requests, ..self }
    }

    /// A new connection for each request, with `Connection: close`.
    pub fn close(self) -> Self {
        Self { keep_alive: false, ..self }
    }

    /// Runs it from a client to its end. `content` says what connection `i` requests as its `j`th.
    /// A connection that meets a fault stops: what came after it would be told apart badly.
    pub fn run(&self, client: &Namespace, content: impl Fn(usize, usize) -> Content + Sync) -> Summary {
        let start = Instant::now();
        let content = &content;
        // Threads started inside are inside.
        let parts = client.inside(|| {
            std::thread::scope(|scope| {
                let one = |i| move || self.one(|j| content(i, j));
                let threads: Vec<_> = (0..self.connections).map(|i| scope.spawn(one(i))).collect();
                threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Vec<_>>()
            })
        });
        let mut summary = parts.iter().fold(Summary::default(), |sum, part| sum.with(part));
        summary.asked = (self.connections * self.requests) as u64;
        summary.took = start.elapsed();
        summary
    }

    fn one(&self, content: impl Fn(usize) -> Content) -> Summary {
        let mut summary = Summary::default();
        let mut open = None;
        for j in 0..self.requests {
            let start = Instant::now();
            match self.request(&mut open, &content(j), &mut summary) {
                Ok(response) => summary.note(&response, start.elapsed()),
                Err(fault) => {
                    summary.fault(&fault);
                    break;
                }
            }
        }
        summary
    }

    fn request(
        &self,
        open: &mut Option<Connection>,
        content: &Content,
        summary: &mut Summary,
    ) -> Result<Response, Fault> {
        let mut connection = match open.take() {
            Some(connection) => connection,
            None => {
                summary.connections += 1;
                self.dial.open_here()?
            }
        };
        if !self.keep_alive {
            return connection.fetch_last(content);
        }
        let response = connection.fetch(content)?;
        // A server may end a persistent connection after a number of requests; it says so before.
        if response.header("connection") != Some("close") {
            *open = Some(connection);
        }
        Ok(response)
    }
}

/// How a [`Load`] went.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Requests that were to be made.
    pub asked: u64,
    /// Requests answered with 200 and the right body.
    pub ok: u64,
    /// Bodies with a wrong byte.
    pub wrong_bodies: u64,
    /// Connections reset.
    pub resets: u64,
    /// Connections or responses that did not come in time.
    pub timeouts: u64,
    /// All other faults: refused, closed early, another status, not HTTP.
    pub others: u64,
    /// What the first faults were.
    pub samples: Vec<String>,
    /// Connections opened.
    pub connections: u64,
    /// Body bytes received in right bodies.
    pub bytes: u64,
    /// Right answers by node.
    pub by_node: BTreeMap<String, u64>,
    /// Right answers by `X-Cache` (HIT, MISS, ...), where servers send it.
    pub by_cache: BTreeMap<String, u64>,
    /// Microseconds for each right answer, with the making of the connection if there was one.
    pub latency_us: Histogram<u64>,
    /// How long all of it took.
    pub took: Duration,
}

impl Default for Summary {
    fn default() -> Self {
        let latency_us = Histogram::new_with_max(LATENCY_MAX_US, 3).expect("the limits are constants");
        Self {
            asked: 0,
            ok: 0,
            wrong_bodies: 0,
            resets: 0,
            timeouts: 0,
            others: 0,
            samples: Vec::new(),
            connections: 0,
            bytes: 0,
            by_node: BTreeMap::new(),
            by_cache: BTreeMap::new(),
            latency_us,
            took: Duration::ZERO,
        }
    }
}

impl Summary {
    /// Whether every request was answered rightly.
    pub fn is_clean(&self) -> bool {
        self.ok == self.asked && self.faults() == 0
    }

    /// All faults together.
    pub fn faults(&self) -> u64 {
        self.wrong_bodies + self.resets + self.timeouts + self.others
    }

    /// Right answers a second.
    pub fn rate(&self) -> f64 {
        self.ok as f64 / self.took.as_secs_f64()
    }

    fn note(&mut self, response: &Response, latency: Duration) {
        self.ok += 1;
        self.bytes += response.length;
        *self.by_node.entry(response.node().to_owned()).or_default() += 1;
        if let Some(cache) = response.header("x-cache") {
            *self.by_cache.entry(cache.to_owned()).or_default() += 1;
        }
        self.latency_us.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    fn fault(&mut self, fault: &Fault) {
        match fault {
            Fault::WrongBody { .. } => self.wrong_bodies += 1,
            Fault::Reset => self.resets += 1,
            Fault::Timeout => self.timeouts += 1,
            _ => self.others += 1,
        }
        self.samples.push(fault.to_string());
    }

    /// Both together.
    fn with(mut self, other: &Self) -> Self {
        self.ok += other.ok;
        self.wrong_bodies += other.wrong_bodies;
        self.resets += other.resets;
        self.timeouts += other.timeouts;
        self.others += other.others;
        self.connections += other.connections;
        self.bytes += other.bytes;
        let room = SAMPLES_MAX.saturating_sub(self.samples.len());
        self.samples.extend(other.samples.iter().take(room).cloned());
        other.by_node.iter().for_each(|(k, n)| *self.by_node.entry(k.clone()).or_default() += n);
        other.by_cache.iter().for_each(|(k, n)| *self.by_cache.entry(k.clone()).or_default() += n);
        self.latency_us += &other.latency_us;
        self
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |quantile| self.latency_us.value_at_quantile(quantile) as f64 / 1000.0;
        write!(
            f,
            "{} of {} requests right on {} connections in {:.1?} ({:.0}/s, p50 {:.1} ms, p99 {:.1} ms), \
             {} wrong bodies, {} resets, {} timeouts, {} other faults; by node {:?}; {:?}",
            self.ok,
            self.asked,
            self.connections,
            self.took,
            self.rate(),
            at(0.5),
            at(0.99),
            self.wrong_bodies,
            self.resets,
            self.timeouts,
            self.others,
            self.by_node,
            self.samples
        )
    }
}
