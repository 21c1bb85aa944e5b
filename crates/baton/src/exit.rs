//! How every command ends: the exit codes, and the one place that prints why.

use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;

use serde_json::{Map, Value};

use crate::output;

/// The exit codes, for `--help`. 77 and 78 are EX_NOPERM and EX_CONFIG of sysexits.h: a service
/// manager should not restart a daemon that ended with them.
pub const TABLE: &str = "\
Exit codes:
   0  done; of `node`: stopped as asked, by SIGTERM or SIGINT
   1  failed; of `check` and `doctor`: there are problems; of `status`: no daemon answers
   2  wrong usage
   3  of `status`: told, and something is not well
  77  of `node`, `status` and `reload`: missing privileges
  78  of `node`, `doctor` and `reload`: the cluster file is wrong, or has no such node";

/// Why a command did not do what it was asked. (Wrong usage is found by clap, which exits with 2,
/// or is [`Exit::Usage`].)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was tried, and failed; or it was judged, and found wanting.
    Failed = 1,
    /// It cannot be tried with these arguments.
    Usage = 2,
    /// It was told, and something of the cluster is not well.
    NotWell = 3,
    /// This process may not do it.
    NoPermission = 77,
    /// The cluster file is wrong.
    Config = 78,
}

/// A command's failure: the code to exit with, and what to say on standard error.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    text: String,
    /// What else JSON says of it.
    more: Map<String, Value>,
}

impl Failure {
    /// A failure that is told as `error: TEXT`.
    pub fn new(exit: Exit, text: impl fmt::Display) -> Self {
        Self::told(exit, format!("error: {text}\n"))
    }

    /// A failure that is told in these very words; nothing when all has been said.
    pub fn told(exit: Exit, text: String) -> Self {
        Self { exit, text, more: Map::new() }
    }

    /// The same, of which JSON says also this.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.more.insert(key.to_owned(), value.into());
        self
    }

    /// `error`, `help` (null where there is none), `exit_code`, and what else was given.
    fn as_json(&self) -> Value {
        let text = self.text.trim_end();
        let text = text.strip_prefix("error: ").unwrap_or(text);
        let (error, help) = match text.split_once("\n  help: ") {
            Some((error, help)) => (error, Value::from(help)),
            None => (text, Value::Null),
        };
        let mut told = self.more.clone();
        told.insert("error".to_owned(), error.into());
        told.insert("help".to_owned(), help);
        told.insert("exit_code".to_owned(), (self.exit as u8).into());
        Value::Object(told)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.trim_end())
    }
}

/// Prints why a command failed, if it did: on standard error, or on standard output as JSON if that was asked for.
pub fn code(outcome: Result<(), Failure>, json: bool) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // When nobody can hear it, the code says it still.
            if json && !failure.text.is_empty() {
                let _ = output::print_json(&failure.as_json());
            } else {
                let _ = io::stderr().write_all(failure.text.as_bytes());
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}
