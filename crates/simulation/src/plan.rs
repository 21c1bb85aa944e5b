//! What a seed stands for: a cluster, its network, its clients and its mishaps.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// One millisecond of simulated time, in nanoseconds.
pub(crate) const MS: u64 = 1_000_000;
/// Nodes' wall clocks are less apart.
pub(crate) const HOUR: u64 = 3_600_000 * MS;

/// The clusters: each node's roles, and the node that clients' packets enter by, when that is not a choice.
const FIGURES: [&[&str]; 5] = [
    &["distributor,dispatcher", "server", "server"],
    &["switch,dispatcher", "distributor", "distributor", "server", "server"],
    &["distributor,server,dispatcher", "distributor,server"],
    &["switch,distributor,server,dispatcher", "distributor,server", "distributor,server"],
    &["switch", "distributor,dispatcher", "distributor,server", "server"],
];

/// A pool's routes: how later requests are handled.
const P_HTTP: [&str; 3] = ["move", "stay", "extended-lard"];

/// One seed's plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// From which all else follows.
    pub seed: u64,
    /// The cluster file.
    pub file: String,
    /// Whether the pools have different servers.
    pub strict: bool,
    /// Of a thousand packets, how many are lost, come twice, and are late.
    pub lost: u32,
    /// See above.
    pub twice: u32,
    /// See above.
    pub late: u32,
    /// How long a packet takes at most, and one that is late, nanoseconds.
    pub delay: u64,
    /// See above.
    pub lateness: u64,
    /// The same for control messages.
    pub message_delay: u64,
    /// By how much each node's wall clock is ahead, nanoseconds.
    pub skews: Vec<u64>,
    /// Each client's requests.
    pub clients: Vec<ClientPlan>,
    /// Whether the clients of a machine that crashes must hear of it, too: not all do yet.
    pub strictly: bool,
    /// What happens to nodes, in order.
    pub mishaps: Vec<(u64, Mishap)>,
}

/// What happens to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// Its machine stops; it starts again after so long, nanoseconds.
    Crash {
        /// Which node.
        node: usize,
        /// Nanoseconds.
        for_long: u64,
    },
    /// Two nodes do not hear each other's control messages, while packets pass.
    Deaf {
        /// One of them.
        node: usize,
        /// The other.
        other: usize,
        /// Nanoseconds.
        for_long: u64,
    },
    /// A node's daemon is stopped, and goes on later: nobody hears it meanwhile.
    Stopped {
        /// Which node.
        node: usize,
        /// Nanoseconds.
        for_long: u64,
    },
    /// A node's daemon does nothing, but its control connections last.
    Stalled {
        /// Which node.
        node: usize,
        /// Nanoseconds.
        for_long: u64,
    },
}

/// One client.
#[derive(Clone, Debug)]
pub struct ClientPlan {
    /// When it begins, nanoseconds.
    pub starts: u64,
    /// Its requests: the pool's path, whether only user space can read it, how long the head and the answer are.
    pub requests: Vec<RequestPlan>,
    /// How many it has under way at once.
    pub depth: usize,
    /// It sends timestamps.
    pub timestamps: bool,
    /// A segment has this many bytes at most.
    pub mss: usize,
    /// It writes this many bytes at once, and waits for so long in between, nanoseconds.
    pub piece: usize,
    /// See above.
    pub pause: u64,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct RequestPlan {
    /// 0 or 1.
    pub pool: usize,
    /// Its path is spelt so that the programs cannot read it.
    pub odd: bool,
    /// Bytes of a header that says nothing.
    pub padding: usize,
    /// Bytes of the answer's body.
    pub body: usize,
}

/// The address of a node.
pub(crate) fn address(node: usize) -> IpAddr {
    Ipv4Addr::new(10, 1, 0, 10 + node as u8).into()
}

/// The service's.
pub(crate) fn vip() -> IpAddr {
    Ipv4Addr::new(10, 99, 0, 1).into()
}

impl Plan {
    /// What a seed stands for.
    pub fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        // In every tenth a distributor stops while a request is undecided, and others may decide it.
        let two_deciders = seed % 10 == 7;
        let figure = if two_deciders { FIGURES[1] } else { FIGURES[rng.random_range(0..FIGURES.len())] };
        let servers: Vec<usize> = (0..figure.len()).filter(|node| figure[*node].contains("server")).collect();
        let strict = rng.random_ratio(2, 3) && servers.len() > 1 && !two_deciders;
        let mut file = String::from(
            "[cluster]\nname = \"simulated\"\nsecret = \"6f1c0a9be47d82355ac4e09d17b86f3e2d4c5a69\"\n",
        );
        let name = |node: usize| format!("\"n{node}\"");
        for (node, roles) in figure.iter().enumerate() {
            let roles: Vec<String> = roles.split(',').map(|role| format!("{role:?}")).collect();
            let _ = writeln!(
                file,
                "[[node]]\nname = {}\naddress = \"{}\"\nroles = [{}]",
                name(node),
                address(node),
                roles.join(", ")
            );
        }
        let _ = writeln!(file, "[[service]]\nname = \"www\"\nvips = [\"{}\"]\nport = 80", vip());
        for pool in 0..2 {
            let its: Vec<String> = servers
                .iter()
                .enumerate()
                .filter(|(place, _)| !strict || place % 2 == pool)
                .map(|(_, node)| name(*node))
                .collect();
            let p_http = rng.random_range(0..P_HTTP.len());
            let consult = if rng.random_ratio(1, 4) { "consult = \"always\"\n" } else { "" };
            let policy = if rng.random_ratio(1, 4) { "wrr" } else { "lard" };
            let (consult, p_http) =
                if policy == "lard" { (consult, P_HTTP[p_http]) } else { ("", P_HTTP[p_http % 2]) };
            let _ = writeln!(
                file,
                "[[service.pool]]\nname = \"p{pool}\"\nservers = [{}]\npolicy = \"{policy}\"\np_http = \"{p_http}\"\n{consult}",
                its.join(", ")
            );
        }
        file.push_str("[[service.route]]\npool = \"p1\"\npath = \"/p1/\"\n");
        let calm = rng.random_ratio(1, 4);
        let at_most = |rng: &mut StdRng, most| if calm { 0 } else { rng.random_range(0..=most) };
        let (lost, twice, late) = (at_most(&mut rng, 60), at_most(&mut rng, 60), at_most(&mut rng, 200));
        let delay = rng.random_range(20_000..3 * MS);
        let lateness = rng.random_range(MS..50 * MS);
        let message_delay = rng.random_range(20_000..4 * MS);
        let skews = figure.iter().map(|_| rng.random_range(0..HOUR)).collect();
        let clients: Vec<_> = (0..rng.random_range(1..=4)).map(|_| ClientPlan::new(&mut rng)).collect();
        let mishaps = if two_deciders {
            let stopped = Mishap::Stopped {
                node: rng.random_range(1..=2),
                for_long: rng.random_range(1000 * MS..4000 * MS),
            };
            vec![(clients[0].starts + rng.random_range(0..4 * MS), stopped)]
        } else if rng.random_ratio(1, 2) {
            Vec::new()
        } else {
            mishaps(&mut rng, figure.len(), &clients)
        };
        Self {
            seed,
            file,
            strict,
            lost,
            twice,
            late,
            delay,
            lateness,
            message_delay,
            skews,
            clients,
            strictly: false,
            mishaps,
        }
    }

    /// Whether a machine stops: then connections may be lost that were its own.
    pub fn crashes(&self) -> bool {
        self.mishaps.iter().any(|(_, mishap)| matches!(mishap, Mishap::Crash { .. }))
    }
}

fn mishaps(rng: &mut StdRng, nodes: usize, clients: &[ClientPlan]) -> Vec<(u64, Mishap)> {
    let mut all: Vec<(u64, Mishap)> = (0..rng.random_range(1..=2))
        .map(|_| {
            // Most things go wrong while something begins.
            let begins = clients[rng.random_range(0..clients.len())].starts;
            let at = match rng.random_range(0..2) {
                0 => rng.random_range(300 * MS..2500 * MS),
                _ => begins.saturating_sub(20 * MS) + rng.random_range(0..60 * MS),
            };
            let (node, for_long) = (rng.random_range(0..nodes), rng.random_range(50 * MS..4000 * MS));
            let other = (node + rng.random_range(1..nodes)) % nodes;
            let mishap = match rng.random_range(0..4) {
                0 => Mishap::Crash { node, for_long },
                1 => Mishap::Deaf { node, other, for_long },
                2 => Mishap::Stopped { node, for_long },
                _ => Mishap::Stalled { node, for_long: for_long.min(1500 * MS) },
            };
            (at, mishap)
        })
        .collect();
    all.sort_by_key(|(at, _)| *at);
    all
}

impl ClientPlan {
    fn new(rng: &mut StdRng) -> Self {
        let long = rng.random_ratio(1, 5);
        let request = |rng: &mut StdRng| RequestPlan {
            pool: rng.random_range(0..2),
            odd: rng.random_ratio(1, 5),
            padding: if long && rng.random_ratio(1, 3) {
                rng.random_range(0..4000)
            } else {
                rng.random_range(0..60)
            },
            body: if rng.random_ratio(1, 6) { rng.random_range(0..30_000) } else { rng.random_range(0..700) },
        };
        let count = rng.random_range(1..=12);
        let slow = rng.random_ratio(1, 4);
        Self {
            starts: rng.random_range(200 * MS..1500 * MS),
            requests: (0..count).map(|_| request(rng)).collect(),
            depth: if rng.random_ratio(1, 2) { 1 } else { rng.random_range(2..=12) },
            timestamps: rng.random_ratio(3, 4),
            mss: rng.random_range(300..1400),
            piece: if slow { rng.random_range(10..400) } else { usize::MAX },
            pause: if slow { rng.random_range(MS..60 * MS) } else { 0 },
        }
    }
}
