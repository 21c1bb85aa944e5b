//! What libbpf says. It would print that to standard error: here it is kept for the error that it is about.

use std::sync::{Mutex, PoisonError};

use libbpf_rs::PrintLevel;

/// The last lines that are kept, and the longest of them in bytes: a verifier's log has thousands, and its end says why.
const LINES_MAX: usize = 16;
const LINE_MAX: usize = 300;

static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Begins to listen, and forgets what was said before.
pub(crate) fn listen() {
    libbpf_rs::set_print(Some((PrintLevel::Warn, |_, text| hear(&text))));
    drop(taken());
}

/// The end of what was said since.
pub(crate) fn taken() -> Vec<String> {
    std::mem::take(&mut *SAID.lock().unwrap_or_else(PoisonError::into_inner))
}

fn hear(text: &str) {
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        tracing::debug!("{line}");
        said.push(line.chars().take(LINE_MAX).collect());
    }
    let more = said.len().saturating_sub(LINES_MAX);
    said.drain(..more);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept() {
        let lines: Vec<String> = (0..100).map(|n| format!("line {n}")).collect();
        hear(&lines.join("\n\n"));
        hear(&"x".repeat(10_000));
        let said = taken();
        assert_eq!((said.len(), said[0].as_str()), (LINES_MAX, "line 85"));
        assert!(said.iter().all(|line| line.len() <= LINE_MAX));
        assert!(taken().is_empty());
    }
}
