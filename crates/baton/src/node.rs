//! `baton node`: runs the roles of this node until it is asked to stop.

use std::path::PathBuf;
use std::rc::Rc;
use std::str::FromStr;

use baton_cluster::Warning;
use baton_host::{Wanted, essentials, obstacle};
use baton_node::{Reread, wanted};
use clap::Args;
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use tracing_subscriber::EnvFilter;

use crate::config::{self, ThisNode};
use crate::exit::{Exit, Failure};
use crate::log;

/// Run the roles of this node until SIGTERM or SIGINT; SIGHUP reloads the cluster file
///
/// Prepares the machine (VIPs, ARP, kernel settings), attaches Baton's programs, connects to the
/// other nodes, and undoes what it changed when it ends. Needs CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON, and
/// CAP_NET_RAW where a VIP is announced or requests are decided (root has them all); /dev/net/tun where requests
/// are decided; a --run-dir that it may write to. Logs to standard error, in colours to a terminal alone, and not
/// where NO_COLOR is set.
#[derive(Args)]
#[command(after_help = "\
Examples:
  baton node
  baton node --config cluster.toml --node s1 --log debug
  BATON_LOG=info,baton_control=trace baton node --node s1

Exit codes: 0 stopped as asked, 1 failed, 2 wrong usage, 77 missing privileges,
78 the cluster file is wrong or has no such node")]
pub struct NodeCommand {
    #[command(flatten)]
    this: ThisNode,
    /// Where the daemon keeps its socket and its journal of changes
    #[arg(long, value_name = "DIR", default_value = "/run/baton")]
    run_dir: PathBuf,
    /// Change nothing on this machine: VIPs, ARP and kernel settings are prepared already
    #[arg(long)]
    no_host_setup: bool,
    /// What to log: error, warn, info, debug, trace; or by module, as in info,baton_control=debug
    #[arg(long, value_name = "FILTER", env = "BATON_LOG", default_value = "info",
        value_parser = EnvFilter::from_str)]
    log: EnvFilter,
}

impl NodeCommand {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let (cluster, node) = self.this.read()?;
        check_machine(&wanted(&cluster, &node))?;
        // To the end: a panic's story is in it, too.
        let _log = log::begin(self.log);
        if let Some(Warning { what, help }) = config::exposed(&self.this.config) {
            tracing::warn!("{what}; {help}");
        }
        let file = self.this.config;
        let reread = move || config::cluster(&file).map_err(|failure| failure.to_string());
        let options = baton_node::Options {
            cluster,
            reread: Reread(Rc::new(reread)),
            node: node.id,
            run_dir: self.run_dir,
            configure_host: !self.no_host_setup,
        };
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(Exit::Failed, error))?;
        LocalSet::new()
            .block_on(&runtime, baton_node::run(options))
            .map_err(|error| Failure::new(Exit::Failed, error))
    }
}

/// Refuses before anything is changed when it cannot go well.
fn check_machine(wanted: &Wanted) -> Result<(), Failure> {
    match obstacle(&essentials(wanted)) {
        None => Ok(()),
        Some(finding) => {
            let exit = if finding.id == "capabilities" { Exit::NoPermission } else { Exit::Failed };
            let help = finding.mend.as_deref().unwrap_or("`baton doctor` says more");
            Err(Failure::new(exit, format!("{}\n  help: {help}", finding.what)))
        }
    }
}
