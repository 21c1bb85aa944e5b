//! What the demo's clients have seen so far. Written by many threads at once, read by the live table
//! and the summary; it judges nothing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use baton_testbed::{Fault, Response};

/// How many faults are described; all are counted.
const SAMPLES_MAX: usize = 5;

/// Counts of one phase.
#[derive(Debug)]
pub struct Tally {
    nodes: Vec<(String, NodeTally)>,
    bytes: AtomicU64,
    body_errors: AtomicU64,
    resets: AtomicU64,
    others: AtomicU64,
    samples: Mutex<Vec<String>>,
}

#[derive(Debug, Default)]
struct NodeTally {
    answers: AtomicU64,
    hits: AtomicU64,
}

/// A [`Tally`] at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Right answers of each node, and how many of them its cache gave, in the nodes' order.
    pub nodes: Vec<Answers>,
    /// Bytes of right bodies.
    pub bytes: u64,
    /// Bodies with a wrong byte, too short or too long.
    pub body_errors: u64,
    /// Connections that were reset.
    pub resets: u64,
    /// Everything else that went wrong: refused, timed out, closed early, another status.
    pub others: u64,
}

/// Right answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// How many.
    pub answers: u64,
    /// How many of them came from a cache, as their `X-Cache` says.
    pub hits: u64,
}

impl Tally {
    /// Nothing yet, for nodes of these names.
    pub fn new<'a>(nodes: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            nodes: nodes.into_iter().map(|name| (name.to_owned(), NodeTally::default())).collect(),
            bytes: AtomicU64::default(),
            body_errors: AtomicU64::default(),
            resets: AtomicU64::default(),
            others: AtomicU64::default(),
            samples: Mutex::default(),
        }
    }

    /// One request more: answered rightly, or not.
    pub fn note(&self, outcome: &Result<Response, Fault>) {
        match outcome {
            Ok(response) => self.note_answer(response),
            Err(fault) => self.note_fault(fault),
        }
    }

    fn note_answer(&self, response: &Response) {
        let Some((_, node)) = self.nodes.iter().find(|(name, _)| name == response.node()) else {
            self.others.fetch_add(1, Relaxed);
            return self.describe(format!("an answer by {}, which is no node", response.node()));
        };
        node.answers.fetch_add(1, Relaxed);
        node.hits.fetch_add(u64::from(response.header("x-cache") == Some("HIT")), Relaxed);
        self.bytes.fetch_add(response.length, Relaxed);
    }

    fn note_fault(&self, fault: &Fault) {
        let count = match fault {
            Fault::WrongBody { .. } => &self.body_errors,
            Fault::Reset => &self.resets,
            _ => &self.others,
        };
        count.fetch_add(1, Relaxed);
        self.describe(fault.to_string());
    }

    fn describe(&self, what: String) {
        let mut samples = self.samples.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if samples.len() < SAMPLES_MAX {
            samples.push(what);
        }
    }

    /// What it is now.
    pub fn counts(&self) -> Counts {
        let answers =
            |node: &NodeTally| Answers { answers: node.answers.load(Relaxed), hits: node.hits.load(Relaxed) };
        Counts {
            nodes: self.nodes.iter().map(|(_, node)| answers(node)).collect(),
            bytes: self.bytes.load(Relaxed),
            body_errors: self.body_errors.load(Relaxed),
            resets: self.resets.load(Relaxed),
            others: self.others.load(Relaxed),
        }
    }

    /// What the first faults were.
    pub fn samples(&self) -> Vec<String> {
        self.samples.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

impl Counts {
    /// All nodes' right answers.
    pub fn right(&self) -> Answers {
        self.nodes.iter().fold(Answers::default(), |sum, node| Answers {
            answers: sum.answers + node.answers,
            hits: sum.hits + node.hits,
        })
    }

    /// All requests, whatever came of them.
    pub fn requests(&self) -> u64 {
        self.right().answers + self.faults()
    }

    /// All that went wrong.
    pub fn faults(&self) -> u64 {
        self.body_errors + self.resets + self.others
    }
}

impl Answers {
    /// What has come since an earlier moment.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            answers: self.answers.saturating_sub(earlier.answers),
            hits: self.hits.saturating_sub(earlier.hits),
        }
    }

    /// The share of hits, from 0 to 1; none without answers.
    pub fn hit_rate(self) -> Option<f64> {
        (self.answers > 0).then(|| self.hits as f64 / self.answers as f64)
    }
}

/// `97 %`, or a dash.
pub fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", share * 100.0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use baton_testbed::{Fault, Response};

    use super::{Answers, Tally};

    fn answer(node: &str, cache: &str) -> Result<Response, Fault> {
        let headers = [("x-node", node), ("x-cache", cache)].map(|(k, v)| (k.to_owned(), v.to_owned()));
        Ok(Response {
            status: 200,
            headers: headers.into(),
            body: Vec::new(),
            length: 10,
            took: Duration::ZERO,
        })
    }

    #[test]
    fn every_outcome_is_counted_once() {
        let tally = Tally::new(["n1", "n2"]);
        let wrong = Fault::WrongBody { path: "/x".into(), at: 3 };
        let outcomes = [
            answer("n1", "MISS"),
            answer("n2", "HIT"),
            answer("n2", "MISS"),
            answer("n9", "HIT"),
            Err(wrong),
        ];
        outcomes.iter().chain(&[Err(Fault::Reset), Err(Fault::Timeout)]).for_each(|o| tally.note(o));
        let counts = tally.counts();
        assert_eq!(counts.nodes, [Answers { answers: 1, hits: 0 }, Answers { answers: 2, hits: 1 }]);
        assert_eq!((counts.body_errors, counts.resets, counts.others), (1, 1, 2));
        assert_eq!((counts.requests(), counts.bytes), (7, 30));
        assert_eq!(tally.samples().len(), 4);
        assert_eq!(counts.right().hit_rate(), Some(1.0 / 3.0));
    }
}
