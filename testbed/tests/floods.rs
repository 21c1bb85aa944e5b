//! More undecided requests than a node can have decided: who does not notice. By itself, for it leaves no CPU to others.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use baton_testbed::{
    Baton, Cluster, Content, Dial, DocRoot, Figure, Frames, Load, Tcp, Testbed, WebServer, ip_header,
    node_status, tcp_packet,
};

const SOON: Duration = Duration::from_secs(10);
/// A second service, at which nobody listens: its requests cost the cluster its decisions and no more.
const FLOODED: &str =
    "policy = \"lard\"\n[[service]]\nname = \"flooded\"\nvips = [VIP]\nport = 81\npolicy = \"lard\"";
const PORT: u16 = 81;
/// Machines that flood, and how often each request is sent.
const FLOODS: usize = 3;
const COPIES: usize = 8;

/// A machine's connections, made by hand, each with one request for something that nobody has asked for before.
struct Flood {
    frames: Frames,
    router: [u8; 6],
    client: IpAddr,
    service: SocketAddr,
    /// Each request is sent so many times: every copy is held, while it is undecided.
    copies: usize,
    next: u32,
    requests: u32,
}

impl Flood {
    fn new(bed: &Testbed, client: usize, vip: IpAddr) -> Self {
        let gateway = bed.router().ip(&format!("link show {}", bed.client_port(client)));
        let client = bed.client(client);
        // Its own TCP knows nothing of them, and must not end them.
        let rule = format!(
            "table inet flood {{ chain in {{ type filter hook prerouting priority -300; tcp sport {PORT} drop\n}}\n}}"
        );
        client.run("nft", [rule.as_str()]);
        let frames = Frames::on(client, "eth0");
        let mac = gateway.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).expect("a MAC");
        let mut router = [0; 6];
        for (byte, text) in router.iter_mut().zip(mac.split(':')) {
            *byte = u8::from_str_radix(text, 16).expect("hexadecimal");
        }
        let service = SocketAddr::new(vip, PORT);
        Self {
            frames,
            router,
            client: client.address_of(bed.network().vips),
            service,
            copies: 1,
            next: 0,
            requests: 0,
        }
    }

    fn send(&self, port: u16, tcp: Tcp<'_>) {
        let packet = tcp_packet(SocketAddr::new(self.client, port), self.service, tcp);
        self.frames.send_packet(self.router, &packet);
    }

    /// So many a second, for so long; says how many were answered with a cookie.
    fn run(&mut self, a_second: u32, time: Duration) -> u32 {
        const SYN_ACK: u8 = 2 | 16;
        let (began, before) = (Instant::now(), self.requests);
        let mut sent = 0;
        while began.elapsed() < time {
            let due = (began.elapsed().as_secs_f64() * f64::from(a_second)) as u32;
            for _ in 0..(due - sent).min(64) {
                let port = 1024 + (self.next % 60_000) as u16;
                self.send(port, Tcp { seq: 1000 + self.next, syn: true, ..Tcp::default() });
                self.next += 1;
                sent += 1;
            }
            for frame in self.frames.waiting() {
                let packet = frame.get(14..).unwrap_or_default();
                let Some(tcp) = packet.get(ip_header(packet)..).filter(|tcp| tcp.len() >= 20) else {
                    continue;
                };
                let word = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
                let ports = word(0);
                if (ports >> 16) as u16 != PORT || tcp[13] & 0x3f != SYN_ACK {
                    continue;
                }
                self.requests += 1;
                let request = format!("GET /{}/{} HTTP/1.1\r\nHost: x\r\n\r\n", self.client, self.requests);
                let ack = Tcp { seq: word(8), ack: Some(word(4).wrapping_add(1)), ..Tcp::default() };
                self.send(ports as u16, ack);
                for _ in 0..self.copies {
                    self.send(ports as u16, Tcp { payload: request.as_bytes(), ..ack });
                }
            }
            thread::sleep(Duration::from_micros(200));
        }
        self.requests - before
    }
}

/// Together so many a second.
fn all(floods: &mut [Flood], a_second: u32, time: Duration) -> u32 {
    let each = a_second / floods.len() as u32;
    thread::scope(|scope| {
        let floods: Vec<_> = floods.iter_mut().map(|flood| scope.spawn(|| flood.run(each, time))).collect();
        floods.into_iter().map(|flood| flood.join().expect("no panic")).sum()
    })
}

/// For how long each control connection of a node has been up, by peer; none that is down.
fn up_for(baton: &Baton<'_>) -> BTreeMap<String, u64> {
    let status = baton.status();
    let connections = node_status(&status, baton.host().name())["connections"].as_array().cloned();
    let up = connections.unwrap_or_default().into_iter().filter(|connection| connection["state"] == "up");
    up.map(|c| (c["peer"].as_str().unwrap_or_default().to_owned(), c["since_s"].as_u64().unwrap_or(0)))
        .collect()
}

fn decisions(cluster: &Cluster<'_>, node: &str, what: &str) -> u64 {
    let status = cluster.baton(node).status();
    node_status(&status, node)["decisions"][what].as_u64().unwrap_or(0)
}

/// A cluster with a flooded service, pages that the dispatcher has placed, and a machine that floods.
fn flooded<'a>(bed: &'a Testbed, pages: &[Content], files: &DocRoot) -> (Cluster<'a>, Vec<Flood>) {
    let vip = bed.vip(0);
    pages.iter().for_each(|page| drop(files.add(page)));
    let service = FLOODED.replace("VIP", &format!("\"{vip}\""));
    let cluster = Figure::Five.start(bed, WebServer::nginx, files, &service);
    let summary = Load::new(Dial::new(cluster.service())).requests(pages.len()).close();
    let summary = summary.run(bed.client(0), |_, j| pages[j].clone());
    assert!(summary.is_clean(), "{summary}");
    let floods = (1..bed.clients().len()).map(|client| Flood::new(bed, client, vip)).collect();
    (cluster, floods)
}

/// More requests than the node can have decided are their own senders' business: they wait, and are repeated. No peer
/// takes the node for dead, the dispatcher forgets nothing, and who asks for something else is served.
#[test]
fn a_flood_of_undecided_requests_costs_nobody_else_anything() {
    let bed = Testbed::builder().figure(Figure::Five).clients(1 + FLOODS).build();
    let files = DocRoot::shared();
    let pages: Vec<Content> = (0..40).map(|n| Content::new(&format!("page{n}"), 2000)).collect();
    let (cluster, mut floods) = flooded(&bed, &pages, &files);
    let front = cluster.batons[0].host().name();
    thread::sleep(Duration::from_millis(1100)); // so that each connection's age is a second at least
    let before: Vec<_> = cluster.batons.iter().map(up_for).collect();
    let (targets, decided) = (decisions(&cluster, front, "targets"), decisions(&cluster, front, "decided"));

    floods.iter_mut().for_each(|flood| flood.copies = COPIES);
    let began = Instant::now();
    let (beside, requests) =
        beside(&bed, &cluster, &pages, || all(&mut floods, 40_000, Duration::from_secs(3)));
    println!(
        "{requests} requests of the flood in {:?}; beside it {} answers, the slowest after {:?}",
        began.elapsed(),
        beside.answers,
        beside.slowest
    );
    assert!(requests > 3000, "only {requests} requests came as far");
    assert!(beside.answers > 10, "{}", beside.answers);
    // A client that repeats its first packet does it after a second; three times would be too much to be chance.
    assert!(beside.slowest < Duration::from_secs(4), "{:?}", beside.slowest);

    // It decides on, as long as there is something to decide.
    let decided = decisions(&cluster, front, "decided") - decided;
    assert!(decided > 1000, "{decided} of {requests}");
    assert!(decisions(&cluster, front, "targets") >= targets + decided / 2, "targets were forgotten");
    let floor = began.elapsed().as_secs();
    for (baton, before) in cluster.batons.iter().zip(before) {
        let name = baton.host().name();
        let now = up_for(baton);
        assert_eq!(now.len(), before.len(), "{name}: {now:?}");
        for (peer, since) in before {
            assert!(now[&peer] >= since + floor - 1, "{name} lost {peer}: up for {now:?}");
        }
    }
    cluster.stop();
}

/// How clients of the other service fared.
struct Beside {
    answers: usize,
    slowest: Duration,
}

/// Clients of the other service, one request after the other, each right, while something else goes on.
fn beside<T: Send>(
    bed: &Testbed,
    cluster: &Cluster<'_>,
    pages: &[Content],
    work: impl FnOnce() -> T + Send,
) -> (Beside, T) {
    let dial = Dial::new(cluster.service()).patience(SOON);
    thread::scope(|scope| {
        let working = scope.spawn(work);
        let mut beside = Beside { answers: 0, slowest: Duration::ZERO };
        while !working.is_finished() {
            let began = Instant::now();
            let page = &pages[beside.answers % pages.len()];
            let connection = dial.open(bed.client(0)).unwrap_or_else(|fault| panic!("a client: {fault}"));
            connection.fetch_last(page).unwrap_or_else(|fault| panic!("a client: {fault}"));
            beside.slowest = beside.slowest.max(began.elapsed());
            beside.answers += 1;
            thread::sleep(Duration::from_millis(3));
        }
        (beside, working.join().expect("no panic"))
    })
}

/// How many undecided requests a second a node can have decided, and what becomes of more: `cargo test -p baton-testbed --test floods --
/// --ignored --nocapture sustainable`, with BATON_BIN naming a release binary.
#[test]
#[ignore = "it measures"]
fn the_sustainable_rate_of_undecided_requests() {
    let bed = Testbed::builder().figure(Figure::Five).clients(1 + FLOODS).build();
    let files = DocRoot::shared();
    let pages: Vec<Content> = (0..40).map(|n| Content::new(&format!("page{n}"), 2000)).collect();
    let (cluster, mut floods) = flooded(&bed, &pages, &files);
    let front = cluster.batons[0].host().name();
    let of = |what| decisions(&cluster, front, what);
    // How long its thread has had a CPU: of what it does for each request, whoever else wants the CPUs.
    let busy = || {
        let id = cluster.batons[0].process().id();
        let text = std::fs::read_to_string(format!("/proc/{id}/task/{id}/schedstat")).expect("it runs");
        let nanoseconds = text.split_whitespace().next().and_then(|word| word.parse().ok());
        Duration::from_nanos(nanoseconds.expect("a number"))
    };
    for a_second in [1000, 4000, 16_000] {
        let busy_before = busy();
        let before = ["decided", "failed", "fallback"].map(of);
        let (beside, requests) =
            beside(&bed, &cluster, &pages, || all(&mut floods, a_second, Duration::from_secs(5)));
        let used = busy() - busy_before;
        let asked = Instant::now();
        let after = ["decided", "failed", "fallback"].map(of);
        let status = asked.elapsed() / 3;
        let [decided, failed, fallback] = [0, 1, 2].map(|what| after[what] - before[what]);
        println!(
            "{a_second}/s asked for: {} requests/s, {} decided/s at {:?} of the daemon's CPU each, {failed} failed, {fallback} by fallback; status took {status:?}; \
             beside it {}/s, the slowest after {:?}",
            requests / 5,
            decided / 5,
            used / decided.max(1) as u32,
            beside.answers / 5,
            beside.slowest,
        );
        thread::sleep(Duration::from_secs(4));
    }
    cluster.stop();
}
