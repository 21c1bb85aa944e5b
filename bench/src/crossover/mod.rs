//! The crossover: requests of kept connections that belong to one server and another in turn. Baton moves
//! the connection for each, HAProxy fetches each over a connection that it keeps; and as a measure of what
//! moving costs, Baton leaves the connection where it is. The paper of 1999 drew where the one begins to
//! pay and the other ends (multiple handoff and back-end forwarding). Called by the main program.

mod figures;
mod plot;
mod schedule;
mod table;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use crate::compare::{all_work, each, loaded};
use crate::generator::{Requests, Tally};
use crate::meta::Meta;
use crate::sides::{Running, Sides};

use figures::{Crossover, Run};
use schedule::{SIZES, Schedule, Try, Way};

/// One answer in so many is compared byte by byte.
const SAMPLE: u64 = 128;
/// What is read of Baton's counters.
const COUNTERS: [&str; 4] = ["moved", "drop_early_request", "held_load", "held_miss"];
/// So much of the moves may be missing.
const TOLERATED: f64 = 0.02;

/// Runs all of it, prints a table, and writes `crossover.json` and `crossover.svg`.
/// Returns how many answers were wrong or missing.
///
/// # Errors
/// When a file cannot be written or the picture not drawn.
///
/// # Panics
/// When a daemon does not start.
pub fn crossover(
    sides: &Sides,
    mut meta: Meta,
    rounds: usize,
    quick: bool,
    out: &Path,
) -> anyhow::Result<u64> {
    let schedule = schedule(rounds, meta.connections, quick);
    (meta.rounds, meta.front_rounds) = (schedule.rounds, 0);
    (meta.seconds, meta.warm_up_seconds) = (schedule.measured.as_secs_f64(), schedule.warm.as_secs_f64());
    let crossover = Crossover::of(meta, &schedule.sizes, &measure(&schedule, sides));
    println!("\n{}", table::table(&crossover));
    super::write(out, "crossover.json", &crossover)?;
    let path = out.join("crossover.svg");
    std::fs::write(&path, plot::svg(&crossover))
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("written: {}", path.display());
    Ok(crossover.rows.iter().chain(&crossover.alone).map(|row| row.errors).sum())
}

fn schedule(rounds: usize, connections: usize, quick: bool) -> Schedule {
    let ms = Duration::from_millis;
    if quick {
        let sizes = vec![SIZES[0], SIZES[SIZES.len() - 1]];
        return Schedule { sizes, rounds: 1, warm: ms(100), measured: ms(300), connections };
    }
    Schedule { sizes: SIZES.to_vec(), rounds, warm: ms(300), measured: ms(1000), connections }
}

fn measure(schedule: &Schedule, sides: &Sides) -> Vec<Run> {
    for bytes in &schedule.sizes {
        [1, 2, 4, 8].into_iter().for_each(|row| sides.add(&Way::Moving(row).files(*bytes)));
    }
    let mut runs = Vec::new();
    for round in 0..schedule.rounds {
        for group in schedule.groups(round) {
            let batons = group.iter().any(|one| one.way != Way::Haproxy).then(|| sides.start_pools());
            for one in group {
                let run = run(schedule, sides, batons.as_ref(), one, round);
                println!("{}", table::line(&run));
                runs.push(run);
            }
            if let Some(batons) = batons {
                batons.stop();
            }
        }
    }
    runs
}

fn run(schedule: &Schedule, sides: &Sides, batons: Option<&Running<'_>>, one: Try, round: usize) -> Run {
    let requests = Requests {
        to: one.way.at(sides.routed()),
        files: one.way.files(one.bytes),
        keep_alive: true,
        connections: if one.alone { 1 } else { schedule.connections },
        cpu: None,
        sample: SAMPLE,
    };
    let counted = || batons.map_or([0; 4], |batons| batons.counted(COUNTERS));
    let before = counted();
    let (mut tally, [cpu_us, own_cpu_us]) =
        loaded(&requests, sides, schedule.warm, schedule.measured, all_work(sides));
    let mut counts = counted();
    counts.iter_mut().zip(before).for_each(|(count, before)| *count -= before);
    let [moved, early, by_load, by_miss] = counts;
    judge(&mut tally, one.way, requests.connections, moved);
    let of_all = |count: u64| count as f64 / tally.all_answers.max(1) as f64;
    let at = |quantile| tally.latency_us.value_at_quantile(quantile) as f64 / 1e3;
    Run {
        one,
        round,
        rate_rps: tally.answers as f64 / schedule.measured.as_secs_f64(),
        cpu_us: each(cpu_us, &tally),
        own_cpu_us: each(own_cpu_us, &tally),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        slowest_ms: at(1.0),
        moves: of_all(moved),
        early: of_all(early),
        asked: of_all(by_load + by_miss),
        errors: tally.errors,
        first_error: tally.first_error,
    }
}

/// A side that does something else than it should is refused, however fast.
fn judge(tally: &mut Tally, way: Way, connections: usize, moved: u64) {
    let wanted = way.moves() * tally.all_answers as f64;
    // The first request of a connection does not move, nor one that follows an error.
    let tolerated = if wanted > 0.0 { wanted * TOLERATED + connections as f64 } else { 0.0 };
    if (moved as f64 - wanted).abs() > tolerated {
        tally.error(format!("{moved} moves for {} requests, instead of {wanted:.0}", tally.all_answers));
    }
    if tally.answers == 0 || tally.compared == 0 {
        tally.error(format!("{} answers, {} of them compared", tally.answers, tally.compared));
    }
}

#[cfg(test)]
mod tests {
    use super::{Tally, Way, judge};

    #[test]
    fn a_side_that_does_not_move_is_refused() {
        let errors = |way: Way, moved: u64| {
            let mut tally = Tally { answers: 900, all_answers: 1000, compared: 1, ..Tally::default() };
            judge(&mut tally, way, 50, moved);
            tally.errors
        };
        assert_eq!(errors(Way::Moving(1), 950), 0);
        assert_eq!(errors(Way::Moving(1), 0), 1);
        assert_eq!(errors(Way::Moving(2), 490), 0);
        assert_eq!(errors(Way::Moving(2), 1000), 1);
        assert_eq!(errors(Way::Staying, 0), 0);
        assert_eq!(errors(Way::Staying, 1), 1);
    }
}
