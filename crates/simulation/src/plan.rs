//! What a seed stands for: a cluster, its network, its clients and its mishaps.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

mod files;
mod sick;

use files::P_HTTP;
pub use files::{File, PoolPlan, Rollout, ServicePlan};
pub(crate) use files::{is_vip, vip};

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

/// And those with several dispatchers, of every fourth seed.
const STANDBYS: [&[&str]; 3] = [
    &["switch,dispatcher", "distributor,server", "distributor,server,dispatcher", "dispatcher"],
    &["distributor,server,dispatcher", "server,dispatcher", "server"],
    &["distributor", "dispatcher", "dispatcher", "server", "server"],
];

/// One seed's plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// From which all else follows.
    pub seed: u64,
    /// The part of the cluster file that lasts.
    pub cluster: String,
    /// What the cluster file says of services: at first, and later.
    pub files: Vec<File>,
    /// When nodes get those that come later.
    pub rollouts: Vec<Rollout>,
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
    /// A web server that does not work, though its node is well.
    pub sick: Option<Sick>,
}

/// A web server that does not work, from the beginning to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sick {
    /// Whose.
    pub node: usize,
    /// Its kernel makes no sockets: its queue is full, or a firewall is before it. Else nobody listens.
    pub hangs: bool,
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
    /// A link carries little.
    Clogged(Clog),
    /// A node's daemon does nothing, but its control connections last.
    Stalled {
        /// Which node.
        node: usize,
        /// Nanoseconds.
        for_long: u64,
    },
}

/// Where a packet comes from or goes to: a node; `None`: the clients.
pub type Place = Option<usize>;

/// A link that carries little for a while, in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clog {
    /// Where the link begins.
    pub from: Place,
    /// And where it ends.
    pub to: Place,
    /// A packet every so often, nanoseconds.
    pub gap: u64,
    /// Packets that may wait.
    pub room: u32,
    /// Nanoseconds.
    pub for_long: u64,
}

impl Clog {
    fn new(rng: &mut StdRng, nodes: usize) -> Self {
        let from = rng.random_range(0..=nodes);
        let to = (from + rng.random_range(1..=nodes)) % (nodes + 1);
        let place = |number| (number < nodes).then_some(number);
        Self {
            from: place(from),
            to: place(to),
            gap: rng.random_range(MS / 2..25 * MS),
            room: rng.random_range(3..60),
            for_long: rng.random_range(50 * MS..3000 * MS),
        }
    }
}

/// One client.
#[derive(Clone, Debug)]
pub struct ClientPlan {
    /// The last byte of the VIP that it connects to, and the port.
    pub service: (u8, u16),
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
    /// What it carries, if it carries something.
    pub upload: Option<Upload>,
}

/// What a request carries.
#[derive(Clone, Copy, Debug)]
pub struct Upload {
    /// Bytes.
    pub bytes: usize,
    /// It says so as it goes, not at first.
    pub chunked: bool,
    /// The client waits for the server's word before it sends it.
    pub expects: bool,
}

/// The address of a node.
pub(crate) fn address(node: usize) -> IpAddr {
    Ipv4Addr::new(10, 1, 0, 10 + node as u8).into()
}

impl Plan {
    /// What a seed stands for.
    pub fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        if seed % 10 == 3 {
            return sick::plan(seed, &mut rng);
        }
        // In every tenth a distributor stops while a request is undecided, and others may decide it.
        let two_deciders = seed % 10 == 7;
        let figure = if two_deciders { FIGURES[1] } else { FIGURES[rng.random_range(0..FIGURES.len())] };
        let several = seed % 4 == 1 && !two_deciders;
        let figure = if several { STANDBYS[rng.random_range(0..STANDBYS.len())] } else { figure };
        let servers: Vec<usize> = (0..figure.len()).filter(|node| figure[*node].contains("server")).collect();
        let strict = rng.random_ratio(2, 3) && servers.len() > 1 && !two_deciders;
        let mut cluster = lasting(figure);
        let first = first_file(&mut rng, &servers, strict);
        let calm = rng.random_ratio(1, 4);
        let at_most = |rng: &mut StdRng, most| if calm { 0 } else { rng.random_range(0..=most) };
        let (lost, twice, late) = (at_most(&mut rng, 60), at_most(&mut rng, 60), at_most(&mut rng, 200));
        let delay = rng.random_range(20_000..3 * MS);
        let lateness = rng.random_range(MS..50 * MS);
        let message_delay = rng.random_range(20_000..4 * MS);
        let skews = figure.iter().map(|_| rng.random_range(0..HOUR)).collect();
        let mut clients: Vec<_> = (0..rng.random_range(1..=4)).map(|_| ClientPlan::new(&mut rng)).collect();
        let mut mishaps = if two_deciders {
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
        let (files, rollouts) = if two_deciders {
            (vec![first], Vec::new())
        } else {
            all_files(&mut rng, first, &mut clients, (&servers, figure.len()))
        };
        if !two_deciders && rng.random_ratio(1, 4) {
            for _ in 0..rng.random_range(1..=2) {
                let begins = clients[rng.random_range(0..clients.len())].starts;
                let clog = Mishap::Clogged(Clog::new(&mut rng, figure.len()));
                mishaps.push((begins + rng.random_range(0..300 * MS), clog));
            }
            mishaps.sort_by_key(|(at, _)| *at);
        }
        if rng.random_ratio(1, 6) {
            // As little room as a cluster file may give.
            cluster.push_str("[limits]\nheld_packets = 16\nreader_connections = 16\n");
        }
        if rng.random_ratio(1, 3) {
            clients.iter_mut().for_each(|client| client.uploads(&mut rng));
        }
        Self {
            seed,
            cluster,
            files,
            rollouts,
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
            sick: None,
        }
    }

    /// A plan of two distributors that are lost and come back, by turns, again and again before its clients begin.
    pub fn restless(seed: u64) -> Self {
        const BEFORE: u64 = 16_000 * MS;
        const STOPS: u64 = 8;
        let mut plan = Self::new(seed / 10 * 10 + 7);
        plan.clients.iter_mut().for_each(|client| client.starts += BEFORE);
        plan.mishaps.iter_mut().for_each(|(at, _)| *at += BEFORE);
        let mut rng = StdRng::seed_from_u64(seed);
        let stops = (0..STOPS).map(|stop| {
            let for_long = rng.random_range(1600 * MS..2600 * MS);
            let at = BEFORE / STOPS * stop + rng.random_range(500 * MS..900 * MS);
            (at, Mishap::Stopped { node: 1 + (stop % 2) as usize, for_long })
        });
        plan.mishaps.splice(0..0, stops);
        plan.mishaps.sort_by_key(|(at, _)| *at);
        plan
    }

    /// A whole cluster file.
    pub fn text(&self, file: usize) -> String {
        format!("{}{}", self.cluster, self.files[file].text())
    }

    /// Whether a machine stops: then connections may be lost that were its own.
    pub fn crashes(&self) -> bool {
        self.mishaps.iter().any(|(_, mishap)| matches!(mishap, Mishap::Crash { .. }))
    }
}

/// What lasts of the cluster file.
fn lasting(figure: &[&str]) -> String {
    let mut text = String::from(
        "[cluster]\nname = \"simulated\"\nsecret = \"6f1c0a9be47d82355ac4e09d17b86f3e2d4c5a69\"\n",
    );
    for (node, roles) in figure.iter().enumerate() {
        let roles: Vec<String> = roles.split(',').map(|role| format!("{role:?}")).collect();
        let (address, roles) = (address(node), roles.join(", "));
        let _ = writeln!(text, "[[node]]\nname = \"n{node}\"\naddress = \"{address}\"\nroles = [{roles}]");
    }
    text
}

/// One service with two pools.
fn first_file(rng: &mut StdRng, servers: &[usize], strict: bool) -> File {
    let pool = |number: usize| {
        let p_http = rng.random_range(0..P_HTTP.len());
        let consults = rng.random_ratio(1, 4);
        let is_wrr = rng.random_ratio(1, 4);
        let its = servers.iter().enumerate().filter(|(place, _)| !strict || place % 2 == number);
        PoolPlan {
            servers: its.map(|(_, node)| *node).collect(),
            policy: if is_wrr { "wrr" } else { "lard" },
            p_http: if is_wrr { P_HTTP[p_http % 2] } else { P_HTTP[p_http] },
            consults: consults && !is_wrr,
        }
    };
    let pools = (0..2).map(pool).collect();
    File { services: vec![ServicePlan { name: "www", vips: vec![1], port: 80, opaque: false, pools }] }
}

/// More VIPs and services, the files that come later, and clients for all of them. `nodes`: those that are servers, and
/// how many there are.
fn all_files(
    rng: &mut StdRng,
    mut first: File,
    clients: &mut [ClientPlan],
    nodes: (&[usize], usize),
) -> (Vec<File>, Vec<Rollout>) {
    if rng.random_ratio(1, 4) {
        first.services[0].vips.push(2);
    }
    if rng.random_ratio(1, 4) {
        first.services.push(ServicePlan::plug(nodes.0.to_vec()));
    }
    let (mut files, mut rollouts) = (vec![first], Vec::new());
    if rng.random_ratio(1, 3) {
        if rng.random_ratio(1, 3) {
            files[0].services[0].pools.truncate(1);
        }
        let times: Vec<u64> = clients.iter().map(|client| client.starts).collect();
        let (later, when) = files::successors(rng, &files[0], nodes.0, nodes.1, &times);
        files.extend(later);
        rollouts = when;
    }
    // A service may have yet to come, or have gone.
    let has = |vip, port| files.iter().any(|file| file.service(vip, port).is_some());
    for client in clients {
        client.service = match rng.random_range(0..6) {
            0 | 1 if has(2, 80) => (2, 80),
            2 | 3 if has(3, 81) => (3, 81),
            _ => (1, 80),
        };
    }
    (files, rollouts)
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
            upload: None,
        };
        let count = rng.random_range(1..=12);
        let slow = rng.random_ratio(1, 4);
        Self {
            service: (1, 80),
            starts: rng.random_range(200 * MS..1500 * MS),
            requests: (0..count).map(|_| request(rng)).collect(),
            depth: if rng.random_ratio(1, 2) { 1 } else { rng.random_range(2..=12) },
            timestamps: rng.random_ratio(3, 4),
            mss: rng.random_range(300..1400),
            piece: if slow { rng.random_range(10..400) } else { usize::MAX },
            pause: if slow { rng.random_range(MS..60 * MS) } else { 0 },
        }
    }

    /// Some of its requests carry something.
    fn uploads(&mut self, rng: &mut StdRng) {
        let is_slow = self.pause > 0;
        for request in &mut self.requests {
            if rng.random_ratio(1, 2) {
                let is_long = rng.random_ratio(1, 6) && !is_slow;
                let bytes = rng.random_range(0..if is_long { 30_000 } else { 2000 });
                let (chunked, expects) = (rng.random_ratio(1, 2), rng.random_ratio(1, 4));
                request.upload = Some(Upload { bytes, chunked, expects });
            }
        }
    }
}
