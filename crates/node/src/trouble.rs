//! What went wrong while the node runs: counted, said now and then, and shown in the status. A table that refuses, a
//! socket or a message that fails costs what it was for, never the node.

use std::fmt::Display;
use std::time::Instant;

use baton_control::Pace;

use crate::status::TroubleStatus;

/// Lines of the log a second, and at once.
const LINES: (u32, u32) = (1, 10);

/// Errors that the node went on after.
#[derive(Debug)]
pub(crate) struct Troubles {
    started: Instant,
    pace: Pace,
    errors: u64,
    last: Option<String>,
}

impl Troubles {
    pub(crate) fn new(started: Instant) -> Self {
        Self { started, pace: Pace::new(LINES.0, LINES.1), errors: 0, last: None }
    }

    /// Notes how something ended; `what` says what it was for.
    pub(crate) fn note<E: Display>(&mut self, what: &'static str, ended: Result<(), E>) {
        let Err(error) = ended else { return };
        self.errors += 1;
        let text = format!("{what}: {error}");
        if self.pace.allows(self.started.elapsed()) {
            tracing::error!(errors = self.errors, "{text}");
        }
        self.last = Some(text);
    }

    pub(crate) fn status(&self) -> TroubleStatus {
        let short = |text: &String| {
            let most = text.len().min(TroubleStatus::ERROR_BYTES_MAX);
            let end = (0..=most).rev().find(|end| text.is_char_boundary(*end));
            end.and_then(|end| text.get(..end)).unwrap_or_default().to_owned()
        };
        TroubleStatus { errors: self.errors, last: self.last.as_ref().map(short), icmp_held_back: 0 }
    }
}

/// Does it for all, whatever fails of it; the first failure.
pub(crate) fn for_all<T, E>(
    items: impl IntoIterator<Item = T>,
    mut act: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    let mut first = Ok(());
    for item in items {
        let ended = act(item);
        first = first.and(ended);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_and_the_last_is_shown() {
        let mut troubles = Troubles::new(Instant::now());
        assert_eq!(troubles.status(), TroubleStatus::default());
        troubles.note("loads", Ok::<_, &str>(()));
        for n in 0..1000 {
            troubles.note("loads", Err(format!("no room, {n}: {}", "é".repeat(100))));
        }
        let status = troubles.status();
        assert_eq!(status.errors, 1000);
        let last = status.last.expect("one");
        assert!(last.starts_with("loads: no room, 999: é") && last.len() <= TroubleStatus::ERROR_BYTES_MAX);
    }

    #[test]
    fn one_failure_keeps_nothing_from_being_done() {
        let mut done = Vec::new();
        let ended = for_all(0..5, |n| {
            done.push(n);
            if n % 2 == 1 { Err(n) } else { Ok(()) }
        });
        assert_eq!((ended, done), (Err(1), vec![0, 1, 2, 3, 4]));
    }
}
