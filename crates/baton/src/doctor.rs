//! `baton doctor`: is this machine right for its node, and what mends it?

use std::path::PathBuf;

use baton_cluster::{Cluster, Forwarding, Node, Warning};
use baton_host::{Finding, HostChange, HostError, Merges, Severity, Undo, Wanted};
use baton_node::wanted;
use clap::Args;
use serde_json::{Value, json};
use tokio::runtime::Builder;

use crate::config::{self, ThisNode};
use crate::exit::{Exit, Failure};
use crate::output::{count, print, print_json};

/// Tell what is wrong with this machine, and the command that mends it
///
/// Looks at the kernel, privileges, interfaces, kernel settings, VIPs, the web server and the
/// firewall, as this node needs them. Changes nothing without --fix. What `baton node` does itself
/// at its start (VIPs, ARP, kernel settings) is an error here as long as it is not done; a VIP that this node announces is a
/// warning, for it comes with `baton node` alone.
#[derive(Args)]
#[command(after_help = "\
Examples:
  baton doctor
  baton doctor --config cluster.toml --node s1 --fix

Exit codes: 0 no error (perhaps warnings), 1 errors remain, 2 wrong usage,
78 the cluster file is wrong or has no such node")]
pub struct Doctor {
    #[command(flatten)]
    this: ThisNode,
    /// Mend what can be mended safely: VIPs that are not announced, ARP and kernel settings. `baton node` undoes it at its end
    #[arg(long)]
    fix: bool,
    /// Where the journal of changes is kept, as for `baton node`
    #[arg(long, value_name = "DIR", default_value = "/run/baton")]
    run_dir: PathBuf,
    /// Tell it as JSON: node, findings, changed, fix_error, errors, warnings; error and help if it cannot be told
    #[arg(long)]
    pub json: bool,
}

/// What was found, and what was done.
struct Report {
    node: String,
    findings: Vec<Finding>,
    changed: Vec<HostChange>,
    fix_error: Option<HostError>,
}

impl Doctor {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let (cluster, node) = self.this.read()?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(Exit::Failed, error))?;
        let report = runtime.block_on(async {
            let mut report = self.examine(&wanted(&cluster, &node)).await?;
            report.findings.extend(answered_for(&cluster, &node).await);
            Ok::<_, HostError>(report)
        });
        let report = report.map_err(|error| Failure::new(Exit::Failed, error))?;
        if self.json {
            print_json(&report.as_json())?
        } else {
            print(&report.describe())?
        }
        if report.number_of(Severity::Error) == 0 && report.fix_error.is_none() {
            Ok(())
        } else {
            Err(Failure::told(Exit::Failed, String::new()))
        }
    }

    async fn examine(&self, wanted: &Wanted) -> Result<Report, HostError> {
        let (mut changed, mut fix_error) = (Vec::new(), None);
        if self.fix {
            let before = Undo::at(&self.run_dir, &wanted.node).changes()?;
            match baton_host::prepare(wanted, &self.run_dir).await {
                Ok(undo) => changed = undo.changes()?,
                Err(error) => fix_error = Some(error),
            }
            changed.retain(|change| !before.contains(change));
        }
        let mut findings = baton_host::judge(wanted, &baton_host::read(wanted).await?);
        findings.extend(config::exposed(&self.this.config).map(|Warning { what, help }| Finding {
            id: "cluster-file",
            severity: Severity::Warning,
            what,
            mend: Some(help),
            fixable: false,
        }));
        Ok(Report { node: wanted.node.clone(), findings, changed, fix_error })
    }
}

/// Nodes that share a MAC address with another one or with the gateway are behind whatever answers ARP for them. Only as far
/// as this host has asked them: a node that has run here lately has.
async fn answered_for(cluster: &Cluster, node: &Node) -> Option<Finding> {
    const ID: &str = "proxy-arp";
    let others = || cluster.nodes.iter().filter(|other| other.id != node.id);
    let addresses: Vec<_> = others().map(|other| other.address).collect();
    let behind = baton_host::answered_for(&addresses).await;
    let names: Vec<_> = others().filter(|n| behind.contains(&n.address)).map(|n| n.name.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    let what = format!(
        "{} seem to be on this link, but answer with one MAC address, or with the gateway's: a router answers for them \
         (proxy ARP: clouds, private VLANs, Calico)",
        names.join(", ")
    );
    Some(match cluster.forwarding {
        Forwarding::Direct => Finding {
            id: ID,
            severity: Severity::Error,
            what: format!("{what}, and sends back what is forwarded to them"),
            mend: Some("forwarding = \"auto\" in [cluster] of the cluster file, on all nodes: packets for them are wrapped".to_owned()),
            fixable: false,
        },
        Forwarding::Auto | Forwarding::Geneve => Finding {
            id: ID,
            severity: Severity::Ok,
            what: format!("{what}; packets for them are wrapped, so they arrive"),
            mend: None,
            fixable: false,
        },
    })
}

impl Report {
    fn number_of(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    fn describe(&self) -> String {
        let mut told = String::new();
        for change in &self.changed {
            told.push_str(&format!("mended   {}\n", describe_change(change)));
        }
        if let Some(error) = &self.fix_error {
            told.push_str(&format!("not mended: {error}\n"));
        }
        if !told.is_empty() {
            told.push('\n');
        }
        told.push_str(&format!("{:<8} {:<20} WHAT, AND THE COMMAND THAT MENDS IT\n", "STATE", "ABOUT"));
        for finding in &self.findings {
            told.push_str(&format!("{:<8} {:<20} {}\n", name(finding.severity), finding.id, finding.what));
            if let (Some(mend), true) = (&finding.mend, finding.severity > Severity::Ok) {
                told.push_str(&format!("{:<8} {:<20}   -> {mend}\n", "", ""));
            }
        }
        told.push('\n');
        told.push_str(&self.summary());
        told
    }

    fn summary(&self) -> String {
        let (errors, warnings) = (self.number_of(Severity::Error), self.number_of(Severity::Warning));
        let fixable = self.findings.iter().filter(|f| f.fixable && f.severity > Severity::Ok).count();
        let mut told = format!("{}: {}, {}", self.node, count(errors, "error"), count(warnings, "warning"));
        if fixable > 0 {
            told.push_str(&format!(
                "; `--fix` mends {fixable} of them, and so does `baton node` at its start"
            ));
        }
        told.push('\n');
        told
    }

    fn as_json(&self) -> Value {
        let finding = |finding: &Finding| {
            json!({
                "id": finding.id,
                "severity": name(finding.severity),
                "what": finding.what,
                "mend": finding.mend,
                "fixable": finding.fixable,
            })
        };
        json!({
            "node": self.node,
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
            "changed": self.changed,
            "fix_error": self.fix_error.as_ref().map(ToString::to_string),
            "errors": self.number_of(Severity::Error),
            "warnings": self.number_of(Severity::Warning),
        })
    }
}

fn describe_change(change: &HostChange) -> String {
    match change {
        HostChange::Sysctl { name, was, set } => format!("{name} was {was}, is {set}"),
        HostChange::Address { interface, address } => format!("{address} is on {interface}"),
        HostChange::Merges { interface, was, set } => {
            let most = |merges: &Merges| merges.ipv6.max(merges.ipv4) - 1;
            format!("{interface} merged up to {} bytes, merges up to {}", most(was), most(set))
        }
    }
}

fn name(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "ok",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}
