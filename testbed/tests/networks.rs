//! The networks that a testbed can have, whatever the environment says: families mixed, links with a
//! smaller MTU, lines that are long and slow.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use baton_testbed::{
    Builder, Capture, Content, Dial, Disturb, DocRoot, Family, Figure, Load, Network, Testbed, WebServer,
    wait_until,
};

const SOON: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(60);

/// VIPs of each family on nodes with addresses of each, in each layout: the client and the server see
/// addresses of the VIP's family, and nodes reach each other in theirs.
#[test]
fn families_of_vips_and_of_nodes_are_chosen_apart() {
    for network in Network::ALL {
        for vips in Family::ALL {
            let bed = Testbed::builder().nodes(2).network(network.with_vips(vips)).build();
            let (files, page) = (DocRoot::shared(), Content::new("page", 3000));
            files.add(&page);
            let server = WebServer::nginx(bed.node(1), &files);
            let vip = bed.vip(1);
            assert_eq!((Family::of(vip), Family::of(bed.client(0).address())), (vips, vips));
            bed.node(1).hold_vip(vip);
            bed.route_vip(vip, bed.node(1));
            let mut connection = Dial::new((vip, 80)).open(bed.client(0)).expect("routed");
            connection.fetch(&page).expect("the page");
            assert_eq!(connection.local().ip(), bed.client(0).address());
            let mine = || server.logged().iter().any(|line| line.client == connection.local());
            wait_until(SOON, "log line with the client's address", mine);

            assert_eq!(Family::of(bed.node(1).address()), network.nodes);
            for (from, to) in [(bed.node(0), bed.node(1)), (bed.router(), bed.node(1))] {
                let mut connection = Dial::new(to.at(80)).open(from).expect("between nodes");
                connection.fetch(&page).expect("the page");
            }
            let text = Figure::SevenRouter.config(&bed, "");
            assert!(text.contains(&format!("address = \"{}\"", bed.node(1).address())), "{text}");
            assert!(text.contains(&format!("vips = [\"{}\"]", bed.vip(0))), "{text}");
        }
    }
}

/// In both layouts, what is too long for the nodes' links is refused by the router, and servers behind
/// them say so in their SYN-ACKs.
#[test]
fn nodes_links_may_have_a_smaller_mtu() {
    for network in Network::ALL {
        let bed = Testbed::builder().network(network).node_mtu(1400).build();
        let (files, page) = (DocRoot::shared(), Content::new("page", 300_000));
        files.add(&page);
        let _server = WebServer::nginx(bed.node(0), &files);
        let (client, node) = (bed.client(0), bed.node(0));
        let capture = Capture::start(client, 80);
        Dial::new(node.at(80)).open(client).expect("answered").fetch_last(&page).expect("the page");
        let seen = capture.stop();
        let agreed = seen.flows[0].syn_ack.expect("the SYN-ACK was captured");
        assert_eq!(agreed.mss, Some(1400 - network.nodes.headers()), "{network}");

        let socket = client.inside(|| UdpSocket::bind(client.at(0))).expect("a free port");
        let told = || {
            // Refused at home once the path is known.
            let _ = socket.send_to(&[0; 1430], node.at(9));
            client.ip(&format!("route get {}", node.address())).contains("mtu 1400")
        };
        wait_until(SOON, &format!("word of the path's MTU over {network}"), told);
    }
}

/// A client of a testbed whose only server has one content of so many bytes; `work` gets a way to dial.
fn with_download(bed: &Builder, bytes: u64, work: impl FnOnce(&Testbed, &Dial, &Content)) {
    let bed = bed.clone().build();
    let (files, content) = (DocRoot::shared(), Content::new("download", bytes));
    files.add(&content);
    let _server = WebServer::nginx(bed.node(0), &files);
    work(&bed, &Dial::new(bed.node(0).at(80)).patience(LONG), &content);
}

/// Every round trip takes as long as was asked for, and nothing is lost or reordered on such a line.
#[test]
fn a_long_line_takes_its_time_and_loses_nothing() {
    const ROUND_TRIP: Duration = Duration::from_millis(100);
    with_download(&Testbed::builder().delay(ROUND_TRIP).one_cpu(), 20_000_000, |bed, dial, content| {
        let start = Instant::now();
        let mut connection = dial.open(bed.client(0)).expect("answered");
        assert!(start.elapsed() >= ROUND_TRIP, "connected after {:?}", start.elapsed());
        let response = connection.fetch(content).expect("every byte");
        assert!(response.took >= ROUND_TRIP);
        println!("20 MB in {:?}: {:.0} Mbit/s", response.took, 160.0 / response.took.as_secs_f64());
        // And as the server's own stack sees it, in milliseconds.
        let filter = format!("dport = :{}", connection.local().port());
        let socket = bed.node(0).run("ss", ["-tinH", filter.as_str()]);
        let least = socket.split("minrtt:").nth(1).and_then(|rest| rest.split_whitespace().next());
        let least: f64 = least.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{socket}"));
        assert!(least >= 100.0, "a round trip of {least} ms");
        let line = bed.line(0);
        assert_eq!((line.disturbed(), line.overflowed()), ([0, 0, 0], 0));
        assert!(line.frames() > 20_000_000 / 1448, "{} frames", line.frames());
        assert_eq!(bed.node(0).kernel_counter("RetransSegs"), 0);
    });
}

/// Long and bad at once, for several connections: every byte arrives in the end.
#[test]
fn a_long_line_may_lose_frames_too() {
    let line = Disturb::new(4).delay(Duration::from_millis(40)).lose(1.0);
    with_download(&Testbed::builder().line(line), 1_000_000, |bed, dial, content| {
        let summary = Load::new(dial.clone()).connections(6).run(bed.client(0), |_, _| content.clone());
        assert!(summary.is_clean(), "{summary}");
        assert!(bed.line(0).disturbed()[0] > 0, "nothing was lost");
        assert!(bed.node(0).kernel_counter("RetransSegs") > 0);
    });
}

/// A line of limited rate is no faster than that.
#[test]
fn a_slow_line_is_as_slow_as_it_was_told() {
    let bits = 40_000_000;
    with_download(&Testbed::builder().line(Disturb::new(1).rate(bits)), 5_000_000, |bed, dial, content| {
        let mut connection = dial.open(bed.client(0)).expect("answered");
        let response = connection.fetch(content).expect("every byte");
        assert!(response.took >= Duration::from_secs_f64(5e6 * 8.0 / bits as f64), "{:?}", response.took);
    });
}
