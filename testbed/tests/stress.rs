//! Many connections with requests of every kind and size, some of them pipelined or cut into pieces, over
//! a good line and over one that loses, reorders and doubles frames. Each response is checked for every
//! byte of its content and for the node that served it; none may fail.
//!
//! What is asked follows from the seed, `BATON_STRESS_SEED`; `BATON_STRESS=10` asks ten times as much.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use baton_testbed::{
    Cluster, Connection, Content, Dial, Disturb, DocRoot, Exchange, Fault, Figure, Framing, Host, Kind,
    Packets, StartServer, Testbed, WebServer, wait_until,
};

/// Names of contents; each has a size of its own.
const NAMES: u64 = 60;
/// With lost frames, TCP's timeouts add up.
const PATIENCE: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(20);

/// A response, and who gave it.
struct Served<'a> {
    path: &'a str,
    node: &'a str,
    /// Who gave the first one on this connection.
    first: &'a str,
}

/// Whether a response came from where it should.
type IsRight<'a> = &'a (dyn Fn(&Served<'_>) -> bool + Sync);

/// `p_http = "stay"`: from the node that has the connection.
fn stays(served: &Served<'_>) -> bool {
    served.node == served.first
}

/// Paths with this in them belong to the second pool.
const SECOND: &str = "/second/";

/// How much is asked.
#[derive(Clone, Copy)]
struct Plan {
    seed: u64,
    /// Clients at once; each closes and opens connections.
    clients: u64,
    /// Requests of each.
    requests: u64,
}

impl Plan {
    /// As the environment says.
    fn new(clients: u64, requests: u64) -> Self {
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let requests = requests * number("BATON_STRESS").unwrap_or(1);
        Self { seed: number("BATON_STRESS_SEED").unwrap_or(20_260_301), clients, requests }
    }
}

/// SplitMix64: what a client does.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// Small ones mostly: the first of every ten has none, and of sixty one has a megabyte.
fn size(name: u64) -> u64 {
    match name {
        59 => 1_000_000,
        57 | 58 => 200_000,
        _ => [0, 1, 80, 500, 1000, 1388, 1448, 5000, 12_000, 40_000][name as usize % 10] + name / 10,
    }
}

/// Every other one is of the second pool, if there are two.
fn name_of(name: u64) -> String {
    if name.is_multiple_of(2) { format!("stress-{name}") } else { format!("second/stress-{name}") }
}

fn page(name: u64) -> Content {
    Content::new(&name_of(name), size(name))
}

/// A request; `small` ones fit into what lies in buffers anyway.
fn exchange(draw: &mut Draw, small: bool) -> Exchange {
    let mut name = draw.below(NAMES);
    while small && size(name) > 15_000 {
        name = draw.below(NAMES);
    }
    let framing = match draw.below(3) {
        0 => Framing::Length,
        1 => Framing::Chunked(1 + draw.below(3000) as usize),
        _ => Framing::Chunked(100_000),
    };
    let kind = match draw.below(20) {
        0..10 => Kind::Get,
        10..12 => Kind::Head,
        12..15 if size(name) > 10 => {
            let start = draw.below(size(name) - 1);
            Kind::Range(start, start + 1 + draw.below(size(name) - start))
        }
        12..15 => Kind::Get,
        15..18 => Kind::Echo(framing),
        _ => Kind::Check(framing),
    };
    Exchange::new(&name_of(name), size(name), kind)
}

/// What happened to whom.
struct Failure {
    client: u64,
    connection: u64,
    after: u64,
    local: String,
    what: String,
    asked: Vec<Exchange>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, connection, after, local, what, asked } = self;
        write!(f, "client {client}, connection {connection} ({local}), after {after}: {what}; asked:")?;
        asked.iter().try_for_each(|one| write!(f, " {:?} {}", one.kind(), one.content().path()))
    }
}

/// What all clients do together.
struct Stress<'a> {
    plan: Plan,
    right: IsRight<'a>,
    to: Vec<SocketAddr>,
    failures: &'a Mutex<Vec<Failure>>,
    connections: &'a AtomicU64,
    answered: &'a AtomicU64,
    /// Connections that were served by several nodes.
    moved: &'a AtomicU64,
}

/// One client's connection.
struct Open {
    connection: Connection,
    first: Option<String>,
    moved: bool,
    answered: u64,
}

impl Stress<'_> {
    /// One client, to its end or its first failure.
    fn client(&self, client: u64) {
        let mut draw = Draw(self.plan.seed ^ (client << 32));
        let (mut open, mut done, mut connections) = (None, 0, 0);
        while done < self.plan.requests {
            if open.is_none() || draw.percent(4) {
                connections += 1;
                open = None;
            }
            let batch = if draw.percent(15) { 2 + draw.below(5) } else { 1 };
            let asked: Vec<Exchange> = (0..batch).map(|_| exchange(&mut draw, batch > 1)).collect();
            if let Err(what) = self.batch(&mut open, &mut draw, &asked) {
                let (local, after) = open.map_or_else(Default::default, |open: Open| {
                    (open.connection.local().to_string(), open.answered)
                });
                let failure = Failure { client, connection: connections, after, local, what, asked };
                self.failures.lock().expect("no panic").push(failure);
                return;
            }
            done += batch;
        }
    }

    /// Requests in one go, and their responses in order.
    fn batch(&self, open: &mut Option<Open>, draw: &mut Draw, asked: &[Exchange]) -> Result<(), String> {
        let say = |fault: Fault| fault.to_string();
        if open.is_none() {
            let to = self.to[draw.below(self.to.len() as u64) as usize];
            let connection = Dial::new(to).patience(PATIENCE).open_here().map_err(say)?;
            self.connections.fetch_add(1, Ordering::Relaxed);
            *open = Some(Open { connection, first: None, moved: false, answered: 0 });
        }
        let Some(Open { connection, first, moved, answered }) = open else { return Ok(()) };
        let bytes: Vec<u8> = asked.iter().flat_map(Exchange::request).collect();
        if draw.percent(10) {
            let cut = 1 + draw.below(bytes.len() as u64 - 1) as usize;
            connection.send_cut(&bytes, &[cut], Duration::from_millis(draw.below(3))).map_err(say)?;
        } else {
            connection.send(&bytes).map_err(say)?;
        }
        for one in asked {
            let response = connection.response_to(one).map_err(say)?;
            let node = response.node();
            let path = one.content().path();
            let served = Served { path, node, first: first.get_or_insert_with(|| node.to_owned()) };
            if !(self.right)(&served) {
                return Err(format!("{path} served by {node}, the first one by {}", served.first));
            }
            if !*moved && node != served.first {
                *moved = true;
                self.moved.fetch_add(1, Ordering::Relaxed);
            }
            *answered += 1;
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// All clients at once; none may fail. Returns how many connections there were, and how many of them were
/// served by several nodes.
#[track_caller]
fn run(client: &Host, cluster: &Cluster<'_>, plan: Plan, right: IsRight<'_>) -> (u64, u64) {
    let (failures, connections, answered, moved) = Default::default();
    let to = cluster.vips.iter().map(|vip| SocketAddr::new(*vip, 80)).collect();
    let (f, c, a, m) = (&failures, &connections, &answered, &moved);
    let stress = &Stress { plan, right, to, failures: f, connections: c, answered: a, moved: m };
    client.inside(|| {
        std::thread::scope(|scope| {
            (0..plan.clients).for_each(|i| drop(scope.spawn(move || stress.client(i))));
        });
    });
    let failures = stress.failures.lock().expect("no panic");
    let lines: Vec<String> = failures.iter().map(Failure::to_string).collect();
    assert!(lines.is_empty(), "seed {}: {} failed:\n{}", plan.seed, lines.len(), lines.join("\n"));
    assert!(answered.load(Ordering::Relaxed) >= plan.clients * plan.requests);
    (connections.load(Ordering::Relaxed), moved.load(Ordering::Relaxed))
}

/// Nothing is left of the connections, and nothing happened that must not.
#[track_caller]
fn nothing_is_left(cluster: &Cluster<'_>) {
    wait_until(SOON, "end of all load", || {
        cluster.counted("serving_started") == cluster.counted("serving_ended")
    });
    for fault in ["fault_rewrite", "fault_map", "event_lost"] {
        assert_eq!(cluster.counted(fault), 0, "{fault}");
    }
}

/// `service` is more of the service's table.
fn stress(figure: Figure, server: StartServer, service: &str, moves: bool, right: IsRight<'_>) {
    let bed = Testbed::builder().figure(figure).wire().without_offloads().build();
    let files = DocRoot::shared();
    (0..NAMES).for_each(|name| drop(files.add(&page(name))));
    // A machine that has other work, too, leaves a daemon none of its time for a second now and then.
    let patient = "[cluster]\nfailure_timeout_ms = 10000\n";
    let config = figure.config(&bed, service).replacen("[cluster]\n", patient, 1);
    let cluster = figure.start_with(&bed, server, &files, &config);
    let client = bed.client(0);

    let (connections, moved) = run(client, &cluster, Plan::new(150, 40), right);
    println!("{figure:?}: {connections} connections over a good line, {moved} moved");
    assert_eq!(moved > 0, moves);
    nothing_is_left(&cluster);

    let plan = Plan::new(120, 25);
    let line = bed.disturb(0, Disturb::new(plan.seed).lose(1.0).reorder(2.0).double(1.0));
    let between = bed.lose(1.0, Packets::BetweenNodes);
    let (connections, moved) = run(client, &cluster, plan, right);
    let frames = (line.frames(), line.disturbed());
    println!("{figure:?}: {connections} connections over a bad one, {moved} moved, frames {frames:?}");
    assert_eq!(moved > 0, moves);
    assert!(line.disturbed().iter().all(|count| *count > 100), "{frames:?}");
    assert!(between.lost() > 0, "no packet between nodes was lost");
    nothing_is_left(&cluster);
    drop((line, between));
    cluster.stop();
}

fn staying(figure: Figure, server: StartServer) {
    stress(figure, server, "policy = \"lard\"", false, &stays);
}

/// Two pools of different servers, and each request is served by one of its own.
fn between_pools(figure: Figure, server: StartServer) {
    let names: Vec<String> = (0..figure.nodes())
        .filter(|node| figure.has_role(*node, "server"))
        .map(|node| format!("{}", char::from(b'a' + node as u8)))
        .collect();
    let (one, two) = names.split_at(1);
    let mut service = String::new();
    for (name, servers) in [("first", one), ("second", two)] {
        service += &format!(
            "[[service.pool]]\nname = \"{name}\"\nservers = {servers:?}\npolicy = \"lard\"\np_http = \"move\"\n"
        );
    }
    for place in ["", "/app/echo", "/app/check"] {
        service += &format!("[[service.route]]\npool = \"second\"\npath = \"{place}{SECOND}\"\n");
    }
    let right = |served: &Served<'_>| {
        let pool = if served.path.contains(SECOND) { two } else { one };
        pool.iter().any(|name| name == served.node)
    };
    stress(figure, server, &service, true, &right);
}

#[test]
fn figure_5() {
    staying(Figure::Five, WebServer::nginx_before_app);
}

#[test]
fn figure_6() {
    staying(Figure::Six, WebServer::node);
}

#[test]
fn figure_7() {
    staying(Figure::Seven, WebServer::nginx_before_app);
}

#[test]
fn figure_5_between_pools() {
    between_pools(Figure::Five, WebServer::nginx_before_app);
}

#[test]
fn figure_6_between_pools() {
    between_pools(Figure::Six, WebServer::node);
}

#[test]
fn figure_7_between_pools() {
    between_pools(Figure::Seven, WebServer::nginx_before_app);
}

/// One pool, and each request is moved to where LARD would have it.
fn moving(figure: Figure, server: StartServer) {
    stress(figure, server, "policy = \"lard\"\np_http = \"move\"", true, &|_| true);
}

#[test]
fn figure_5_moving() {
    moving(Figure::Five, WebServer::nginx_before_app);
}

#[test]
fn figure_6_moving() {
    moving(Figure::Six, WebServer::nginx_before_app);
}

#[test]
fn figure_7_moving() {
    moving(Figure::Seven, WebServer::nginx_before_app);
}
