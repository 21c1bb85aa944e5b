//! Writing to standard output: text, JSON and plain tables. No colours, so that it can be piped.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::exit::{Exit, Failure};

/// Prints text. A reader that has seen enough (`| head`) is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Failed, format!("cannot write the output: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Prints a value as JSON, for scripts.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::new(Exit::Failed, error))?;
    print(&format!("{text}\n"))
}

/// Rows under a head, in columns; nothing when there are no rows.
pub fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head).add_rows(rows);
    let mut text = String::new();
    if table.row_iter().next().is_none() {
        return text;
    }
    for line in table.lines() {
        // Cells are padded on both sides.
        let line = line.strip_prefix(' ').unwrap_or(&line).trim_end();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    }
    text
}

/// `1 node`, `2 nodes`.
pub fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
