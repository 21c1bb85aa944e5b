//! `baton node`: runs the roles of this node until it is asked to stop.

use std::fs;
use std::path::PathBuf;
use std::rc::Rc;
use std::str::FromStr;

use baton_cluster::Warning;
use baton_host::{Capabilities, Facts, Severity, Wanted, judge};
use baton_node::{Reread, wanted};
use clap::Args;
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use tracing_subscriber::EnvFilter;

use crate::exit::{Exit, Failure};
use crate::{config, log};

/// Run the roles of this node until SIGTERM or SIGINT; SIGHUP reloads the cluster file
///
/// Prepares the machine (VIPs, ARP, kernel settings), attaches Baton's programs, connects to the
/// other nodes, and undoes what it changed when it ends. Needs CAP_NET_ADMIN and CAP_BPF, and
/// CAP_NET_RAW where a VIP is announced or requests are decided; root has them all. Logs to standard error.
#[derive(Args)]
#[command(after_help = "\
Examples:
  baton node --config /etc/baton/cluster.toml --node s1
  baton node --config cluster.toml --node s1 --log debug
  BATON_LOG=info,baton_control=trace baton node --config cluster.toml --node s1

Exit codes: 0 stopped as asked, 1 failed, 2 wrong usage, 77 missing privileges,
78 the cluster file is wrong or has no such node")]
pub struct NodeCommand {
    /// The cluster file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The name of this node in it
    #[arg(long, value_name = "NAME")]
    node: String,
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
        let (cluster, node) = config::node(&self.config, &self.node)?;
        check_privileges(&wanted(&cluster, &node))?;
        // To the end: a panic's story is in it, too.
        let _log = log::begin(self.log);
        if let Some(Warning { what, help }) = config::exposed(&self.config) {
            tracing::warn!("{what}; {help}");
        }
        let file = self.config;
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
fn check_privileges(wanted: &Wanted) -> Result<(), Failure> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let facts = Facts { capabilities: Capabilities::parse(&status), ..Facts::default() };
    let findings = judge(wanted, &facts);
    let lacking =
        findings.iter().find(|finding| finding.id == "capabilities" && finding.severity == Severity::Error);
    match lacking {
        None => Ok(()),
        Some(finding) => {
            let help = finding.mend.as_deref().unwrap_or("run it as root");
            Err(Failure::new(Exit::NoPermission, format!("{}\n  help: {help}", finding.what)))
        }
    }
}
