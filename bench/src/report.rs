//! From runs to rows: the file `compare.json` and the table. Pure.

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::compare::{Figures, Run};
use crate::meta::Meta;
use crate::plan::{Load, Plan, Side};
use crate::spread::Spread;

/// What is written to `compare.json`.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// On what machine, with what, and how.
    pub meta: Meta,
    /// One for each load and side.
    pub rows: Vec<Row>,
}

/// A load on a side. A figure that was not measured is `null`.
#[derive(Debug, Serialize)]
pub struct Row {
    /// `1k-close`, `1m-close`, `1k-keepalive` or `1m-keepalive`.
    pub load: &'static str,
    /// `nginx`, `baton-figure5`, ...
    pub side: &'static str,
    /// Right answers a second.
    pub rate_rps: Option<Spread>,
    /// The whole machine's CPU time for each answer, client and web servers included.
    pub cpu_us_per_request: Option<Spread>,
    /// What of it was charged to the processes of the comparison: client, front tier, web servers, with
    /// the softirqs that ran in their time. Less exact, but it leaves out what else the machine does.
    pub own_cpu_us_per_request: Option<Spread>,
    /// The front tier's share of it; the bare web server has no front tier: 0.
    pub front_cpu_us_per_request: Option<Spread>,
    /// Baton's eBPF programs on all nodes, for each answer.
    pub programs_us_per_request: Option<Spread>,
    /// Baton's daemons on all nodes, for each answer.
    pub daemons_us_per_request: Option<Spread>,
    /// Median latency.
    pub p50_ms: Option<Spread>,
    /// 99th percentile of the latency.
    pub p99_ms: Option<Spread>,
    /// The rate over the bare web server's of the same round.
    pub ratio_to_nginx: Option<Spread>,
    /// Answers that were wrong or missing, in all rounds. Not 0: do not trust the row.
    pub errors: u64,
}

/// One row for each load and side of the plan, in its order.
pub fn rows(plan: &Plan, runs: &[Run]) -> Vec<Row> {
    plan.loads.iter().flat_map(|load| plan.sides.iter().map(|side| row(*load, *side, runs))).collect()
}

fn row(load: Load, side: Side, runs: &[Run]) -> Row {
    let all: Vec<&Run> = runs.iter().filter(|run| run.load == load.name).collect();
    let mine = || all.iter().filter(|run| run.side == side);
    let rates = |side: Side| {
        all.iter().filter(move |run| run.side == side).filter_map(|run| match run.figures {
            Figures::All { rate_rps, .. } => Some((run.round, rate_rps)),
            _ => None,
        })
    };
    let bare: Vec<(usize, f64)> = rates(Side::Nginx).collect();
    let ratio = |(round, rate): (usize, f64)| {
        let (_, base) = bare.iter().find(|(other, _)| *other == round)?;
        (*base > 0.0).then(|| rate / base)
    };
    let of = |pick: fn(&Figures) -> Option<f64>, digits| {
        Spread::of(mine().filter_map(|run| pick(&run.figures)), digits)
    };
    let front = match side {
        Side::Nginx => Spread::of([0.0], 2),
        // Its front tier is spread over all nodes.
        Side::BatonFigure7 => of(|figures| parts(figures).map(|(programs, daemons)| programs + daemons), 2),
        _ => of(own_cpu, 2),
    };
    Row {
        load: load.name,
        side: side.name(),
        rate_rps: Spread::of(rates(side).map(|(_, rate)| rate), 0),
        cpu_us_per_request: of(|figures| all_of(figures).map(|all| all[0]), 2),
        own_cpu_us_per_request: of(|figures| all_of(figures).map(|all| all[1]), 2),
        front_cpu_us_per_request: front,
        programs_us_per_request: of(|figures| parts(figures).map(|(programs, _)| programs), 2),
        daemons_us_per_request: of(|figures| parts(figures).map(|(_, daemons)| daemons), 2),
        p50_ms: of(|figures| all_of(figures).map(|all| all[2]), 3),
        p99_ms: of(|figures| all_of(figures).map(|all| all[3]), 3),
        ratio_to_nginx: Spread::of(rates(side).filter_map(ratio), 3),
        errors: mine().map(|run| run.errors).sum(),
    }
}

fn all_of(figures: &Figures) -> Option<[f64; 4]> {
    match *figures {
        Figures::All { cpu_us, own_cpu_us, p50_ms, p99_ms, .. } => Some([cpu_us, own_cpu_us, p50_ms, p99_ms]),
        _ => None,
    }
}

fn own_cpu(figures: &Figures) -> Option<f64> {
    if let Figures::OwnCpu { cpu_us } = *figures { Some(cpu_us) } else { None }
}

fn parts(figures: &Figures) -> Option<(f64, f64)> {
    if let Figures::Parts { programs_us, daemons_us } = *figures {
        Some((programs_us, daemons_us))
    } else {
        None
    }
}

/// The rows for people: medians, with the extremes of rate and ratio.
pub fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "load",
        "side",
        "requests/s",
        "of nginx",
        "CPU us",
        "own CPU us",
        "front CPU us",
        "programs us",
        "daemons us",
        "p50 ms",
        "p99 ms",
        "errors",
    ]);
    for row in rows {
        let figure = |spread: Option<Spread>, digits: usize| {
            spread.map_or("-".to_owned(), |s| format!("{:.digits$}", s.median))
        };
        let spread = |spread: Option<Spread>, digits: usize| {
            spread.map_or("-".to_owned(), |s| {
                format!("{:.digits$} ({:.digits$} to {:.digits$})", s.median, s.min, s.max)
            })
        };
        table.add_row([
            row.load.to_owned(),
            row.side.to_owned(),
            spread(row.rate_rps, 0),
            spread(row.ratio_to_nginx, 2),
            figure(row.cpu_us_per_request, 1),
            figure(row.own_cpu_us_per_request, 1),
            figure(row.front_cpu_us_per_request, 1),
            figure(row.programs_us_per_request, 1),
            figure(row.daemons_us_per_request, 1),
            figure(row.p50_ms, 2),
            figure(row.p99_ms, 2),
            if row.errors == 0 { "0".to_owned() } else { format!("{} !", row.errors) },
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Row, rows, table};
    use crate::compare::{Figures, Run};
    use crate::plan::{Load, Plan, Side};

    fn plan() -> Plan {
        let second = Duration::from_secs(1);
        let (loads, sides) = (vec![Load::ALL[0]], vec![Side::Nginx, Side::BatonFigure7]);
        Plan { loads, sides, rounds: 2, front_rounds: 1, warm: second, measured: second, connections: 1 }
    }

    fn run(side: Side, round: usize, figures: Figures) -> Run {
        Run { load: "1k-close", side, round, figures, errors: round as u64, first_error: None }
    }

    fn rate(rate_rps: f64) -> Figures {
        Figures::All { rate_rps, cpu_us: 1e6 / rate_rps, own_cpu_us: 1.0, p50_ms: 1.0, p99_ms: 2.0 }
    }

    fn sample() -> Vec<Row> {
        let front = Figures::Parts { programs_us: 4.0, daemons_us: 3.0 };
        rows(
            &plan(),
            &[
                run(Side::Nginx, 0, rate(1000.0)),
                run(Side::BatonFigure7, 0, rate(900.0)),
                run(Side::BatonFigure7, 1, rate(2200.0)),
                run(Side::Nginx, 1, rate(2000.0)),
                run(Side::BatonFigure7, 0, front),
            ],
        )
    }

    #[test]
    fn ratios_are_within_a_round() {
        let rows = sample();
        let ratio = rows[1].ratio_to_nginx.expect("both sides ran");
        assert_eq!((ratio.min, ratio.median, ratio.max), (0.9, 1.0, 1.1));
        assert_eq!(rows[0].ratio_to_nginx.map(|r| (r.min, r.max)), Some((1.0, 1.0)));
        assert_eq!(rows[1].front_cpu_us_per_request.map(|f| f.median), Some(7.0));
        assert_eq!(rows[0].front_cpu_us_per_request.map(|f| f.median), Some(0.0));
    }

    #[test]
    fn the_file_has_the_shape_that_is_promised() {
        let json = serde_json::to_value(sample()).expect("plain data");
        let row = &json[1];
        assert_eq!((&row["load"], &row["side"]), (&"1k-close".into(), &"baton-figure7".into()));
        for figure in [
            "rate_rps",
            "cpu_us_per_request",
            "front_cpu_us_per_request",
            "p50_ms",
            "p99_ms",
            "ratio_to_nginx",
        ] {
            for part in ["median", "min", "max"] {
                assert!(row[figure][part].is_f64(), "{figure}.{part} in {row}");
            }
        }
        assert_eq!(row["errors"], 1);
    }

    #[test]
    fn a_row_with_errors_is_marked() {
        let text = table(&sample());
        assert!(text.lines().any(|line| line.contains("baton-figure7") && line.contains("1 !")), "{text}");
    }
}
