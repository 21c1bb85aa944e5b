//! Long lines, 100 ms there and back, and such as lose packets: a connection that was handed off is as good
//! there as one that was made with its server directly, in the eyes of the server's own stack.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use baton_testbed::{
    Cluster, Connection, Content, Dial, Disturb, DocRoot, Figure, Host, Network, Testbed, WebServer,
};

const ROUND_TRIP: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(60);

/// A cluster of figure 5 behind such a line, with servers that do not take every loss for congestion.
fn behind(line: Disturb, network: Network, files: &DocRoot, work: impl FnOnce(&Testbed, &Cluster<'_>)) {
    let bed = Testbed::builder().figure(Figure::Five).network(network).line(line).build();
    bed.nodes().iter().for_each(|node| node.sysctl("net.ipv4.tcp_congestion_control", control()));
    let cluster = Figure::Five.start(&bed, WebServer::nginx, files, "");
    work(&bed, &cluster);
    cluster.stop();
}

/// Cubic and Reno would send a megabit a second here. Where this machine allows no other, it takes longer.
fn control() -> &'static str {
    let allowed = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control");
    let bbr = allowed.is_ok_and(|allowed| allowed.split_whitespace().any(|name| name == "bbr"));
    if bbr { "bbr" } else { "cubic" }
}

/// What a node's stack says of its end of a connection.
#[derive(Debug)]
struct Seen {
    least_rtt_ms: f64,
    rtt_ms: f64,
    window: u32,
    retransmitted: bool,
}

fn seen(node: &Host, client: SocketAddr) -> Seen {
    let filter = format!("dport = :{}", client.port());
    let text = node.run("ss", ["-tinH", filter.as_str()]);
    let value = |name: &str| {
        let rest = text.split_whitespace().find_map(|word| word.strip_prefix(name));
        rest.unwrap_or_else(|| panic!("no {name} in {text}")).split('/').next().unwrap_or_default().to_owned()
    };
    let number = |name: &str| value(name).parse().unwrap_or_else(|_| panic!("{name} is no number: {text}"));
    Seen {
        least_rtt_ms: number("minrtt:"),
        rtt_ms: number("rtt:"),
        window: number("cwnd:") as u32,
        retransmitted: text.contains("retrans:"),
    }
}

/// After its first response, a server knows as much of the path whoever has shaken hands: the round trip as
/// it is, and no more may be in flight than at any beginning.
#[test]
fn the_first_round_trip_is_honest() {
    let line = Disturb::new(0).delay(ROUND_TRIP);
    for network in Network::ALL {
        let (files, page) = (DocRoot::shared(), Content::new("page", 1000));
        files.add(&page);
        behind(line, network, &files, |bed, cluster| {
            let after_one = |to: SocketAddr| {
                let mut connection = Dial::new(to).patience(LONG).open(bed.client(0)).expect("answered");
                let response = connection.fetch(&page).expect("the page");
                let node = bed.nodes().iter().find(|node| node.name() == response.node());
                let node = node.expect("a node");
                // Its response is acknowledged half a round trip after it has come.
                baton_testbed::wait_until(LONG, "its acknowledgement", || {
                    !node
                        .run("ss", ["-tinH", &format!("dport = :{}", connection.local().port())])
                        .contains("unacked:")
                });
                seen(node, connection.local())
            };
            let (handed, direct) = (after_one(cluster.service()), after_one(bed.node(1).at(80)));
            println!("{network}: handed off {handed:?}, direct {direct:?}");
            assert!(handed.least_rtt_ms >= 100.0 && handed.rtt_ms >= 100.0, "{network}: {handed:?}");
            assert!(direct.least_rtt_ms >= 100.0, "{network}: {direct:?}");
            assert!(
                !handed.retransmitted && handed.window == direct.window,
                "{network}: {handed:?} {direct:?}"
            );
            assert_eq!(cluster.counted("handoff_again"), 0);
        });
    }
}

/// Long, and one packet in a hundred lost: all bytes come, by a connection that is not reset.
#[test]
fn downloads_over_a_long_and_bad_line() {
    let line = Disturb::new(7).delay(ROUND_TRIP).lose(1.0);
    for network in [Network::IPV4, Network::IPV6_ROUTED] {
        let (files, download) = (DocRoot::shared(), Content::new("download", 3_000_000));
        files.add(&download);
        behind(line, network, &files, |bed, cluster| {
            let rates = alternately(bed, cluster, &download, 3);
            println!("{network}: {}", told(&rates));
            assert!(bed.line(0).disturbed()[0] > 0, "nothing was lost");
            assert!(cluster.counted("adopted") >= 3);
        });
    }
}

/// The rates of 100 MB downloads, for `docs`: handed off and direct, in turns.
#[test]
#[ignore = "takes minutes, and measures: run it with --ignored --nocapture"]
fn rates_of_long_downloads() {
    let line = Disturb::new(7).delay(ROUND_TRIP).lose(1.0);
    let (files, download) = (DocRoot::shared(), Content::new("download", 100_000_000));
    files.add(&download);
    behind(line, Network::from_environment(), &files, |bed, cluster| {
        println!("{}", told(&alternately(bed, cluster, &download, 3)));
    });
}

/// Downloads by a connection that is handed off and by a direct one, again and again: Mbit/s of each.
fn alternately(bed: &Testbed, cluster: &Cluster<'_>, download: &Content, rounds: usize) -> Vec<[f64; 2]> {
    let rate = |to: SocketAddr| {
        let dial = Dial::new(to).patience(LONG * 4);
        let connection: Connection = dial.open(bed.client(0)).expect("answered");
        let start = Instant::now();
        connection.fetch_last(download).expect("all bytes");
        download.size() as f64 * 8e-6 / start.elapsed().as_secs_f64()
    };
    (0..rounds).map(|_| [rate(cluster.service()), rate(bed.node(1).at(80))]).collect()
}

fn told(rates: &[[f64; 2]]) -> String {
    let mut ratios: Vec<f64> = rates.iter().map(|[handed, direct]| handed / direct).collect();
    ratios.sort_by(f64::total_cmp);
    let [handed, direct] = [0, 1].map(|which| {
        let all: Vec<String> = rates.iter().map(|pair| format!("{:.1}", pair[which])).collect();
        all.join(" ")
    });
    let median = ratios[ratios.len() / 2];
    format!("handed off {handed} Mbit/s, direct {direct} Mbit/s, median of the ratios {median:.3}")
}
