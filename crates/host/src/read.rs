//! Reads everything that `judge` looks at. Changes nothing. Runs `nft`, `iptables-save` and the time
//! service's own tool where they exist, each bounded in time.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::facts::{Capabilities, Clock, Facts, Kernel, Net, NoTun};
use crate::finding::Finding;
use crate::firewall::{Firewall, parse_iptables, parse_nft, told_for_nft};
use crate::link::Links;
use crate::listeners::{listeners, udp_ports};
use crate::sysctl::{BPF_JIT, BRIDGE_NETFILTER, BRIDGE_NETFILTER_V6, CONNTRACK_LOOSE, IPV6, Sysctl};
use crate::{HostError, Wanted, judge, judge_start, plan};

/// The kernel function that makes an established socket from a client's first data packet.
const KFUNC: &[u8] = b"bpf_sk_assign_tcp_reqsk";

/// Everything that matters for `wanted` about this host, in the network namespace of the calling
/// thread. What cannot be seen is said so in the facts.
///
/// # Errors
/// When interfaces and addresses, or an existing kernel setting, cannot be read.
pub async fn read(wanted: &Wanted) -> Result<Facts, HostError> {
    let net = Links::open()?.read().await?;
    Ok(Facts {
        kernel: kernel(),
        capabilities: capabilities(),
        tun: Some(tun()),
        sysctls: sysctls(wanted, &net)?,
        net,
        listeners: Some(listeners().await),
        udp_ports: udp_ports(),
        firewall: Some(firewall().await),
        clock: clock().await,
    })
}

/// Of [`read`] and `judge` what no node starts without. Changes nothing, and takes some milliseconds.
pub fn essentials(wanted: &Wanted) -> Vec<Finding> {
    let facts =
        Facts { kernel: kernel(), capabilities: capabilities(), tun: Some(tun()), ..Facts::default() };
    let mut findings = Vec::new();
    judge_start::essentials(wanted, &facts, &mut findings);
    findings
}

/// Of [`read`] and `judge` what is about the web server alone, which may be looked at often: whether
/// it listens where it has to, and can be handed connections.
pub async fn web_server(wanted: &Wanted) -> Vec<Finding> {
    let facts =
        Facts { capabilities: capabilities(), listeners: Some(listeners().await), ..Facts::default() };
    let mut findings = Vec::new();
    judge::web_server(wanted, &facts, &mut findings);
    findings
}

/// How many connections wait for the web server on each of the node's ports.
///
/// # Errors
/// Why listeners cannot be seen, for people.
pub async fn waiting(wanted: &Wanted) -> Result<BTreeMap<u16, u32>, String> {
    let listeners = listeners().await?;
    let of = |port: u16| -> u32 {
        let its = listeners.iter().filter(|listener| wanted.vips().any(|vip| listener.takes(vip, port)));
        its.map(|listener| listener.waiting).sum()
    };
    Ok(wanted.ports.iter().map(|port| (*port, of(*port))).collect())
}

fn capabilities() -> Capabilities {
    Capabilities::parse(&fs::read_to_string("/proc/thread-self/status").unwrap_or_default())
}

fn kernel() -> Kernel {
    let btf = fs::read("/sys/kernel/btf/vmlinux");
    Kernel {
        release: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        has_btf: btf.is_ok(),
        has_kfunc: btf.is_ok_and(|bytes| names(&bytes, KFUNC)),
        // This setting exists exactly when the system call does (kernel/bpf/syscall.c).
        has_bpf: Path::new("/proc/sys/kernel/unprivileged_bpf_disabled").exists(),
        has_cgroup2: fs::read_to_string("/proc/self/mounts")
            .is_ok_and(|mounts| mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup2"))),
    }
}

/// Whether BTF's string section, which ends each name with NUL, holds this name.
fn names(btf: &[u8], name: &[u8]) -> bool {
    btf.split(|byte| *byte == 0).any(|string| string == name)
}

fn tun() -> Result<(), NoTun> {
    let opened = fs::File::options().read(true).write(true).open("/dev/net/tun");
    opened.map(drop).map_err(|error| NoTun {
        why: error.to_string(),
        is_there: error.kind() == std::io::ErrorKind::PermissionDenied,
    })
}

fn sysctls(wanted: &Wanted, net: &Net) -> Result<BTreeMap<Sysctl, String>, HostError> {
    // Without interfaces the settings of the whole namespace are judged all the same.
    let interfaces = plan::interfaces(wanted, net).unwrap_or_default();
    let settings = plan::settings(wanted, net, &interfaces);
    let judged_only =
        [BPF_JIT, CONNTRACK_LOOSE, BRIDGE_NETFILTER, BRIDGE_NETFILTER_V6, IPV6].map(Sysctl::new);
    let mut values = BTreeMap::new();
    for sysctl in settings.iter().flat_map(|setting| setting.reads()).chain(&judged_only) {
        if let Some(value) = sysctl.read()? {
            values.insert(sysctl.clone(), value);
        }
    }
    Ok(values)
}

async fn firewall() -> Result<Firewall, String> {
    let mut firewall = Firewall::default();
    let (mut seen_iptables, mut told, mut failed) = (false, Vec::new(), None);
    for tool in ["iptables", "ip6tables"] {
        for save in [format!("{tool}-save"), format!("{tool}-legacy-save")] {
            match output(&save, &[]).await {
                Some(Ok(listing)) => {
                    seen_iptables = true;
                    told.extend(told_for_nft(tool, &listing));
                    merge(&mut firewall, parse_iptables(tool, &listing));
                }
                Some(Err(why)) => failed = Some(format!("{save}: {why}")),
                None => {}
            }
        }
    }
    match output("nft", &["-a", "list", "ruleset"]).await {
        Some(Ok(listing)) => merge(&mut firewall, parse_nft(&listing, &told)),
        Some(Err(why)) => return Err(format!("nft: {why}")),
        None if seen_iptables => {}
        None => return Err(failed.unwrap_or_else(|| "neither nft nor iptables-save is installed".to_owned())),
    }
    Ok(firewall)
}

/// Adds what is new: the two variants of iptables-save may be one program.
fn merge(firewall: &mut Firewall, more: Firewall) {
    let new: Vec<_> = more.rules.into_iter().filter(|rule| !firewall.rules.contains(rule)).collect();
    firewall.rules.extend(new);
    for table in more.drop_by_default {
        if !firewall.drop_by_default.contains(&table) {
            firewall.drop_by_default.push(table);
        }
    }
}

async fn clock() -> Clock {
    if Path::new("/run/systemd/timesync/synchronized").exists() {
        return Clock::Synchronised;
    }
    if let Some(Ok(text)) = output("chronyc", &["-n", "tracking"]).await {
        let normal = text.lines().any(|line| line.starts_with("Leap status") && line.ends_with("Normal"));
        return if normal { Clock::Synchronised } else { Clock::Adrift };
    }
    match output("timedatectl", &["show", "-p", "NTPSynchronized", "--value"]).await {
        Some(Ok(text)) if text.trim() == "yes" => Clock::Synchronised,
        Some(Ok(text)) if text.trim() == "no" => Clock::Adrift,
        _ => Clock::Unknown,
    }
}

/// What the tool prints, with what it warns of at the end; `None` when it is not installed, an error for people when it fails.
async fn output(tool: &str, arguments: &[&str]) -> Option<Result<String, String>> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let run = Command::new(tool)
        .args(arguments)
        // An ordinary user's path lacks the folders in which these tools are.
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(PATIENCE, run).await {
        Err(_) => Some(Err(format!("no answer within {} s", PATIENCE.as_secs()))),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => None,
        Ok(Err(error)) => Some(Err(error.to_string())),
        Ok(Ok(done)) if done.status.success() => {
            Some(Ok(String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned()))
        }
        Ok(Ok(done)) => {
            let said = String::from_utf8_lossy(&done.stderr);
            Some(Err(said.lines().next().unwrap_or("it failed without a word").to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_whole_or_not_there() {
        let btf = b"\x9f\xeb\x01\0\0int\0bpf_sk_assign_tcp_reqsk\0char\0";
        assert!(names(btf, KFUNC));
        assert!(!names(b"\0xbpf_sk_assign_tcp_reqsk\0", KFUNC));
        assert!(!names(b"\0bpf_sk_assign_tcp_reqsk2\0", KFUNC));
        assert!(!names(b"", KFUNC));
    }
}
