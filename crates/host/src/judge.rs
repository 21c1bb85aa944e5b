//! Judges what was read of a host against what its node needs. Pure. `baton doctor` prints the findings;
//! the crate's documentation lists their ids.

use std::net::IpAddr;

use crate::address::{add_command, host_prefix};
use crate::facts::{Clock, Facts, Held, Interface, Listener};
use crate::finding::Finding;
use crate::plan::{self, Setting};
use crate::sysctl::{IPV6, Sysctl};
use crate::{HostError, Wanted, judge_firewall, judge_start};

/// The smallest MTU, in bytes, that carries a full-size request with its encapsulation: the SYN-ACK asks
/// for segments small enough that both fit an ordinary Ethernet frame.
const MTU_MIN: u32 = 1500;
/// On a link that carries less, in bytes, Linux has no IPv6 at all (RFC 8200 5).
const MTU_MIN_IPV6: u32 = 1280;

/// Judges a host: one finding for each thing that matters to this node, good ones included, in the
/// order in which one would mend them.
pub fn judge(wanted: &Wanted, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    judge_start::essentials(wanted, facts, &mut findings);
    let interfaces = links(wanted, facts, &mut findings);
    ipv6(wanted, facts, &mut findings);
    settings(wanted, facts, &interfaces, &mut findings);
    addresses(wanted, facts, &interfaces, &mut findings);
    findings.extend(wanted.on_interface.iter().filter_map(|vip| route(*vip, facts, &interfaces)));
    if wanted.is_server {
        web_server(wanted, facts, &mut findings);
    }
    judge_firewall::firewall(wanted, facts, &mut findings);
    judge_firewall::bridge(wanted, facts, &interfaces, &mut findings);
    handoff_port(wanted, facts, &mut findings);
    findings.push(clock(facts.clock));
    findings
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
    if !interfaces.is_empty() && wanted.is_server {
        findings.extend(way_out(facts, &interfaces));
    }
    if facts.net.marks_matter && (wanted.decides || wanted.is_switch) {
        findings.push(Finding::warning(
            "answer-marks",
            "rules choose routes by marks (ip rule fwmark): handshakes and refusals, which Baton answers itself, carry none",
            "choose by the VIP instead: ip rule add from VIP lookup TABLE",
        ));
    }
    for interface in interfaces.iter().filter(|interface| interface.in_vrf) {
        let what = format!(
            "{} belongs to a VRF: Baton goes by the routes and sockets outside of VRFs, and was never tried within one",
            interface.name
        );
        let mend = format!(
            "ip link set {} nomaster, and choose routes by rules (ip rule add from VIP lookup TABLE)",
            interface.name
        );
        findings.push(Finding::warning("vrf", what, mend));
    }
    interfaces
}

/// Answers that leave by an interface where no program looks: nobody sees connections end.
fn way_out(facts: &Facts, interfaces: &[Interface]) -> Option<Finding> {
    let mut routes = facts.net.default_routes.iter().chain(&facts.net.default_routes_v6);
    let is_unseen = |name: &&String| *name != "lo" && interfaces.iter().all(|one| one.name != **name);
    let by = routes.by_ref().filter(is_unseen).find_map(|name| facts.net.interface(name))?;
    let unseen = &by.name;
    let what = format!(
        "the default route leaves by {unseen}, where Baton does not look: it does not see what its server answers, \
         so loads and LARD's locality are wrong"
    );
    let mend = if !by.ethernet {
        format!("{unseen} is no Ethernet interface: let the default route leave by one that is")
    } else {
        format!(
            "add \"{unseen}\" to `interfaces` of this node in the cluster file, or leave `interfaces` out: then \
             Baton finds them from the routes"
        )
    };
    Some(Finding::warning("way-out", what, mend))
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
            // What comes from the node itself goes by no interface where programs are.
            let own = if wanted.is_server { "this node's own web server alone" } else { "nobody" };
            Finding::ok(id, format!("{name} holds {vip}; programs on this node that ask it reach {own}"))
        } else {
            let what = format!("{name} does not hold {vip}, so this node does not take its packets");
            if name == "lo" {
                Finding::error(id, what, add_command(vip, name)).fixable()
            } else {
                // Without programs this host would answer clients itself.
                Finding::warning(
                    id,
                    what,
                    "start `baton node`: it takes the VIP once its programs are attached",
                )
            }
        });
        let refused = |held: &&Held| held.interface == *name && held.address == vip && held.duplicate;
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

/// How clients come to a VIP that this node announces. No host can see what the clients' router knows: so nothing is
/// wrong, and what the router needs is said.
fn route(vip: IpAddr, facts: &Facts, interfaces: &[Interface]) -> Option<Finding> {
    const ID: &str = "vip-route";
    let name = &interfaces.first()?.name;
    let on_link = |held: &&Held| held.interface == *name && held.address.is_ipv6() == vip.is_ipv6();
    let networks =
        || facts.net.addresses.iter().filter(on_link).filter(|held| held.prefix < host_prefix(vip));
    let tell = if vip.is_ipv6() { "Neighbour Discovery" } else { "ARP" };
    if let Some(held) = networks().find(|held| within(vip, held)) {
        let what = format!(
            "{vip} lies within the network of {name}, {}/{}: its hosts and routers find it by {tell}",
            held.address, held.prefix
        );
        return Some(Finding::ok(ID, what));
    }
    let (prefix, ip) = (host_prefix(vip), if vip.is_ipv6() { "ip -6" } else { "ip" });
    let what = format!(
        "{vip} lies within no network of {name}: the clients' router there needs a route, on Linux \
         {ip} route add {vip}/{prefix} dev LINK (LINK: its own interface to this network)"
    );
    Some(Finding::ok(ID, what))
}

/// Whether an address belongs to the network of one that an interface holds.
fn within(address: IpAddr, held: &Held) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let differ = (bits(address) ^ bits(held.address)).leading_zeros();
    address.is_ipv6() == held.address.is_ipv6() && differ >= u32::from(held.prefix)
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
