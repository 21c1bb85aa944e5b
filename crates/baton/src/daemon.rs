//! Talking to a daemon on this machine, for the commands that do.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::exit::{Exit, Failure};

/// Ten times what the largest cluster has to say.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Which daemon.
#[derive(Args)]
pub struct DaemonSocket {
    /// The node to talk to, when several run on this machine
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Where the daemon keeps its socket, as for `baton node`
    #[arg(long, value_name = "DIR", default_value = "/run/baton")]
    run_dir: PathBuf,
}

impl DaemonSocket {
    /// Says a word and returns the answer, for which it waits as long as `patience`.
    pub fn ask<T: DeserializeOwned>(&self, word: &str, patience: Duration) -> Result<T, Failure> {
        let socket = match &self.node {
            Some(node) => self.run_dir.join(format!("{node}.sock")),
            None => only_socket(&self.run_dir)?,
        };
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(Exit::Failed, error))?;
        let answer = runtime.block_on(async { timeout(patience, ask(&socket, word)).await });
        let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let answer = answer.map_err(|error| no_answer(&socket, patience, &error))?;
        serde_json::from_slice(&answer).map_err(|error| {
            let what = format!("the daemon at {} says what cannot be understood: {error}", socket.display());
            let help = "the daemon may be of another version; use the `baton` that it was started from";
            Failure::new(Exit::Failed, format!("{what}\n  help: {help}"))
        })
    }
}

/// The one node's socket in the run folder.
fn only_socket(run_dir: &Path) -> Result<PathBuf, Failure> {
    let entries = match fs::read_dir(run_dir) {
        Ok(entries) => entries,
        Err(error) => return Err(no_answer(&run_dir.join("*.sock"), Duration::ZERO, &error)),
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut sockets: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "sock")).collect();
    sockets.sort();
    match sockets.as_slice() {
        [socket] => Ok(socket.clone()),
        [] => Err(no_answer(&run_dir.join("*.sock"), Duration::ZERO, &io::ErrorKind::NotFound.into())),
        several => {
            let names: Vec<_> = several
                .iter()
                .filter_map(|path| path.file_stem())
                .map(|name| name.to_string_lossy())
                .collect();
            let what =
                format!("several nodes have run here: {}\n  help: choose one with --node", names.join(", "));
            Err(Failure::new(Exit::Usage, what))
        }
    }
}

/// Sends the question and reads the answer to its end.
async fn ask(socket: &Path, word: &str) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(format!("{word}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn no_answer(socket: &Path, patience: Duration, error: &io::Error) -> Failure {
    let socket = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::new(
            Exit::Failed,
            format!(
                "no daemon runs here: nobody listens at {socket}\n  \
                 help: start it with `baton node` (--config FILE, --node NAME), or name its folder with --run-dir"
            ),
        ),
        io::ErrorKind::PermissionDenied => Failure::new(
            Exit::NoPermission,
            format!("this user may not talk to the daemon at {socket}\n  help: run it as root"),
        ),
        io::ErrorKind::TimedOut => Failure::new(
            Exit::Failed,
            format!(
                "the daemon at {socket} has not answered for {} s\n  help: look at its log; it may be stopped",
                patience.as_secs()
            ),
        ),
        _ => Failure::new(Exit::Failed, format!("cannot ask the daemon at {socket}: {error}")),
    }
}
