//! Decisions per second of one core, in-process: each policy over 100,000 targets asked for by a
//! Zipf law, 16 servers that report what they serve. `cargo bench -p baton-dispatcher`, with
//! `-- 9` for nine rounds instead of five. Prints the median and the extremes,
//! per second of CPU time.
//!
//! Two mixes: *calm*, 20 requests a server being served, and *busy*, as many in all as ASPLOS'98
//! admits: (n - 1) * T_high + T_low - 1. A batch comes every 100 us, so K passes.

use std::hint::black_box;
use std::time::Duration;

use baton_cluster::{NodeId, PHttp, PolicyConfig, PolicyKind, PoolId, Target};
use baton_dispatcher::{Dispatcher, Loads, PoolQuestion, PoolRule, fallback, maglev};

const TARGETS: u64 = 100_000;
const SERVERS: u16 = 16;
const DECISIONS: usize = 4_000_000;
/// A batch of questions as one frame brings it; pushes are taken after each, as the daemon does.
const BATCH: usize = 32;

/// SplitMix64: enough for a workload that is the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// `DECISIONS` targets drawn by a Zipf law of exponent 1.
fn workload() -> Vec<Target> {
    let mut random = Random(1);
    let names: Vec<u64> = (0..TARGETS).map(|_| random.next()).collect();
    let mut sum = 0.0;
    let mut shares: Vec<f64> = Vec::new();
    for rank in 1..=TARGETS {
        sum += 1.0 / rank as f64;
        shares.push(sum);
    }
    let mut draw = || {
        let at = random.unit() * sum;
        let rank = shares.partition_point(|share| *share < at).min(names.len() - 1);
        Target(names[rank])
    };
    (0..DECISIONS).map(|_| draw()).collect()
}

fn servers() -> Vec<NodeId> {
    (0..SERVERS).map(NodeId).collect()
}

fn dispatcher(kind: PolicyKind, p_http: PHttp) -> Dispatcher {
    let rule = PoolRule { p_http, ..PoolRule::new(servers(), PolicyConfig::new(kind)) };
    let mut dispatcher = Dispatcher::new((0..SERVERS).map(|id| (NodeId(id), 1)), [rule], 262_144);
    for id in 0..SERVERS {
        dispatcher.server_up(NodeId(id));
    }
    for distributor in 0..4 {
        dispatcher.distributor_up(NodeId(100 + distributor));
    }
    dispatcher
}

/// Asks for the whole workload while `serving` requests are being served: each new one ends the
/// oldest. After each batch a quarter of the servers report what they really serve.
fn ask_all(dispatcher: &mut Dispatcher, targets: &[Target], serving: usize, now: &mut Duration) {
    let mut counts = vec![0u32; usize::from(SERVERS)];
    let mut ends: Vec<Option<NodeId>> = vec![None; serving];
    let mut oldest = (0..serving).cycle();
    for (turn, questions) in (0..4).cycle().zip(targets.chunks(BATCH)) {
        *now += Duration::from_micros(100);
        for target in questions {
            let question = PoolQuestion { pool: PoolId(0), target: Some(*target), at: None };
            let decision = dispatcher.ask(NodeId(100 + turn), question, *now);
            let server = black_box(decision).expect("servers are up").server;
            counts[server.index()] += 1;
            let ended = ends[oldest.next().unwrap_or(0)].replace(server);
            if let Some(ended) = ended {
                counts[ended.index()] -= 1;
            }
        }
        for server in (turn..SERVERS).step_by(4).map(NodeId) {
            dispatcher.load_reported(server, counts[server.index()], 0);
        }
        black_box(dispatcher.take_pushes());
    }
}

/// Millions per second of CPU time, of `rounds` rounds: median, least, most.
fn measure(rounds: usize, operations: usize, mut round: impl FnMut()) -> (f64, f64, f64) {
    round();
    let mut rates: Vec<f64> = (0..rounds)
        .map(|_| {
            let start = cpu_time();
            round();
            operations as f64 / (cpu_time() - start).as_secs_f64() / 1e6
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    (rates[rates.len() / 2], rates[0], rates[rates.len() - 1])
}

/// How long this thread has been running on a CPU: what other processes take does not count, other
/// than by their share of caches and memory. As fine as the scheduler's tick: a round lasts far longer.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux with schedstats");
    let nanos = stat.split(' ').next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanos.expect("the first field of schedstat is nanoseconds"))
}

fn report(name: &str, mix: &str, (median, least, most): (f64, f64, f64)) {
    println!("{name:<14} {mix:<6} {median:>7.1} million/s  ({least:.1} to {most:.1})");
}

fn main() {
    if !std::env::args().any(|arg| arg == "--bench") {
        return; // built as a test of itself, by `cargo test --all-targets`
    }
    let rounds = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(5).clamp(1, 50);
    let targets = workload();
    let stay = PolicyKind::ALL.map(|kind| (kind.name(), kind, PHttp::Stay));
    let extended = ("extended-lard", PolicyKind::Lard, PHttp::ExtendedLard);
    for (name, kind, p_http) in stay.into_iter().chain([extended]) {
        for (mix, serving) in [("calm", 16 * 20), ("busy", 15 * 65 + 24)] {
            let (mut dispatcher, mut now) = (dispatcher(kind, p_http), Duration::ZERO);
            let rates =
                measure(rounds, targets.len(), || ask_all(&mut dispatcher, &targets, serving, &mut now));
            report(name, mix, rates);
        }
    }
    let mut loads = Loads::new((0..SERVERS).map(|id| (NodeId(id), 1)));
    for id in 0..SERVERS {
        loads.set_live(NodeId(id), true);
    }
    let all = servers();
    let ring = fallback::Ring::new(loads.servers());
    let rates = measure(rounds, targets.len(), || {
        for target in &targets {
            black_box(ring.choose(Some(*target), loads.of(&all)));
        }
    });
    report("fallback", "idle", rates);
    let members: Vec<_> = (0..SERVERS).map(|id| (NodeId(id), 1)).collect();
    let tables = 100;
    let (per_million, ..) = measure(rounds, tables, || {
        for _ in 0..tables {
            black_box(maglev::Table::new(&members));
        }
    });
    println!("maglev table of {} entries: {:.2} ms", maglev::TABLE_SIZE, 1e-3 / per_million);
}
