//! From runs to figures: the file `crossover.json`. Pure.

use serde::Serialize;

use crate::meta::Meta;
use crate::spread::Spread;

use super::schedule::{Try, Way};

/// What one run gave.
#[derive(Debug, Clone)]
pub struct Run {
    /// What was run.
    pub one: Try,
    /// In which round; runs of one round are compared with each other.
    pub round: usize,
    /// Right answers a second.
    pub rate_rps: f64,
    /// The machine's work for each, microseconds.
    pub cpu_us: f64,
    /// What of it the kernel charged to the processes of the comparison, microseconds.
    pub own_cpu_us: f64,
    /// Half of the answers took no longer, milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 answers took no longer, milliseconds.
    pub p99_ms: f64,
    /// The slowest answer, milliseconds.
    pub slowest_ms: f64,
    /// Moves for each request.
    pub moves: f64,
    /// Requests for each request that came before their connection was idle, and had to be repeated.
    pub early: f64,
    /// Requests for each request that the programs could not decide by what they knew.
    pub asked: f64,
    /// Answers that were wrong or missing, and one if it did not move as often as it should.
    pub errors: u64,
    /// What the first of them was.
    pub first_error: Option<String>,
}

/// What is written to `crossover.json`.
#[derive(Debug, Serialize)]
pub struct Crossover {
    /// On what machine, with what, and how.
    pub meta: Meta,
    /// What a move costs.
    pub cost_of_a_move: Option<Cost>,
    /// From which size on moving takes less CPU than HAProxy.
    pub cheaper_than_haproxy: Option<Cheaper>,
    /// One for each size and way, under load.
    pub rows: Vec<Row>,
    /// The smallest size on one connection alone: latency without queueing.
    pub alone: Vec<Row>,
}

/// A size on a way.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Bytes of the bodies.
    pub bytes: u64,
    /// `baton-move`, `baton-stay`, `haproxy`, or `baton-move-8th`: every eighth request moves.
    pub way: &'static str,
    /// Right answers a second.
    pub rate_rps: Option<Spread>,
    /// The whole machine's CPU time for each answer, client and web servers included.
    pub cpu_us_per_request: Option<Spread>,
    /// What of it was charged to the processes of the comparison.
    pub own_cpu_us_per_request: Option<Spread>,
    /// That CPU time over `baton-stay`'s of the same round.
    pub cpu_ratio_to_stay: Option<Spread>,
    /// That CPU time over `haproxy`'s of the same round.
    pub cpu_ratio_to_haproxy: Option<Spread>,
    /// Median latency.
    pub p50_ms: Option<Spread>,
    /// 99th percentile of the latency.
    pub p99_ms: Option<Spread>,
    /// The slowest answer.
    pub slowest_ms: Option<Spread>,
    /// Moves for each request, as the nodes counted them.
    pub moves_per_request: Option<Spread>,
    /// Packets for each request that came before their connection was idle: the client repeats them.
    pub early_per_request: Option<Spread>,
    /// Requests for each request that the programs held for user space to decide.
    pub asked_per_request: Option<Spread>,
    /// Answers that were wrong or missing, in all rounds. Not 0: do not trust the row.
    pub errors: u64,
}

/// What a move costs, by requests of the smallest size; each figure is of one round.
#[derive(Debug, Serialize)]
pub struct Cost {
    /// CPU time beyond that of a request that stays, for each move.
    pub cpu_us: Option<Spread>,
    /// The same of what was charged to the processes of the comparison.
    pub own_cpu_us: Option<Spread>,
    /// What each further move adds: the slope of CPU time over moves for each request.
    pub each_cpu_us: Option<Spread>,
    /// What a request costs more than one that stays even if it does not move, because its connection is
    /// followed and might: where that line begins.
    pub following_cpu_us: Option<Spread>,
    /// The latency added, on one connection alone.
    pub latency_us: Option<Spread>,
}

/// Where moving begins to pay.
#[derive(Debug, PartialEq, Serialize)]
pub struct Cheaper {
    /// From so many bytes on, in the rounds in which the lines cross.
    pub from_bytes: Option<Spread>,
    /// Rounds in which moving was cheaper at every size.
    pub rounds_at_every_size: usize,
    /// Rounds in which it was not, even at the greatest.
    pub rounds_at_no_size: usize,
}

impl Crossover {
    /// The figures of all rounds.
    pub fn of(meta: Meta, sizes: &[u64], runs: &[Run]) -> Self {
        let ways = |alone: bool| {
            let of_size = move |bytes: &u64| {
                let bytes = *bytes;
                let all = [Way::Moving(1), Way::Moving(2), Way::Moving(4), Way::Moving(8)];
                let all = all.into_iter().chain([Way::Staying, Way::Haproxy]);
                all.map(move |way| Try { way, bytes, alone }).filter_map(|one| row(one, runs))
            };
            sizes.iter().flat_map(of_size).collect()
        };
        Self {
            meta,
            cost_of_a_move: sizes.first().map(|bytes| cost(*bytes, runs)),
            cheaper_than_haproxy: cheaper(sizes, runs),
            rows: ways(false),
            alone: ways(true),
        }
    }
}

fn find(runs: &[Run], round: usize, one: Try) -> Option<&Run> {
    runs.iter().find(|run| run.round == round && run.one == one)
}

fn row(one: Try, runs: &[Run]) -> Option<Row> {
    let mine: Vec<&Run> = runs.iter().filter(|run| run.one == one).collect();
    if mine.is_empty() {
        return None;
    }
    let of = |pick: fn(&Run) -> f64, digits| Spread::of(mine.iter().map(|run| pick(run)), digits);
    let ratio_to = |way: Way| {
        let of_round = |run: &&Run| Some(run.cpu_us / find(runs, run.round, Try { way, ..one })?.cpu_us);
        Spread::of(mine.iter().filter_map(of_round), 3)
    };
    Some(Row {
        bytes: one.bytes,
        way: one.way.name(),
        rate_rps: of(|run| run.rate_rps, 0),
        cpu_us_per_request: of(|run| run.cpu_us, 2),
        own_cpu_us_per_request: of(|run| run.own_cpu_us, 2),
        cpu_ratio_to_stay: ratio_to(Way::Staying),
        cpu_ratio_to_haproxy: ratio_to(Way::Haproxy),
        p50_ms: of(|run| run.p50_ms, 3),
        p99_ms: of(|run| run.p99_ms, 3),
        slowest_ms: of(|run| run.slowest_ms, 1),
        moves_per_request: of(|run| run.moves, 4),
        early_per_request: of(|run| run.early, 6),
        asked_per_request: of(|run| run.asked, 4),
        errors: mine.iter().map(|run| run.errors).sum(),
    })
}

fn rounds(runs: &[Run]) -> std::ops::Range<usize> {
    0..runs.iter().map(|run| run.round + 1).max().unwrap_or(0)
}

fn cost(bytes: u64, runs: &[Run]) -> Cost {
    let get = |round, way, alone| find(runs, round, Try { way, bytes, alone });
    let both = |round, alone| Some((get(round, Way::Moving(1), alone)?, get(round, Way::Staying, alone)?));
    let beyond = |pick: fn(&Run) -> f64, alone| {
        let of_round = |round| {
            let (moving, staying) = both(round, alone)?;
            (moving.moves > 0.0).then(|| (pick(moving) - pick(staying)) / moving.moves)
        };
        Spread::of(rounds(runs).filter_map(of_round), 1)
    };
    let lines: Vec<[f64; 2]> = rounds(runs)
        .filter_map(|round| {
            let moving = [1, 2, 4, 8].into_iter().filter_map(|row| get(round, Way::Moving(row), false));
            let [begin, slope] = line(&moving.map(|run| (run.moves, run.cpu_us)).collect::<Vec<_>>())?;
            Some([begin - get(round, Way::Staying, false)?.cpu_us, slope])
        })
        .collect();
    Cost {
        cpu_us: beyond(|run| run.cpu_us, false),
        own_cpu_us: beyond(|run| run.own_cpu_us, false),
        each_cpu_us: Spread::of(lines.iter().map(|[_, slope]| *slope), 1),
        following_cpu_us: Spread::of(lines.iter().map(|[begin, _]| *begin), 1),
        latency_us: beyond(|run| run.p50_ms * 1e3, true),
    }
}

/// The line of least squares: where it begins, and its slope. `None` for fewer than two different points.
fn line(points: &[(f64, f64)]) -> Option<[f64; 2]> {
    let mean = |pick: fn(&(f64, f64)) -> f64| points.iter().map(pick).sum::<f64>() / points.len() as f64;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let slope = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum::<f64>() / spread;
    (spread > 0.0).then_some([y - slope * x, slope])
}

fn cheaper(sizes: &[u64], runs: &[Run]) -> Option<Cheaper> {
    let mut crossings = Vec::new();
    let (mut at_every, mut at_no) = (0, 0);
    for round in rounds(runs) {
        let ratio = |bytes: &u64| {
            let cpu_us = |way| Some(find(runs, round, Try { way, bytes: *bytes, alone: false })?.cpu_us);
            Some((*bytes as f64, cpu_us(Way::Moving(1))? / cpu_us(Way::Haproxy)?))
        };
        let ratios: Vec<(f64, f64)> = sizes.iter().filter_map(ratio).collect();
        match ratios.iter().rposition(|(_, ratio)| *ratio >= 1.0) {
            None => at_every += 1,
            Some(last) => match (ratios.get(last), ratios.get(last + 1)) {
                (Some(dearer), Some(cheaper)) => crossings.push(crossing(*dearer, *cheaper)),
                _ => at_no += 1,
            },
        }
    }
    let from_bytes = Spread::of(crossings, 0);
    Some(Cheaper { from_bytes, rounds_at_every_size: at_every, rounds_at_no_size: at_no })
}

/// The size at which the ratio is 1, between one where it is more and one where it is less: straight in
/// the logarithms, as it is drawn.
fn crossing(dearer: (f64, f64), cheaper: (f64, f64)) -> f64 {
    let part = dearer.1.ln() / (dearer.1.ln() - cheaper.1.ln());
    (dearer.0.ln() + part * (cheaper.0.ln() - dearer.0.ln())).exp()
}

#[cfg(test)]
pub mod tests {
    use super::{Cheaper, Crossover, Run, Try, Way, cheaper, cost, crossing, line};
    use crate::meta::Meta;

    fn run(round: usize, way: Way, bytes: u64, cpu_us: f64) -> Run {
        let one = Try { way, bytes, alone: false };
        let (rate_rps, own_cpu_us, moves) = (2e6 / cpu_us, cpu_us, way.moves());
        let [p50_ms, p99_ms, slowest_ms] = [1.0, 2.0, 3.0];
        let (early, asked, errors, first_error) = (0.0, 0.0, 0, None);
        Run {
            one,
            round,
            rate_rps,
            cpu_us,
            own_cpu_us,
            p50_ms,
            p99_ms,
            slowest_ms,
            moves,
            early,
            asked,
            errors,
            first_error,
        }
    }

    /// Moving costs 40 us (2 of them for following) whatever the size; HAProxy 20 us and as much again as
    /// the request. So the lines cross where a request costs 20 us.
    fn runs() -> Vec<Run> {
        let mut runs = Vec::new();
        for round in 0..3 {
            let noise = round as f64;
            for (bytes, base) in [(1000, 10.0), (10_000, 19.0), (100_000, 100.0)] {
                runs.push(run(round, Way::Staying, bytes, base));
                runs.push(run(round, Way::Haproxy, bytes, 20.0 + 2.0 * base));
                runs.push(run(round, Way::Moving(1), bytes, base + 40.0 + noise));
            }
            for row in [2, 4, 8] {
                let way = Way::Moving(row);
                runs.push(run(round, way, 1000, 12.0 + (38.0 + noise) * way.moves()));
            }
        }
        runs
    }

    /// For tests of what is made of it.
    pub fn sample() -> Crossover {
        Crossover::of(Meta::default(), &[1000, 10_000, 100_000], &runs())
    }

    #[test]
    fn the_cost_of_a_move_is_what_it_was_made_of() {
        let cost = cost(1000, &runs());
        let of = |spread: Option<crate::spread::Spread>| spread.map(|s| (s.min, s.median, s.max));
        assert_eq!(of(cost.cpu_us), Some((40.0, 41.0, 42.0)));
        assert_eq!(of(cost.each_cpu_us), Some((38.0, 39.0, 40.0)));
        assert_eq!(of(cost.following_cpu_us), Some((2.0, 2.0, 2.0)));
        assert_eq!(cost.latency_us, None, "nothing ran alone");
    }

    #[test]
    fn the_lines_cross_where_both_cost_the_same() {
        let from = sample().cheaper_than_haproxy.and_then(|c| c.from_bytes).expect("they cross");
        assert!(from.min >= 10_000.0 && from.max < 100_000.0, "{from:?}");
        assert_eq!(crossing((100.0, 2.0), (10_000.0, 0.5)).round(), 1000.0);
        let none = |at_every, at_no| {
            Some(Cheaper { from_bytes: None, rounds_at_every_size: at_every, rounds_at_no_size: at_no })
        };
        assert_eq!(cheaper(&[100_000], &runs()), none(3, 0));
        assert_eq!(cheaper(&[1000], &runs()), none(0, 3));
    }

    #[test]
    fn a_line_goes_through_its_points() {
        assert_eq!(line(&[(0.0, 1.0), (2.0, 5.0), (1.0, 3.0)]), Some([1.0, 2.0]));
        assert_eq!(line(&[(1.0, 1.0)]), None);
        assert_eq!(line(&[]), None);
    }

    #[test]
    fn the_file_has_the_shape_that_is_promised() {
        let json = serde_json::to_value(sample()).expect("plain data");
        assert_eq!(json["rows"].as_array().map(Vec::len), Some(12));
        assert_eq!(json["rows"][0]["way"], "baton-move");
        assert_eq!(json["rows"][0]["cpu_ratio_to_stay"]["median"], 5.1);
        assert!(json["cost_of_a_move"]["cpu_us"]["median"].is_f64());
        assert!(json["cheaper_than_haproxy"]["from_bytes"]["median"].is_f64());
    }
}
