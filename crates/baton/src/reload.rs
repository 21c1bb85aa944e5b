//! `baton reload`: makes the daemon on this machine read its cluster file again.

use std::time::Duration;

use baton_node::status::Reloaded;
use clap::Args;

use crate::daemon::DaemonSocket;
use crate::exit::{Exit, Failure};
use crate::output::{print, print_json};

/// Addresses are added to interfaces meanwhile.
const PATIENCE: Duration = Duration::from_secs(15);

/// Take the changed cluster file: services come, change and go while the node runs
///
/// The daemon on this machine reads its cluster file again. New services are offered at once, changed ones
/// go by their new rules, and those that the file has no more end: they take no new connections, and the
/// connections that they have go on (`baton status` counts them). Services and their pools may change;
/// everything else in the file lasts until the node is restarted.
///
/// Give all nodes the file, then run this on each: on its servers first where a service is new, and last where one
/// goes. While files differ, nodes choose among servers without the dispatcher for pools that it does not
/// know. SIGHUP does the same, and tells it to the daemon's log.
#[derive(Args)]
#[command(after_help = "\
Examples:
  baton check /etc/baton/cluster.toml && baton reload
  baton reload --node s1 --json

Exit codes: 0 the node goes by the file now, 1 no daemon runs here or it does not answer, 2 wrong usage,
77 missing privileges, 78 the file is wrong or changes what lasts: the node goes on as before")]
pub struct Reload {
    #[command(flatten)]
    daemon: DaemonSocket,
    /// Tell it as JSON: node, added, changed, removed; error if it is not taken
    #[arg(long)]
    pub json: bool,
}

impl Reload {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let reloaded: Reloaded = self.daemon.ask("reload", PATIENCE)?;
        if self.json {
            print_json(&reloaded)?;
        } else if reloaded.error.is_none() {
            print(&describe(&reloaded))?;
        }
        match reloaded.error {
            None => Ok(()),
            Some(_) if self.json => Err(Failure::told(Exit::Config, String::new())),
            Some(error) if error.starts_with("error: ") => Err(Failure::told(Exit::Config, error + "\n")),
            Some(error) => Err(Failure::new(Exit::Config, error)),
        }
    }
}

fn describe(reloaded: &Reloaded) -> String {
    let Reloaded { node, added, changed, removed, .. } = reloaded;
    let lists = [("new", added), ("changed", changed), ("ending", removed)];
    let said: Vec<String> = lists
        .iter()
        .filter(|(_, services)| !services.is_empty())
        .map(|(what, services)| format!("{what}: {}", services.join(", ")))
        .collect();
    match said.as_slice() {
        [] => format!("{node} goes by that file already\n"),
        said => format!("{node} goes by the file now; {}\n", said.join("; ")),
    }
}
