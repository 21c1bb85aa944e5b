//! Reading, mending and undoing for real, each test in a network namespace of its own. Needs root.

mod common;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use baton_host::{
    Finding, HostChange, HostError, Severity, Sysctl, Undo, Undone, Wanted, apply, cluster_interfaces, judge,
    read,
};
use common::{RunDir, VIP, in_namespace, run, server, set_sysctl, sysctl};
use smoltcp::phy::{Device, Medium, RawSocket, RxToken, TxToken};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
};
use socket2::{Domain, Protocol, Socket, Type};

/// Settings that are wrong for [`server`], with the value that `apply` gives them.
const WRONG: [(&str, &str, &str); 9] = [
    ("tcp_syncookies", "0", "1"),
    ("tcp_timestamps", "0", "1"),
    ("tcp_sack", "0", "1"),
    ("tcp_window_scaling", "0", "1"),
    ("tcp_rfc1337", "1", "0"),
    ("conf/all/arp_ignore", "0", "1"),
    ("conf/all/arp_announce", "1", "2"),
    ("conf/all/send_redirects", "1", "0"),
    ("conf/cluster/send_redirects", "1", "0"),
];

fn spoil() {
    WRONG.iter().for_each(|(path, wrong, _)| set_sysctl(path, wrong));
}

/// All that `apply` may change, as text.
fn state() -> String {
    let values: Vec<_> = WRONG.iter().map(|(path, ..)| format!("{path}={}", sysctl(path))).collect();
    format!("{}\n{}", values.join("\n"), run("ip -4 -o addr show"))
}

fn journal(dir: &RunDir) -> Undo {
    Undo::at(dir.path(), "b")
}

async fn found(wanted: &Wanted, id: &str) -> Vec<Finding> {
    let facts = read(wanted).await.expect("read");
    judge(wanted, &facts).into_iter().filter(|finding| finding.id == id).collect()
}

#[test]
fn applying_sets_all_and_undoing_restores_exactly() {
    in_namespace(async |dir| {
        spoil();
        let before = state();
        let undo = apply(&server(), dir.path()).await.expect("apply");
        for (path, _, right) in WRONG {
            assert_eq!(sysctl(path), right, "{path}");
        }
        assert!(run("ip -4 -o addr show dev lo").contains("10.99.0.1/32 scope host"));
        assert_eq!(undo.changes().expect("journal").len(), WRONG.len() + 1);

        let undone = undo.run().await.expect("undo");
        assert!(undone.iter().all(|change| matches!(change, Undone::Restored(_))), "{undone:?}");
        assert_eq!(state(), before);
        assert_eq!(fs::read_dir(dir.path()).expect("run folder").count(), 0, "no journal is left");
        assert_eq!(undo.run().await.expect("undo again"), []);
    });
}

#[test]
fn applying_twice_changes_nothing_more() {
    in_namespace(async |dir| {
        spoil();
        let before = state();
        apply(&server(), dir.path()).await.expect("apply");
        let (applied, changes) = (state(), journal(&dir).changes().expect("journal"));
        let undo = apply(&server(), dir.path()).await.expect("apply again");
        assert_eq!((state(), undo.changes().expect("journal")), (applied, changes));
        undo.run().await.expect("undo");
        assert_eq!(state(), before);
    });
}

#[test]
fn what_is_right_already_is_neither_touched_nor_undone() {
    in_namespace(async |dir| {
        for (path, _, right) in WRONG {
            set_sysctl(path, right);
        }
        set_sysctl("tcp_syncookies", "2");
        run("ip addr add 10.99.0.1/24 dev lo");
        let before = state();
        let undo = apply(&server(), dir.path()).await.expect("apply");
        assert_eq!(undo.changes().expect("journal"), []);
        assert_eq!(state(), before);
        undo.run().await.expect("undo");
        assert_eq!(state(), before);
    });
}

#[test]
fn merged_packets_are_kept_short_enough_to_be_wrapped() {
    in_namespace(async |dir| {
        let merges = async || {
            let interfaces = cluster_interfaces(&server()).await.expect("the interface");
            let merges = interfaces[0].merges.expect("this kernel says");
            (merges.ipv6, merges.ipv4)
        };
        for (before, judged, after) in [
            (65_536, Severity::Warning, (65_432, 65_432)),
            (65_432, Severity::Ok, (65_432, 65_432)),
            (9000, Severity::Ok, (9000, 9000)),
            // Beyond the kernel's own limit IPv4 has its own: what the operator wants stays.
            (200_000, Severity::Warning, (200_000, 9000)),
        ] {
            run(&format!("ip link set cluster gro_max_size {before}"));
            let was = merges().await;
            let found = found(&server(), "merging").await;
            let fixable = after != was;
            assert_eq!(
                found.iter().map(|f| (f.severity, f.fixable)).collect::<Vec<_>>(),
                [(judged, fixable)]
            );
            let undo = apply(&server(), dir.path()).await.expect("apply");
            assert_eq!(merges().await, after);
            apply(&server(), dir.path()).await.expect("apply again");
            let undone = undo.run().await.expect("undo");
            assert!(undone.iter().all(|change| matches!(change, Undone::Restored(_))), "{undone:?}");
            assert_eq!(merges().await, was, "as before");
        }
    });
}

#[test]
fn a_later_process_undoes_what_a_killed_one_did() {
    in_namespace(async |dir| {
        spoil();
        let before = state();
        drop(apply(&server(), dir.path()).await.expect("apply"));
        let undone = journal(&dir).run().await.expect("undo");
        assert_eq!(undone.len(), WRONG.len() + 1);
        assert_eq!(state(), before);
    });
}

#[test]
fn a_kill_between_journal_and_change_does_no_harm() {
    in_namespace(async |dir| {
        spoil();
        let before = state();
        // As the journal stands when the process dies before its first write, and before its last.
        let planned = [
            HostChange::Sysctl { name: Sysctl::new("net/ipv4/tcp_sack"), was: "0".into(), set: "1".into() },
            HostChange::Address { interface: "lo".into(), address: VIP },
        ];
        fs::create_dir_all(dir.path()).expect("run folder");
        fs::write(dir.path().join("b.undo"), serde_json::to_vec(&planned).expect("json")).expect("journal");
        let undone = journal(&dir).run().await.expect("undo");
        assert!(undone.iter().all(|change| matches!(change, Undone::Restored(_))), "{undone:?}");
        assert_eq!(state(), before);

        // And the next start, which applies over such a journal.
        fs::write(dir.path().join("b.undo"), serde_json::to_vec(&planned).expect("json")).expect("journal");
        let undo = apply(&server(), dir.path()).await.expect("apply");
        assert_eq!(undo.changes().expect("journal").len(), WRONG.len() + 1, "each change is written once");
        undo.run().await.expect("undo");
        assert_eq!(state(), before);
    });
}

#[test]
fn what_the_operator_changed_meanwhile_is_left_alone() {
    in_namespace(async |dir| {
        spoil();
        let undo = apply(&server(), dir.path()).await.expect("apply");
        set_sysctl("tcp_syncookies", "2");
        set_sysctl("conf/all/arp_ignore", "8");
        run("ip addr del 10.99.0.1/32 dev lo");
        run("ip addr add 10.99.0.1/24 dev lo");
        let undone = undo.run().await.expect("undo");
        let left: Vec<_> = undone.iter().filter(|change| matches!(change, Undone::LeftAlone(_))).collect();
        assert_eq!(left.len(), 3, "{left:?}");
        assert_eq!(sysctl("tcp_syncookies"), "2");
        assert_eq!(sysctl("conf/all/arp_ignore"), "8");
        assert!(run("ip -4 -o addr show dev lo").contains("10.99.0.1/24"));
        assert_eq!(sysctl("tcp_sack"), "0", "the rest is restored");
        assert_eq!(undo.changes().expect("journal"), []);
    });
}

#[test]
fn a_value_that_the_operator_took_back_is_set_again_and_theirs_restored() {
    in_namespace(async |dir| {
        set_sysctl("conf/all/arp_announce", "0");
        apply(&server(), dir.path()).await.expect("apply");
        set_sysctl("conf/all/arp_announce", "1");
        let undo = apply(&server(), dir.path()).await.expect("apply again");
        assert_eq!(sysctl("conf/all/arp_announce"), "2");
        undo.run().await.expect("undo");
        assert_eq!(sysctl("conf/all/arp_announce"), "1");
    });
}

#[test]
fn what_is_no_longer_wanted_is_undone_at_the_next_start() {
    in_namespace(async |dir| {
        spoil();
        let before = state();
        apply(&server(), dir.path()).await.expect("apply");
        let other = IpAddr::from([10, 99, 0, 2]);
        let wanted = Wanted { on_loopback: vec![other], is_distributor: false, ..server() };
        let undo = apply(&wanted, dir.path()).await.expect("apply");
        let lo = run("ip -4 -o addr show dev lo");
        assert!(lo.contains("10.99.0.2/32") && !lo.contains("10.99.0.1/32"), "{lo}");
        assert_eq!(sysctl("conf/cluster/send_redirects"), "1", "only forwarding nodes need it off");
        undo.run().await.expect("undo");
        assert_eq!(state(), before);
    });
}

#[test]
fn a_failed_application_leaves_nothing_behind() {
    in_namespace(async |dir| {
        spoil();
        let before = state();
        // An interface that carries less than 1280 bytes has no IPv6, so its VIP fails after the other.
        run("ip link set cluster mtu 1200");
        let wanted = Wanted { on_interface: vec!["fd00:99::1".parse().expect("an address")], ..server() };
        let error = apply(&wanted, dir.path()).await.expect_err("no IPv6 address can be there");
        assert!(matches!(error, HostError::Netlink { .. }), "{error}");
        assert_eq!(state(), before);
        assert!(!dir.path().join("b.undo").exists());
    });
}

#[test]
fn those_who_change_one_host_take_turns() {
    in_namespace(async |dir| {
        spoil();
        let before = state();
        let wanted = server();
        let (daemon, doctor) = tokio::join!(apply(&wanted, dir.path()), apply(&wanted, dir.path()));
        let (daemon, doctor) = (daemon.expect("apply"), doctor.expect("apply"));
        assert_eq!(daemon.changes().expect("journal").len(), WRONG.len() + 1, "each change is written once");
        let (first, second) = tokio::join!(daemon.run(), doctor.run());
        assert_eq!(first.expect("undo").len() + second.expect("undo").len(), WRONG.len() + 1);
        assert_eq!(state(), before);
    });
}

#[test]
fn what_cannot_be_written_down_is_not_changed() {
    in_namespace(async |dir| {
        spoil();
        let before = state();
        // A folder stands where the new journal is to be written.
        fs::create_dir_all(dir.path().join("b.undo.new")).expect("run folder");
        let error = apply(&server(), dir.path()).await.expect_err("no journal can be kept");
        assert!(matches!(error, HostError::Journal { .. }), "{error}");
        assert_eq!(state(), before);
    });
}

#[test]
fn a_damaged_journal_stops_everything() {
    in_namespace(async |dir| {
        spoil();
        let before = state();
        fs::create_dir_all(dir.path()).expect("run folder");
        fs::write(dir.path().join("b.undo"), "[{\"sysctl\": 7}]").expect("journal");
        let error = apply(&server(), dir.path()).await.expect_err("what is ours is not known");
        assert!(matches!(error, HostError::JournalDamaged { .. }), "{error}");
        assert_eq!(state(), before);
    });
}

#[test]
fn the_interface_is_the_one_that_holds_the_address() {
    in_namespace(async |_| {
        let interfaces = cluster_interfaces(&server()).await.expect("found");
        let [cluster] = interfaces.as_slice() else { panic!("{interfaces:?}") };
        assert_eq!((cluster.name.as_str(), cluster.mtu, cluster.up), ("cluster", 1500, true));
        assert!(
            run("ip -o link show cluster")
                .contains(&EthernetAddress(cluster.mac).to_string().replace('-', ":"))
        );

        let elsewhere = Wanted { address: IpAddr::from([10, 1, 0, 99]), ..server() };
        let error = cluster_interfaces(&elsewhere).await.expect_err("no such address").to_string();
        assert!(error.contains("10.1.0.99") && error.contains("10.1.0.11/24 on cluster"), "{error}");

        let misnamed = Wanted { interfaces: vec!["eth9".into()], ..server() };
        let error = cluster_interfaces(&misnamed).await.expect_err("no such interface").to_string();
        assert!(error.contains("eth9") && error.contains("peer"), "{error}");
    });
}

/// A tun device carries IP without Ethernet, as WireGuard does.
#[test]
fn an_interface_without_ethernet_header_is_refused() {
    in_namespace(async |dir| {
        run("ip tuntap add mode tun name tunnel");
        run("ip link set tunnel up");
        run("ip addr add 10.7.0.1/24 dev tunnel");
        let by_name = Wanted { interfaces: vec!["cluster".into(), "tunnel".into()], ..server() };
        let by_address = Wanted { address: IpAddr::from([10, 7, 0, 1]), interfaces: Vec::new(), ..server() };
        for wanted in [by_name, by_address] {
            let refused = cluster_interfaces(&wanted).await.expect_err("no Ethernet");
            assert!(matches!(&refused, HostError::NotEthernet { name } if name == "tunnel"), "{refused}");
            apply(&wanted, dir.path()).await.expect_err("nothing is set up for it");
            let found = found(&wanted, "interface").await;
            assert!(found.iter().any(|f| f.severity == Severity::Error && f.what.contains("tunnel")));
        }
        run("ip tuntap add mode tap name frames");
        let by_name = Wanted { interfaces: vec!["frames".into()], ..server() };
        cluster_interfaces(&by_name).await.expect("a tap device carries Ethernet");
    });
}

#[test]
fn applying_mends_every_fixable_finding() {
    in_namespace(async |dir| {
        spoil();
        run("ip link set lo down");
        run("ip route add default via 10.1.0.1");
        let fixable = async || {
            let facts = read(&server()).await.expect("read");
            let bad = judge(&server(), &facts).into_iter().filter(|f| f.fixable).map(|f| f.id);
            bad.collect::<Vec<_>>()
        };
        assert_eq!(fixable().await.len(), WRONG.len() + 2);
        apply(&server(), dir.path()).await.expect("apply");
        assert_eq!(fixable().await, Vec::<&str>::new());
    });
}

#[test]
fn a_strict_reverse_path_is_loosened_when_replies_leave_elsewhere() {
    in_namespace(async |dir| {
        set_sysctl("conf/all/rp_filter", "1");
        run("ip addr add 10.2.0.11/24 dev peer");
        run("ip route add default via 10.2.0.1 dev peer");
        assert_eq!(found(&server(), "rp-filter").await[0].severity, Severity::Error);
        let undo = apply(&server(), dir.path()).await.expect("apply");
        assert_eq!(sysctl("conf/cluster/rp_filter"), "2");
        assert_eq!(found(&server(), "rp-filter").await[0].severity, Severity::Ok);
        undo.run().await.expect("undo");
        assert_eq!(sysctl("conf/cluster/rp_filter"), "0");
    });
}

fn listen(protocol: i32, domain: Domain, address: SocketAddr) -> Socket {
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::from(protocol))).expect("socket");
    socket.bind(&address.into()).expect("bind");
    socket.listen(1).expect("listen");
    socket
}

#[test]
fn an_mptcp_listener_is_told_from_a_plain_one() {
    const TCP: i32 = 6;
    const MPTCP: i32 = 262;
    in_namespace(async |_| {
        let (any, any_v6): (IpAddr, IpAddr) = (Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into());
        // A port each: the kernel lets go of an MPTCP listener's port some time after it was closed.
        for (port, protocol, domain, address, expected) in [
            (80, TCP, Domain::IPV4, any, Severity::Ok),
            (81, MPTCP, Domain::IPV4, any, Severity::Error),
            (82, TCP, Domain::IPV6, any_v6, Severity::Ok),
            (83, MPTCP, Domain::IPV6, any_v6, Severity::Error),
        ] {
            let wanted = Wanted { listens: vec![SocketAddr::new(VIP, port)], ..server() };
            assert_eq!(
                found(&wanted, "listener").await[0].severity,
                Severity::Warning,
                "nothing listens yet"
            );
            let _socket = listen(protocol, domain, SocketAddr::new(address, port));
            assert_eq!(found(&wanted, "listener").await[0].severity, Severity::Ok);
            assert_eq!(
                found(&wanted, "mptcp-listener").await[0].severity,
                expected,
                "{protocol} on {address}"
            );
        }
    });
}

#[test]
fn a_rule_that_wants_syn_first_is_found() {
    in_namespace(async |_| {
        assert_eq!(found(&server(), "firewall-new-not-syn").await[0].severity, Severity::Ok);
        run("nft add table inet guard");
        run("nft add chain inet guard input { type filter hook input priority 0 ; }");
        run("nft add rule inet guard input ct state invalid drop");
        assert_eq!(found(&server(), "firewall-new-not-syn").await[0].severity, Severity::Ok);
        run("nft add rule inet guard input tcp flags != syn ct state new drop");
        run("nft add rule inet guard input tcp flags & (fin|syn|rst|ack) != syn ct state new counter drop");
        let findings = found(&server(), "firewall-new-not-syn").await;
        assert_eq!(findings.len(), 2);
        for finding in findings {
            assert_eq!(finding.severity, Severity::Error);
            run(&finding.mend.expect("a command"));
        }
        assert_eq!(found(&server(), "firewall-new-not-syn").await[0].severity, Severity::Ok);
    });
}

#[test]
fn strict_connection_tracking_is_found_and_left_to_the_operator() {
    in_namespace(async |dir| {
        let loose = "/proc/sys/net/netfilter/nf_conntrack_tcp_loose";
        fs::write(loose, "0").expect("conntrack");
        assert_eq!(found(&server(), "conntrack-loose").await[0].severity, Severity::Warning);
        run("nft add table inet guard");
        run("nft add chain inet guard input { type filter hook input priority 0 ; policy drop ; }");
        run("nft add rule inet guard input ct state established accept");
        assert_eq!(found(&server(), "conntrack-loose").await[0].severity, Severity::Error);
        apply(&server(), dir.path()).await.expect("apply").run().await.expect("undo");
        assert_eq!(fs::read_to_string(loose).expect("conntrack").trim(), "0");

        let closed = found(&server(), "firewall-port").await;
        assert_eq!(closed.len(), 2, "control port and service: {closed:?}");
        for finding in closed {
            run(&finding.mend.expect("a command"));
        }
        assert_eq!(found(&server(), "firewall-port").await, []);
    });
}

#[test]
fn a_program_on_the_handoff_port_is_found() {
    in_namespace(async |_| {
        assert_eq!(found(&server(), "handoff-port").await[0].severity, Severity::Ok);
        let _socket = std::net::UdpSocket::bind(("0.0.0.0", 6090)).expect("bind");
        assert_eq!(found(&server(), "handoff-port").await[0].severity, Severity::Warning);
    });
}

#[test]
fn an_announcing_node_holds_the_vip_and_tells_its_neighbours() {
    in_namespace(async |dir| {
        let wanted = Wanted { is_server: false, on_loopback: vec![], on_interface: vec![VIP], ..server() };
        let mut wire = RawSocket::new("peer", Medium::Ethernet).expect("raw socket");
        let undo = apply(&wanted, dir.path()).await.expect("apply");
        assert!(run("ip -4 -o addr show dev cluster").contains("10.99.0.1/32"));
        let mac = cluster_interfaces(&wanted).await.expect("interfaces")[0].mac;
        let heard = next_arp(&mut wire, |arp| sender(arp) == VIP);
        let IpAddr::V4(vip) = VIP else { unreachable!("an IPv4 VIP") };
        let expected = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: EthernetAddress(mac),
            source_protocol_addr: vip,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: vip,
        };
        assert_eq!(heard.last(), Some(&expected));
        undo.run().await.expect("undo");
        assert!(!run("ip -4 -o addr show dev cluster").contains("10.99.0.1"));
    });
}

#[test]
fn a_server_is_silent_about_the_vip_on_its_loopback() {
    in_namespace(async |dir| {
        let own = server().address;
        let mut wire = RawSocket::new("peer", Medium::Ethernet).expect("raw socket");
        run("ip addr add 10.99.0.1/32 dev lo");
        ask(&mut wire, VIP);
        next_arp(&mut wire, |arp| sender(arp) == VIP);

        apply(&server(), dir.path()).await.expect("apply");
        ask(&mut wire, VIP);
        ask(&mut wire, own);
        // Questions are answered in order: an answer about the VIP would come first.
        let heard = next_arp(&mut wire, |arp| sender(arp) == own);
        assert!(!heard.iter().any(|arp| sender(arp) == VIP), "{heard:?}");
    });
}

fn sender(arp: &ArpRepr) -> IpAddr {
    let ArpRepr::EthernetIpv4 { source_protocol_addr, .. } = arp else {
        unreachable!("only IPv4 over Ethernet")
    };
    IpAddr::V4(*source_protocol_addr)
}

/// Asks on the wire who has `address`.
fn ask(wire: &mut RawSocket, address: IpAddr) {
    let IpAddr::V4(address) = address else { unreachable!("ARP is IPv4's") };
    const ASKER: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
    let arp = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: ASKER,
        source_protocol_addr: Ipv4Addr::new(10, 1, 0, 1),
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: address,
    };
    let ethernet = EthernetRepr {
        src_addr: ASKER,
        dst_addr: EthernetAddress::BROADCAST,
        ethertype: EthernetProtocol::Arp,
    };
    let token = wire.transmit(smoltcp::time::Instant::ZERO).expect("a token");
    token.consume(ethernet.buffer_len() + arp.buffer_len(), |bytes| {
        let mut frame = EthernetFrame::new_unchecked(bytes);
        ethernet.emit(&mut frame);
        arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    });
}

/// The ARP packets heard on the wire up to and with the first that `is_it`.
#[track_caller]
fn next_arp(wire: &mut RawSocket, is_it: impl Fn(&ArpRepr) -> bool) -> Vec<ArpRepr> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut heard = Vec::new();
    while Instant::now() < deadline {
        let Some((frame, _)) = wire.receive(smoltcp::time::Instant::ZERO) else {
            std::thread::yield_now();
            continue;
        };
        heard.extend(frame.consume(arp_of));
        if heard.last().is_some_and(&is_it) {
            return heard;
        }
    }
    panic!("no such ARP packet within 5 s, but {heard:?}");
}

/// What the wire carried towards its far end; our own questions are not heard again.
fn arp_of(bytes: &[u8]) -> Option<ArpRepr> {
    let frame = EthernetFrame::new_checked(bytes).ok()?;
    if frame.ethertype() != EthernetProtocol::Arp || frame.src_addr() == EthernetAddress([2, 0, 0, 0, 0, 1]) {
        return None;
    }
    ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).ok()?).ok()
}
