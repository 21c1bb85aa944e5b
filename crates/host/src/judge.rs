//! Judges what was read of a host against what its node needs. Pure. `baton doctor` prints the findings;
//! the crate's documentation lists their ids.

use std::net::IpAddr;

use crate::address::add_command;
use crate::facts::{Clock, Facts, Interface, Listener};
use crate::finding::Finding;
use crate::plan::{self, Setting};
use crate::sysctl::{BPF_JIT, IPV6, Sysctl};
use crate::{HostError, Wanted, judge_firewall};

/// The smallest MTU, in bytes, that carries a full-size request with its encapsulation: the SYN-ACK asks
/// for segments small enough that both fit an ordinary Ethernet frame.
const MTU_MIN: u32 = 1500;
/// On a link that carries less, in bytes, Linux has no IPv6 at all (RFC 8200 5).
const MTU_MIN_IPV6: u32 = 1280;

/// Judges a host: one finding for each thing that matters to this node, good ones included, in the
/// order in which one would mend them.
pub fn judge(wanted: &Wanted, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    kernel(facts, &mut findings);
    privileges(wanted, facts, &mut findings);
    let interfaces = links(wanted, facts, &mut findings);
    ipv6(wanted, facts, &mut findings);
    settings(wanted, facts, &interfaces, &mut findings);
    addresses(wanted, facts, &interfaces, &mut findings);
    if wanted.is_server {
        web_server(wanted, facts, &mut findings);
    }
    judge_firewall::firewall(wanted, facts, &mut findings);
    judge_firewall::bridge(wanted, facts, &interfaces, &mut findings);
    handoff_port(wanted, facts, &mut findings);
    findings.push(clock(facts.clock));
    findings
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

fn privileges(wanted: &Wanted, facts: &Facts, findings: &mut Vec<Finding>) {
    let caps = facts.capabilities;
    let mut needed = vec![("CAP_NET_ADMIN", caps.net_admin), ("CAP_BPF", caps.bpf)];
    // To announce a VIP, and to end a connection of which no server has taken what the client sent.
    if wanted.decides || !wanted.on_interface.is_empty() {
        needed.push(("CAP_NET_RAW", caps.net_raw));
    }
    let missing: Vec<_> = needed.iter().filter(|(_, has)| !has).map(|(name, _)| *name).collect();
    findings.push(if missing.is_empty() {
        Finding::ok("capabilities", "privileges suffice")
    } else {
        let what = format!("this process lacks {}", missing.join(", "));
        Finding::error(
            "capabilities",
            what,
            format!("run it as root, or in its systemd unit: AmbientCapabilities={}", missing.join(" ")),
        )
    });
    if let (true, Some(tun)) = (wanted.decides, &facts.tun) {
        findings.push(match tun {
            Ok(()) => Finding::ok("tun", "/dev/net/tun can be used"),
            Err(why) => Finding::error(
                "tun",
                format!("/dev/net/tun cannot be used ({why}), so no packet can be held while the dispatcher is asked"),
                "modprobe tun && mkdir -p /dev/net && { test -c /dev/net/tun || mknod -m 666 /dev/net/tun c 10 200; }",
            ),
        });
    }
}

fn links(wanted: &Wanted, facts: &Facts, findings: &mut Vec<Finding>) -> Vec<Interface> {
    let interfaces = match plan::interfaces(wanted, &facts.net) {
        Ok(interfaces) => interfaces,
        Err(error) => {
            findings.push(Finding::error(
                "interface",
                error.to_string(),
                match error {
                    HostError::NotEthernet { .. } => "use an Ethernet interface",
                    _ => "correct the cluster file, or add the address",
                },
            ));
            Vec::new()
        }
    };
    if !wanted.on_loopback.is_empty() && facts.net.interface("lo").is_some_and(|lo| !lo.up) {
        let what = "lo is down, so addresses on it are not served";
        findings.push(Finding::error("interface-up", what, "ip link set lo up").fixable());
    }
    for interface in &interfaces {
        let name = &interface.name;
        findings.push(Finding::ok("interface", format!("{name} is an interface of the cluster")));
        findings.push(if interface.up {
            Finding::ok("interface-up", format!("{name} is up"))
        } else {
            Finding::error("interface-up", format!("{name} is down"), format!("ip link set {name} up"))
        });
        findings.push(mtu(interface, wanted.needs_ipv6()));
        findings.extend(merging(interface));
    }
    interfaces
}

fn mtu(interface: &Interface, needs_ipv6: bool) -> Finding {
    let Interface { name, mtu, .. } = interface;
    let carries = format!("{name} carries packets of {mtu} bytes");
    let mend = format!("ip link set {name} mtu {MTU_MIN}");
    if *mtu >= MTU_MIN {
        Finding::ok("mtu", carries)
    } else if needs_ipv6 && *mtu < MTU_MIN_IPV6 {
        Finding::error("mtu", format!("{carries}, and IPv6 needs {MTU_MIN_IPV6}: it is off there"), mend)
    } else {
        let lost = format!("full-size requests of {MTU_MIN} bytes with their handoff metadata are lost");
        Finding::warning("mtu", format!("{carries}: {lost}"), mend)
    }
}

fn merging(interface: &Interface) -> Option<Finding> {
    const ID: &str = "merging";
    let (name, now) = (&interface.name, interface.merges?);
    let (most, limit) = (now.ipv6.max(now.ipv4) - 1, plan::MERGES_MAX);
    let merged = format!("packets that arrive on {name} are merged into such of up to {most} bytes");
    if most < limit {
        return Some(Finding::ok(ID, merged));
    }
    let what = format!("{merged}: the longest are lost on their way to a node behind a router, and repeated");
    let mend = format!("ip link set dev {name} gro_max_size {limit}");
    let finding = Finding::warning(ID, what, mend);
    Some(if plan::merges(interface).is_some() { finding.fixable() } else { finding })
}

fn ipv6(wanted: &Wanted, facts: &Facts, findings: &mut Vec<Finding>) {
    if wanted.needs_ipv6() && !facts.sysctls.contains_key(&Sysctl::new(IPV6)) {
        findings.push(Finding::error(
            "ipv6",
            "this kernel was started without IPv6, which the cluster file's addresses need",
            "remove ipv6.disable=1 from the kernel's command line (/etc/default/grub), then update-grub and reboot",
        ));
    }
}

fn settings(wanted: &Wanted, facts: &Facts, interfaces: &[Interface], findings: &mut Vec<Finding>) {
    let settings = plan::settings(wanted, &facts.net, interfaces);
    findings.extend(settings.iter().filter_map(|setting| judge_setting(setting, facts)));
}

fn judge_setting(setting: &Setting, facts: &Facts) -> Option<Finding> {
    // A setting that this kernel lacks cannot be wrong.
    let value = setting.in_force(&facts.sysctls)?;
    let name = &setting.sysctl;
    Some(if (setting.good)(value) {
        Finding::ok(setting.id, format!("{name} is {value}"))
    } else {
        let what = format!("{name} is {value}: {}", setting.otherwise);
        let finding = Finding::warning(setting.id, what, name.command(setting.value)).fixable();
        Finding { severity: setting.severity, ..finding }
    })
}

fn addresses(wanted: &Wanted, facts: &Facts, interfaces: &[Interface], findings: &mut Vec<Finding>) {
    for place in plan::places(wanted, interfaces) {
        let (name, vip) = (&place.interface, place.address);
        let id = if name == "lo" { "vip-loopback" } else { "vip-interface" };
        findings.push(if facts.net.holds(name, vip) {
            Finding::ok(id, format!("{name} holds {vip}"))
        } else {
            let what = format!("{name} does not hold {vip}, so this node does not take its packets");
            Finding::error(id, what, add_command(vip, name)).fixable()
        });
        let refused = |held: &&crate::Held| held.interface == *name && held.address == vip && held.duplicate;
        if let Some(held) = facts.net.addresses.iter().find(refused) {
            let what = format!(
                "{name} holds {vip}, but the kernel does not use it: another host answered for it when it was added"
            );
            let again = add_command(vip, name);
            let mend = format!("ip addr del {vip}/{} dev {name} && {again}", held.prefix);
            findings.push(Finding::error("vip-duplicate", what, mend));
        }
    }
    for vip in &wanted.on_loopback {
        for held in facts.net.addresses.iter().filter(|held| held.address == *vip && held.interface != "lo") {
            let what = format!(
                "{} holds {vip}, which another node announces: both tell their neighbours that they have it",
                held.interface
            );
            let mend = format!("ip addr del {vip}/{} dev {}", held.prefix, held.interface);
            findings.push(Finding::error("vip-conflict", what, mend));
        }
    }
}

pub(crate) fn web_server(wanted: &Wanted, facts: &Facts, findings: &mut Vec<Finding>) {
    let listeners = match &facts.listeners {
        Some(Ok(listeners)) => listeners,
        Some(Err(why)) => {
            let what = format!("listeners cannot be seen: {why}");
            return findings.push(Finding::warning("listener", what, "modprobe -a tcp_diag inet_diag"));
        }
        None => return,
    };
    for at in &wanted.listens {
        let (vip, port) = (at.ip(), at.port());
        let taking: Vec<_> = listeners.iter().filter(|listener| listener.takes(vip, port)).collect();
        findings.push(if taking.is_empty() {
            let what =
                format!("nothing listens on {at}: its connections are refused until the web server runs");
            Finding::warning("listener", what, start(vip, port))
        } else {
            Finding::ok("listener", format!("{at} has a listener"))
        });
        if !taking.is_empty() {
            findings.push(mptcp(&taking, port, facts.capabilities.net_admin));
        }
    }
}

fn start(vip: IpAddr, port: u16) -> String {
    // A web server told to listen on a port alone may mean IPv4 only: nginx does.
    let all = if vip.is_ipv6() { format!("[::]:{port}") } else { format!("port {port}") };
    format!("start the web server, listening on {all}")
}

fn mptcp(taking: &[&Listener], port: u16, can_tell: bool) -> Finding {
    const ID: &str = "mptcp-listener";
    match taking.iter().find(|listener| listener.mptcp) {
        Some(listener) => Finding::error(
            ID,
            format!("the listener on {} speaks MPTCP, and the kernel cannot adopt into it", listener.address),
            "sysctl -w net.mptcp.enabled=0, then restart the web server (written in Go: GODEBUG=multipathtcp=0 will do)",
        ),
        None if can_tell => Finding::ok(ID, format!("the listener on port {port} speaks plain TCP")),
        None => {
            let what = format!("without CAP_NET_ADMIN it cannot be told whether port {port} speaks MPTCP");
            Finding::warning(ID, what, "run it as root")
        }
    }
}

fn handoff_port(wanted: &Wanted, facts: &Facts, findings: &mut Vec<Finding>) {
    let port = wanted.handoff_port;
    findings.push(if facts.udp_ports.contains(&port) {
        let what = format!("a program receives on UDP port {port}, whose packets Baton takes as handoffs");
        Finding::warning("handoff-port", what, format!("ss -lunp 'sport = :{port}' names it: stop it, or choose another handoff port in the cluster file"))
    } else {
        Finding::ok("handoff-port", format!("UDP port {port} is free"))
    });
}

fn clock(clock: Clock) -> Finding {
    match clock {
        Clock::Synchronised => Finding::ok("clock", "the clock is synchronised"),
        Clock::Adrift => Finding::warning(
            "clock",
            "the clock is not synchronised: no handoff depends on it, but the nodes' logs cannot be compared",
            "timedatectl set-ntp true",
        ),
        Clock::Unknown => Finding::warning(
            "clock",
            "no time service could be asked whether the clock is synchronised",
            "apt install chrony",
        ),
    }
}
