//! What `baton status` concludes from what the nodes measure: clocks that are far apart, ways that carry less than the
//! links do, ways by which no handoff arrives; and from what others do to their hosts. Pure.

use std::collections::{BTreeMap, BTreeSet};

use baton_node::status::{ClusterStatus, ConnectionState, ConnectionStatus, NodeStatus};

use crate::output::count;
use crate::status_tables::duration;
use crate::verdict::Problem;

/// Clocks further apart than this, microseconds, are told of: logs are compared by them.
const APART_US: u64 = 1_000_000;
/// A way by which no probe has arrived for so long, seconds, is one that probes do not get through.
const UNPROVED_S: u64 = 20;

/// All that clients do not suffer from.
pub(crate) fn warnings(status: &ClusterStatus) -> Vec<Problem> {
    let unproved = unproved(status).filter(|(from, to)| !hands_off(status, from, &to.peer));
    let unproved = unproved.map(|(from, to)| {
        let what = format!(
            "how large packets from {} to {} may be is not known: no probe arrives",
            from.name, to.peer
        );
        Problem { nodes: vec![from.name.clone(), to.peer.clone()], what, help: let_through(status, &to.peer) }
    });
    clocks(status).into_iter().chain(narrow(status)).chain(unproved).chain(hosts(status)).collect()
}

/// Connections that are up, from nodes that answer.
fn ways(status: &ClusterStatus) -> impl Iterator<Item = (&NodeStatus, &ConnectionStatus)> {
    let nodes = status.nodes.iter().filter(|node| node.reachable);
    let up = |node| move |connection| (node, connection);
    nodes.flat_map(move |node: &NodeStatus| {
        node.connections.iter().filter(|c| c.state == ConnectionState::Up).map(up(node))
    })
}

/// Those whose packets should have been acknowledged, and have not.
fn unproved(status: &ClusterStatus) -> impl Iterator<Item = (&NodeStatus, &ConnectionStatus)> {
    ways(status)
        .filter(|(node, c)| c.path_mtu.is_none() && c.since_s >= UNPROVED_S && node.since_s >= UNPROVED_S)
}

/// Whether one node may hand a new connection to another.
fn hands_off(status: &ClusterStatus, from: &NodeStatus, to: &str) -> bool {
    let serves = status.nodes.iter().any(|node| node.name == to && plays(node, "server"));
    serves && plays(from, "distributor")
}

fn plays(node: &NodeStatus, role: &str) -> bool {
    node.roles.iter().any(|name| name == role)
}

/// Servers that distributors hand connections to, and whose control connections are up, but that no packet of that kind
/// reaches: one for each server.
pub(crate) fn lost_handoffs(status: &ClusterStatus) -> Vec<Problem> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for (from, to) in unproved(status).filter(|(from, to)| hands_off(status, from, &to.peer)) {
        match found.iter_mut().find(|(server, _)| *server == to.peer) {
            Some((_, distributors)) => distributors.push(from.name.clone()),
            None => found.push((to.peer.clone(), vec![from.name.clone()])),
        }
    }
    let problem = |(server, distributors): (String, Vec<String>)| {
        let by = distributors.join(", ");
        let what =
            format!("no handoff packet from {by} arrives at {server}, though it answers: its clients wait");
        let help = let_through(status, &server);
        let nodes = std::iter::once(server).chain(distributors).collect();
        Problem { nodes, what, help }
    };
    found.into_iter().map(problem).collect()
}

fn let_through(status: &ClusterStatus, to: &str) -> String {
    let address = status.nodes.iter().find(|node| node.name == to).map_or(to, |node| &node.address);
    format!(
        "does the network let UDP to {address} at the handoff port through (`baton check` names it)? Firewalls of \
         routers and clouds often do not; those of the nodes do not matter"
    )
}

/// Clocks that are not what most others are. Nothing but logs depends on them.
fn clocks(status: &ClusterStatus) -> Option<Problem> {
    let asked = status.asked_node()?;
    let known = asked.connections.iter().filter(|c| c.state == ConnectionState::Up);
    let others = known.filter_map(|c| Some((c.peer.as_str(), c.clock_ahead_us?)));
    let all: Vec<(&str, i64)> = std::iter::once((asked.name.as_str(), 0)).chain(others).collect();
    let agree = |with: i64| all.iter().filter(|(_, ahead)| ahead.abs_diff(with) <= APART_US).count();
    // Of several the first: that of the node that was asked.
    let most = all.iter().map(|(_, ahead)| agree(*ahead)).max()?;
    let right = all.iter().map(|(_, ahead)| *ahead).find(|ahead| agree(*ahead) == most)?;
    let off = |(name, ahead): &(&str, i64)| {
        let by = Some(ahead.saturating_sub(right)).filter(|by| by.unsigned_abs() > APART_US)?;
        let way = if by > 0 { "ahead" } else { "behind" };
        let seconds = by.unsigned_abs().saturating_add(500_000) / 1_000_000;
        Some(((*name).to_owned(), format!("{name} is {} {way}", duration(seconds))))
    };
    let (nodes, each): (Vec<_>, Vec<_>) = all.iter().filter_map(off).unzip();
    if nodes.is_empty() {
        return None;
    }
    let what = format!("wall clocks differ: {}", each.join(", "));
    let help =
        "set them right (timedatectl set-ntp true); no handoff depends on them, but logs cannot be compared";
    Some(Problem { nodes, what, help: help.to_owned() })
}

/// Ways that carry less than the link does where they begin. One line for all of one width, and one for both directions.
fn narrow(status: &ClusterStatus) -> Vec<Problem> {
    let mut found: BTreeMap<(u16, u16), BTreeSet<[&str; 2]>> = BTreeMap::new();
    for (node, to) in ways(status) {
        let Some(mtu) = to.path_mtu.filter(|mtu| *mtu < node.link_mtu) else { continue };
        let mut pair = [node.name.as_str(), to.peer.as_str()];
        pair.sort_unstable();
        found.entry((mtu, node.link_mtu)).or_default().insert(pair);
    }
    let problem = |((mtu, link), pairs): ((u16, u16), BTreeSet<[&str; 2]>)| {
        let more = match pairs.len() {
            0..=3 => String::new(),
            all => format!(", and {}", count(all - 3, "other pair")),
        };
        let named: Vec<_> = pairs.iter().take(3).map(|[one, other]| format!("{one} and {other}")).collect();
        let what = format!(
            "packets between {}{more} may have {mtu} bytes, though the interfaces carry {link}",
            named.join("; ")
        );
        let help = format!(
            "Baton keeps to {mtu}; what lies between (switch, tunnel, router) should carry {link}, or the interfaces \
             should say {mtu}: ip link set DEV mtu {mtu}"
        );
        let nodes: BTreeSet<_> = pairs.iter().flatten().map(|name| (*name).to_owned()).collect();
        Problem { nodes: nodes.into_iter().collect(), what, help }
    };
    found.into_iter().map(problem).collect()
}

/// Nodes that are about to leave their hosts, and VIPs at which clients do not find Baton.
pub(crate) fn hosts_lost(status: &ClusterStatus) -> Vec<Problem> {
    let mut found = Vec::new();
    for node in &status.nodes {
        let name = &node.name;
        let mut tell = |what, help| found.push(Problem { nodes: vec![name.clone()], what, help });
        if let Some(why) = &node.host.lost {
            let what = format!("{name} leaves soon, because it cannot be on its host: {why}");
            tell(what, format!("put that back on {name}; then start the node again if it has ended"));
        }
        if let Some(where_) = &node.host.misplaced {
            let what = format!("on {name}, {where_}: clients whose router finds it there do not find Baton");
            tell(what, format!("take the address away on {name} by that command"));
        }
    }
    found
}

/// Programs that fight a node for its host, which the node wins each time, and such as come before Baton's.
fn hosts(status: &ClusterStatus) -> Vec<Problem> {
    let mut found = Vec::new();
    for node in &status.nodes {
        let name = &node.name;
        let mut tell = |what, help: &str| {
            found.push(Problem { nodes: vec![name.clone()], what, help: help.to_owned() });
        };
        if let Some(what) = &node.host.fought {
            tell(
                format!("something on {name} changes {what} again and again; it is put back each time"),
                "find the program that sets it (a network manager, a configuration system), and stop it",
            );
        }
        if !node.host.in_front.is_empty() {
            tell(
                format!(
                    "on {name}, other programs see packets before Baton's: on {}",
                    node.host.in_front.join(", ")
                ),
                "what they keep, or pass to the kernel, Baton does not see; `bpftool net` there names them",
            );
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::ClusterVerdict;

    /// Three nodes that have reached each other for a minute; `a` distributes, the others serve.
    fn cluster() -> ClusterStatus {
        let all = ["a", "b", "c"];
        let nodes = all.map(|name| {
            let connection = |peer: &str| ConnectionStatus {
                peer: peer.to_owned(),
                state: ConnectionState::Up,
                since_s: 60,
                clock_ahead_us: Some(900_000),
                path_mtu: Some(1500),
                ..ConnectionStatus::default()
            };
            NodeStatus {
                name: name.to_owned(),
                address: format!("10.1.0.{name}"),
                roles: vec![if name == "a" { "distributor" } else { "server" }.to_owned()],
                reachable: true,
                since_s: 61,
                link_mtu: 1500,
                connections: all.into_iter().filter(|other| *other != name).map(connection).collect(),
                ..NodeStatus::default()
            }
        });
        ClusterStatus { cluster: "web".to_owned(), asked: "a".to_owned(), nodes: nodes.to_vec() }
    }

    fn told(status: &ClusterStatus) -> (Vec<String>, Vec<String>) {
        let verdict = ClusterVerdict::of(status);
        let whats = |of: Vec<Problem>| of.into_iter().map(|problem| problem.what).collect();
        assert_eq!(verdict.well, verdict.problems.is_empty());
        (whats(verdict.problems), whats(verdict.warnings))
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn clocks_that_are_not_what_most_are_are_a_warning() {
        let mut status = cluster();
        assert_eq!(told(&status), (vec![], vec![]), "up to a second");
        status.nodes[0].connections[1].clock_ahead_us = Some(-180_000_000);
        assert_eq!(told(&status).1, ["wall clocks differ: c is 3m 0s behind"]);
        assert!(
            ClusterVerdict::of(&status).describe().starts_with("well, 1 warning\n  warning: wall clocks")
        );
        // The one that is asked is the one that is wrong.
        status.nodes[0].connections[0].clock_ahead_us = Some(-179_600_000);
        assert_eq!(told(&status).1, ["wall clocks differ: a is 3m 0s ahead"]);
        // Of two, nobody knows; of a connection that is down, neither.
        status.nodes[0].connections.remove(0);
        assert_eq!(told(&status).1, ["wall clocks differ: c is 3m 0s behind"]);
        status.nodes[0].connections[0].clock_ahead_us = Some(i64::MIN);
        assert_eq!(told(&status).1.len(), 1, "no clock is too far away");
    }

    #[test]
    fn narrow_ways_are_a_warning_once() {
        let mut status = cluster();
        status.nodes[0].connections[1].path_mtu = Some(1400);
        status.nodes[2].connections[0].path_mtu = Some(1400);
        let whats = ["packets between a and c may have 1400 bytes, though the interfaces carry 1500"];
        assert_eq!(told(&status), (vec![], whats.map(str::to_owned).to_vec()));
        for node in &mut status.nodes {
            node.link_mtu = 9000;
        }
        let (_, whats) = told(&status);
        assert_eq!(whats.len(), 2, "two widths: {whats:?}");
        status.nodes[2].link_mtu = 1400;
        assert!(told(&status).1.iter().all(|what| what.contains("carry 9000")), "c's end carries no more");
    }

    #[test]
    fn a_server_that_no_handoff_reaches_is_a_problem_and_other_ways_are_a_warning() {
        let mut status = cluster();
        status.nodes[0].connections[1].path_mtu = None;
        assert_eq!(
            told(&status).0,
            ["no handoff packet from a arrives at c, though it answers: its clients wait"]
        );
        status.nodes[0].connections[1].since_s = UNPROVED_S - 1;
        assert_eq!(told(&status).0, NONE, "not yet");
        status.nodes[1].connections[1].path_mtu = None;
        let whats = "how large packets from b to c may be is not known: no probe arrives";
        assert_eq!(told(&status), (vec![], vec![whats.to_owned()]));
        status.nodes[1].connections[1].state = ConnectionState::Down;
        assert!(
            !told(&status).1.iter().any(|what| what.contains("probe")),
            "a connection that is down has its own word"
        );
    }

    #[test]
    fn hosts_that_are_fought_over_or_lost_are_told() {
        let mut status = cluster();
        status.nodes[1].host.fought = Some("10.99.0.1 on lo".to_owned());
        let whats = "something on b changes 10.99.0.1 on lo again and again; it is put back each time";
        assert_eq!(told(&status), (vec![], vec![whats.to_owned()]));
        status.nodes[1].host.lost = Some("no interface holds 10.1.0.11".to_owned());
        assert_eq!(told(&status).0.len(), 1);
        status.nodes[1].host.misplaced = Some("eth1 holds 10.99.0.1 (ip addr del ...)".to_owned());
        status.nodes[2].host.in_front = vec!["eth0".to_owned()];
        let (problems, warnings) = told(&status);
        assert_eq!((problems.len(), warnings.len()), (2, 2), "{problems:?} {warnings:?}");
    }
}
