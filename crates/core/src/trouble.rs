//! What went wrong while the node runs: counted, said now and then, and shown in the status. A table that refuses, a
//! socket or a message that fails costs what it was for, never the node.

use std::fmt::Display;
use std::time::Duration;

use baton_control::Pace;

/// Lines of the log a second, and at once.
const LINES: (u32, u32) = (1, 10);

/// Errors that the node went on after.
#[derive(Debug)]
pub struct Troubles {
    pace: Pace,
    errors: u64,
    last: Option<String>,
}

impl Default for Troubles {
    fn default() -> Self {
        Self { pace: Pace::new(LINES.0, LINES.1), errors: 0, last: None }
    }
}

impl Troubles {
    /// The most bytes that are kept of a text, so that it fits a status message.
    pub const TEXT_BYTES_MAX: usize = 128;

    /// Notes how something ended; `what` says what it was for.
    pub fn note<E: Display>(&mut self, now: Duration, what: &'static str, ended: Result<(), E>) {
        let Err(error) = ended else { return };
        self.errors += 1;
        let text = format!("{what}: {error}");
        if self.pace.allows(now) {
            tracing::error!(errors = self.errors, "{text}");
        }
        let end = (0..=text.len().min(Self::TEXT_BYTES_MAX)).rev().find(|end| text.is_char_boundary(*end));
        self.last = end.and_then(|end| text.get(..end)).map(str::to_owned);
    }

    /// How many there were.
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// The last of them.
    pub fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }
}

/// Does it for all, whatever fails of it; the first failure.
pub fn for_all<T, E>(
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
        let mut troubles = Troubles::default();
        assert_eq!((troubles.errors(), troubles.last()), (0, None));
        troubles.note(Duration::ZERO, "loads", Ok::<_, &str>(()));
        for n in 0..1000 {
            let failed = Err(format!("no room, {n}: {}", "é".repeat(100)));
            troubles.note(Duration::ZERO, "loads", failed);
        }
        assert_eq!(troubles.errors(), 1000);
        let last = troubles.last().expect("one");
        assert!(last.starts_with("loads: no room, 999: é") && last.len() <= Troubles::TEXT_BYTES_MAX);
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
