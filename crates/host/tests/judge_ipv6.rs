//! What is judged of a node whose cluster speaks IPv6: as in `judge`, each spoiled fact is told by its own
//! finding alone. Here a node announces one VIP and holds another on `lo`, without any IPv4.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use baton_host::{
    Capabilities, Clock, Facts, Finding, Firewall, Held, Interface, Kernel, Listener, Net, Rule, Severity,
    Sysctl, Wanted, judge,
};

const ON_LO: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 1));
const ON_LINK: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 2));
const OWN: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 11));

fn wanted() -> Wanted {
    Wanted {
        node: "b".into(),
        address: OWN,
        interfaces: vec![],
        is_server: true,
        is_distributor: true,
        is_switch: false,
        decides: true,
        on_loopback: vec![ON_LO],
        on_interface: vec![ON_LINK],
        ports: vec![80],
        listens: [ON_LINK, ON_LO].map(|vip| SocketAddr::new(vip, 80)).to_vec(),
        control_port: 7400,
        handoff_port: 6090,
    }
}

fn held(interface: &str, address: IpAddr, prefix: u8) -> Held {
    Held { interface: interface.into(), address, prefix, duplicate: false }
}

fn listener(address: &str, only_v6: bool) -> Listener {
    Listener { address: address.parse().expect("an address"), only_v6, mptcp: false, waiting: 0 }
}

fn good() -> Facts {
    let link = |name: &str, index, mtu| Interface {
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
    };
    let sysctls = [
        ("net/ipv4/tcp_syncookies", "1"),
        // Only IPv4 cares about these.
        ("net/ipv4/conf/all/arp_ignore", "0"),
        ("net/ipv4/conf/all/arp_announce", "0"),
        ("net/ipv4/conf/all/rp_filter", "1"),
        ("net/ipv4/conf/eth0/rp_filter", "1"),
        ("net/ipv6/conf/all/disable_ipv6", "0"),
        ("net/ipv6/conf/lo/disable_ipv6", "0"),
        ("net/ipv6/conf/eth0/disable_ipv6", "0"),
        ("net/ipv6/conf/all/keep_addr_on_down", "0"),
        ("net/ipv6/conf/eth0/keep_addr_on_down", "1"),
        ("net/bridge/bridge-nf-call-iptables", "0"),
        ("net/bridge/bridge-nf-call-ip6tables", "1"),
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
            interfaces: vec![link("lo", 1, 65536), link("eth0", 2, 1500)],
            addresses: vec![
                held("lo", Ipv6Addr::LOCALHOST.into(), 128),
                held("lo", ON_LO, 128),
                held("eth0", OWN, 64),
                held("eth0", ON_LINK, 128),
            ],
            default_routes: vec!["eth1".into()],
            default_routes_v6: vec![],
            gateways: vec![],
            marks_matter: false,
        },
        sysctls: sysctls.iter().map(|(name, value)| (Sysctl::new(*name), (*value).into())).collect(),
        listeners: Some(Ok(vec![listener("[::]:80", true)])),
        udp_ports: vec![],
        firewall: Some(Ok(Firewall::default())),
        clock: Clock::Synchronised,
    }
}

fn firewall(table: &str, texts: &[&str], drop_by_default: bool) -> Option<Result<Firewall, String>> {
    let rule = |text: &&str| Rule {
        table: table.into(),
        chain: "INPUT".into(),
        hook: Some("input".into()),
        text: (*text).into(),
        delete: format!("delete it from {table}"),
    };
    let drop_by_default = if drop_by_default { vec![table.to_owned()] } else { vec![] };
    Some(Ok(Firewall { rules: texts.iter().map(rule).collect(), drop_by_default }))
}

fn set(facts: &mut Facts, name: &str, value: &str) {
    let old = facts.sysctls.insert(Sysctl::new(name), value.into());
    assert!(old.is_some(), "{name} is no setting of a good host");
}

fn bad(wanted: &Wanted, facts: &Facts) -> Vec<Finding> {
    judge(wanted, facts).into_iter().filter(|finding| finding.severity > Severity::Ok).collect()
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn a_good_host_has_only_good_findings() {
    assert_eq!(bad(&wanted(), &good()), []);
    let ids: Vec<_> = judge(&wanted(), &good()).iter().map(|finding| finding.id).collect();
    for id in ["ipv6", "ipv6-keep-address", "vip-loopback", "vip-interface", "listener"] {
        assert!(ids.contains(&id), "{id} is not judged");
    }
    for id in ["arp-ignore", "arp-announce", "rp-filter"] {
        assert!(!ids.contains(&id), "{id} is IPv4's");
    }
}

type Spoil = fn(&mut Wanted, &mut Facts);

#[test]
fn each_spoiled_fact_is_told_by_its_own_finding() {
    use Severity::{Error, Warning};
    const FIXABLE: bool = true;
    const MANUAL: bool = false;
    let cases: &[(Spoil, &str, Severity, bool, &str)] = &[
        (
            |_, f| f.sysctls.retain(|name, _| !name.to_string().contains("ipv6")),
            "ipv6",
            Error,
            MANUAL,
            "ipv6.disable=1",
        ),
        (
            |_, f| set(f, "net/ipv6/conf/lo/disable_ipv6", "1"),
            "ipv6",
            Error,
            FIXABLE,
            "net.ipv6.conf.lo.disable_ipv6=0",
        ),
        (
            |_, f| set(f, "net/ipv6/conf/eth0/disable_ipv6", "1"),
            "ipv6",
            Error,
            FIXABLE,
            "net.ipv6.conf.eth0.disable_ipv6=0",
        ),
        (
            |_, f| set(f, "net/ipv6/conf/eth0/keep_addr_on_down", "0"),
            "ipv6-keep-address",
            Warning,
            FIXABLE,
            "net.ipv6.conf.eth0.keep_addr_on_down=1",
        ),
        (|_, f| f.net.interfaces[1].mtu = 1400, "mtu", Warning, MANUAL, "mtu 1500"),
        (|_, f| f.net.interfaces[1].mtu = 1279, "mtu", Error, MANUAL, "mtu 1500"),
        (|w, _| w.address = address("fd00:1::99"), "interface", Error, MANUAL, "add the address"),
        (|w, _| w.address = address("fe80::11"), "interface", Error, MANUAL, "correct the cluster file"),
        (
            |_, f| f.net.addresses.retain(|h| h.address != ON_LO),
            "vip-loopback",
            Error,
            FIXABLE,
            "ip addr add fd00:99::1/128 dev lo nodad preferred_lft 0",
        ),
        (
            |_, f| f.net.addresses.retain(|h| h.address != ON_LINK),
            "vip-interface",
            Warning,
            MANUAL,
            "start `baton node`",
        ),
        (
            |_, f| f.net.addresses[3].duplicate = true,
            "vip-duplicate",
            Error,
            MANUAL,
            "ip addr del fd00:99::2/128 dev eth0 && ip addr add fd00:99::2/128 dev eth0 nodad",
        ),
        (
            |_, f| f.net.addresses.push(held("eth0", ON_LO, 64)),
            "vip-conflict",
            Error,
            MANUAL,
            "ip addr del fd00:99::1/64 dev eth0",
        ),
        (
            |_, f| {
                f.firewall = firewall(
                    "ip6tables filter",
                    &["-A INPUT -p tcp ! --syn -m state --state NEW -j DROP"],
                    false,
                )
            },
            "firewall-new-not-syn",
            Error,
            MANUAL,
            "ip6tables",
        ),
        (
            |_, f| {
                f.firewall = firewall(
                    "ip6tables filter",
                    &["-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT", "-A INPUT -p ipv6-icmp -j ACCEPT"],
                    true,
                )
            },
            "firewall-port",
            Warning,
            MANUAL,
            "ip6tables -t filter -I INPUT -p tcp --dport 7400 -j ACCEPT",
        ),
        (
            |_, f| {
                f.firewall =
                    firewall("ip6 filter", &["tcp dport 80 accept", "meta l4proto ipv6-icmp accept"], true)
            },
            "firewall-port",
            Warning,
            MANUAL,
            "nft insert rule ip6 filter INPUT tcp dport 7400 accept",
        ),
        (
            |_, f| f.firewall = firewall("inet f", &["tcp dport { 80, 7400 } accept"], true),
            "firewall-neighbours",
            Warning,
            MANUAL,
            "nft insert rule inet f INPUT meta l4proto ipv6-icmp accept",
        ),
        (
            |_, f| {
                let texts = ["-A INPUT -p tcp -m multiport --dports 80,7400 -j ACCEPT"];
                f.firewall = firewall("ip6tables filter", &texts, true);
            },
            "firewall-neighbours",
            Warning,
            MANUAL,
            "ip6tables -t filter -I INPUT -p ipv6-icmp -j ACCEPT",
        ),
        (
            |_, f| f.net.interfaces[1].bridged = true,
            "bridge-netfilter",
            Warning,
            MANUAL,
            "net.bridge.bridge-nf-call-ip6tables=0",
        ),
    ];
    for (number, (spoil, id, severity, fixable, mend)) in cases.iter().enumerate() {
        let (mut wanted, mut facts) = (wanted(), good());
        spoil(&mut wanted, &mut facts);
        let found = bad(&wanted, &facts);
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
fn a_firewall_of_ipv4_alone_is_no_concern_of_ipv6() {
    let mut facts = good();
    for table in ["ip filter", "iptables filter"] {
        facts.firewall = firewall(table, &["tcp flags != syn ct state new drop"], true);
        assert_eq!(bad(&wanted(), &facts), [], "{table}");
    }
    let both = Wanted { on_loopback: vec![ON_LO, address("10.99.0.1")], ..wanted() };
    let ids: Vec<_> = bad(&both, &facts).iter().map(|finding| finding.id).collect();
    assert!(ids.contains(&"firewall-new-not-syn") && ids.contains(&"firewall-port"), "{ids:?}");
}

#[test]
fn an_ipv4_listener_serves_no_ipv6_vip() {
    for (listening, missing) in
        [("0.0.0.0:80", 2), ("[::]:80", 0), ("[fd00:99::1]:80", 1), ("[::1]:80", 2), ("[::]:81", 2)]
    {
        let facts = Facts { listeners: Some(Ok(vec![listener(listening, false)])), ..good() };
        let found = bad(&wanted(), &facts);
        assert_eq!(found.len(), missing, "{listening}: {found:?}");
        assert!(
            found
                .iter()
                .all(|f| f.id == "listener" && f.what.contains("[fd00:99::") && f.what.contains("]:80:"))
        );
        assert!(found.iter().all(|f| f.mend.as_ref().is_some_and(|mend| mend.ends_with("[::]:80"))));
    }
}

#[test]
fn an_address_that_names_no_host_is_refused() {
    for refused in ["fe80::1", "ff02::1", "ff05::80", "::", "::1", "::ffff:10.99.0.1"] {
        let wanted = Wanted { on_interface: vec![address(refused)], ..wanted() };
        let found = bad(&wanted, &good());
        let [finding] = found.as_slice() else { panic!("{refused}: {found:#?}") };
        assert!(finding.id == "interface" && finding.what.contains(refused), "{finding:?}");
    }
}
