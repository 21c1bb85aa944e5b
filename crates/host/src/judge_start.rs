//! Judges what no node starts without: the kernel, what this process may do, the device that holds packets. Pure.

use crate::Wanted;
use crate::facts::Facts;
use crate::finding::{Finding, Severity};
use crate::sysctl::{BPF_JIT, Sysctl};

/// One finding for each of them, good ones included.
pub(crate) fn essentials(wanted: &Wanted, facts: &Facts, findings: &mut Vec<Finding>) {
    kernel(facts, findings);
    if wanted.is_server {
        findings.push(control_groups(facts.kernel.has_cgroup2));
    }
    findings.push(privileges(wanted, facts));
    if let (true, Some(tun)) = (wanted.decides, &facts.tun) {
        findings.push(match tun {
            Ok(()) => Finding::ok("tun", "/dev/net/tun can be used"),
            Err(no) => {
                let why = &no.why;
                let what = format!(
                    "/dev/net/tun cannot be used ({why}), so no packet can be held while the dispatcher is asked"
                );
                Finding::error("tun", what, if no.is_there { TUN_FORBIDDEN } else { TUN_ABSENT })
            }
        });
    }
}

const TUN_ABSENT: &str =
    "modprobe tun && mkdir -p /dev/net && { test -c /dev/net/tun || mknod -m 666 /dev/net/tun c 10 200; }";
const TUN_FORBIDDEN: &str = "chmod 666 /dev/net/tun, as udev does (it opens nothing without CAP_NET_ADMIN)";

/// Of findings, why a node cannot start.
pub fn obstacle(findings: &[Finding]) -> Option<&Finding> {
    findings.iter().find(|finding| finding.severity == Severity::Error)
}

fn kernel(facts: &Facts, findings: &mut Vec<Finding>) {
    const NEWER: &str = "install Linux 6.9 or newer and reboot (Debian 13 has it; on Debian 12: \
                         apt install -t bookworm-backports linux-image-amd64)";
    let kernel = &facts.kernel;
    let release = &kernel.release;
    findings.push(if kernel.has_bpf {
        Finding::ok("kernel-bpf", format!("Linux {release} has the BPF system call"))
    } else {
        Finding::error("kernel-bpf", format!("Linux {release} has no BPF system call"), NEWER)
    });
    findings.push(if kernel.has_btf {
        Finding::ok("kernel-btf", "the kernel describes its types")
    } else {
        let what = "/sys/kernel/btf/vmlinux cannot be read, so no program can be loaded";
        Finding::error(
            "kernel-btf",
            what,
            "mount -t sysfs sysfs /sys; if it stays absent, use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        )
    });
    findings.push(match (kernel.has_btf, kernel.has_kfunc) {
        (_, true) => Finding::ok("kernel-kfunc", "the kernel can adopt connections"),
        (true, false) => Finding::error(
            "kernel-kfunc",
            format!("Linux {release} lacks bpf_sk_assign_tcp_reqsk, so no connection can be adopted"),
            NEWER,
        ),
        (false, false) => Finding::error(
            "kernel-kfunc",
            "without BTF it cannot be told whether connections can be adopted",
            NEWER,
        ),
    });
    findings.push(match facts.sysctls.get(&Sysctl::new(BPF_JIT)).map(String::as_str) {
        Some("0") => Finding::warning(
            "bpf-jit",
            "programs are interpreted: each packet costs many times more",
            Sysctl::new(BPF_JIT).command("1"),
        ),
        // Only the first network namespace shows it.
        Some(_) | None => Finding::ok("bpf-jit", "programs are compiled, as far as can be seen here"),
    });
}

fn control_groups(has_cgroup2: bool) -> Finding {
    const ID: &str = "cgroup2";
    if has_cgroup2 {
        return Finding::ok(ID, "control groups of version 2 are mounted");
    }
    let what = "no cgroup2 is mounted here, so connections that move begin with a small congestion window";
    Finding::warning(ID, what, "mount -t cgroup2 cgroup2 /sys/fs/cgroup (below `ip netns exec` it is hidden)")
}

fn privileges(wanted: &Wanted, facts: &Facts) -> Finding {
    let caps = facts.capabilities;
    let mut needed =
        vec![("CAP_NET_ADMIN", caps.net_admin), ("CAP_BPF", caps.bpf), ("CAP_PERFMON", caps.perfmon)];
    // To announce a VIP, and to end a connection of which no server has taken what the client sent.
    if wanted.decides || !wanted.on_interface.is_empty() {
        needed.push(("CAP_NET_RAW", caps.net_raw));
    }
    let missing: Vec<_> = needed.iter().filter(|(_, has)| !has).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Finding::ok("capabilities", "privileges suffice");
    }
    // The whole list: a unit has one line of them.
    let all: Vec<_> = needed.iter().map(|(name, _)| *name).collect();
    let mend = format!("run it as root, or in its systemd unit: AmbientCapabilities={}", all.join(" "));
    Finding::error("capabilities", format!("this process lacks {}", missing.join(", ")), mend)
}
