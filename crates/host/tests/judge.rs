//! Each finding, good and bad: a good host has none but good findings, and each spoiled fact is told by
//! its own finding alone.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use baton_host::{
    Capabilities, Clock, Facts, Finding, Firewall, Held, Interface, Kernel, Listener, Net, NoTun, Rule,
    Severity, Sysctl, Wanted, judge,
};

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1));
const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 11));

/// A node that is server and distributor, does not announce the VIP, and wants nothing mended.
fn wanted() -> Wanted {
    Wanted {
        node: "b".into(),
        address: OWN,
        interfaces: vec![],
        is_server: true,
        is_distributor: true,
        is_switch: false,
        decides: true,
        on_loopback: vec![VIP],
        on_interface: vec![],
        ports: vec![80],
        listens: [VIP].map(|vip| SocketAddr::new(vip, 80)).to_vec(),
        control_port: 7400,
        handoff_port: 6090,
    }
}

fn interface(name: &str, index: u32, mtu: u32) -> Interface {
    Interface {
        name: name.into(),
        index,
        mac: [2, 0, 0, 0, 0, 1],
        mtu,
        up: true,
        ethernet: true,
        bridged: false,
        part: false,
        in_vrf: false,
        merges: None,
    }
}

fn held(interface: &str, address: IpAddr, prefix: u8) -> Held {
    Held { interface: interface.into(), address, prefix, duplicate: false }
}

fn listener(address: &str, mptcp: bool) -> Listener {
    Listener { address: address.parse().expect("an address"), only_v6: false, mptcp, waiting: 0 }
}

fn good() -> Facts {
    let sysctls = [
        ("net/core/bpf_jit_enable", "1"),
        ("net/ipv4/tcp_syncookies", "1"),
        ("net/ipv4/tcp_timestamps", "1"),
        ("net/ipv4/tcp_sack", "1"),
        ("net/ipv4/tcp_window_scaling", "1"),
        ("net/ipv4/tcp_rfc1337", "0"),
        ("net/ipv4/conf/all/arp_ignore", "1"),
        ("net/ipv4/conf/all/arp_announce", "2"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/eth0/send_redirects", "0"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/eth0/rp_filter", "1"),
        ("net/netfilter/nf_conntrack_tcp_loose", "1"),
        ("net/bridge/bridge-nf-call-iptables", "1"),
    ];
    Facts {
        kernel: Kernel {
            release: "6.18.0".into(),
            has_btf: true,
            has_kfunc: true,
            has_bpf: true,
            has_cgroup2: true,
        },
        capabilities: Capabilities { net_admin: true, bpf: true, perfmon: true, net_raw: true },
        tun: Some(Ok(())),
        net: Net {
            interfaces: vec![interface("lo", 1, 65536), interface("eth0", 2, 1500)],
            addresses: vec![
                held("lo", Ipv4Addr::LOCALHOST.into(), 8),
                held("lo", VIP, 32),
                held("eth0", OWN, 24),
            ],
            default_routes: vec!["eth0".into()],
            default_routes_v6: vec![],
            gateways: vec![],
            marks_matter: false,
        },
        sysctls: sysctls.iter().map(|(name, value)| (Sysctl::new(*name), (*value).into())).collect(),
        listeners: Some(Ok(vec![listener("0.0.0.0:80", false)])),
        udp_ports: vec![68],
        firewall: Some(Ok(Firewall::default())),
        clock: Clock::Synchronised,
    }
}

fn rule(text: &str) -> Rule {
    Rule {
        table: "inet f".into(),
        chain: "in".into(),
        hook: Some("input".into()),
        text: text.into(),
        delete: "nft delete rule inet f in handle 2".into(),
    }
}

#[test]
fn rules_that_translate_something_else_are_no_matter() {
    for text in [
        "tcp dport 8081 dnat to 172.17.0.2:80",
        "ip daddr 10.1.0.9 tcp dport 80 dnat to 172.17.0.2:80",
        "-d 10.1.0.9/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80",
        "udp dport 80 redirect to :8080",
        "tcp dport 22-79 redirect to :80",
    ] {
        let mut facts = good();
        facts.firewall = rule_at("prerouting", text);
        assert!(judge(&wanted(), &facts).iter().all(|finding| finding.id != "firewall-nat"), "{text}");
    }
}

fn rule_at(hook: &str, text: &str) -> Option<Result<Firewall, String>> {
    let rules = vec![Rule { hook: Some(hook.into()), ..rule(text) }];
    Some(Ok(Firewall { rules, drop_by_default: vec![] }))
}

fn rules(texts: &[&str], drop_by_default: bool) -> Option<Result<Firewall, String>> {
    let drop_by_default = if drop_by_default { vec!["inet f".to_owned()] } else { vec![] };
    Some(Ok(Firewall { rules: texts.iter().map(|text| rule(text)).collect(), drop_by_default }))
}

fn set(sysctls: &mut BTreeMap<Sysctl, String>, name: &str, value: &str) {
    let old = sysctls.insert(Sysctl::new(name), value.into());
    assert!(old.is_some(), "{name} is no setting of a good host");
}

fn bad(findings: Vec<Finding>) -> Vec<Finding> {
    findings.into_iter().filter(|finding| finding.severity > Severity::Ok).collect()
}

#[test]
fn a_good_host_has_only_good_findings() {
    let findings = judge(&wanted(), &good());
    assert_eq!(bad(findings.clone()), []);
    let ids: std::collections::BTreeSet<_> = findings.iter().map(|finding| finding.id).collect();
    for id in [
        "kernel-kfunc",
        "tun",
        "mtu",
        "tcp-syncookies",
        "arp-ignore",
        "vip-loopback",
        "mptcp-listener",
        "clock",
    ] {
        assert!(ids.contains(id), "{id} is not judged");
    }
    assert!(findings.iter().all(|finding| finding.mend.is_none() && !finding.fixable));
}

type Spoil = fn(&mut Wanted, &mut Facts);

#[test]
fn each_spoiled_fact_is_told_by_its_own_finding() {
    use Severity::{Error, Warning};
    const FIXABLE: bool = true;
    const MANUAL: bool = false;
    let cases: &[(Spoil, &str, Severity, bool, &str)] = &[
        (|_, f| f.kernel.has_bpf = false, "kernel-bpf", Error, MANUAL, "install Linux"),
        (|_, f| f.kernel.has_btf = false, "kernel-btf", Error, MANUAL, "CONFIG_DEBUG_INFO_BTF"),
        (|_, f| f.kernel.has_kfunc = false, "kernel-kfunc", Error, MANUAL, "6.9"),
        (
            |_, f| set(&mut f.sysctls, "net/core/bpf_jit_enable", "0"),
            "bpf-jit",
            Warning,
            MANUAL,
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        (
            |_, f| f.capabilities.bpf = false,
            "capabilities",
            Error,
            MANUAL,
            "AmbientCapabilities=CAP_NET_ADMIN CAP_BPF CAP_PERFMON CAP_NET_RAW",
        ),
        (
            |_, f| f.capabilities.net_raw = false,
            "capabilities",
            Error,
            MANUAL,
            "AmbientCapabilities=CAP_NET_ADMIN CAP_BPF CAP_PERFMON CAP_NET_RAW",
        ),
        (
            |_, f| f.capabilities.perfmon = false,
            "capabilities",
            Error,
            MANUAL,
            "AmbientCapabilities=CAP_NET_ADMIN CAP_BPF CAP_PERFMON CAP_NET_RAW",
        ),
        (|_, f| f.kernel.has_cgroup2 = false, "cgroup2", Warning, MANUAL, "mount -t cgroup2"),
        (|_, f| f.tun = Some(Err(NoTun::default())), "tun", Error, MANUAL, "modprobe tun"),
        (
            |_, f| f.tun = Some(Err(NoTun { is_there: true, ..NoTun::default() })),
            "tun",
            Error,
            MANUAL,
            "chmod 666 /dev/net/tun",
        ),
        (|_, f| f.net.interfaces[0].up = false, "interface-up", Error, FIXABLE, "ip link set lo up"),
        (|_, f| f.net.interfaces[1].up = false, "interface-up", Error, MANUAL, "ip link set eth0 up"),
        (|_, f| f.net.interfaces[1].mtu = 1400, "mtu", Warning, MANUAL, "ip link set eth0 mtu 1500"),
        (|w, _| w.interfaces = vec!["eth7".into()], "interface", Error, MANUAL, "cluster file"),
        (|w, _| w.address = IpAddr::from([10, 1, 0, 99]), "interface", Error, MANUAL, "add the address"),
        (|_, f| f.net.interfaces[1].ethernet = false, "interface", Error, MANUAL, "Ethernet interface"),
        (
            |_, f| set(&mut f.sysctls, "net/ipv4/tcp_syncookies", "0"),
            "tcp-syncookies",
            Error,
            FIXABLE,
            "sysctl -w net.ipv4.tcp_syncookies=1",
        ),
        (|_, f| set(&mut f.sysctls, "net/ipv4/tcp_timestamps", "0"), "tcp-timestamps", Error, FIXABLE, "=1"),
        (|_, f| set(&mut f.sysctls, "net/ipv4/tcp_sack", "0"), "tcp-sack", Error, FIXABLE, "=1"),
        (
            |_, f| set(&mut f.sysctls, "net/ipv4/tcp_window_scaling", "0"),
            "tcp-window-scaling",
            Error,
            FIXABLE,
            "=1",
        ),
        (|_, f| set(&mut f.sysctls, "net/ipv4/tcp_rfc1337", "1"), "tcp-rfc1337", Error, FIXABLE, "=0"),
        (|_, f| set(&mut f.sysctls, "net/ipv4/conf/all/arp_ignore", "0"), "arp-ignore", Error, FIXABLE, "=1"),
        (
            |_, f| set(&mut f.sysctls, "net/ipv4/conf/all/arp_announce", "1"),
            "arp-announce",
            Error,
            FIXABLE,
            "=2",
        ),
        (
            |_, f| set(&mut f.sysctls, "net/ipv4/conf/all/send_redirects", "1"),
            "send-redirects",
            Warning,
            FIXABLE,
            "all.send_redirects=0",
        ),
        (
            |_, f| set(&mut f.sysctls, "net/ipv4/conf/eth0/send_redirects", "1"),
            "send-redirects",
            Warning,
            FIXABLE,
            "eth0.send_redirects=0",
        ),
        (
            |_, f| f.net.default_routes = vec!["eth1".into()],
            "rp-filter",
            Error,
            FIXABLE,
            "sysctl -w net.ipv4.conf.eth0.rp_filter=2",
        ),
        (
            |w, f| {
                w.interfaces = vec!["eth0".into()];
                f.net.interfaces.push(interface("eth1", 3, 1500));
                f.net.default_routes = vec!["eth1".into()];
                set(&mut f.sysctls, "net/ipv4/conf/eth0/rp_filter", "2");
            },
            "way-out",
            Warning,
            MANUAL,
            "add \"eth1\" to `interfaces`",
        ),
        (
            |w, f| (w.decides, f.net.marks_matter) = (true, true),
            "answer-marks",
            Warning,
            MANUAL,
            "ip rule add from VIP",
        ),
        (|_, f| f.net.interfaces[1].in_vrf = true, "vrf", Warning, MANUAL, "ip link set eth0 nomaster"),
        (
            |_, f| f.net.addresses.retain(|h| h.address != VIP),
            "vip-loopback",
            Error,
            FIXABLE,
            "ip addr add 10.99.0.1/32 dev lo",
        ),
        (
            |w, _| w.on_interface = vec![IpAddr::from([10, 1, 0, 80])],
            "vip-interface",
            Warning,
            MANUAL,
            "start `baton node`",
        ),
        (
            |_, f| f.net.addresses.push(held("eth0", VIP, 24)),
            "vip-conflict",
            Error,
            MANUAL,
            "ip addr del 10.99.0.1/24 dev eth0",
        ),
        (
            |_, f| f.listeners = Some(Ok(vec![listener("127.0.0.1:80", false)])),
            "listener",
            Warning,
            MANUAL,
            "port 80",
        ),
        (|_, f| f.listeners = Some(Err("no diag".into())), "listener", Warning, MANUAL, "tcp_diag"),
        (
            |_, f| f.listeners = Some(Ok(vec![listener("[::]:80", true)])),
            "mptcp-listener",
            Error,
            MANUAL,
            "net.mptcp.enabled=0",
        ),
        (|_, f| f.firewall = Some(Err("no nft".into())), "firewall", Warning, MANUAL, "apt install nftables"),
        (
            |_, f| f.firewall = rules(&["tcp flags != syn ct state new drop"], false),
            "firewall-new-not-syn",
            Error,
            MANUAL,
            "handle 2",
        ),
        (
            |_, f| f.firewall = rules(&["tcp flags syn ct state new accept"], true),
            "firewall-new-not-syn",
            Warning,
            MANUAL,
            "handle 2",
        ),
        (
            |_, f| {
                f.firewall =
                    rule_at("prerouting", "fib daddr type local tcp dport 80 counter dnat to 172.17.0.2:80")
            },
            "firewall-nat",
            Error,
            MANUAL,
            "--network host",
        ),
        (
            |_, f| f.firewall = rule_at("prerouting", "-p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080"),
            "firewall-nat",
            Error,
            MANUAL,
            "--network host",
        ),
        (
            |_, f| f.firewall = rules(&["tcp dport 80 accept"], true),
            "firewall-port",
            Warning,
            MANUAL,
            "nft insert rule inet f in tcp dport 7400 accept",
        ),
        (
            |_, f| set(&mut f.sysctls, "net/netfilter/nf_conntrack_tcp_loose", "0"),
            "conntrack-loose",
            Warning,
            MANUAL,
            "tcp_loose=1",
        ),
        (
            |_, f| f.net.interfaces[1].bridged = true,
            "bridge-netfilter",
            Warning,
            MANUAL,
            "net.bridge.bridge-nf-call-iptables=0",
        ),
        (|_, f| f.udp_ports.push(6090), "handoff-port", Warning, MANUAL, "ss -lunp"),
        (|_, f| f.clock = Clock::Adrift, "clock", Warning, MANUAL, "timedatectl set-ntp true"),
        (|_, f| f.clock = Clock::Unknown, "clock", Warning, MANUAL, "chrony"),
    ];
    for (number, (spoil, id, severity, fixable, mend)) in cases.iter().enumerate() {
        let (mut wanted, mut facts) = (wanted(), good());
        spoil(&mut wanted, &mut facts);
        let found = bad(judge(&wanted, &facts));
        let [finding] = found.as_slice() else { panic!("case {number}, {id}: {found:#?}") };
        assert_eq!(
            (finding.id, finding.severity, finding.fixable),
            (*id, *severity, *fixable),
            "{finding:?}"
        );
        assert!(finding.mend.as_ref().is_some_and(|command| command.contains(mend)), "{finding:?}");
    }
}

#[test]
fn without_privilege_what_cannot_be_seen_is_said() {
    let facts = Facts { capabilities: Capabilities::default(), ..good() };
    let found: Vec<_> = bad(judge(&wanted(), &facts)).iter().map(|f| (f.id, f.severity)).collect();
    assert_eq!(found, [("capabilities", Severity::Error), ("mptcp-listener", Severity::Warning)]);
}

/// What the clients' router must know of a VIP that this node announces.
#[test]
fn the_route_that_clients_need_is_said() {
    let said = |vip: [u8; 4]| {
        let vip = IpAddr::from(vip);
        let wanted = Wanted { on_loopback: vec![], on_interface: vec![vip], ..wanted() };
        let mut facts = good();
        facts.net.addresses.push(held("eth0", vip, 32));
        let findings = judge(&wanted, &facts);
        let route = findings.iter().find(|finding| finding.id == "vip-route").expect("a finding");
        assert_eq!(route.severity, Severity::Ok);
        route.what.clone()
    };
    assert!(said([10, 1, 0, 100]).contains("within the network of eth0, 10.1.0.11/24"));
    let outside = said([10, 1, 1, 100]);
    assert!(outside.contains("ip route add 10.1.1.100/32 dev LINK"), "{outside}");
    assert!(
        judge(&wanted(), &good()).iter().all(|finding| finding.id != "vip-route"),
        "another announces it"
    );
}

#[test]
fn strict_connection_tracking_is_an_error_when_a_rule_uses_it() {
    let mut facts = good();
    set(&mut facts.sysctls, "net/netfilter/nf_conntrack_tcp_loose", "0");
    facts.firewall = rules(&["ct state invalid drop"], false);
    let found = bad(judge(&wanted(), &facts));
    assert_eq!((found[0].id, found[0].severity), ("conntrack-loose", Severity::Error));
}

#[test]
fn a_node_is_judged_by_its_own_roles_only() {
    let wanted = Wanted {
        is_server: false,
        is_distributor: false,
        decides: false,
        on_loopback: vec![],
        listens: vec![],
        ..wanted()
    };
    let mut facts = good();
    for name in ["tcp_syncookies", "tcp_sack", "conf/all/arp_ignore"] {
        set(&mut facts.sysctls, &format!("net/ipv4/{name}"), "0");
    }
    set(&mut facts.sysctls, "net/ipv4/conf/all/send_redirects", "1");
    facts.tun = Some(Err(NoTun::default()));
    facts.listeners = Some(Ok(vec![]));
    facts.firewall = rules(&["tcp flags != syn ct state new drop"], false);
    assert_eq!(bad(judge(&wanted, &facts)), [], "a dispatcher needs none of these");

    let switch = Wanted { is_switch: true, on_interface: vec![VIP], ..wanted };
    facts.capabilities.net_raw = false;
    let found: Vec<_> = bad(judge(&switch, &facts)).iter().map(|finding| finding.id).collect();
    assert_eq!(found, ["capabilities", "send-redirects", "vip-interface"]);
}

#[test]
fn a_setting_that_the_kernel_lacks_is_not_judged() {
    let facts = Facts { sysctls: BTreeMap::new(), ..good() };
    assert_eq!(bad(judge(&wanted(), &facts)), []);
}

#[test]
fn a_node_that_decides_needs_to_hold_packets_and_to_end_connections() {
    let unable = |wanted: &Wanted| {
        let capabilities = Capabilities { net_raw: false, ..good().capabilities };
        let facts = Facts { capabilities, tun: Some(Err(NoTun::default())), ..good() };
        bad(judge(wanted, &facts)).iter().map(|finding| finding.id).collect::<Vec<_>>()
    };
    let server = Wanted { is_distributor: false, ..wanted() };
    assert_eq!(unable(&server), ["capabilities", "tun"], "its connections may move");
    assert_eq!(unable(&Wanted { decides: false, ..server }), Vec::<&str>::new(), "they all stay");
}
