//! The comparison: rounds in which each load is put on each side in turn, so that what changes on the
//! machine meanwhile changes for all; and further rounds for the front tier's share.

use std::thread;
use std::time::{Duration, Instant};

use crate::cpu::{self, Ticks};
use crate::front::{FRONT_CPU, Measured, OwnCpu, programs_and_daemons_us};
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
        /// Half of the answers took no longer, milliseconds.
        p50_ms: f64,
        /// 99 of 100 answers took no longer, milliseconds.
        p99_ms: f64,
    },
    /// Of a run for the front tier alone.
    Front {
        /// The front's work for each answer, microseconds.
        cpu_us: f64,
        /// How it was told apart.
        by: FrontBy,
    },
}

/// How the front tier's work is told apart; see [`crate::front`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontBy {
    /// It had a CPU of its own.
    OwnCpu,
    /// The eBPF programs and the daemons of all nodes.
    Programs,
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
                let ways = front_ways(side).iter();
                ways.for_each(|by| keep(front(plan, sides, *load, side, round, *by)));
            }
        }
    }
    runs
}

fn front_ways(side: Side) -> &'static [FrontBy] {
    match side {
        Side::Nginx => &[],
        Side::BatonFigure5 => &[FrontBy::OwnCpu, FrontBy::Programs],
        Side::BatonFigure7 => &[FrontBy::Programs],
        Side::HaproxyHttp | Side::HaproxyTcp | Side::NginxProxy => &[FrontBy::OwnCpu],
    }
}

fn ordinary(plan: &Plan, sides: &Sides, load: Load, side: Side, round: usize) -> Run {
    let running = sides.start(side, load);
    let (tally, cpu_us) = measure(plan, sides, load, &running, None, || {
        let (before, start) = (Ticks::now(None), Instant::now());
        move || Ticks::now(None).busy_us_since(before, start.elapsed(), cpu::count())
    });
    running.stop();
    let at = |quantile| tally.latency_us.value_at_quantile(quantile) as f64 / 1e3;
    let figures = Figures::All {
        rate_rps: tally.answers as f64 / plan.measured.as_secs_f64(),
        cpu_us: each(cpu_us, &tally),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
    };
    run(load, side, round, figures, tally)
}

fn front(plan: &Plan, sides: &Sides, load: Load, side: Side, round: usize, by: FrontBy) -> Run {
    let running = sides.start(side, load);
    let (tally, cpu_us) = match by {
        FrontBy::OwnCpu => {
            let _own = OwnCpu::give(sides);
            measure(plan, sides, load, &running, Some(0), || {
                let (before, start) = (Ticks::now(Some(FRONT_CPU)), Instant::now());
                move || Ticks::now(Some(FRONT_CPU)).busy_us_since(before, start.elapsed(), 1)
            })
        }
        FrontBy::Programs => {
            let _measured = Measured::programs();
            let running = &running;
            measure(plan, sides, load, running, None, || {
                let before = programs_and_daemons_us(running);
                move || programs_and_daemons_us(running) - before
            })
        }
    };
    running.stop();
    run(load, side, round, Figures::Front { cpu_us: each(cpu_us, &tally), by }, tally)
}

/// Puts the load on a side; `begin` is called when it is warm, and what it returns at the end.
fn measure<End: FnOnce() -> f64 + Send>(
    plan: &Plan,
    sides: &Sides,
    load: Load,
    running: &Running<'_>,
    cpu: Option<usize>,
    begin: impl FnOnce() -> End + Send,
) -> (Tally, f64) {
    let requests = Requests {
        to: running.to,
        files: load.files(),
        keep_alive: load.keep_alive,
        connections: plan.connections,
        cpu,
    };
    let from = Instant::now() + plan.warm;
    let until = from + plan.measured;
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

fn each(us: f64, tally: &Tally) -> f64 {
    us / (tally.answers.max(1) as f64)
}

fn run(load: Load, side: Side, round: usize, figures: Figures, tally: Tally) -> Run {
    Run { load: load.name, side, round, figures, errors: tally.errors, first_error: tally.first_error }
}
