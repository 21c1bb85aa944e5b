//! `baton status`: asks the daemon on this machine how the cluster is.

use std::time::Duration;

use baton_node::status::ClusterStatus;
use clap::Args;
use serde::Serialize;

use crate::daemon::DaemonSocket;
use crate::exit::{Exit, Failure};
use crate::output::{print, print_json};
use crate::status_tables::describe;
use crate::verdict::ClusterVerdict;

/// The daemon waits less than this for the other nodes.
const PATIENCE: Duration = Duration::from_secs(2);

/// Tell how the cluster is: nodes, control connections, loads, decisions, handoffs, drops
///
/// Asks the daemon that runs on this machine, which asks the other nodes. Begins with a verdict: well, or each thing
/// that is not, and what to do. Not well: a node is down or does not answer, two nodes do not reach each other, cluster
/// files differ, a dispatcher is slow or none is there, a server is given nothing or no handoff reaches it, a node is about to
/// leave its host. What no client suffers from is a warning, and no reason for exit code 3: clocks that differ, links that carry
/// less than they say, programs that fight a node for its settings. What is only counted since a daemon's start is in the tables.
#[derive(Args)]
#[command(after_help = "\
Examples:
  baton status
  baton status --node s1
  baton status > /dev/null || echo 'call somebody'
  baton status --json | jq '.verdict, (.nodes[] | {name, reachable, serving})'

Exit codes: 0 all is well (perhaps with warnings), 1 no daemon runs here or it does not answer, 2 wrong usage,
3 something is not well, 77 missing privileges")]
pub struct Status {
    #[command(flatten)]
    daemon: DaemonSocket,
    /// Tell it as JSON: verdict (well, problems, warnings), cluster, asked, nodes; error and help if nobody tells it
    #[arg(long)]
    pub json: bool,
}

impl Status {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let status: ClusterStatus = self.daemon.ask("status", PATIENCE)?;
        let verdict = ClusterVerdict::of(&status);
        if self.json {
            print_json(&Told { verdict: &verdict, status: &status })?;
        } else {
            print(&describe(&status, &verdict))?;
        }
        if verdict.well { Ok(()) } else { Err(Failure::told(Exit::NotWell, String::new())) }
    }
}

/// What is told as JSON.
#[derive(Serialize)]
struct Told<'a> {
    verdict: &'a ClusterVerdict,
    #[serde(flatten)]
    status: &'a ClusterStatus,
}
