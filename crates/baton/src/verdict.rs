//! The one sentence with which `baton status` begins: is the cluster well, and if not, what is to be done? By what is
//! so now, not by what has been counted since the start. Pure.
//!
//! A problem is what clients may suffer from. A warning is what somebody should know, and no reason to be called at night.

use baton_node::status::{
    ClusterStatus, ConnectionState, ConnectionStatus, DispatcherStanding, DoubtStatus, NodeStatus,
};
use serde::Serialize;

use crate::measured;
use crate::output::count;
use crate::status_tables::{asks, duration, names};

/// What to say of a cluster.
#[derive(Debug, Serialize)]
pub struct ClusterVerdict {
    /// Nothing needs anybody.
    pub well: bool,
    /// What does.
    pub problems: Vec<Problem>,
    /// What is not as it should be, though no client suffers.
    pub warnings: Vec<Problem>,
}

/// One thing that is not well.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The nodes that it is about.
    pub(crate) nodes: Vec<String>,
    pub(crate) what: String,
    pub(crate) help: String,
}

impl ClusterVerdict {
    /// Judges a cluster, as the asked node sees it.
    pub fn of(status: &ClusterStatus) -> Self {
        let away = status.nodes.iter().filter(|node| !node.reachable).map(|node| away(status, node));
        let lost = measured::lost_handoffs(status);
        let parted = parted(status);
        let asked = slow(status).chain(unasked(status));
        let servers = dead(status).into_iter().chain(doubted(status)).chain(lost);
        let known = away.chain(parted).chain(files(status)).chain(asked).chain(servers);
        let problems: Vec<_> = known.chain(measured::hosts_lost(status)).collect();
        Self { well: problems.is_empty(), problems, warnings: measured::warnings(status) }
    }

    /// For the end of a line, and the lines after it.
    pub fn describe(&self) -> String {
        let mut told = match self.problems.len() {
            0 => "well".to_owned(),
            problems => format!("NOT WELL, {}", count(problems, "problem")),
        };
        if !self.warnings.is_empty() {
            told.push_str(&format!(", {}", count(self.warnings.len(), "warning")));
        }
        told.push('\n');
        let marked = |mark: &'static str| move |problem| (mark, problem);
        let warnings = self.warnings.iter().map(marked("warning: "));
        for (mark, Problem { what, help, .. }) in self.problems.iter().map(marked("")).chain(warnings) {
            told.push_str(&format!("  {mark}{what}\n    -> {help}\n"));
        }
        told
    }
}

/// A node that did not answer.
fn away(status: &ClusterStatus, node: &NodeStatus) -> Problem {
    let name = &node.name;
    let seen = status.asked_node().and_then(|asked| asked.connections.iter().find(|c| c.peer == *name));
    let (what, help) = match seen {
        Some(ConnectionStatus { state: ConnectionState::Up, .. }) => (
            format!("{name} does not answer, though its control connection is up"),
            "look at its log, and at how busy its machine is".to_owned(),
        ),
        Some(ConnectionStatus { last_error, since_s, .. }) => {
            let why = last_error.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
            (
                format!("{name} has been down for {}{why}", duration(*since_s)),
                format!(
                    "does `baton node` run on {name}? Its log says more, and so does `baton status` there"
                ),
            )
        }
        None => {
            (format!("nothing is known of {name}"), "look at the log of the node that was asked".to_owned())
        }
    };
    Problem { nodes: vec![name.clone()], what, help }
}

/// Nodes that answer, but have no connection to each other.
fn parted(status: &ClusterStatus) -> Vec<Problem> {
    let mut found: Vec<Problem> = Vec::new();
    let answer = |name: &str| status.nodes.iter().any(|node| node.reachable && node.name == name);
    for node in status.nodes.iter().filter(|node| node.reachable) {
        let down = node.connections.iter().filter(|c| c.state == ConnectionState::Down && answer(&c.peer));
        for ConnectionStatus { peer, last_error, .. } in down {
            let mut nodes = vec![node.name.clone(), peer.clone()];
            nodes.sort();
            if found.iter().any(|problem| problem.nodes == nodes) {
                continue;
            }
            let why = last_error.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
            let what =
                format!("{} and {} have no connection{why}{}", node.name, peer, around(status, &nodes));
            let help = "the network between the two, or a firewall on one of them, stops the control port";
            found.push(Problem { nodes, what, help: help.to_owned() });
        }
    }
    found
}

/// How the cluster gets on without a connection between two nodes that both answer.
fn around(status: &ClusterStatus, nodes: &[String]) -> String {
    let with = |name: &str| status.nodes.iter().find(|node| node.reachable && node.name == name);
    let mut told = String::new();
    for (one, other) in [(0, 1), (1, 0)] {
        let (Some(one), Some(other)) =
            (nodes.get(one).and_then(|n| with(n)), nodes.get(other).and_then(|n| with(n)))
        else {
            continue;
        };
        let plays = |node: &NodeStatus, role: &str| node.roles.iter().any(|name| name == role);
        let asked = asks(one).filter(|asked| *asked != other.name && plays(other, "dispatcher"));
        if let Some(asked) = asked {
            told.push_str(&format!("; {} asks {asked}", one.name));
        }
        if plays(one, "distributor") && plays(other, "server") {
            told.push_str(&format!("; {} gives {} no connections", one.name, other.name));
        }
    }
    told
}

/// Dispatchers that have not answered in time.
fn slow(status: &ClusterStatus) -> impl Iterator<Item = Problem> {
    let dispatchers = status.nodes.iter().filter(|node| node.roles.iter().any(|role| role == "dispatcher"));
    dispatchers.filter_map(|node| {
        let by = names(status, &node.name, DispatcherStanding::Slow)?;
        let what =
            format!("{} does not answer in time as dispatcher; left alone for a while by {by}", node.name);
        let help = format!("look at the log of {}, and at how busy its machine is", node.name);
        Some(Problem { nodes: vec![node.name.clone()], what, help })
    })
}

/// Nodes that have nobody to ask.
fn unasked(status: &ClusterStatus) -> Option<Problem> {
    let alone =
        |node: &&NodeStatus| node.reachable && !node.decisions.dispatchers.is_empty() && asks(node).is_none();
    let nodes: Vec<String> = status.nodes.iter().filter(alone).map(|node| node.name.clone()).collect();
    if nodes.is_empty() {
        return None;
    }
    let what = format!(
        "no dispatcher answers {}: requests are spread without regard to what servers hold",
        nodes.join(", ")
    );
    let help =
        "start a node with the role dispatcher; two or three with it stand in for each other".to_owned();
    Some(Problem { nodes, what, help })
}

/// Nodes whose files differ: somebody has to reload, or to restart.
fn files(status: &ClusterStatus) -> Option<Problem> {
    let known: Vec<&NodeStatus> = status.nodes.iter().filter(|node| node.reachable).collect();
    let mut files: Vec<(&str, Vec<&str>)> = Vec::new();
    for node in &known {
        match files.iter_mut().find(|(file, _)| *file == node.file) {
            Some((_, nodes)) => nodes.push(&node.name),
            None => files.push((&node.file, vec![&node.name])),
        }
    }
    let (first, others) = files.split_first().filter(|(_, others)| !others.is_empty())?;
    let by = |(file, nodes): &(&str, Vec<&str>)| format!("{} by {file}", nodes.join(", "));
    let each: Vec<_> = std::iter::once(first).chain(others).map(by).collect();
    let what = format!("nodes go by {} cluster files: {}", files.len(), each.join("; "));
    let help = "give all of them the same file, then `baton reload` on each; what it refuses to change needs a \
                restart of that node";
    let nodes = known.iter().map(|node| node.name.clone()).collect();
    Some(Problem { nodes, what, help: help.to_owned() })
}

/// Servers that answer, but are given nothing; by the dispatcher, else by the node that was asked.
fn dead(status: &ClusterStatus) -> Vec<Problem> {
    let is_dispatcher = |node: &&NodeStatus| node.reachable && node.roles.iter().any(|r| r == "dispatcher");
    let knower = status.nodes.iter().find(is_dispatcher).or(status.asked_node());
    let Some(knower) = knower.filter(|node| !node.loads.is_empty()) else { return Vec::new() };
    if knower.loads.iter().all(|load| !load.live) {
        let what = "no server is alive: clients are refused".to_owned();
        let help = "start a server; the log of each node says why it is not there".to_owned();
        let nodes = knower.loads.iter().map(|load| load.server.clone()).collect();
        return vec![Problem { nodes, what, help }];
    }
    let answers = |name: &str| status.nodes.iter().any(|node| node.reachable && node.name == name);
    let idle = knower.loads.iter().filter(|load| !load.live && answers(&load.server));
    idle.map(|load| {
        let what = format!("{} answers, but {} gives it no connections", load.server, knower.name);
        let help = format!("look at the logs of {} and {}", load.server, knower.name);
        Problem { nodes: vec![load.server.clone()], what, help }
    })
    .collect()
}

/// Servers that packets show not to work, whoever has seen it.
fn doubted(status: &ClusterStatus) -> Vec<Problem> {
    let all = status.nodes.iter().flat_map(|node| node.doubts.iter().map(move |doubt| (node, doubt)));
    all.map(|(node, DoubtStatus { server, pool, seen, count: times, help })| {
        let place = pool.as_deref().map(|pool| format!(" for {pool}")).unwrap_or_default();
        let by = if node.name == *server { String::new() } else { format!(", as {} sees", node.name) };
        let times = count(usize::try_from(*times).unwrap_or(usize::MAX), "time");
        let what = format!("{server} does not work{place}: {seen} (seen {times}{by})");
        Problem { nodes: vec![server.clone()], what, help: format!("on {server}: {help}") }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use baton_node::status::{DispatcherStatus, LoadStatus};

    use super::*;

    fn connection(peer: &str, why: Option<&str>) -> ConnectionStatus {
        ConnectionStatus {
            peer: peer.to_owned(),
            state: if why.is_some() { ConnectionState::Down } else { ConnectionState::Up },
            since_s: 7,
            last_error: why.map(str::to_owned),
            ..ConnectionStatus::default()
        }
    }

    fn node(name: &str, connections: Vec<ConnectionStatus>) -> NodeStatus {
        let (name, file) = (name.to_owned(), "00aa".to_owned());
        NodeStatus { name, reachable: true, file, connections, ..NodeStatus::default() }
    }

    /// Three nodes that reach each other.
    fn well() -> ClusterStatus {
        let all = ["a", "b", "c"];
        let nodes = all.map(|name| {
            let others = all.into_iter().filter(|other| *other != name);
            node(name, others.map(|other| connection(other, None)).collect())
        });
        ClusterStatus { cluster: "web".to_owned(), asked: "a".to_owned(), nodes: nodes.to_vec() }
    }

    fn whats(status: &ClusterStatus) -> Vec<String> {
        ClusterVerdict::of(status).problems.into_iter().map(|problem| problem.what).collect()
    }

    #[test]
    fn a_cluster_whose_nodes_reach_each_other_is_well() {
        assert_eq!(ClusterVerdict::of(&well()).describe(), "well\n");
        let mut counted = well();
        counted.nodes[0].troubles.errors = 3;
        assert_eq!(whats(&counted), [""; 0], "what was once is no news");
    }

    #[test]
    fn what_is_not_well_is_told_once() {
        let mut down = well();
        down.nodes[1] = NodeStatus { name: "b".to_owned(), ..NodeStatus::default() };
        down.nodes[0].connections[0] = connection("b", Some("nothing was heard for 1000 ms"));
        down.nodes[2].connections[1] = connection("b", Some("refused"));
        assert_eq!(whats(&down), ["b has been down for 7s: nothing was heard for 1000 ms"]);

        let mut mute = well();
        mute.nodes[2].reachable = false;
        assert_eq!(whats(&mute), ["c does not answer, though its control connection is up"]);

        let mut parted = well();
        parted.nodes[1].connections[1] = connection("c", Some("no route"));
        parted.nodes[2].connections[1] = connection("b", Some("no route"));
        assert_eq!(whats(&parted), ["b and c have no connection: no route"]);

        let mut files = well();
        files.nodes[2].file = "00bb".to_owned();
        assert_eq!(whats(&files), ["nodes go by 2 cluster files: a, b by 00aa; c by 00bb"]);
    }

    #[test]
    fn dispatchers_that_are_slow_or_gone_are_told() {
        let stand = |all: &[(&str, DispatcherStanding)]| {
            let one = |(name, standing): &(&str, DispatcherStanding)| DispatcherStatus {
                dispatcher: (*name).to_owned(),
                standing: *standing,
                late: 0,
            };
            all.iter().map(one).collect::<Vec<_>>()
        };
        use DispatcherStanding::{Asked, Down, Slow, Standby};
        let mut status = well();
        for node in &mut status.nodes[1..] {
            node.roles = vec!["dispatcher".to_owned()];
        }
        status.nodes[0].decisions.dispatchers = stand(&[("b", Asked), ("c", Standby)]);
        assert_eq!(whats(&status), [""; 0]);
        status.nodes[0].decisions.dispatchers = stand(&[("b", Slow), ("c", Asked)]);
        assert_eq!(whats(&status), ["b does not answer in time as dispatcher; left alone for a while by a"]);
        status.nodes[0].roles = vec!["distributor".to_owned()];
        status.nodes[1].roles.push("server".to_owned());
        status.nodes[0].decisions.dispatchers = stand(&[("b", Down), ("c", Asked)]);
        status.nodes[0].connections[0] = connection("b", Some("no route"));
        let told = "a and b have no connection: no route; a asks c; a gives b no connections";
        assert_eq!(whats(&status), [told]);
        let mut alone = well();
        alone.nodes[2].decisions.dispatchers = stand(&[("b", Down)]);
        let told = "no dispatcher answers c: requests are spread without regard to what servers hold";
        assert_eq!(whats(&alone), [told]);
    }

    #[test]
    fn servers_that_get_nothing_are_told() {
        let mut status = well();
        let load =
            |server: &str, live| LoadStatus { server: server.to_owned(), live, ..LoadStatus::default() };
        status.nodes[0].loads = vec![load("b", true), load("c", false)];
        assert_eq!(whats(&status), ["c answers, but a gives it no connections"]);
        status.nodes[0].loads = vec![load("b", false), load("c", false)];
        assert_eq!(whats(&status), ["no server is alive: clients are refused"]);
        // The dispatcher knows best.
        status.nodes[1].roles = vec!["dispatcher".to_owned()];
        status.nodes[1].loads = vec![load("b", true), load("c", true)];
        assert_eq!(whats(&status), [""; 0]);
    }

    #[test]
    fn servers_that_do_not_work_are_told_with_what_was_seen() {
        let mut status = well();
        let doubt = |pool: Option<&str>, seen: &str| DoubtStatus {
            server: "b".to_owned(),
            pool: pool.map(str::to_owned),
            seen: seen.to_owned(),
            count: 3,
            help: "look".to_owned(),
        };
        status.nodes[1].doubts = vec![doubt(Some("www/site"), "nobody listens on the service's port")];
        status.nodes[0].doubts = vec![doubt(None, "handoff packets never arrive")];
        assert_eq!(
            whats(&status),
            [
                "b does not work: handoff packets never arrive (seen 3 times, as a sees)",
                "b does not work for www/site: nobody listens on the service's port (seen 3 times)",
            ]
        );
    }
}
