//! conntrack as an observer on every node and on the router: it follows each connection as a stateful firewall
//! there would, and what it calls invalid such a firewall drops. So nothing that a cluster sends may be invalid
//! anywhere: neither to a node's own stack nor through the router. It only counts.

use std::fmt;

use crate::host::Host;
use crate::netns::Namespace;

/// Both chains see what the programs have left of a packet. Of the first few that are invalid, if they are TCP, it
/// is kept which they were (a set for each field: Debian 12's nft cannot list all of them in one).
const RULES: &str = "table inet observer {
    counter own { }
    counter passed { }
    set from { typeof tcp sport; size 16; flags dynamic; }
    set to { typeof tcp dport; size 16; flags dynamic; }
    set kinds { typeof tcp flags; size 16; flags dynamic; }
    set sequences { typeof tcp sequence; size 16; flags dynamic; }
    set acknowledgements { typeof tcp ackseq; size 16; flags dynamic; }
    chain invalid {
        update @from { tcp sport }
        update @to { tcp dport }
        update @kinds { tcp flags }
        update @sequences { tcp sequence }
        update @acknowledgements { tcp ackseq }
    }
    chain own { type filter hook input priority 0; policy accept; }
    chain passed { type filter hook forward priority 0; policy accept; }
}
";

/// With this mark the programs end the node's own sockets, of which conntrack may know nothing any more
/// (`MARK_LOCAL_RESET` in `datapath.h`).
const WATCH: &str =
    "add rule inet observer own meta mark != 0xba700002 ct state invalid counter name own jump invalid
add rule inet observer passed ct state invalid counter name passed jump invalid
";
const PAUSE: &str = "flush chain inet observer own
flush chain inet observer passed
";

/// What conntrack has called invalid on a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The machine.
    pub host: String,
    /// Packets to the machine itself.
    pub own: u64,
    /// Packets that it has forwarded.
    pub passed: u64,
    /// Some of them: the ports they came from; went to; flags; sequence numbers; acknowledgement numbers.
    pub packets: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} to itself, {} forwarded: {}", self.host, self.own, self.passed, self.packets)
    }
}

/// Begins to observe a machine. The router sees the whole of each connection, both ways; a node that a connection
/// is handed off to sees it from the middle on (`nf_conntrack_tcp_loose`, which is on unless told otherwise).
#[track_caller]
pub(crate) fn observe(host: &Host, sees_all: bool) {
    run(host, &format!("{RULES}{WATCH}"));
    host.sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "0");
    if sees_all {
        host.sysctl("net.netfilter.nf_conntrack_tcp_loose", "0");
    }
}

/// Looks away from a machine while no daemon runs there: packets for other nodes' connections are its own stack's
/// then, which knows none of them.
pub(crate) fn pause(host: &Host) {
    if is_observed(host) {
        run(host, PAUSE);
    }
}

/// Looks again.
pub(crate) fn resume(host: &Host) {
    if is_observed(host) {
        run(host, &format!("{PAUSE}{WATCH}"));
    }
}

fn is_observed(host: &Host) -> bool {
    host.try_run("nft", ["list", "counter", "inet", "observer", "own"]).status.success()
}

fn run(host: &Host, script: &str) {
    let file = host.scratch().write("observer.nft", script);
    host.run("nft", ["-f", &file.display().to_string()]);
}

/// What has been invalid so far; `None` on a machine that is not observed, or whose rules a test has replaced.
pub(crate) fn invalid(host: &Host) -> Option<Invalid> {
    let counted = |name| counted(host, name);
    let (own, passed) = (counted("own")?, counted("passed")?);
    let set = |name| {
        let listed = host.try_run("nft", ["--numeric", "list", "set", "inet", "observer", name]);
        elements(&String::from_utf8_lossy(&listed.stdout))
    };
    let packets = ["from", "to", "kinds", "sequences", "acknowledgements"].map(set).join("; ");
    Some(Invalid { host: host.name().to_owned(), own, passed, packets })
}

fn elements(listed: &str) -> String {
    let from = listed.split_once("elements = {").map_or("", |(_, from)| from);
    let elements = from.split_once('}').map_or("", |(elements, _)| elements);
    elements.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn counted(namespace: &Namespace, name: &str) -> Option<u64> {
    let listed = namespace.try_run("nft", ["list", "counter", "inet", "observer", name]);
    packets(&String::from_utf8_lossy(&listed.stdout))
}

fn packets(listed: &str) -> Option<u64> {
    listed.split_whitespace().skip_while(|word| *word != "packets").nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{elements, packets};

    #[test]
    fn counters_are_read_as_nft_lists_them() {
        let listed = "table inet observer {\n\tcounter own {\n\t\tpackets 17 bytes 1204\n\t}\n}\n";
        assert_eq!(packets(listed), Some(17));
        assert_eq!(packets(""), None);
    }

    #[test]
    fn packets_are_read_as_nft_lists_them() {
        let listed = "\tset packets {\n\t\tsize 16\n\t\telements = { 80,\n\t\t\t     81 }\n\t}\n";
        assert_eq!(elements(listed), "80, 81");
        assert_eq!(elements("set packets {\n}\n"), "");
    }
}
