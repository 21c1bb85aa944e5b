//! Decisions per second of one core, in-process: each policy over 100,000 targets asked for by a
//! Zipf law, 16 servers whose loads are reported as requests end. `cargo bench -p baton-dispatcher`;
//! `-- 5` for five rounds instead of three. Prints the median of the rounds, and the extremes.
//!
//! Two mixes: *calm*, where loads stay below the thresholds, and *busy*, where they lie around
//! T_high, so that LARD moves targets and looks for idle servers all the time.

use std::hint::black_box;
use std::time::{Duration, Instant};

use baton_cluster::{Consult, NodeId, PolicyConfig, PolicyKind, ServiceId, Target};
use baton_dispatcher::{Dispatcher, Loads, ServiceRule, fallback, maglev};

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

fn dispatcher(kind: PolicyKind) -> Dispatcher {
    let rule = ServiceRule { policy: PolicyConfig::new(kind), consult: Consult::Cached };
    let mut dispatcher = Dispatcher::new((0..SERVERS).map(|id| (NodeId(id), 1)), [rule], 262_144);
    for id in 0..SERVERS {
        dispatcher.server_up(NodeId(id));
    }
    for distributor in 0..4 {
        dispatcher.distributor_up(NodeId(100 + distributor));
    }
    dispatcher
}

/// Asks for the whole workload; loads come from `mean` and vary by half of it.
fn ask_all(dispatcher: &mut Dispatcher, targets: &[Target], mean: u32) {
    let mut random = Random(2);
    for (batch, questions) in (0u64..).zip(targets.chunks(BATCH)) {
        let now = Duration::from_micros(batch * 10);
        let from = NodeId(100 + u16::try_from(batch % 4).unwrap_or(0));
        for target in questions {
            black_box(dispatcher.ask(from, ServiceId(0), Some(*target), now)).ok();
        }
        let server = NodeId(u16::try_from(random.next() % u64::from(SERVERS)).unwrap_or(0));
        let spread = u32::try_from(random.next() % u64::from(mean)).unwrap_or(0);
        dispatcher.load_reported(server, mean / 2 + spread);
        black_box(dispatcher.take_pushes());
    }
}

/// Millions per second, of `rounds` rounds: median, least, most.
#[expect(clippy::disallowed_methods, reason = "a benchmark is where the clock is read")]
fn measure(rounds: usize, operations: usize, mut round: impl FnMut()) -> (f64, f64, f64) {
    round();
    let mut rates: Vec<f64> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            round();
            operations as f64 / start.elapsed().as_secs_f64() / 1e6
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    (rates[rates.len() / 2], rates[0], rates[rates.len() - 1])
}

fn report(name: &str, mix: &str, (median, least, most): (f64, f64, f64)) {
    println!("{name:<14} {mix:<6} {median:>7.1} million/s  ({least:.1} to {most:.1})");
}

fn main() {
    let rounds = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(3).clamp(1, 50);
    let targets = workload();
    for kind in PolicyKind::ALL {
        for (mix, mean) in [("calm", 30), ("busy", 70)] {
            let mut dispatcher = dispatcher(kind);
            let rates = measure(rounds, targets.len(), || ask_all(&mut dispatcher, &targets, mean));
            report(kind.name(), mix, rates);
        }
    }
    let mut loads = Loads::new((0..SERVERS).map(|id| (NodeId(id), 1)));
    for id in 0..SERVERS {
        loads.set_live(NodeId(id), true);
    }
    let ring = fallback::Ring::new(loads.servers());
    let rates = measure(rounds, targets.len(), || {
        for target in &targets {
            black_box(ring.choose(Some(*target), &loads));
        }
    });
    report("fallback", "idle", rates);
    let members: Vec<_> = (0..SERVERS).map(|id| (NodeId(id), 1)).collect();
    let (per_million, ..) = measure(rounds, 1, || {
        black_box(maglev::Table::new(&members));
    });
    println!("maglev table of {} entries: {:.2} ms", maglev::TABLE_SIZE, 1e-3 / per_million);
}
