//! What one sees while the demo runs: a table that is renewed in place on a terminal, a line a
//! second anywhere else. It shows what it is given.

use std::fmt::Write as _;
use std::io::{IsTerminal, stdout};
use std::time::Duration;

use baton_cluster::PolicyKind;

use crate::site::software;
use crate::tally::percent;
use baton_cli::output::{print, table};

/// One look at the cluster.
#[derive(Clone, Debug)]
pub struct Frame {
    /// What decides.
    pub policy: PolicyKind,
    /// How long the phase has been running.
    pub elapsed: Duration,
    /// How long it will run.
    pub length: Duration,
    /// Right answers a second, since the last look.
    pub rate: f64,
    /// The share of them that caches gave.
    pub hit_rate: Option<f64>,
    /// What has gone wrong in this phase.
    pub faults: u64,
    /// The nodes.
    pub rows: Vec<Row>,
}

/// One node since the last look.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name.
    pub node: String,
    /// Its place among the nodes.
    pub index: usize,
    /// Right answers a second.
    pub rate: f64,
    /// The share of them that its cache gave.
    pub hit_rate: Option<f64>,
    /// Connections that it is serving now; unknown if it did not say.
    pub serving: Option<u64>,
    /// Connections that it has handed to other nodes in this phase.
    pub handed_off: Option<u64>,
}

/// The place on the screen.
#[derive(Debug)]
pub struct Live {
    in_place: bool,
    lines: usize,
}

impl Live {
    /// Nothing shown yet.
    pub fn new() -> Self {
        Self { in_place: stdout().is_terminal(), lines: 0 }
    }

    /// Shows a frame instead of the last one, or after it.
    pub fn show(&mut self, frame: &Frame) {
        let text = if self.in_place { as_table(frame) } else { as_line(frame) };
        let back = match self.lines {
            // Up to the first line of the table, and clear from there.
            lines if self.in_place && lines > 0 => format!("\x1b[{lines}A\x1b[J"),
            _ => String::new(),
        };
        self.lines = text.lines().count();
        // A demo that nobody watches any more still has its summary to write.
        let _ = print(&format!("{back}{text}"));
    }

    /// The last frame stays.
    pub fn end(self) {
        let _ = print("\n");
    }
}

fn as_table(frame: &Frame) -> String {
    let rows = frame.rows.iter().map(|row| {
        [
            row.node.clone(),
            software(row.index).to_owned(),
            format!("{:.0}", row.rate),
            percent(row.hit_rate),
            unknown(row.serving),
            unknown(row.handed_off),
        ]
    });
    let head = ["NODE", "WEB SERVER", "REQUESTS/S", "CACHE HITS", "SERVING NOW", "HANDED TO OTHERS"];
    format!("{}\n{}", head_line(frame), table(head, rows))
}

fn as_line(frame: &Frame) -> String {
    let mut text = head_line(frame);
    for row in &frame.rows {
        // Writing to a string cannot fail.
        let _ = write!(text, " | {} {:.0}/s {}", row.node, row.rate, percent(row.hit_rate));
    }
    text.push('\n');
    text
}

fn head_line(frame: &Frame) -> String {
    let faults = if frame.faults > 0 { format!("  {} FAULTS", frame.faults) } else { String::new() };
    format!(
        "{:<4} {:>3} of {} s  {:>5.0} requests/s  {:>4} from caches{faults}",
        frame.policy.to_string(),
        frame.elapsed.as_secs(),
        frame.length.as_secs(),
        frame.rate,
        percent(frame.hit_rate)
    )
}

fn unknown(count: Option<u64>) -> String {
    count.map_or_else(|| "?".to_owned(), |count| count.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use baton_cluster::PolicyKind;

    use super::{Frame, Row, as_line, as_table};

    #[test]
    fn a_frame_is_a_line_or_a_table() {
        let row = Row {
            node: "n1".into(),
            index: 0,
            rate: 99.6,
            hit_rate: Some(0.5),
            serving: None,
            handed_off: Some(7),
        };
        let frame = Frame {
            policy: PolicyKind::Lard,
            elapsed: Duration::from_millis(3100),
            length: Duration::from_secs(20),
            rate: 1234.4,
            hit_rate: None,
            faults: 0,
            rows: vec![row],
        };
        assert_eq!(as_line(&frame), "lard   3 of 20 s   1234 requests/s     - from caches | n1 100/s 50 %\n");
        let table = as_table(&frame);
        assert_eq!(table.lines().count(), 3);
        assert!(
            table.lines().last().is_some_and(|line| line.contains('?') && line.ends_with('7')),
            "{table}"
        );
        let troubled = as_line(&Frame { faults: 2, ..frame });
        assert!(troubled.contains("2 FAULTS"), "{troubled}");
    }
}
