//! The tables that `baton status` prints. Pure.

use baton_node::status::{
    ClusterStatus, ConnectionState, CounterKind, DispatcherStanding, HostStatus, NodeStatus, ReaderStatus,
    TroubleStatus, UnknownStatus,
};

use crate::output::table;
use crate::verdict::ClusterVerdict;

/// A verdict, and a cluster's status as tables, those without rows left out.
pub fn describe(status: &ClusterStatus, verdict: &ClusterVerdict) -> String {
    let head = format!("cluster {}, as {} sees it: {}", status.cluster, status.asked, verdict.describe());
    let tables = [
        nodes(status),
        connections(status),
        loads(status),
        decisions(status),
        reader(status),
        unknown(status),
        decided(status),
        handoffs(status),
        files(status),
        ending(status),
        host(status),
        troubles(status),
    ];
    let tables = tables.into_iter().filter(|table| !table.is_empty());
    std::iter::once(head).chain(tables).collect::<Vec<_>>().join("\n")
}

fn nodes(status: &ClusterStatus) -> String {
    let rtt = |node: &NodeStatus| {
        let connection = status.asked_node()?.connections.iter().find(|c| c.peer == node.name)?;
        connection.rtt_us.filter(|_| connection.state == ConnectionState::Up)
    };
    let rows = status.nodes.iter().map(|node| {
        [
            node.name.clone(),
            node.roles.join(", "),
            if node.reachable { "up" } else { "down" }.to_owned(),
            node.address.clone(),
            duration(node.since_s),
            or_dash(rtt(node).map(micros)),
            or_dash(Some(node.version.clone()).filter(|version| !version.is_empty())),
        ]
    });
    table(["NODE", "ROLES", "STATE", "ADDRESS", "SINCE", "RTT", "VERSION"], rows)
}

/// The nodes' files, when they differ: somebody has to reload.
fn files(status: &ClusterStatus) -> String {
    let files: Vec<_> = status.nodes.iter().filter(|node| node.reachable).map(|node| &node.file).collect();
    if files.windows(2).all(|two| matches!(two, [one, other] if one == other)) {
        return String::new();
    }
    let known = status.nodes.iter().filter(|node| node.reachable);
    let rows = known.map(|node| [node.name.clone(), node.file.clone()]);
    table(["NODE", "ITS CLUSTER FILE DIFFERS"], rows)
}

/// Services that end, with the connections that some node has left: each is known to every node on its way.
fn ending(status: &ClusterStatus) -> String {
    let rows = status.nodes.iter().flat_map(|node| {
        node.ending.iter().map(|e| [e.service.clone(), node.name.clone(), e.connections.to_string()])
    });
    table(["ENDING SERVICE", "NODE", "CONNECTIONS LEFT"], rows)
}

/// Those of the asked node, and of the others those that are down: all would be the square.
fn connections(status: &ClusterStatus) -> String {
    let of_interest = status.nodes.iter().flat_map(|node| {
        let asked = node.name == status.asked;
        let wanted = node.connections.iter().filter(move |c| asked || c.state == ConnectionState::Down);
        wanted.map(move |connection| (node, connection))
    });
    let rows = of_interest.map(|(node, connection)| {
        [
            format!("{} - {}", node.name, connection.peer),
            match connection.state {
                ConnectionState::Up => "up",
                ConnectionState::Down => "down",
            }
            .to_owned(),
            duration(connection.since_s),
            or_dash(connection.rtt_us.map(micros)),
            or_dash(connection.clock_ahead_us.map(ahead)),
            or_dash(connection.path_mtu.map(|bytes| bytes.to_string())),
            format!("{} / {}", connection.messages_in, connection.messages_out),
            format!("{} / {}", bytes(connection.bytes_in), bytes(connection.bytes_out)),
            or_dash(connection.last_error.clone().filter(|_| connection.state == ConnectionState::Down)),
        ]
    });
    table(
        [
            "CONTROL CONNECTION",
            "STATE",
            "SINCE",
            "RTT",
            "CLOCK",
            "PATH MTU",
            "MESSAGES IN / OUT",
            "BYTES IN / OUT",
            "WHY DOWN",
        ],
        rows,
    )
}

/// As the dispatcher knows them, else the asked node, else any: not every node is told of loads.
fn loads(status: &ClusterStatus) -> String {
    let mut candidates = playing(status, "dispatcher").chain(status.asked_node()).chain(&status.nodes);
    let Some(knower) = candidates.find(|node| !node.loads.is_empty()) else { return String::new() };
    let doubted =
        |server: &str| status.nodes.iter().flat_map(|node| &node.doubts).any(|doubt| doubt.server == server);
    let rows = knower.loads.iter().map(|load| {
        let server = status.nodes.iter().find(|node| node.name == load.server && node.reachable);
        [
            load.server.clone(),
            match (load.live, doubted(&load.server)) {
                (false, _) => "no",
                (true, true) => "doubted",
                (true, false) => "yes",
            }
            .to_owned(),
            load.weight.to_string(),
            load.serving.to_string(),
            load.assigned.to_string(),
            or_dash(server.map(|node| node.adopted.to_string())),
            or_dash(server.map(|node| node.closed.to_string())),
            or_dash(server.map(|node| bytes(node.bytes_served))),
        ]
    });
    table(["SERVER", "LIVE", "WEIGHT", "SERVING", "+ ASSIGNED", "ADOPTED", "CLOSED", "SERVED"], rows)
}

fn decisions(status: &ClusterStatus) -> String {
    let rows = playing(status, "distributor").map(|node| {
        let d = &node.decisions;
        let counts = [d.in_kernel, d.known, d.asked, d.answered, d.batches, d.held_now];
        let [in_kernel, known, asked, answered, batches, held_now] = counts.map(|n| n.to_string());
        let [again, unreached, failed, fallback] =
            [d.reasked, d.unreachable, d.failed, d.fallback].map(|n| n.to_string());
        let asks = or_dash(asks(node).map(str::to_owned));
        [
            node.name.clone(),
            asks,
            in_kernel,
            known,
            asked,
            again,
            answered,
            batches,
            held_now,
            unreached,
            failed,
            fallback,
        ]
    });
    table(
        [
            "DISTRIBUTOR",
            "ASKS",
            "IN KERNEL",
            "KNOWN",
            "ASKED",
            "AGAIN",
            "ANSWERED",
            "BATCHES",
            "HELD NOW",
            "UNREACHED",
            "FAILED",
            "FALLBACK",
        ],
        rows,
    )
}

/// Nodes that have had to read a request head themselves.
fn reader(status: &ClusterStatus) -> String {
    let rows = status.nodes.iter().filter(|node| node.reader != ReaderStatus::default()).map(|node| {
        let r = &node.reader;
        [
            node.name.clone(),
            r.reading_now.to_string(),
            r.read.to_string(),
            r.gone.to_string(),
            [r.doubtful, r.too_slow, r.too_long, r.refused].map(|n| n.to_string()).join(" / "),
            r.alerted.to_string(),
            r.replayed.to_string(),
            r.repeated.to_string(),
            r.failed.to_string(),
        ]
    });
    table(
        [
            "READER",
            "READING NOW",
            "READ",
            "LEFT",
            "400 / 408 / 431 / 503",
            "ALERTS",
            "REPLAYED",
            "REPEATED",
            "FAILED",
        ],
        rows,
    )
}

/// Nodes that have had packets of connections that they did not know.
fn unknown(status: &ClusterStatus) -> String {
    let rows = status.nodes.iter().filter(|node| node.unknown != UnknownStatus::default()).map(|node| {
        let u = &node.unknown;
        let counts = [u.asking_now, u.asked, u.found, u.reset, u.begun, u.unanswered, u.coming, u.overflowed];
        let [a, b, c, d, e, f, g, h] = counts.map(|n| n.to_string());
        [node.name.clone(), a, b, c, d, e, f, g, h]
    });
    table(
        ["UNKNOWN", "ASKING NOW", "ASKED", "FOUND", "RESET", "BEGUN", "UNANSWERED", "COMING", "OVERFLOWED"],
        rows,
    )
}

fn decided(status: &ClusterStatus) -> String {
    let rows = playing(status, "dispatcher").map(|node| {
        let d = &node.decisions;
        let targets = or_dash(d.targets.map(|n| n.to_string()));
        [
            node.name.clone(),
            if d.ready == Some(false) { "no" } else { "yes" }.to_owned(),
            or_dash(names(status, &node.name, DispatcherStanding::Asked)),
            or_dash(names(status, &node.name, DispatcherStanding::Slow)),
            d.decided.to_string(),
            d.moves.to_string(),
            targets,
            d.learned.to_string(),
        ]
    });
    table(["DISPATCHER", "READY", "ASKED BY", "SLOW FOR", "DECIDED", "MOVES", "TARGETS", "LEARNED"], rows)
}

/// The dispatcher that a node asks.
pub fn asks(node: &NodeStatus) -> Option<&str> {
    let mut all = node.decisions.dispatchers.iter();
    all.find(|d| d.standing == DispatcherStanding::Asked).map(|d| d.dispatcher.as_str())
}

/// The nodes with which a dispatcher stands so.
pub fn names(status: &ClusterStatus, dispatcher: &str, standing: DispatcherStanding) -> Option<String> {
    let stands = |node: &&NodeStatus| {
        let mut all = node.decisions.dispatchers.iter();
        node.reachable && all.any(|d| d.dispatcher == dispatcher && d.standing == standing)
    };
    let names: Vec<&str> = status.nodes.iter().filter(stands).map(|node| node.name.as_str()).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

fn handoffs(status: &ClusterStatus) -> String {
    let all = status.nodes.iter().flat_map(|node| node.handoffs.iter().map(move |handoff| (node, handoff)));
    let rows = all.map(|(node, handoff)| [node.name.clone(), handoff.to.clone(), handoff.count.to_string()]);
    table(["HANDED OFF BY", "TO", "CONNECTIONS"], rows)
}

/// What others have changed on the nodes' hosts.
fn host(status: &ClusterStatus) -> String {
    let rows = status.nodes.iter().filter(|node| node.host != HostStatus::default()).map(|node| {
        let h = &node.host;
        let lost = h.lost.as_ref().map(|lost| format!("LEAVES SOON: {lost}"));
        let misplaced = h.misplaced.as_ref().map(|what| format!("MISPLACED: {what}"));
        let fought = h.fought.as_ref().map(|what| format!("SOMETHING FIGHTS for {what}"));
        let in_front = (!h.in_front.is_empty()).then(|| format!("NOT FIRST on {}", h.in_front.join(", ")));
        let trouble = lost.or(misplaced).or(fought).or(in_front);
        [
            node.name.clone(),
            h.mended.to_string(),
            h.followed.to_string(),
            or_dash(h.last.clone()),
            or_dash(trouble),
        ]
    });
    table(["HOST OF", "PUT BACK", "FOLLOWED", "THE LAST CHANGE BY OTHERS", "TROUBLE"], rows)
}

/// What was dropped or refused, and what should not have happened.
fn troubles(status: &ClusterStatus) -> String {
    let all = status.nodes.iter().flat_map(|node| node.counters.iter().map(move |counter| (node, counter)));
    let rows = all.filter(|(_, counter)| counter.count > 0).filter_map(|(node, counter)| {
        let kind = match counter.kind {
            CounterKind::Normal => return None,
            CounterKind::Drop => "dropped",
            CounterKind::Reset => "refused",
            CounterKind::Fault => "FAULT",
        };
        Some([
            node.name.clone(),
            kind.to_owned(),
            counter.count.to_string(),
            counter.name.clone(),
            counter.text.clone(),
        ])
    });
    let errors = status.nodes.iter().filter(|node| node.troubles.errors > 0).map(|node| {
        let TroubleStatus { errors, last, .. } = &node.troubles;
        let last = last.as_ref().map(|last| format!("of the daemon, which went on; the last: {last}"));
        [node.name.clone(), "FAULT".to_owned(), errors.to_string(), "errors".to_owned(), or_dash(last)]
    });
    table(["NODE", "WHAT", "COUNT", "REASON", "MEANS"], rows.chain(errors))
}

fn plays(node: &NodeStatus, role: &str) -> bool {
    node.roles.iter().any(|name| name == role)
}

fn playing<'a>(status: &'a ClusterStatus, role: &'a str) -> impl Iterator<Item = &'a NodeStatus> {
    status.nodes.iter().filter(move |node| node.reachable && plays(node, role))
}

fn or_dash(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".to_owned())
}

/// `12s`, `3m 5s`, `2h 7m`, `9d 4h`.
pub fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {}s", seconds % 60),
        3600..86_400 => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

/// `250 us`, `1.3 ms`.
fn micros(us: u64) -> String {
    if us < 1000 { format!("{us} us") } else { format!("{}.{} ms", us / 1000, us % 1000 / 100) }
}

/// `+250 us`, `-1.3 ms`, `+180 s`: how far a clock is ahead.
fn ahead(us: i64) -> String {
    let sign = if us < 0 { '-' } else { '+' };
    match us.unsigned_abs() {
        far @ 1_000_000.. => format!("{sign}{} s", far / 1_000_000),
        near => format!("{sign}{}", micros(near)),
    }
}

/// `900 B`, `1.5 kB`, `20.0 MB`: decimal units.
fn bytes(n: u64) -> String {
    let units = [("kB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000), ("TB", 1_000_000_000_000_u64)];
    match units.iter().rev().find(|(_, size)| n >= *size) {
        None => format!("{n} B"),
        Some((unit, size)) => format!("{}.{} {unit}", n / size, n % size / (size / 10)),
    }
}

#[cfg(test)]
mod tests {
    use super::{bytes, duration, micros};

    #[test]
    fn quantities_are_told_for_people() {
        assert_eq!(
            [0, 59, 60, 3599, 3600, 86_399, 86_400].map(duration),
            ["0s", "59s", "1m 0s", "59m 59s", "1h 0m", "23h 59m", "1d 0h"]
        );
        assert_eq!([999, 1000, 12_345].map(micros), ["999 us", "1.0 ms", "12.3 ms"]);
        assert_eq!([999, 1000, 1_999_999, 2_000_000].map(bytes), ["999 B", "1.0 kB", "1.9 MB", "2.0 MB"]);
    }
}
