//! As `namespace`, for IPv6: what is held, mended and undone, and what the neighbours hear, by the real
//! kernel. Needs root.

mod common;
#[path = "common/neighbours.rs"]
mod neighbours;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use baton_host::{
    Finding, HostChange, HostError, Severity, Undone, Wanted, announce, apply, cluster_interfaces, judge,
    read,
};
use common::{RunDir, in_namespace, run, server, set_sysctl, sysctl};
use neighbours::{
    ALL_NODES, ASKER, ASKER_MAC, CLUSTER_MAC, Heard, advertised, ask, next, opened, receive, send, send_icmp,
    solicited_node,
};
use smoltcp::phy::{Medium, RawSocket};
use smoltcp::wire::{EthernetAddress, Icmpv6Repr, NdiscNeighborFlags, NdiscRepr};
use socket2::{Domain, Protocol, Socket, Type};

const VIP: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 1);
const OWN: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x11);
/// As `in_namespace`, and `cluster` has the address `CLUSTER_MAC` and holds fd00:1::11/64 too.
#[track_caller]
fn in_ipv6_namespace<F: Future<Output = ()>>(test: impl FnOnce(RunDir) -> F + Send + 'static) {
    in_namespace(|dir| {
        run("ip link set cluster address 02:00:00:00:00:0b");
        run("ip addr add fd00:1::11/64 dev cluster nodad");
        wait_until_used(OWN);
        test(dir)
    });
}

/// A node that is server and distributor and holds the VIP on `lo`, in a cluster of IPv6 alone.
fn server_v6() -> Wanted {
    Wanted { address: OWN.into(), on_loopback: vec![VIP.into()], ..server() }
}

/// The same, but it announces the VIP.
fn announcer_v6() -> Wanted {
    Wanted { on_loopback: vec![], on_interface: vec![VIP.into()], ..server_v6() }
}

async fn bad(wanted: &Wanted, id: &str) -> Vec<Finding> {
    let findings = judge(wanted, &read(wanted).await.expect("read"));
    findings.into_iter().filter(|finding| finding.id == id && finding.severity > Severity::Ok).collect()
}

/// What is held, without the addresses that the kernel makes for each link, and without lifetimes.
fn addresses() -> Vec<String> {
    let text = run("ip -6 -o addr show");
    let lines = text.lines().filter(|line| !line.contains("scope link"));
    lines.map(|line| line.split('\\').next().unwrap_or_default().to_owned()).collect()
}

/// Waits until the kernel takes packets for an address that it was given: it joins the address's group and
/// makes its route a moment later.
#[track_caller]
fn wait_until_used(address: Ipv6Addr) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while run(&format!("ip -6 route show table local {address}")).is_empty() {
        assert!(Instant::now() < deadline, "{address} is not used within 5 s");
    }
}

#[test]
fn a_vip_on_loopback_is_added_and_removed_exactly() {
    in_ipv6_namespace(async |dir| {
        let before = addresses();
        assert_eq!(bad(&server_v6(), "vip-loopback").await.len(), 1);
        let undo = apply(&server_v6(), dir.path()).await.expect("apply");
        let lo = run("ip -6 -o addr show dev lo");
        let held = lo.lines().find(|line| line.contains("fd00:99::1/128")).expect(&lo);
        for word in ["deprecated", "nodad", "valid_lft forever", "preferred_lft 0sec"] {
            assert!(held.contains(word), "no {word}: {held}");
        }
        assert!(!held.contains("tentative"), "{held}");
        let added = HostChange::Address { interface: "lo".into(), address: VIP.into() };
        assert!(undo.changes().expect("journal").contains(&added));
        assert_eq!(bad(&server_v6(), "vip-loopback").await, []);

        apply(&server_v6(), dir.path()).await.expect("apply again");
        assert_eq!(run("ip -6 -o addr show dev lo"), lo);
        let undone = undo.run().await.expect("undo");
        assert!(undone.contains(&Undone::Restored(added)), "{undone:?}");
        assert_eq!(addresses(), before);
    });
}

#[test]
fn a_vip_that_the_operator_holds_otherwise_is_left_alone() {
    in_ipv6_namespace(async |dir| {
        let undo = apply(&server_v6(), dir.path()).await.expect("apply");
        run("ip addr del fd00:99::1/128 dev lo");
        run("ip addr add fd00:99::1/64 dev lo");
        let undone = undo.run().await.expect("undo");
        assert!(undone.iter().any(|change| matches!(change, Undone::LeftAlone(_))), "{undone:?}");
        assert!(run("ip -6 -o addr show dev lo").contains("fd00:99::1/64"));
    });
}

#[test]
fn a_vip_is_never_the_source_of_the_hosts_own_connections() {
    in_ipv6_namespace(async |dir| {
        // Both lie nearer to the destination than the node's own address does (RFC 6724 5, rule 8).
        let near: IpAddr = "fd00:99::2".parse().expect("an address");
        let wanted = Wanted { on_interface: vec![near], ..server_v6() };
        run("ip -6 route add default via fd00:1::1 dev cluster");
        let source = || run("ip -6 -o route get fd00:99::3");
        apply(&wanted, dir.path()).await.expect("apply");
        assert!(source().contains("src fd00:1::11 "), "{}", source());
        run("ip addr change fd00:99::2/128 dev cluster preferred_lft forever");
        assert!(source().contains("src fd00:99::2 "), "else this proves nothing: {}", source());
    });
}

#[test]
fn ipv6_that_is_switched_off_is_switched_on_and_off_again() {
    in_ipv6_namespace(async |dir| {
        // The node's own address is IPv4; only the VIPs need IPv6.
        let lo: IpAddr = "fd00:99::2".parse().expect("an address");
        let wanted = Wanted { address: server().address, on_loopback: vec![lo], ..announcer_v6() };
        for path in ["../ipv6/conf/lo/disable_ipv6", "../ipv6/conf/cluster/disable_ipv6"] {
            set_sysctl(path, "1");
        }
        let before = addresses();
        assert_eq!(bad(&wanted, "ipv6").await.len(), 2);
        let undo = apply(&wanted, dir.path()).await.expect("apply");
        assert!(run("ip -6 -o addr show dev lo").contains("fd00:99::2/128"));
        assert!(run("ip -6 -o addr show dev cluster").contains("fd00:99::1/128"));
        assert_eq!(bad(&wanted, "ipv6").await, []);
        undo.run().await.expect("undo");
        assert_eq!(sysctl("../ipv6/conf/cluster/disable_ipv6"), "1");
        assert_eq!(addresses(), before);
    });
}

#[test]
fn an_announced_vip_outlives_its_interface_being_down() {
    in_ipv6_namespace(async |dir| {
        assert_eq!(bad(&announcer_v6(), "ipv6-keep-address").await.len(), 1);
        let undo = apply(&announcer_v6(), dir.path()).await.expect("apply");
        run("ip link set cluster down");
        run("ip link set cluster up");
        wait_until_used(VIP);
        let held = run("ip -6 -o addr show dev cluster to fd00:99::1");
        assert!(held.contains("fd00:99::1/128") && !held.contains("tentative"), "{held}");
        let mut wire = RawSocket::new("peer", Medium::Ethernet).expect("raw socket");
        ask(&mut wire, solicited_node(VIP), VIP);
        next(&mut wire, |message| advertised(message) == Some(VIP));
        undo.run().await.expect("undo");
        assert_eq!(sysctl("../ipv6/conf/cluster/keep_addr_on_down"), "0");
        assert_eq!(run("ip -6 -o addr show dev cluster to fd00:99::1"), "");
    });
}

#[test]
fn a_link_too_narrow_for_ipv6_is_found() {
    in_ipv6_namespace(async |dir| {
        run("ip link set cluster mtu 1279");
        let wanted = Wanted { address: server().address, ..announcer_v6() };
        assert_eq!(bad(&wanted, "mtu").await[0].severity, Severity::Error);
        let error = apply(&wanted, dir.path()).await.expect_err("no IPv6 there");
        assert!(
            matches!(&error, HostError::Netlink { what, .. } if what.contains("fd00:99::1/128")),
            "{error}"
        );
        run("ip link set cluster mtu 1280");
        assert_eq!(bad(&wanted, "mtu").await[0].severity, Severity::Warning);
        apply(&wanted, dir.path()).await.expect("apply");
    });
}

#[test]
fn addresses_that_name_no_host_are_refused_before_anything_is_changed() {
    in_ipv6_namespace(async |dir| {
        for refused in ["fe80::80", "ff02::80", "::1"] {
            let vip: IpAddr = refused.parse().expect("an address");
            let before = addresses();
            let wanted = Wanted { on_loopback: vec![VIP.into(), vip], ..server_v6() };
            let error = apply(&wanted, dir.path()).await.expect_err(refused);
            assert!(matches!(error, HostError::Unusable { address, .. } if address == vip), "{error}");
            assert_eq!(addresses(), before);
        }
        let unnamed = Wanted { address: "fd00:1::99".parse().expect("an address"), ..server_v6() };
        let error = cluster_interfaces(&unnamed).await.expect_err("no such address").to_string();
        assert!(error.contains("fd00:1::11/64 on cluster") && error.contains("fd00:1::99/64 dev"), "{error}");
        assert!(!error.contains("fe80:"), "an address of the link is none of a node: {error}");
    });
}

#[test]
fn the_interface_is_the_one_that_holds_the_address() {
    in_ipv6_namespace(async |_| {
        let interfaces = cluster_interfaces(&server_v6()).await.expect("found");
        assert_eq!(interfaces.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["cluster"]);
    });
}

#[test]
fn a_listener_is_found_for_the_families_that_it_serves() {
    in_ipv6_namespace(async |_| {
        let v4 = server();
        // A port each, so that none is in the other's way.
        for (port, address, only_v6, for_v4, for_v6) in [
            (80_u16, "0.0.0.0", false, true, false),
            (81, "::", false, true, true),
            (82, "::", true, false, true),
            (83, "fd00:99::1", true, false, true),
            (84, "::1", true, false, false),
        ] {
            let [v4, v6] = [v4.clone(), server_v6()].map(|wanted| {
                let listens = wanted.vips().map(|vip| SocketAddr::new(vip, port)).collect();
                Wanted { listens, ..wanted }
            });
            if address == "fd00:99::1" {
                run("ip addr add fd00:99::1/128 dev lo nodad");
            }
            assert_eq!(bad(&v6, "listener").await.len(), 1, "nothing listens yet");
            let address = SocketAddr::new(address.parse().expect("an address"), port);
            let domain = Domain::for_address(address);
            let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).expect("socket");
            if domain == Domain::IPV6 {
                socket.set_only_v6(only_v6).expect("only IPv6");
            }
            socket.bind(&address.into()).expect("bind");
            socket.listen(1).expect("listen");
            assert_eq!(bad(&v4, "listener").await.is_empty(), for_v4, "{address}, IPv4");
            assert_eq!(bad(&v6, "listener").await.is_empty(), for_v6, "{address}, IPv6");
        }
    });
}

#[test]
fn a_rule_of_ip6tables_that_wants_syn_first_is_found() {
    in_ipv6_namespace(async |_| {
        run("ip6tables -A INPUT -p tcp ! --syn -m state --state NEW -j DROP");
        assert_eq!(bad(&server(), "firewall-new-not-syn").await, [], "IPv4 never meets it");
        let findings = bad(&server_v6(), "firewall-new-not-syn").await;
        let [finding] = findings.as_slice() else { panic!("{findings:?}") };
        run(finding.mend.as_ref().expect("a command"));
        assert_eq!(bad(&server_v6(), "firewall-new-not-syn").await, []);
    });
}

#[test]
fn a_firewall_that_keeps_neighbours_out_is_found() {
    in_ipv6_namespace(async |_| {
        run("nft add table inet guard");
        run("nft add chain inet guard input { type filter hook input priority 0 ; policy drop ; }");
        run("nft add rule inet guard input tcp dport { 80, 7400 } accept");
        run("ip6tables -P INPUT DROP");
        assert_eq!(bad(&server(), "firewall-neighbours").await, [], "IPv4 has ARP");
        let findings = bad(&server_v6(), "firewall-neighbours").await;
        assert_eq!(findings.len(), 2, "{findings:?}");
        findings.iter().for_each(|finding| drop(run(finding.mend.as_ref().expect("a command"))));
        assert_eq!(bad(&server_v6(), "firewall-neighbours").await, []);
        let mut wire = RawSocket::new("peer", Medium::Ethernet).expect("raw socket");
        ask(&mut wire, solicited_node(OWN), OWN);
        next(&mut wire, |message| advertised(message) == Some(OWN));
    });
}

#[test]
fn a_vip_that_another_host_answered_for_is_found() {
    in_ipv6_namespace(async |_| {
        // An operator added it by hand, and the kernel asked whether it is free (RFC 4862 5.4).
        let mut wire = RawSocket::new("peer", Medium::Ethernet).expect("raw socket");
        run("ip addr add fd00:99::1/128 dev cluster");
        next(
            &mut wire,
            |message| matches!(message, Heard { ndisc: NdiscRepr::NeighborSolicit { target_addr, .. }, .. } if *target_addr == VIP),
        );
        let taken = NdiscRepr::NeighborAdvert {
            flags: NdiscNeighborFlags::OVERRIDE,
            target_addr: VIP,
            lladdr: Some(ASKER_MAC.into()),
        };
        send(&mut wire, VIP, ALL_NODES, taken);
        let deadline = Instant::now() + Duration::from_secs(10);
        while bad(&announcer_v6(), "vip-duplicate").await.is_empty() {
            assert!(Instant::now() < deadline, "{}", run("ip -6 addr show dev cluster"));
            tokio::task::yield_now().await;
        }
        let mend = bad(&announcer_v6(), "vip-duplicate").await.remove(0).mend.expect("a command");
        mend.split(" && ").for_each(|command| drop(run(command)));
        for id in ["vip-duplicate", "vip-interface"] {
            assert_eq!(bad(&announcer_v6(), id).await, []);
        }
    });
}

#[test]
fn an_announcing_node_holds_the_vip_tells_its_neighbours_and_answers_them() {
    in_ipv6_namespace(async |dir| {
        let mut wire = RawSocket::new("peer", Medium::Ethernet).expect("raw socket");
        apply(&announcer_v6(), dir.path()).await.expect("apply");
        let interface = cluster_interfaces(&announcer_v6()).await.expect("interfaces").remove(0);
        let unsolicited = Heard {
            to: EthernetAddress([0x33, 0x33, 0, 0, 0, 1]),
            source: VIP,
            destination: ALL_NODES,
            ndisc: NdiscRepr::NeighborAdvert {
                flags: NdiscNeighborFlags::OVERRIDE,
                target_addr: VIP,
                lladdr: Some(CLUSTER_MAC.into()),
            },
        };
        next(&mut wire, |message| *message == unsolicited);

        wait_until_used(VIP);
        // To the group that is asked first (RFC 4861 7.2.2), and to the VIP itself, as a check of it.
        for asked in [solicited_node(VIP), VIP] {
            ask(&mut wire, asked, VIP);
            let answer = next(&mut wire, |message| advertised(message) == Some(VIP)).pop();
            let Some(Heard { to, ndisc: NdiscRepr::NeighborAdvert { flags, .. }, .. }) = answer else {
                unreachable!("an advertisement")
            };
            assert_eq!(to, ASKER_MAC);
            assert!(flags.contains(NdiscNeighborFlags::SOLICITED), "{flags:?}");
        }
        // And again, as when the VIP is taken over.
        announce(&interface, VIP.into()).expect("announced");
        next(&mut wire, |message| *message == unsolicited);
    });
}

#[test]
fn a_neighbour_believes_the_announcement() {
    in_ipv6_namespace(async |_| {
        // The far end is a neighbour that takes the VIP to be elsewhere.
        run("ip addr add fd00:1::1/64 dev peer nodad");
        run("ip neigh add fd00:99::1 lladdr 02:00:00:00:00:99 dev peer nud stale");
        let cluster = cluster_interfaces(&server_v6()).await.expect("interfaces").remove(0);
        announce(&cluster, VIP.into()).expect("announced");
        let believed = EthernetAddress(cluster.mac).to_string().replace('-', ":");
        let deadline = Instant::now() + Duration::from_secs(5);
        while !run("ip -6 neigh show dev peer").contains(&believed) {
            assert!(Instant::now() < deadline, "{}", run("ip -6 neigh show dev peer"));
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_server_is_silent_about_the_vip_on_its_loopback() {
    in_ipv6_namespace(async |dir| {
        apply(&server_v6(), dir.path()).await.expect("apply");
        let mut wire = RawSocket::new("peer", Medium::Ethernet).expect("raw socket");
        wait_until_used(VIP);
        // In every way that a question may come: to the group of the VIP, to all, to the VIP, to the node.
        for asked in [solicited_node(VIP), ALL_NODES, VIP, OWN] {
            ask(&mut wire, asked, VIP);
        }
        ask(&mut wire, solicited_node(OWN), OWN);
        // Questions are answered in order: an answer about the VIP would come first.
        let heard = next(&mut wire, |message| advertised(message) == Some(OWN));
        assert!(!heard.iter().any(|message| advertised(message) == Some(VIP)), "{heard:?}");

        // The same questions are answered once the VIP is on the interface.
        run("ip addr del fd00:99::1/128 dev lo");
        run("ip addr add fd00:99::1/128 dev cluster nodad");
        wait_until_used(VIP);
        for asked in [solicited_node(VIP), ALL_NODES, VIP, OWN] {
            ask(&mut wire, asked, VIP);
            next(&mut wire, |message| advertised(message) == Some(VIP));
        }
    });
}

#[test]
fn packets_for_the_vip_on_loopback_are_answered_without_claiming_it() {
    in_ipv6_namespace(async |dir| {
        apply(&server_v6(), dir.path()).await.expect("apply");
        let mut wire = RawSocket::new("peer", Medium::Ethernet).expect("raw socket");
        wait_until_used(VIP);
        let question = Icmpv6Repr::EchoRequest { ident: 7, seq_no: 1, data: b"baton" };
        send_icmp(&mut wire, ASKER, VIP, question);
        // The answer comes from the VIP; whom it goes to is asked for from an address of the link.
        let solicits = |message: &Heard| matches!(message.ndisc, NdiscRepr::NeighborSolicit { target_addr, .. } if target_addr == ASKER);
        let heard = next(&mut wire, solicits);
        assert!(heard.iter().all(|message| message.source != VIP), "{heard:?}");
        let asker = NdiscRepr::NeighborAdvert {
            flags: NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE,
            target_addr: ASKER,
            lladdr: Some(ASKER_MAC.into()),
        };
        send(&mut wire, ASKER, OWN, asker);
        let deadline = Instant::now() + Duration::from_secs(5);
        let answered = |bytes: &[u8]| {
            let (_, ip, message) = opened(bytes)?;
            Some(ip.src_addr == VIP && matches!(message, Icmpv6Repr::EchoReply { ident: 7, .. }))
        };
        while !receive(&mut wire, answered).unwrap_or(false) {
            assert!(Instant::now() < deadline, "no answer within 5 s");
        }
    });
}
