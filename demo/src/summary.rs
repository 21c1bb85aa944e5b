//! What the demo has shown: as JSON for programs, as text for people, and whether all of it was as
//! it should be. Pure.

use std::collections::BTreeMap;

use baton_cli::output::table;
use baton_testbed::TwoOwners;
use serde::Serialize;

use crate::account::Reading;
use crate::phase::Phase;
use crate::site::CACHED;
use crate::tally::percent;
use crate::workload::CONTENTS;

/// So many of the connections that two servers answered are described; all are counted.
const TOLD: usize = 5;

/// The whole demo, as in `summary.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Requests made.
    pub requests: u64,
    /// Bodies that were not the right ones.
    pub body_errors: u64,
    /// RSTs that were sent to clients: those that clients' sockets saw, or those on the cable if
    /// these are more.
    pub client_resets: u64,
    /// Requests that met another fault: refused, timed out, closed early, a status other than 200.
    pub other_faults: u64,
    /// Connections that were handed off by one node to another.
    pub handoffs: u64,
    /// Connections that two servers answered, as the clients' capture shows; none where nothing was captured.
    pub two_owners: Option<u64>,
    /// Connections that were served where they arrived.
    pub served_at_home: u64,
    /// Where bytes went.
    pub bytes: Bytes,
    /// How each policy did, by its name.
    pub policies: BTreeMap<String, PolicySummary>,
    /// What went wrong, in sentences; empty if nothing did.
    pub problems: Vec<String>,
}

/// Bytes, as nftables counted them on the cables between the router and the machines (IP packets
/// with headers), but for `bodies`.
#[derive(Clone, Debug, Serialize)]
pub struct Bytes {
    /// Server to client, as the servers sent them.
    pub served: u64,
    /// Server to client, that went to the switch.
    pub through_switch: u64,
    /// Server to client, that went to any node: to a distributor that is in the way.
    pub through_distributors: u64,
    /// Client to server, that went to the switch: requests and acknowledgements.
    pub requests_through_switch: u64,
    /// Bodies, as the clients received and checked them.
    pub bodies: u64,
}

/// One policy.
#[derive(Clone, Debug, Serialize)]
pub struct PolicySummary {
    /// Seconds that the workload ran.
    pub seconds: f64,
    /// Requests made.
    pub requests: u64,
    /// Right answers a second, from empty caches on.
    pub throughput_rps: f64,
    /// The share of requests that the origin never saw.
    pub hit_rate: f64,
    /// The same, as the servers say in `X-Cache`.
    pub hit_rate_by_header: f64,
    /// Requests that the origin got.
    pub origin_requests: u64,
    /// Connections that were handed off by one node to another.
    pub handoffs: u64,
    /// Right answers by node.
    pub by_node: Vec<u64>,
}

impl Summary {
    /// All phases and the cables together, and the connections that two servers answered, if it was looked for.
    pub fn new(phases: &[Phase], cables: Reading, two_owners: Option<&[TwoOwners]>) -> Self {
        let sum = |what: fn(&Phase) -> u64| phases.iter().map(what).sum::<u64>();
        let mut summary = Self {
            requests: sum(|phase| phase.counts.requests()),
            body_errors: sum(|phase| phase.counts.body_errors),
            client_resets: sum(|phase| phase.counts.resets).max(cables.resets),
            other_faults: sum(|phase| phase.counts.others),
            handoffs: sum(|phase| phase.handoffs),
            two_owners: two_owners.map(|all| all.len() as u64),
            served_at_home: sum(|phase| phase.at_home),
            bytes: Bytes {
                served: cables.served,
                through_switch: cables.through_switch,
                through_distributors: cables.through_distributors,
                requests_through_switch: cables.requests_through_switch,
                bodies: sum(|phase| phase.counts.bytes),
            },
            policies: phases.iter().map(|phase| (phase.policy.to_string(), policy(phase))).collect(),
            problems: Vec::new(),
        };
        summary.problems = summary.find_problems();
        for sample in phases.iter().flat_map(|phase| &phase.samples) {
            summary.problems.push(format!("for example: {sample}"));
        }
        for both in two_owners.unwrap_or_default().iter().take(TOLD) {
            summary.problems.push(format!("for example: {both}"));
        }
        summary
    }

    fn find_problems(&self) -> Vec<String> {
        let wrong = [
            (self.body_errors, "bodies were wrong"),
            (self.client_resets, "times a client's connection was reset"),
            (self.other_faults, "requests were not answered as they should"),
            (self.two_owners.unwrap_or_default(), "connections were answered by two servers"),
            (self.bytes.through_switch, "bytes of responses went to the switch"),
            (self.bytes.through_distributors, "bytes of responses went to another node"),
        ];
        let mut problems: Vec<_> =
            wrong.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        if self.handoffs == 0 {
            problems.push("no connection was handed off".to_owned());
        }
        if self.bytes.served < self.bytes.bodies {
            problems.push("the clients received more than the servers sent".to_owned());
        }
        problems
    }

    /// For people.
    pub fn describe(&self) -> String {
        let mut text = format!("{}\n{}", self.comparison(), self.traffic());
        let verdict = match self.problems.as_slice() {
            [] => "\nEvery byte of every answer was right, and no client noticed a handoff.\n".to_owned(),
            problems => format!("\nNOT AS IT SHOULD BE:\n  {}\n", problems.join("\n  ")),
        };
        text.push_str(&verdict);
        text
    }

    fn comparison(&self) -> String {
        let policy = |name: &str| self.policies.get(name);
        let (Some(wrr), Some(lard)) = (policy("wrr"), policy("lard")) else { return String::new() };
        let count = |what: &str, of: fn(&PolicySummary) -> u64| {
            [what.to_owned(), grouped(of(wrr)), grouped(of(lard)), String::new()]
        };
        let rows = [
            [
                "requests answered a second".to_owned(),
                grouped(wrr.throughput_rps as u64),
                grouped(lard.throughput_rps as u64),
                times(lard.throughput_rps, wrr.throughput_rps),
            ],
            [
                "found in a node's cache".to_owned(),
                percent(Some(wrr.hit_rate)),
                percent(Some(lard.hit_rate)),
                String::new(),
            ],
            count("requests, one connection each", |policy| policy.requests),
            count("  that the slow origin had to answer", |policy| policy.origin_requests),
            count("  handed off to another node", |policy| policy.handoffs),
        ];
        format!(
            "Round robin (wrr) spreads requests evenly; LARD sends the same content to the same node.\n\
             A node's cache holds {CACHED} of {CONTENTS} pages: four nodes that each cache the same\n\
             pages have the memory of one, four that share the work by content have that of four.\n\n{}",
            table(["", "WRR", "LARD", "LARD / WRR"], rows)
        )
    }

    fn traffic(&self) -> String {
        let Bytes { served, through_switch, through_distributors, requests_through_switch, .. } = self.bytes;
        let rows = [
            ["sent by the servers".to_owned(), bytes(served)],
            ["  of that, through the switch".to_owned(), bytes(through_switch)],
            ["  of that, through a distributor".to_owned(), bytes(through_distributors)],
            ["requests and acknowledgements through the switch".to_owned(), bytes(requests_through_switch)],
        ];
        format!(
            "Where the bytes went, counted on the cables:\n\n{}\n\
             {} requests, {} connections handed off, {} wrong bodies, {} resets seen by clients\n",
            table(["ANSWERS", ""], rows),
            grouped(self.requests),
            grouped(self.handoffs),
            self.body_errors,
            self.client_resets
        )
    }
}

fn policy(phase: &Phase) -> PolicySummary {
    let right = phase.counts.right();
    let requests = phase.counts.requests();
    let missed = phase.origin_requests.min(requests);
    PolicySummary {
        seconds: phase.took.as_secs_f64(),
        requests,
        throughput_rps: right.answers as f64 / phase.took.as_secs_f64(),
        hit_rate: (requests - missed) as f64 / requests.max(1) as f64,
        hit_rate_by_header: right.hit_rate().unwrap_or_default(),
        origin_requests: phase.origin_requests,
        handoffs: phase.handoffs,
        by_node: phase.counts.nodes.iter().map(|node| node.answers).collect(),
    }
}

/// `4.0 x`, or a dash where there is nothing to compare with.
fn times(more: f64, less: f64) -> String {
    if less > 0.0 { format!("{:.1} x", more / less) } else { "-".to_owned() }
}

/// `12,345`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `812.4 MB`; small numbers in full, so that 0 is 0.
fn bytes(n: u64) -> String {
    match n {
        0..10_000 => format!("{n} bytes"),
        10_000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        _ => format!("{:.1} MB", n as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use baton_cluster::PolicyKind;
    use baton_testbed::{Sign, TwoOwners};

    use super::super::account::Reading;
    use super::super::phase::Phase;
    use super::super::tally::{Answers, Counts};
    use super::{Summary, bytes, grouped, times};

    fn phase(policy: PolicyKind, answers: u64, origin_requests: u64) -> Phase {
        let nodes = vec![Answers { answers, hits: answers - origin_requests }];
        Phase {
            policy,
            took: Duration::from_secs(10),
            counts: Counts { nodes, bytes: 1000, ..Counts::default() },
            samples: Vec::new(),
            origin_requests,
            handoffs: answers / 2,
            at_home: answers - answers / 2,
        }
    }

    fn good() -> ([Phase; 2], Reading) {
        let phases = [phase(PolicyKind::WeightedRoundRobin, 1000, 500), phase(PolicyKind::Lard, 4000, 200)];
        (phases, Reading { served: 5000, requests_through_switch: 300, ..Reading::default() })
    }

    #[test]
    fn a_good_demo_has_no_problems_and_says_so() {
        let (phases, cables) = good();
        let summary = Summary::new(&phases, cables, Some(&[]));
        assert_eq!((summary.requests, summary.handoffs, summary.served_at_home), (5000, 2500, 2500));
        assert_eq!(summary.policies["wrr"].hit_rate, 0.5);
        assert_eq!(summary.policies["lard"].throughput_rps, 400.0);
        assert!(summary.problems.is_empty(), "{:?}", summary.problems);
        let text = summary.describe();
        assert!(text.contains("4.0 x") && text.contains("95 %") && text.contains("Every byte"), "{text}");
    }

    #[test]
    fn each_broken_promise_is_a_problem() {
        type Break = fn(&mut [Phase; 2], &mut Reading);
        let breaks: [Break; 7] = [
            |phases, _| phases[0].counts.body_errors = 1,
            |phases, _| phases[1].counts.resets = 1,
            |phases, _| phases[1].counts.others = 1,
            |_, cables| cables.resets = 1,
            |_, cables| cables.through_switch = 1,
            |_, cables| cables.through_distributors = 1,
            |phases, _| phases.iter_mut().for_each(|phase| phase.handoffs = 0),
        ];
        for (i, spoil) in breaks.into_iter().enumerate() {
            let (mut phases, mut cables) = good();
            spoil(&mut phases, &mut cables);
            let summary = Summary::new(&phases, cables, None);
            assert_eq!(summary.problems.len(), 1, "{i}: {:?}", summary.problems);
            assert!(summary.describe().contains(&summary.problems[0]));
        }
    }

    #[test]
    fn a_connection_with_two_owners_is_a_problem() {
        let (phases, cables) = good();
        let (client, server) = ("10.2.0.2:4000", "10.99.0.1:80");
        let both = TwoOwners {
            client: client.parse().expect("an address"),
            server: server.parse().expect("an address"),
            sign: Sign::Bytes(17),
        };
        let summary = Summary::new(&phases, cables, Some(&[both]));
        assert_eq!((summary.two_owners, summary.problems.len()), (Some(1), 2));
        assert!(summary.describe().contains(client), "{}", summary.describe());
    }

    #[test]
    fn the_file_has_the_fields_that_others_read() {
        let (phases, cables) = good();
        let json = serde_json::to_value(Summary::new(&phases, cables, Some(&[]))).expect("a summary is JSON");
        for pointer in [
            "/requests",
            "/body_errors",
            "/client_resets",
            "/handoffs",
            "/two_owners",
            "/bytes/served",
            "/bytes/through_switch",
            "/bytes/through_distributors",
            "/policies/wrr/hit_rate",
            "/policies/lard/throughput_rps",
        ] {
            assert!(json.pointer(pointer).is_some_and(serde_json::Value::is_number), "{pointer} in {json}");
        }
    }

    #[test]
    fn quantities_are_told_for_people() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([times(10.0, 4.0), times(10.0, 0.0)], ["2.5 x", "-"]);
        assert_eq!([0, 12_345, 812_400_000].map(bytes), ["0 bytes", "12.3 kB", "812.4 MB"]);
    }
}
