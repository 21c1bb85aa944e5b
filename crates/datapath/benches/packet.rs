//! Nanoseconds per packet of each program and case, by test-run. What a test-run itself costs is
//! included in every figure; the first row of each program, a packet that is none of ours, shows how
//! much that is. `--json` prints the same for `make bench`. Needs root. Without cargo's `--bench` it tries each
//! case on a few packets, as a test that the cases are still what they say.

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::LazyLock;
use std::time::Duration;

use baton_cluster::{Flow, NodeId, PoolId};
use baton_datapath::constants::{FLAG_ADOPTED, FLAG_CONFIRMED};
use baton_datapath::{Counter, DatapathError, GuideKind, State};
use baton_http::{HostMatch, PathMatch, Route};
use baton_packet_model::flag::{ACK, PSH, SYN};
use baton_packet_model::test_run::Run;
use baton_packet_model::{Binding, Handoff, Offer, Options, cookie_of, flow_clock};
use common::frames::{MSS, SACK, WSCALE, flow, timestamps};
use common::served::{FIRST, Served, client_here};
use common::world::{HANDOFF_PORT, OTHER, PLAIN, QUERY, SELF, WEB, address, keys};
use common::{Tcp, World, in_netns};

/// Packets a case, each of another flow: fewer than the table of bindings holds.
static FLOWS: LazyLock<u16> =
    LazyLock::new(|| if std::env::args().any(|a| a == "--bench") { 4000 } else { 40 });
const REQUEST: &[u8] = b"GET /images/logo.png HTTP/1.1\r\nHost: www.example.org\r\nAccept: */*\r\n\r\n";

/// What a browser asks with: a kilobyte.
fn browsers() -> Vec<u8> {
    let long = |name: &str, n: usize| format!("{name}: {}\r\n", "abcdefgh/1.0 ".repeat(n));
    let head = format!(
        "GET /images/logo.png HTTP/1.1\r\nHost: www.example.org\r\n{}{}{}\r\n",
        long("User-Agent", 10),
        long("Accept", 20),
        long("Cookie", 40),
    );
    head.into_bytes()
}

/// Connections with a real socket, of which each moves once.
const SOCKETS: usize = 300;

const SEQ_START: u32 = 1001;
const ACK_START: u32 = 70_001;

const NOT_OURS: &str = "not ours (the overhead)";

/// What one case took.
struct Row {
    program: &'static str,
    case: &'static str,
    median: u64,
    min: u64,
    p90: u64,
}

/// A node, and what it was found to take.
struct Bench {
    world: World,
    rows: Vec<Row>,
}

impl Bench {
    fn new(roles: &str, rows: Vec<Row>) -> Self {
        let world = World::new(roles, &[]);
        let mut bench = Self { world, rows };
        bench.decided(WEB, OTHER);
        bench
    }

    /// The request's target in a pool is this server's, whatever its load.
    fn decided(&mut self, pool: PoolId, server: NodeId) {
        self.world.guide(pool, GuideKind::Cached { load_limit: u32::MAX }, &[], 1);
        self.world.decide(pool, REQUEST, &[server], 1);
    }

    /// Runs a frame of each flow and keeps the case's figures; each must be counted as the case says.
    fn ingress(&mut self, case: &'static str, as_what: Counter, frame: impl Fn(&World, Flow) -> Vec<u8>) {
        let before = self.counted(as_what);
        self.time("ingress", case, frame, ingress);
        assert_eq!(self.counted(as_what) - before, u64::from(*FLOWS), "{case}: not what was timed");
    }

    /// Connections that this node serves and follows, of which nothing has been asked.
    fn serve(&mut self) {
        for f in flows() {
            let b = Binding {
                seen_ns: self.world.clock().kernel_ns,
                flags: FLAG_ADOPTED | FLAG_CONFIRMED,
                start_ack: ACK_START,
                mss: 1460,
                ..Binding::unknown(SEQ_START, State::Bound(SELF))
            };
            self.world.programs.set_whole_binding(&f, &b).expect("bindings");
            self.world.programs.follow(&f, SEQ_START, ACK_START).expect("exchanges");
        }
    }

    fn counted(&self, counter: Counter) -> u64 {
        self.world.programs.counter(counter).expect("counters")
    }

    fn time(
        &mut self,
        program: &'static str,
        case: &'static str,
        frame: impl Fn(&World, Flow) -> Vec<u8>,
        run: impl Fn(&World, &[u8]) -> Result<Run, DatapathError>,
    ) {
        let once = |f| ns(run(&self.world, &frame(&self.world, f)).expect("a test-run").took);
        self.keep(program, case, flows().map(once).collect());
    }

    fn keep(&mut self, program: &'static str, case: &'static str, mut took: Vec<u64>) {
        took.sort_unstable();
        let at = |percent: usize| took[(took.len() - 1) * percent / 100];
        let (median, min, p90) = (at(50), at(0), at(90));
        self.rows.push(Row { program, case, median, min, p90 });
    }

    /// Brings flows into a state, untimed.
    fn prepare(&self, frame: impl Fn(&World, Flow) -> Vec<u8>) {
        for f in flows() {
            self.world.programs.run_ingress(&frame(&self.world, f)).expect("a test-run");
        }
    }
}

fn ingress(world: &World, frame: &[u8]) -> Result<Run, DatapathError> {
    world.programs.run_ingress(frame)
}

fn egress(world: &World, frame: &[u8]) -> Result<Run, DatapathError> {
    world.programs.run_egress(frame)
}

fn flows() -> impl Iterator<Item = Flow> {
    (0..*FLOWS).map(|i| flow(20_000 + i))
}

fn ns(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// The client's packet after a handshake with this cluster.
fn established(world: &World, f: Flow, flags: u8) -> Tcp {
    let offer =
        Offer::of(&Options { mss: Some(1460), wscale: Some(9), sack: true, timestamps: Some((5, 6)) }, false);
    let cookie = cookie_of(&keys(), &f, 1000, offer, 0, world.clock());
    Tcp::new(f, flags, 1001, cookie.wrapping_add(1))
        .options(&[&[1, 1], &timestamps(5, flow_clock(&keys(), &f, world.clock()))])
}

fn ack(world: &World, f: Flow) -> Vec<u8> {
    established(world, f, ACK).frame()
}

fn request(world: &World, f: Flow) -> Vec<u8> {
    established(world, f, ACK | PSH).data(REQUEST).frame()
}

/// A client's packet of a connection that this node serves, so many bytes from its first.
fn served(f: Flow, at: u32, payload: &[u8]) -> Vec<u8> {
    Tcp::new(f, ACK | PSH, SEQ_START + at, ACK_START)
        .options(&[&[1, 1], &timestamps(5, 6)])
        .data(payload)
        .frame()
}

/// A connection to another service of the same address.
fn on(mut f: Flow, port: u16) -> Flow {
    f.vip_port = port;
    f
}

/// A packet for a port that is no service's.
fn foreign(_: &World, mut f: Flow) -> Vec<u8> {
    f.vip_port = 22;
    Tcp::new(f, ACK, 1, 1).frame()
}

fn distributor(rows: Vec<Row>) -> Vec<Row> {
    let mut b = Bench::new("d", rows);
    b.time("ingress", NOT_OURS, foreign, ingress);
    b.ingress("SYN answered", Counter::SynAnswered, |_, f| {
        Tcp::new(f, SYN, 1000, 0).options(&[MSS, SACK, &timestamps(5, 0), &[1], WSCALE]).frame()
    });
    b.ingress("ACK completes the handshake", Counter::HandshakeAck, ack);
    b.ingress("ACK before the request", Counter::HandshakeAck, ack);
    b.ingress("first request, decided, handed off", Counter::DecidedCache, request);
    b.ingress("first request again, handed off", Counter::HandoffAgain, request);
    b.ingress("forwarded by binding", Counter::ForwardedBinding, ack);
    let other = Route { host: HostMatch::named("other.example.org"), pool: 1, ..Route::default() };
    b.world.service(10, 85, &[PLAIN, QUERY], vec![other], [false, false]).expect("tables");
    let browsers = browsers();
    for (case, head) in
        [("first request, whole head of 70 bytes", REQUEST), ("first request, whole head of 1 kB", &browsers)]
    {
        b.world.rest().expect("tables");
        b.decided(PLAIN, OTHER);
        b.prepare(|w, f| ack(w, on(f, 85)));
        b.ingress(case, Counter::DecidedCache, |w, f| {
            established(w, on(f, 85), ACK | PSH).data(head).frame()
        });
    }
    b.world.rest().expect("tables");
    let route = |i| Route { path: PathMatch::Prefix(format!("/images/{i}")), pool: 1, ..Route::default() };
    b.world.service(9, 84, &[WEB, QUERY], (0..20).map(route).collect(), [false, false]).expect("tables");
    b.decided(WEB, OTHER);
    b.prepare(|w, f| ack(w, on(f, 84)));
    b.ingress("first request, 20 routes by path", Counter::DecidedCache, |w, f| request(w, on(f, 84)));
    b.world.rest().expect("tables");
    b.world.guide(WEB, GuideKind::Ask, &[], 1);
    b.ingress("first request proves itself, held", Counter::HeldAsk, request);
    b.rows
}

fn owner(rows: Vec<Row>) -> Vec<Row> {
    let mut b = Bench::new("ds", rows);
    b.serve();
    b.ingress("owned, to the stack", Counter::Owned, |_, f| served(f, 100, &[]));
    let mut answer = Tcp::new(flow(1), ACK | PSH, ACK_START, SEQ_START).data(&[b'a'; 1000]);
    answer.back = true;
    let sent = |f: Flow, port| Tcp { flow: on(f, port), ..answer.clone() }.frame();
    b.time("egress", NOT_OURS, |_, f| sent(f, 22), egress);
    let before = b.counted(Counter::BytesServed);
    b.time("egress", "the server's data, followed", |_, f| sent(f, 80), egress);
    assert_eq!(b.counted(Counter::BytesServed) - before, u64::from(*FLOWS) * 1000);
    b.rows
}

fn follower(rows: Vec<Row>) -> Vec<Row> {
    let mut b = Bench::new("ds", rows);
    b.decided(WEB, SELF);
    let browsers = browsers();
    for (case, head) in [
        ("later request, 70 bytes, decided for this node", REQUEST),
        ("later request, 1 kB, decided for this node", &browsers),
    ] {
        b.serve();
        b.ingress(case, Counter::MoveDecidedHere, |_, f| served(f, 0, head));
    }
    let answer = |f, payload: &[u8]| {
        let mut tcp = Tcp::new(f, ACK | PSH, ACK_START, SEQ_START + browsers.len() as u32).data(payload);
        tcp.back = true;
        tcp.frame()
    };
    let head = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 900\r\nContent-Type: text/html\r\n\r\n";
    let whole = [&head[..], &[b'a'; 900]].concat();
    b.time("egress", "a response of 1 kB, head and body", |_, f| answer(f, &whole), egress);
    b.serve();
    let post = b"POST /images/logo.png HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n";
    b.prepare(|_, f| served(f, 0, post));
    let body = [b'a'; 1000];
    b.ingress("1000 bytes of a request's body", Counter::Owned, |_, f| served(f, post.len() as u32, &body));
    b.rows
}

fn mover(rows: Vec<Row>) -> Vec<Row> {
    client_here();
    let mut b = Bench::new("s", rows);
    b.world.decide(WEB, FIRST, &[SELF], 1);
    let sockets: Vec<_> = flows().take(SOCKETS).map(|f| Served::new(&mut b.world, f)).collect();
    let move_ = |c: &Served| ns(b.world.programs.run_ingress(&c.asks(REQUEST)).expect("a test-run").took);
    let took = sockets.iter().map(move_).collect();
    assert_eq!(b.counted(Counter::Moved), sockets.len() as u64, "not what was timed");
    b.keep("ingress", "later request moves the connection", took);
    b.rows
}

fn server(rows: Vec<Row>) -> Vec<Row> {
    let mut b = Bench::new("s", rows);
    b.ingress("handoff opened, bound, refused (no listener)", Counter::ResetNoListener, |w, f| {
        let h = Handoff {
            hops: 0,
            options: 7,
            snd_wscale: 9,
            start_seq: 1001,
            tsval: 3,
            issued: w.clock().cluster_ns,
            mss: 1460,
            distributor: 1,
            reserved: 0,
            rtt_ms: 4,
            cwnd: 0,
            flags: 0,
            replay_end: 0,
        };
        let inner = established(w, f, ACK | PSH).data(REQUEST);
        let (frame, ack) = (inner.frame(), inner.ack);
        h.wrap(&keys(), (&frame, f, ack), address(OTHER), address(SELF), HANDOFF_PORT).expect("whole")
    });
    b.rows
}

fn switch(rows: Vec<Row>) -> Vec<Row> {
    let mut b = Bench::new("w", rows);
    let slots = vec![Some(OTHER); 65_537];
    b.world.spread(&slots).expect("tables");
    b.ingress("switch: spread by Maglev", Counter::ForwardedDistributor, ack);
    let issued = b.world.clock().cluster_ns;
    for f in flows() {
        b.world.programs.bind_told(&f, 1001, OTHER, OTHER, issued).expect("bindings");
    }
    b.ingress("switch: forwarded by binding", Counter::ForwardedBinding, ack);
    b.rows
}

fn main() {
    let json = std::env::args().any(|a| a == "--json");
    in_netns(move || {
        let rows = switch(server(mover(follower(owner(distributor(Vec::new()))))));
        let mut out = std::io::stdout().lock();
        let printed = if json { print_json(&mut out, &rows) } else { print_table(&mut out, &rows) };
        printed.expect("standard output");
    });
}

fn print_table(out: &mut impl std::io::Write, rows: &[Row]) -> std::io::Result<()> {
    writeln!(
        out,
        "ns per packet, test-run's own overhead included; {} packets a case, each of another flow ({SOCKETS} moves)\n",
        *FLOWS
    )?;
    writeln!(out, "{:<8} {:<46} {:>7} {:>7} {:>7}", "program", "case", "median", "min", "p90")?;
    for r in rows {
        writeln!(out, "{:<8} {:<46} {:>7} {:>7} {:>7}", r.program, r.case, r.median, r.min, r.p90)?;
    }
    Ok(())
}

fn print_json(out: &mut impl std::io::Write, rows: &[Row]) -> std::io::Result<()> {
    let rows: Vec<_> = rows
        .iter()
        .map(|r| {
            serde_json::json!({
                "program": r.program, "case": r.case,
                "ns": { "median": r.median, "min": r.min, "p90": r.p90 },
            })
        })
        .collect();
    writeln!(out, "{:#}", serde_json::json!({ "packets": *FLOWS, "overhead_included": true, "rows": rows }))
}
