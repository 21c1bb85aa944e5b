//! `baton status`: asks the daemon on this machine how the cluster is.

use std::time::Duration;

use baton_node::status::ClusterStatus;
use clap::Args;

use crate::daemon::DaemonSocket;
use crate::exit::Failure;
use crate::output::{print, print_json};
use crate::status_tables::describe;

/// The daemon waits less than this for the other nodes.
const PATIENCE: Duration = Duration::from_secs(2);

/// Tell how the cluster is: nodes, control connections, loads, decisions, handoffs, drops
///
/// Asks the daemon that runs on this machine, which asks the other nodes. A node that does not
/// answer is told as down.
#[derive(Args)]
#[command(after_help = "\
Examples:
  baton status
  baton status --node s1
  baton status --json | jq '.nodes[] | {name, reachable, serving}'

Exit codes: 0 told, 1 no daemon runs here or it does not answer, 2 wrong usage,
77 missing privileges")]
pub struct Status {
    #[command(flatten)]
    daemon: DaemonSocket,
    /// Tell it as JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let status: ClusterStatus = self.daemon.ask("status", PATIENCE)?;
        if self.json { print_json(&status) } else { print(&describe(&status)) }
    }
}
