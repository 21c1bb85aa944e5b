//! What packets tell of a server that does not work, as a node sees it, the wire carries it and a status says it.

/// A sign that a server does not work. Each is given by a machine of the cluster, not by a client's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sign {
    /// Its machine has nobody who listens on the service's port.
    NobodyListens,
    /// Its kernel refused to adopt a connection.
    Refused,
    /// A connection was adopted, and nothing has come of it: its client repeats its first packet, and there is no socket.
    NeverBegins,
    /// Its machine has reset a connection before any answer, while the client waited.
    ResetFirst,
    /// Handoff packets that a distributor has sent do not arrive there, or are refused.
    HandoffsLost,
    /// Connections wait in the accept queue of the service's port, and nobody takes them out.
    QueueStands,
}

impl Sign {
    /// Every sign.
    pub const ALL: [Self; 6] = [
        Self::NobodyListens,
        Self::Refused,
        Self::NeverBegins,
        Self::ResetFirst,
        Self::HandoffsLost,
        Self::QueueStands,
    ];

    /// Its number on the wire, which never changes its meaning.
    pub fn number(self) -> u8 {
        match self {
            Self::NobodyListens => 1,
            Self::Refused => 2,
            Self::NeverBegins => 3,
            Self::ResetFirst => 4,
            Self::HandoffsLost => 5,
            Self::QueueStands => 6,
        }
    }

    /// The sign with this number, if this version knows one.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|sign| sign.number() == number)
    }

    /// What was seen, as the end of a sentence about a server.
    pub fn text(self) -> &'static str {
        match self {
            Self::NobodyListens => "nobody listens on the service's port",
            Self::Refused => "the kernel refuses to adopt connections",
            Self::NeverBegins => "connections are adopted and never begin: clients repeat their first packet",
            Self::ResetFirst => "connections are reset before any answer",
            Self::HandoffsLost => "handoff packets never arrive",
            Self::QueueStands => "connections wait, and the web server takes none",
        }
    }

    /// What to look at, on the server's machine unless it says otherwise.
    pub fn help(self) -> &'static str {
        match self {
            Self::NobodyListens => {
                "start the web server, or let it listen on the VIP and the service's port (`ss -ltn`); a rule \
                 that redirects the port elsewhere hides it, too (`nft list ruleset`)"
            }
            Self::Refused => "see `baton doctor`, and whether the listener speaks MPTCP",
            Self::NeverBegins => {
                "a firewall between the packet programs and the socket (`nft list ruleset`, chains input and \
                 prerouting: drop, reject, dnat, redirect), or a web server that hangs with its queue full \
                 (`ss -ltn`: Recv-Q above Send-Q)"
            }
            Self::ResetFirst => {
                "a firewall that rejects with a reset (`nft list ruleset`), another program on the port \
                 (`ss -ltnp`), or a web server that ends (its own log)"
            }
            Self::QueueStands => {
                "a web server that hangs, or has no worker free (`ss -ltn`: Recv-Q; its own log and state)"
            }
            Self::HandoffsLost => {
                "a firewall or a switch between the two nodes that drops UDP to the handoff port, or packets as \
                 long as the path MTU in `baton status`; `drop_handoff` counters there"
            }
        }
    }
}
