//! The crossover's figures for people. Pure.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};

use crate::spread::Spread;

use super::figures::{Crossover, Row, Run};

const HEADER: [&str; 11] = [
    "size",
    "way",
    "requests/s",
    "CPU us",
    "own CPU us",
    "of stay",
    "of haproxy",
    "p50 ms",
    "p99 ms",
    "moves/request",
    "errors",
];

/// One run, while others are still to come.
pub fn line(run: &Run) -> String {
    let Run { one, round, rate_rps, cpu_us, own_cpu_us, p50_ms, p99_ms, slowest_ms, .. } = run;
    let alone = if one.alone { " alone" } else { "" };
    let mut text = format!(
        "round {} {:<4} {:<20} {rate_rps:>8.0}/s {cpu_us:>8.1} us CPU ({own_cpu_us:.1} us own) \
         {p50_ms:>7.3} ms p50 {p99_ms:>7.2} ms p99 {slowest_ms:>6.1} ms slowest, {:.3} moves, {:.4} asked",
        round + 1,
        size(one.bytes as f64),
        format!("{}{alone}", one.way.name()),
        run.moves,
        run.asked
    );
    if run.early > 0.0 {
        let _ = write!(text, ", {:.5} early", run.early);
    }
    if let Some(error) = &run.first_error {
        let _ = write!(text, "\n  {} errors: {error}", run.errors);
    }
    text
}

/// All rows, and what follows from them.
pub fn table(crossover: &Crossover) -> String {
    let mut text = rows("Under load", &crossover.rows);
    text += &rows("\nOn one connection alone", &crossover.alone);
    text.push('\n');
    if let Some(cost) = &crossover.cost_of_a_move {
        let figures = [
            ("A move costs", cost.cpu_us, "us of CPU beyond a request that stays"),
            ("  charged to the comparison's own processes:", cost.own_cpu_us, "us"),
            ("  each further move:", cost.each_cpu_us, "us"),
            ("  a request that might move, but does not:", cost.following_cpu_us, "us"),
            ("A move adds", cost.latency_us, "us to the latency on one connection alone"),
        ];
        for (what, spread, unit) in figures {
            let _ = writeln!(text, "{what} {} {unit}", with_extremes(spread, 1));
        }
    }
    if let Some(cheaper) = &crossover.cheaper_than_haproxy {
        text += &match cheaper.from_bytes {
            Some(from) => format!(
                "Moving takes less CPU than HAProxy from {} on ({} to {})",
                size(from.median),
                size(from.min),
                size(from.max)
            ),
            None => "Moving and HAProxy do not cross".to_owned(),
        };
        let _ = write!(
            text,
            "; in {} rounds at every size, in {} at none",
            cheaper.rounds_at_every_size, cheaper.rounds_at_no_size
        );
    }
    text
}

fn rows(title: &str, rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(HEADER);
    for row in rows {
        table.add_row([
            size(row.bytes as f64),
            row.way.to_owned(),
            figure(row.rate_rps, 0),
            with_extremes(row.cpu_us_per_request, 1),
            figure(row.own_cpu_us_per_request, 1),
            figure(row.cpu_ratio_to_stay, 2),
            figure(row.cpu_ratio_to_haproxy, 2),
            figure(row.p50_ms, 3),
            figure(row.p99_ms, 2),
            figure(row.moves_per_request, 3),
            if row.errors == 0 { "0".to_owned() } else { format!("{} !", row.errors) },
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{title}:\n{table}\n")
}

fn figure(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or("-".to_owned(), |s| format!("{:.digits$}", s.median))
}

fn with_extremes(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or("-".to_owned(), |s| {
        format!("{:.digits$} ({:.digits$} to {:.digits$})", s.median, s.min, s.max)
    })
}

/// Bytes with a unit: 1 kB is 1,024 of them.
pub fn size(bytes: f64) -> String {
    let (number, unit) =
        if bytes >= f64::from(1 << 20) { (bytes / f64::from(1 << 20), "MB") } else { (bytes / 1024.0, "kB") };
    let digits = usize::from(number < 10.0 && number.fract() > 0.05);
    format!("{number:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::sample;
    use super::{size, table};

    #[test]
    fn sizes_have_units() {
        assert_eq!([1024.0, 16384.0, 1048576.0, 2600.0].map(size), ["1 kB", "16 kB", "1 MB", "2.5 kB"]);
    }

    #[test]
    fn the_table_says_what_a_move_costs() {
        let mut crossover = sample();
        crossover.rows[0].errors = 3;
        let text = table(&crossover);
        assert!(text.contains("A move costs 41.0 (40.0 to 42.0) us"), "{text}");
        assert!(text.lines().any(|line| line.contains("baton-move ") && line.contains("3 !")), "{text}");
    }
}
