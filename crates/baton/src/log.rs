//! The daemon's log. Whoever reads it may be slow, gone, or a full disk: lines are lost then, and nothing else. And what
//! is said again and again is said now and then: packets of strangers can be the cause.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use baton_control::Pace;
use tracing::Metadata;
use tracing::callsite::Identifier;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::OptionalWriter;

/// Lines that wait for a reader.
const LINES_MAX: usize = 4096;

/// Lines of one kind: a second, and at once; each of the other nodes may come up at the start.
const A_SECOND: u32 = 10;
const AT_ONCE: u32 = 300;

/// Begins to log to standard error. What is logged is written by a thread, until the guard is dropped.
pub fn begin(filter: EnvFilter) -> WorkerGuard {
    let lines = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_MAX);
    let (to, guard) = lines.thread_name("baton-log").finish(io::stderr());
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal() && !no_color)
        .log_internal_errors(false)
        .with_writer(Sparing { to, kinds: Mutex::default(), began: Instant::now() })
        .init();
    guard
}

/// Says a thing as often as somebody can read it. A kind of line is a place in the source.
struct Sparing {
    to: NonBlocking,
    kinds: Mutex<HashMap<Identifier, LineKind>>,
    began: Instant,
}

struct LineKind {
    pace: Pace,
    left_out: u64,
}

impl Sparing {
    /// Whether a line is to be written; and if it is, how many like it were not, since the last.
    fn allows(&self, meta: &Metadata<'_>) -> Option<u64> {
        // Whoever asks for more than usual gets it.
        if *meta.level() > LevelFilter::INFO {
            return Some(0);
        }
        // A panic elsewhere leaves the counts as good as they were.
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || LineKind { pace: Pace::new(A_SECOND, AT_ONCE), left_out: 0 };
        let kind = kinds.entry(meta.callsite()).or_insert_with(fresh);
        if kind.pace.allows(self.began.elapsed()) {
            return Some(std::mem::take(&mut kind.left_out));
        }
        kind.left_out += 1;
        None
    }
}

impl<'a> MakeWriter<'a> for Sparing {
    type Writer = OptionalWriter<NonBlocking>;

    fn make_writer(&'a self) -> Self::Writer {
        OptionalWriter::some(self.to.clone())
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        match self.allows(meta) {
            Some(0) => self.make_writer(),
            Some(left_out) => {
                let mut writer = self.make_writer();
                // A line that is lost is no reason to lose another.
                let _ = writer
                    .write_all(format!("({left_out} lines like the next one were left out)\n").as_bytes());
                writer
            }
            None => OptionalWriter::none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use super::*;

    #[test]
    fn what_is_said_too_often_is_left_out_and_counted() {
        let mut file = tempfile();
        let (to, guard) = NonBlockingBuilder::default().finish(file.try_clone().expect("a file"));
        let writer = Sparing { to, kinds: Mutex::default(), began: Instant::now() };
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..5000 {
                tracing::warn!(n, "again");
            }
            tracing::warn!("something else");
        });
        drop(guard);
        let mut said = String::new();
        file.rewind().and_then(|()| file.read_to_string(&mut said)).expect("an own file");
        let again = said.matches("again").count() as u32;
        assert!((AT_ONCE..4000).contains(&again), "{again}");
        assert!(said.contains("something else"));
    }

    fn tempfile() -> std::fs::File {
        let path = std::env::temp_dir().join(format!("baton-log-{}", std::process::id()));
        let file = std::fs::File::options().read(true).write(true).create_new(true).open(&path);
        std::fs::remove_file(&path).expect("an own file");
        file.expect("an own file")
    }
}
