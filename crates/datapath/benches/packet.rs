//! Nanoseconds per packet of each program and case, by test-run. What a test-run itself costs is
//! included in every figure; the first row of each program, a packet that is none of ours, shows how
//! much that is. `--json` prints the same for `make bench`. Needs root.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use baton_cluster::Flow;
use baton_datapath::model::flag::{ACK, PSH, SYN};
use baton_datapath::model::{Handoff, Offer, Options, cookie_of};
use baton_datapath::test_run::Run;
use baton_datapath::{Counter, DatapathError, Guide};
use common::frames::{MSS, SACK, WSCALE, flow, timestamps};
use common::world::{HANDOFF_PORT, OTHER, SELF, WEB, address, keys};
use common::{Tcp, World, in_netns};

const FLOWS: u16 = 4000; // fewer than the table of bindings holds
const REQUEST: &[u8] = b"GET /images/logo.png HTTP/1.1\r\nHost: www.example.org\r\nAccept: */*\r\n\r\n";

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
        let mut world = World::new(roles, &[]);
        world.guide(WEB, Guide::Cached { load_limit: u32::MAX }, &[], 1);
        world.decide(WEB, REQUEST, &[OTHER], 1);
        Self { world, rows }
    }

    /// Runs a frame of each flow and keeps the case's figures; each must be counted as the case says.
    fn ingress(&mut self, case: &'static str, as_what: Counter, frame: impl Fn(&World, Flow) -> Vec<u8>) {
        let before = self.counted(as_what);
        self.time("ingress", case, frame, |world, frame| world.programs.run_ingress(frame));
        assert_eq!(self.counted(as_what) - before, u64::from(FLOWS), "{case}: not what was timed");
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
        let mut took: Vec<u64> = flows().map(once).collect();
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
    (0..FLOWS).map(|i| flow(20_000 + i))
}

fn ns(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// The client's packet after a handshake with this cluster.
fn established(world: &World, f: Flow, flags: u8) -> Tcp {
    let offer = Offer::of(&Options { mss: Some(1460), wscale: Some(9), sack: true, timestamps: None });
    let cookie = cookie_of(&keys(), &f, 1000, offer, world.clock());
    Tcp::new(f, flags, 1001, cookie.wrapping_add(1)).options(&[&[1, 1], &timestamps(5, 6)])
}

fn ack(world: &World, f: Flow) -> Vec<u8> {
    established(world, f, ACK).frame()
}

fn request(world: &World, f: Flow) -> Vec<u8> {
    established(world, f, ACK | PSH).data(REQUEST).frame()
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
    b.world.rest().expect("tables");
    b.world.guide(WEB, Guide::Ask, &[], 1);
    b.ingress("first request proves itself, held", Counter::HeldAsk, request);
    b.rows
}

fn owner(rows: Vec<Row>) -> Vec<Row> {
    let mut b = Bench::new("ds", rows);
    b.world.guide(WEB, Guide::Rota, &[SELF], 1);
    b.prepare(request); // nobody listens: refused, but bound here
    b.ingress("owned, to the stack", Counter::Owned, |w, f| {
        let mut tcp = established(w, f, ACK);
        tcp.seq += 100;
        tcp.frame()
    });
    let mut answer = Tcp::new(flow(1), ACK | PSH, 1, 1).data(&[b'a'; 1000]);
    answer.back = true;
    let sent = |mut f: Flow, port| {
        f.vip_port = port;
        Tcp { flow: f, ..answer.clone() }.frame()
    };
    b.time("egress", NOT_OURS, |_, f| sent(f, 22), egress);
    let before = b.counted(Counter::BytesServed);
    b.time("egress", "the server's data, followed", |_, f| sent(f, 80), egress);
    assert_eq!(b.counted(Counter::BytesServed) - before, u64::from(FLOWS) * 1000);
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
            issued: w.clock().wall_ns,
            mss: 1460,
            distributor: 1,
            service: 0,
            rtt_ms: 4,
            cwnd: 0,
            flags: 0,
            replay_end: 0,
        };
        h.wrap(&keys(), &request(w, f), address(OTHER), address(SELF), HANDOFF_PORT).expect("whole")
    });
    b.rows
}

fn switch(rows: Vec<Row>) -> Vec<Row> {
    let mut b = Bench::new("w", rows);
    let slots = vec![Some(OTHER); 65_537];
    b.world.programs.set_maglev(&slots).expect("maglev");
    b.ingress("switch: spread by Maglev", Counter::ForwardedDistributor, ack);
    let issued = b.world.clock().wall_ns;
    for f in flows() {
        b.world.programs.bind_told(&f, 1001, OTHER, OTHER, issued).expect("bindings");
    }
    b.ingress("switch: forwarded by binding", Counter::ForwardedBinding, ack);
    b.rows
}

fn main() {
    let json = std::env::args().any(|a| a == "--json");
    in_netns(move || {
        let rows = switch(server(owner(distributor(Vec::new()))));
        let mut out = std::io::stdout().lock();
        let printed = if json { print_json(&mut out, &rows) } else { print_table(&mut out, &rows) };
        printed.expect("standard output");
    });
}

fn print_table(out: &mut impl std::io::Write, rows: &[Row]) -> std::io::Result<()> {
    writeln!(
        out,
        "ns per packet, test-run's own overhead included; {FLOWS} packets a case, each of another flow\n"
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
    writeln!(out, "{:#}", serde_json::json!({ "packets": FLOWS, "overhead_included": true, "rows": rows }))
}
