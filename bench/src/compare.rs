//! The comparison: rounds in which each load is put on each side in turn, so that what changes on the
//! machine meanwhile changes for all; and further rounds for the front tier's share.

use std::thread;
use std::time::{Duration, Instant};

use crate::cpu::{self, Ticks};
use crate::front::{FRONT_CPU, Measured, OwnCpu, parts_us};
use crate::generator::{Requests, Tally};
use crate::plan::{Load, Plan, Side};
use crate::sides::{Running, Sides};

/// What one run of a load on a side gave.
#[derive(Debug, Clone)]
pub struct Run {
    /// Which load.
    pub load: &'static str,
    /// Which side.
    pub side: Side,
    /// In which round; runs of one round are compared with each other.
    pub round: usize,
    /// What was measured.
    pub figures: Figures,
    /// Answers that were wrong or missing.
    pub errors: u64,
    /// What the first of them was.
    pub first_error: Option<String>,
}

/// Figures of a run.
#[derive(Debug, Clone, Copy)]
pub enum Figures {
    /// Of an ordinary run.
    All {
        /// Right answers a second.
        rate_rps: f64,
        /// The machine's work for each, microseconds.
        cpu_us: f64,
        /// What of it the kernel charged to the processes of the comparison, microseconds.
        own_cpu_us: f64,
        /// Half of the answers took no longer, milliseconds.
        p50_ms: f64,
        /// 99 of 100 answers took no longer, milliseconds.
        p99_ms: f64,
    },
    /// Of a run in which the front machine had a CPU of its own.
    OwnCpu {
        /// What that CPU was busy for each answer, microseconds.
        cpu_us: f64,
    },
    /// Of a run in which Baton's parts were measured; all nodes' together.
    Parts {
        /// The eBPF programs' time for each answer, microseconds.
        programs_us: f64,
        /// The daemons' CPU time for each answer, microseconds.
        daemons_us: f64,
    },
}

/// Runs the whole plan. `progress` is told each run.
pub fn compare(plan: &Plan, sides: &Sides, mut progress: impl FnMut(&Run)) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut keep = |run: Run| {
        progress(&run);
        runs.push(run);
    };
    for round in 0..plan.rounds {
        for load in &plan.loads {
            plan.order(round).for_each(|side| keep(ordinary(plan, sides, *load, side, round)));
        }
    }
    for round in 0..plan.front_rounds {
        for load in &plan.loads {
            for side in plan.order(round) {
                if has_front_machine(side) {
                    keep(own_cpu(plan, sides, *load, side, round));
                }
                if matches!(side, Side::BatonFigure5 | Side::BatonFigure7) {
                    keep(parts(plan, sides, *load, side, round));
                }
            }
        }
    }
    runs
}

fn has_front_machine(side: Side) -> bool {
    !matches!(side, Side::Nginx | Side::BatonFigure7)
}

fn ordinary(plan: &Plan, sides: &Sides, load: Load, side: Side, round: usize) -> Run {
    let running = sides.start(side, load);
    let (tally, [cpu_us, own_cpu_us]) = measure(plan, sides, load, &running, None, all_work(sides));
    running.stop();
    let at = |quantile| tally.latency_us.value_at_quantile(quantile) as f64 / 1e3;
    let figures = Figures::All {
        rate_rps: tally.answers as f64 / plan.measured.as_secs_f64(),
        cpu_us: each(cpu_us, &tally),
        own_cpu_us: each(own_cpu_us, &tally),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
    };
    run(load, side, round, figures, tally)
}

fn own_cpu(plan: &Plan, sides: &Sides, load: Load, side: Side, round: usize) -> Run {
    let running = sides.start(side, load);
    let own = OwnCpu::give(sides);
    let (tally, cpu_us) = measure(plan, sides, load, &running, Some(0), || {
        let (before, start) = (Ticks::now(Some(FRONT_CPU)), Instant::now());
        move || Ticks::now(Some(FRONT_CPU)).busy_us_since(before, start.elapsed(), 1)
    });
    drop(own);
    running.stop();
    run(load, side, round, Figures::OwnCpu { cpu_us: each(cpu_us, &tally) }, tally)
}

fn parts(plan: &Plan, sides: &Sides, load: Load, side: Side, round: usize) -> Run {
    let running = sides.start(side, load);
    let measured = Measured::programs();
    let (tally, [programs_us, daemons_us]) = measure(plan, sides, load, &running, None, || {
        let daemons = running.daemons();
        let before = parts_us(&daemons);
        move || {
            let now = parts_us(&daemons);
            [now[0] - before[0], now[1] - before[1]]
        }
    });
    drop(measured);
    running.stop();
    let (programs_us, daemons_us) = (each(programs_us, &tally), each(daemons_us, &tally));
    run(load, side, round, Figures::Parts { programs_us, daemons_us }, tally)
}

/// Puts the load on a side; `begin` is called when it is warm, and what it returns at the end.
fn measure<Work: Send, End: FnOnce() -> Work + Send>(
    plan: &Plan,
    sides: &Sides,
    load: Load,
    running: &Running<'_>,
    cpu: Option<usize>,
    begin: impl FnOnce() -> End + Send,
) -> (Tally, Work) {
    let requests = Requests {
        to: running.to,
        files: load.files(),
        keep_alive: load.keep_alive,
        connections: plan.connections,
        cpu,
        sample: 0,
    };
    loaded(&requests, sides, plan.warm, plan.measured, begin)
}

/// The machine's work, and what of it the kernel charged to the processes of the comparison, both in
/// microseconds: to begin with, and to end.
pub fn all_work(sides: &Sides) -> impl FnOnce() -> Box<dyn FnOnce() -> [f64; 2] + Send> + Send + use<> {
    let processes = sides.processes();
    move || {
        let own = move || processes.iter().map(|pid| cpu::of_process(*pid)).sum::<f64>();
        let (before, own_before, start) = (Ticks::now(None), own(), Instant::now());
        Box::new(move || {
            [Ticks::now(None).busy_us_since(before, start.elapsed(), cpu::count()), own() - own_before]
        })
    }
}

/// Requests for as long as `warm`, then for as long as `measured`; `begin` is called in between, and what
/// it returns at the end.
pub fn loaded<Work: Send, End: FnOnce() -> Work + Send>(
    requests: &Requests,
    sides: &Sides,
    warm: Duration,
    measured: Duration,
    begin: impl FnOnce() -> End + Send,
) -> (Tally, Work) {
    let from = Instant::now() + warm;
    let until = from + measured;
    requests.run(sides.client(), from, until, || {
        sleep_until(from);
        let end = begin();
        sleep_until(until);
        end()
    })
}

fn sleep_until(moment: Instant) {
    thread::sleep(moment.saturating_duration_since(Instant::now()).max(Duration::ZERO));
}

/// Microseconds of each answer.
pub fn each(us: f64, tally: &Tally) -> f64 {
    us / (tally.answers.max(1) as f64)
}

fn run(load: Load, side: Side, round: usize, figures: Figures, tally: Tally) -> Run {
    Run { load: load.name, side, round, figures, errors: tally.errors, first_error: tally.first_error }
}
