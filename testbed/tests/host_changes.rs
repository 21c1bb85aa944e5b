//! A host that changes under a running daemon: somebody removes a VIP, puts a setting back, makes an interface anew. It
//! is put back or followed, and told; a daemon that is killed leaves no machine that resets its clients.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use baton_cluster::{NodeId, Roles};
use baton_datapath::{Datapath, Settings, Sizes};
use baton_testbed::{
    Baton, Capture, Content, Dial, DocRoot, Family, Figure, Host, Testbed, node_status, wait_until,
};
use serde_json::Value;

use self::hosts::{SOON, all_answered, holds, kept, pinned, running};

mod hosts;

/// Long enough to be told that a host is lost, and to leave it.
const LEAVES: Duration = Duration::from_secs(40);

fn host_of(baton: &Baton<'_>) -> Value {
    node_status(&baton.status(), baton.host().name())["host"].clone()
}

fn count(baton: &Baton<'_>, what: &str) -> u64 {
    host_of(baton)[what].as_u64().unwrap_or(0)
}

/// The VIP of a server, and of the node that announces it, is removed by somebody else (a network manager).
#[test]
fn a_vip_that_somebody_removes_is_put_back() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let files = DocRoot::shared();
    let (cluster, page) = running(Figure::Five, &bed, &files);
    let vip = cluster.vips[0];
    let bits = Family::of(vip).host_bits();
    for (node, interface) in [("b", "lo"), ("a", "eth0")] {
        let baton = cluster.baton(node);
        baton.host().ip(&format!("addr del {vip}/{bits} dev {interface}"));
        bed.router().ip("neigh flush all");
        wait_until(SOON, "the VIP is back", || holds(baton.host(), interface, vip));
        wait_until(SOON, "a status that tells", || count(baton, "mended") == 1);
        let last = host_of(baton)["last"].as_str().unwrap_or_default().to_owned();
        assert_eq!(last, format!("{vip} on {interface}: found gone, put back there"));
        all_answered(&bed, cluster.service(), &page, 9);
    }
    // Not by one address, but all that is on the interface; and the whole of `lo`.
    bed.node(2).ip("link set lo down");
    bed.node(2).ip(&format!("addr flush dev lo to {vip}"));
    wait_until(SOON, "lo is as before", || holds(bed.node(2), "lo", vip));
    all_answered(&bed, cluster.service(), &page, 9);
    cluster.stop();
    assert!(!holds(bed.node(1), "lo", vip), "what was put back is undone at the end like the rest");
}

/// Whoever changes the same thing again and again is told of.
#[test]
fn what_fights_a_node_is_said() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let files = DocRoot::shared();
    let (cluster, _) = running(Figure::Five, &bed, &files);
    let (baton, vip) = (cluster.baton("c"), cluster.vips[0]);
    for _ in 0..5 {
        assert_eq!(host_of(baton)["fought"], Value::Null);
        let before = count(baton, "mended");
        baton.host().ip(&format!("addr del {vip}/{} dev lo", Family::of(vip).host_bits()));
        wait_until(SOON, "the VIP is back", || holds(baton.host(), "lo", vip));
        wait_until(SOON, "it is counted", || count(baton, "mended") > before);
    }
    wait_until(SOON, "the fight is told", || host_of(baton)["fought"] == format!("{vip} on lo"));
    assert!(baton.process().log_tail().contains("something fights this node"));
    cluster.stop();
}

/// `sysctl --system` of some package puts settings back to what its files say.
#[test]
fn settings_that_somebody_sets_are_put_back() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let files = DocRoot::shared();
    let (cluster, page) = running(Figure::Five, &bed, &files);
    let read = |host: &Host, key: &str| host.run("sysctl", ["-n", key]).trim().to_owned();
    // Over IPv6 nobody needs the first two.
    let arp = cluster.vips[0].is_ipv4();
    let keys = [
        ("net.ipv4.conf.all.arp_ignore", "1", arp),
        ("net.ipv4.conf.all.arp_announce", "2", arp),
        ("net.ipv4.tcp_syncookies", "1", true),
    ];
    for host in &bed.nodes()[1..3] {
        for (key, _, _) in keys.iter().filter(|(.., needed)| *needed) {
            host.sysctl(key, "0");
        }
    }
    bed.router().ip("neigh flush all");
    for host in &bed.nodes()[1..3] {
        for (key, value, _) in keys.iter().filter(|(.., needed)| *needed) {
            wait_until(SOON, key, || read(host, key) == *value);
        }
        let baton = cluster.baton(host.name());
        wait_until(SOON, "a status that tells", || count(baton, "mended") >= if arp { 3 } else { 1 });
    }
    bed.router().ip("neigh flush all");
    all_answered(&bed, cluster.service(), &page, 9);
    // What is only better than needed stays.
    let mended = count(cluster.baton("b"), "mended");
    bed.node(1).sysctl("net.ipv4.tcp_syncookies", "2");
    thread::sleep(Duration::from_secs(3));
    assert_eq!(
        (read(bed.node(1), "net.ipv4.tcp_syncookies").as_str(), count(cluster.baton("b"), "mended")),
        ("2", mended)
    );
    cluster.stop();
}

/// A request whose head has so many bytes more.
fn with_header(page: &Content, bytes: usize) -> Vec<u8> {
    let text = String::from_utf8(baton_testbed::get(page, true)).expect("a request is text");
    text.replacen("\r\n\r\n", &format!("\r\nX: {}\r\n\r\n", "y".repeat(bytes)), 1).into_bytes()
}

/// The links of the nodes carry less from now on, or more again.
#[test]
fn an_mtu_that_changes_is_followed() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let files = DocRoot::shared();
    let (cluster, page) = running(Figure::Five, &bed, &files);
    let mss = |bed: &Testbed| {
        let capture = Capture::start(bed.client(0), 80);
        all_answered(bed, cluster.service(), &page, 1);
        capture.stop().flows[0].syn_ack.and_then(|syn_ack| syn_ack.mss).expect("a captured SYN-ACK")
    };
    let first = mss(&bed);
    for (mtu, less) in [(1400, 100), (1500, 0), (1350, 150)] {
        for node in bed.nodes() {
            bed.router().ip(&format!("link set to-{} mtu {mtu}", node.name()));
            node.ip(&format!("link set eth0 mtu {mtu}"));
        }
        wait_until(SOON, "the front offers segments that fit", || mss(&bed) == first - less);
        for header in (1100..1400).step_by(20) {
            let mut connection =
                Dial::new(cluster.service()).patience(SOON).open(bed.client(0)).expect("answered");
            connection.send(&with_header(&page, header)).expect("sent");
            connection
                .response_of(&page)
                .unwrap_or_else(|fault| panic!("{header} bytes at {mtu}: {fault:?}"));
        }
    }
    assert!(count(cluster.baton("a"), "followed") >= 3);
    cluster.stop();
}

/// A server's interface, and then the front's, is made anew: it has another number, and nothing is attached to it.
#[test]
fn an_interface_that_is_made_anew_is_followed() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let files = DocRoot::shared();
    let (cluster, page) = running(Figure::Five, &bed, &files);
    for (index, name) in [(1, "b"), (0, "a")] {
        bed.remake_interface(index);
        if bed.network().is_routed() {
            bed.route_vip(cluster.vips[0], bed.node(0)); // it went with the router's end
        }
        bed.router().ip("neigh flush all");
        let baton = cluster.baton(name);
        wait_until(SOON, "the new interface is known", || count(baton, "followed") > 0);
        cluster.wait_formed();
        wait_until(SOON, "an answer", || {
            let asked = Dial::new(cluster.service()).patience(Duration::from_secs(2)).open(bed.client(0));
            asked.and_then(|c| c.fetch_last(&page)).is_ok()
        });
        all_answered(&bed, cluster.service(), &page, 9);
    }
    let served =
        |name: &str| node_status(&cluster.baton(name).status(), name)["adopted"].as_u64().unwrap_or(0);
    assert!(["b", "c", "d"].iter().all(|name| served(name) > 3), "all servers have their turns");
    cluster.stop();
}

/// The node's own address goes: it says so and leaves, and the others serve.
#[test]
fn a_node_that_cannot_stay_says_so_and_leaves() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let files = DocRoot::shared();
    let (mut cluster, page) = running(Figure::Five, &bed, &files);
    let leaver = cluster.batons.remove(2);
    let host = leaver.host();
    for family in Family::ALL {
        let address = host.address_of(family);
        host.ip(&format!("addr del {address}/{} dev eth0", family.link_bits()));
    }
    let (status, log) = leaver.wait_ended(LEAVES);
    assert!(!status.success(), "{status}");
    assert!(
        log.contains("this node cannot stay on this host") && log.contains("no interface holds"),
        "{log}"
    );
    let vip = cluster.vips[0];
    assert!(!holds(host, "lo", vip), "it has put the host back");
    all_answered(&bed, cluster.service(), &page, 9);
    cluster.stop();
}

/// The links of a process in the kernel, by number: what it has attached.
fn links(baton: &Baton<'_>) -> Vec<String> {
    let files = format!("/proc/{}/fdinfo", baton.process().id());
    let files = std::fs::read_dir(files).expect("a process").flatten();
    let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
    texts
        .filter_map(|text| Some(text.lines().find_map(|l| l.strip_prefix("link_id:"))?.trim().to_owned()))
        .collect()
}

/// Somebody detaches all that a node has attached: each program on each interface, what gives held packets back, what new
/// sockets begin with. All of it comes back.
#[test]
fn programs_that_somebody_detaches_are_attached_again() {
    let bed = Testbed::builder().figure(Figure::Seven).build();
    let files = DocRoot::shared();
    let (cluster, page) = running(Figure::Seven, &bed, &files);
    for name in ["b", "a"] {
        let (baton, before) = (cluster.baton(name), links(cluster.baton(name)));
        assert!(before.len() >= if name == "a" { 2 } else { 4 }, "{before:?}");
        for link in &before {
            baton.host().run("bpftool", ["link", "detach", "id", link]);
        }
        let all_new = || {
            let now = links(baton);
            now.len() == before.len() && now.iter().all(|link| !before.contains(link))
        };
        wait_until(SOON, "everything is attached again", all_new);
        wait_until(SOON, "it is told", || count(baton, "mended") >= 2);
        wait_until(SOON, "an answer", || {
            let asked = Dial::new(cluster.service()).patience(Duration::from_secs(2)).open(bed.client(0));
            asked.and_then(|c| c.fetch_last(&page)).is_ok()
        });
        all_answered(&bed, cluster.service(), &page, 9);
        assert_eq!(pinned(baton.host()).lines().count(), 1, "the guard has its name");
    }
    cluster.stop();
}

/// What a node holds its packets in is set down: requests that need a decision would be lost.
#[test]
fn a_hold_device_that_somebody_sets_down_is_set_up() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let files = DocRoot::shared();
    let (cluster, page) = running(Figure::Five, &bed, &files);
    let front = cluster.baton("a");
    front.host().ip("link set baton-hold down");
    wait_until(SOON, "it is told", || count(front, "mended") == 1);
    assert!(front.host().ip("-o link show baton-hold").contains(",UP"));
    let mut split = Dial::new(cluster.service()).patience(SOON).open(bed.client(0)).expect("answered");
    split.send(&with_header(&page, 4000)).expect("sent");
    split.response_of(&page).expect("a head that is held and read");
    cluster.stop();
}

/// The programs of somebody else come before Baton's: said, in log, count and status.
#[test]
fn programs_that_come_first_are_told() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let files = DocRoot::shared();
    let (attached, ended) = (mpsc::channel::<()>(), mpsc::channel::<()>());
    thread::scope(|scope| {
        let (tell, node) = (attached.0, bed.node(1));
        scope.spawn(move || {
            node.inside(move || {
                let settings = Settings {
                    node: NodeId(0),
                    roles: Roles::default(),
                    address: [10, 1, 0, 1].into(),
                    handoff_port: 1,
                    mtu: 1500,
                    cluster_ifindex: 1,
                    hold_ifindex: 0,
                    has_switch: false,
                    others: false,
                };
                let mut other =
                    Datapath::load(settings, Sizes { bindings: 1, decisions: 1 }).expect("a kernel");
                let index = nix::net::if_::if_nametoindex("eth0").expect("an interface");
                other.attach(index).expect("attached");
                tell.send(()).expect("a test");
                let _ = ended.1.recv();
            });
        });
        attached.1.recv_timeout(SOON).expect("attached");
        let (cluster, page) = running(Figure::Five, &bed, &files);
        let baton = cluster.baton("b");
        wait_until(SOON, "it is told", || host_of(baton)["in_front"] == serde_json::json!(["eth0"]));
        assert!(baton.process().log_tail().contains("other programs come before Baton's: ingress"));
        let verdict = baton.status()["verdict"].clone();
        assert!(verdict["well"] == true && verdict["warnings"][0]["nodes"][0] == "b", "{verdict}");
        drop(ended.0);
        wait_until(SOON, "first again", || host_of(baton)["in_front"] == serde_json::json!([]));
        all_answered(&bed, cluster.service(), &page, 6);
        cluster.stop();
    });
}

/// The MAC address of each node is set to another one in turn, while requests go on: nodes know each other's frames by it.
#[test]
fn mac_addresses_that_change_are_followed() {
    let bed = Testbed::builder().figure(Figure::Seven).build();
    let files = DocRoot::shared();
    let (cluster, page) = running(Figure::Seven, &bed, &files);
    let mut kept = kept(&bed, cluster.service(), &page);
    for (index, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let baton = cluster.baton(name);
        let before = count(baton, "followed");
        baton.host().ip(&format!("link set eth0 address 02:00:0a:01:aa:{index:02x}"));
        wait_until(SOON, "it is known", || count(baton, "followed") > before);
        cluster.wait_formed();
        wait_until(SOON, "an answer", || {
            let asked = Dial::new(cluster.service()).patience(Duration::from_secs(2)).open(bed.client(0));
            asked.and_then(|c| c.fetch_last(&page)).is_ok()
        });
        all_answered(&bed, cluster.service(), &page, 9);
        for connection in &mut kept {
            connection.fetch(&page).unwrap_or_else(|fault| panic!("kept, after {name}: {fault:?}"));
        }
    }
    // Each handshake that comes by the switch is made under its lease: so its frames were known for its.
    let front = cluster.counted("reset_unknown");
    all_answered(&bed, cluster.service(), &page, 9);
    assert_eq!(cluster.counted("reset_unknown"), front);
    cluster.stop();
}

/// Somebody gives the VIP of a server to an interface as well: the clients' router may find it there. That is the
/// operator's, so it is said, and the verdict knows it.
#[test]
fn a_vip_on_another_interface_is_told() {
    let bed = Testbed::builder().figure(Figure::Five).build();
    let files = DocRoot::shared();
    let (cluster, _) = running(Figure::Five, &bed, &files);
    let (baton, vip) = (cluster.baton("b"), cluster.vips[0]);
    let bits = Family::of(vip).host_bits();
    baton.host().ip(&format!("addr add {vip}/{bits} dev eth0"));
    wait_until(SOON, "a verdict", || baton.status()["verdict"]["well"] == false);
    let command = format!("ip addr del {vip}/{bits} dev eth0");
    assert!(
        baton.status()["verdict"]["problems"][0]["what"].as_str().is_some_and(|what| what.contains(&command))
    );
    baton.host().ip(&format!("addr del {vip}/{bits} dev eth0"));
    wait_until(SOON, "well again", || baton.status()["verdict"]["well"] == true);
    cluster.stop();
}
