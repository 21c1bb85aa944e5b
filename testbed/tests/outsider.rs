//! A machine on the nodes' network that has no secret: what it forges, replays and floods makes nobody
//! adopt, bind, close or forget anything, and clients notice nothing of it. Counters tell.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use baton_testbed::{
    Baton, Cluster, Content, Dial, DocRoot, Figure, Frames, Host, Load, Network, Tcp, Testbed, WebServer,
    counted, ip_header, set_header_checksum, tcp_packet, udp_packet, wait_until,
};

const SOON: Duration = Duration::from_secs(10);
const HANDOFF_PORT: u16 = 6081;
const CONTROL_PORT: u16 = 7654;
/// What is behind the IP header of a wrapped packet and before the option: UDP and Geneve.
const BEFORE_OPTION: usize = 8 + 8;
const OPTION: usize = 48;
/// Places in the option: hops, which says how far it has come and is not tagged; and the tag.
const HOPS: usize = 5;
const TAG: usize = 40;
/// So much more memory a daemon may have afterwards: less than a kilobyte for each packet of a flood.
const GROWTH_KB: u64 = 16 * 1024;

/// A cluster of figure 5, whose distributor hands every connection to another node, and an outsider.
struct Place<'a> {
    bed: &'a Testbed,
    cluster: &'a Cluster<'a>,
    outsider: Host,
    frames: Frames,
    page: Content,
    /// Answered with one packet: its connection is busy once.
    small: Content,
}

/// Works on each network, and checks at the end what must hold whatever an outsider does.
fn everywhere(work: impl Fn(&Place<'_>)) {
    for network in Network::ALL {
        println!("{network}");
        let bed = Testbed::builder().figure(Figure::Five).without_offloads().network(network);
        let bed = bed.unobserved("an outsider sends what belongs to no connection").build();
        let (files, page) = (DocRoot::shared(), Content::new("page", 3000));
        let small = Content::new("small", 100);
        files.add(&page);
        files.add(&small);
        let cluster = Figure::Five.start(&bed, WebServer::nginx, &files, "");
        let outsider = bed.outsider();
        let frames = Frames::on(&outsider, "eth0");
        let place = Place { bed: &bed, cluster: &cluster, outsider, frames, page, small };
        // Once, so that what is learnt or allocated once is.
        place.fetch();
        let before: Vec<u64> = cluster.batons.iter().map(resident_kb).collect();
        work(&place);
        place.fetch();
        for (baton, before) in cluster.batons.iter().zip(before) {
            let now = resident_kb(baton);
            assert!(now < before + GROWTH_KB, "{network}: {before} kB were {now} kB at the end");
        }
        for fault in ["fault_rewrite", "fault_map", "event_lost", "reset_refused", "reset_no_listener"] {
            assert_eq!(cluster.counted(fault), 0, "{network}: {fault}");
        }
        drop(place);
        cluster.wait_formed();
        cluster.stop();
    }
}

impl Place<'_> {
    fn fetch(&self) {
        let connection = Dial::new(self.cluster.service()).open(self.bed.client(0)).expect("answered");
        connection.fetch_last(&self.page).expect("the page");
    }

    /// Clients fetch while `work` goes on, and afterwards once more; every connection that was adopted is
    /// one of theirs, or one of the `own` that `work` says to have made.
    fn with_visitors(&self, work: impl FnOnce() -> u64) {
        let adopted = self.cluster.counted("adopted");
        let stop = AtomicBool::new(false);
        let (own, visitors) = thread::scope(|scope| {
            let visits = scope.spawn(|| {
                let load = Load::new(Dial::new(self.cluster.service())).connections(2).requests(10).close();
                let mut connections = 0;
                loop {
                    let last = stop.load(Ordering::Relaxed);
                    let summary = load.run(self.bed.client(0), |_, _| self.page.clone());
                    assert!(summary.is_clean(), "{summary}");
                    connections += summary.connections;
                    if last {
                        return connections;
                    }
                }
            });
            let ended = StopAtEnd(&stop);
            let own = work();
            drop(ended);
            (own, visits.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        assert!(visitors >= 20, "{visitors} connections");
        assert_eq!(self.cluster.counted("adopted"), adopted + visitors + own);
    }

    /// The link address by which the outsider reaches a node.
    fn towards(&self, node: &Host) -> [u8; 6] {
        if self.bed.network().is_routed() {
            return Frames::on(self.bed.router(), "to-outsider").mac();
        }
        Frames::on(node, "eth0").mac()
    }

    fn send_to(&self, node: &Host, packet: &[u8]) {
        self.frames.send_packet(self.towards(node), packet);
    }

    /// Waits until a node has counted so many more than it had.
    fn counts(&self, node: &Host, counter: &str, more: u64, work: impl FnOnce()) {
        let baton = self.cluster.baton(node.name());
        let before = counted(baton, counter);
        work();
        let what = format!("{more} more {counter} than {before} on {}", node.name());
        wait_until(SOON, &what, || counted(baton, counter) >= before + more);
        assert_eq!(counted(baton, counter), before + more, "{counter} on {}", node.name());
    }

    fn node(&self, name: &str) -> &Host {
        self.bed.nodes().iter().find(|node| node.name() == name).expect("a node")
    }
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Memory of a daemon that is in RAM.
fn resident_kb(baton: &Baton<'_>) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", baton.process().id()));
    let status = status.expect("a daemon that runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("every process has some");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number of kB")
}

/// Where the option is.
fn option(packet: &[u8]) -> usize {
    ip_header(packet) + BEFORE_OPTION
}

/// The IP packet in a frame, if it hands off the connection of this client.
fn handoff_packet(frame: &[u8], client: SocketAddr) -> Option<Vec<u8>> {
    let packet = frame.get(14..)?;
    let header = ip_header(packet);
    let (udp, inner) = (packet.get(header..header + 8)?, packet.get(option(packet) + OPTION..)?);
    let protocol = packet[if header == 40 { 6 } else { 9 }];
    if protocol != 17 || udp[2..4] != HANDOFF_PORT.to_be_bytes() {
        return None;
    }
    let port = inner.get(ip_header(inner)..)?.get(..2)?;
    let forwarded = packet[option(packet) + 34] & 0x80 != 0;
    (port == client.port().to_be_bytes() && !forwarded).then(|| packet.to_vec())
}

/// The same packet, to another address.
fn to_other(packet: &[u8], to: IpAddr) -> Vec<u8> {
    let mut packet = packet.to_vec();
    match to {
        IpAddr::V6(to) => packet[24..40].copy_from_slice(&to.octets()),
        IpAddr::V4(to) => {
            packet[16..20].copy_from_slice(&to.octets());
            set_header_checksum(&mut packet);
        }
    }
    packet
}

/// Bytes that nobody can have meant.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// A right handoff packet from the wire: changed anywhere it is forged; as it is it does nothing again, at
/// no node and at no time.
#[test]
fn handoff_packets_that_no_member_sent() {
    everywhere(|place| {
        place.with_visitors(|| {
            let names: Vec<&str> = place.cluster.servers.iter().map(WebServer::on_node).collect();
            let taps: Vec<Frames> =
                names.iter().map(|name| Frames::on(place.bed.router(), &format!("to-{name}"))).collect();
            // A port that no visitor gets: requests are told apart by it.
            let dial = Dial::new(place.cluster.service()).source_port(20_000);
            let mut connection = dial.open(place.bed.client(0)).expect("answered");
            let response = connection.fetch(&place.page).expect("the page");
            let client = connection.local();
            let at = names.iter().position(|name| *name == response.node()).expect("a server");
            let right = taps[at].find(SOON, "the handoff", |frame| handoff_packet(frame, client));
            drop(taps);
            let owner = place.node(names[at]);

            forgeries(place, owner, &right);
            let requests = || {
                let logged = place.cluster.servers[at].logged();
                logged.iter().filter(|line| line.client == client).count()
            };
            // To its node at once: that has taken it.
            for _ in 0..10 {
                place.send_to(owner, &right);
            }
            connection.fetch(&place.page).expect("the page again");
            // To others, whatever their roles: it was not for them.
            for node in place.bed.nodes().iter().filter(|node| node.name() != owner.name()) {
                let packet = to_other(&right, node.address());
                place.counts(node, "drop_handoff_forged", 3, || {
                    (0..3).for_each(|_| place.send_to(node, &packet));
                });
            }
            connection.fetch(&place.page).expect("the page a third time");
            connection.fetch_last(&place.page).expect("the page at last");
            // When its connection is over, too.
            wait_until(SOON, "four requests in the log", || requests() == 4);
            for _ in 0..10 {
                place.send_to(owner, &right);
            }
            place.fetch();
            assert_eq!(requests(), 4, "a request was served twice");
            2
        });
    });
}

/// One byte of a right packet changed, whichever it is; and what is no handoff packet at all.
fn forgeries(place: &Place<'_>, owner: &Host, right: &[u8]) {
    let changed = |at: usize| {
        let mut packet = right.to_vec();
        packet[at] ^= 0x80;
        packet
    };
    let start = option(right);
    let tagged = (HOPS + 1..TAG + 8).map(|at| start + at);
    // The client's address and port, the service's, and what the client acknowledges.
    let inner = start + OPTION;
    let tcp = inner + ip_header(&right[inner..]);
    let client = inner + if ip_header(&right[inner..]) == 40 { 23 } else { 15 };
    let flow = [client, tcp, tcp + 1, tcp + 8];
    let forged: Vec<Vec<u8>> = tagged.chain(flow).map(changed).collect();
    place.counts(owner, "drop_handoff_forged", forged.len() as u64, || {
        forged.iter().for_each(|packet| place.send_to(owner, packet));
    });
    // A version, a kind, a length that nobody has; cut off anywhere; noise.
    let header = ip_header(right);
    let mut malformed: Vec<Vec<u8>> = (start..start + HOPS).map(changed).collect();
    let noises = (0..100).map(|seed| noise(seed, 8 + 20 * seed as usize % 1200));
    let cut = (0..OPTION + 40).step_by(7).map(|length| right[header + 8..][..8 + length].to_vec());
    let from = place.outsider.at(HANDOFF_PORT);
    malformed.extend(noises.chain(cut).map(|bytes| udp_packet(from, owner.at(HANDOFF_PORT), &bytes)));
    place.counts(owner, "drop_handoff_malformed", malformed.len() as u64, || {
        malformed.iter().for_each(|packet| place.send_to(owner, packet));
    });
}

/// Addresses that nobody has.
fn stranger(network: Network, number: u32) -> SocketAddr {
    let [a, b, c, d] = number.to_be_bytes();
    let address: IpAddr = match network.vips {
        baton_testbed::Family::Ipv4 => Ipv4Addr::new(10, 64 | (b & 31), c, d).into(),
        baton_testbed::Family::Ipv6 => {
            Ipv6Addr::from([0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]).into()
        }
    };
    SocketAddr::new(address, 1024 + (number % 60_000) as u16)
}

/// Handshakes from addresses that nobody has, and data of connections that never were.
#[test]
fn floods_of_strangers() {
    const SYNS: u32 = 20_000;
    const ACKS: u32 = 2_000;
    everywhere(|place| {
        let (service, network) = (place.cluster.service(), place.bed.network());
        let distributor = place.bed.node(0);
        let to = place.towards(distributor);
        let flood = |count: u32, tcp: &dyn Fn(u32) -> Tcp<'static>| {
            for number in 0..count {
                place.frames.send_packet(to, &tcp_packet(stranger(network, number), service, tcp(number)));
                if number % 200 == 0 {
                    thread::yield_now();
                }
            }
        };
        place.with_visitors(|| {
            let of = |counter: &str| place.cluster.counted(counter);
            // Asked about, or too many to be asked about.
            let unknown = || of("held_unknown") + of("drop_unknown_rate");
            let before = (of("syn_answered"), unknown(), of("drop_unknown_reset"));
            flood(SYNS, &|seq| Tcp { seq, syn: true, ..Tcp::default() });
            assert!(of("syn_answered") - before.0 > u64::from(SYNS / 2), "the flood did not arrive");
            let guess = |seq: u32| Some(seq.wrapping_mul(0x9e37_79b1));
            flood(ACKS, &|seq| Tcp { seq, ack: guess(seq), ..Tcp::default() });
            flood(ACKS, &|seq| Tcp {
                seq,
                ack: guess(seq),
                payload: b"GET / HTTP/1.1\r\n\r\n",
                ..Tcp::default()
            });
            flood(ACKS, &|seq| Tcp { seq, ack: guess(seq), fin: true, ..Tcp::default() });
            flood(ACKS, &|seq| Tcp { seq, ack: guess(seq), rst: true, ..Tcp::default() });
            assert!(unknown() - before.1 > u64::from(3 * ACKS / 2));
            assert!(of("drop_unknown_reset") - before.2 > u64::from(ACKS / 2));
            0
        });
    });
}

/// Segments for a live connection from somebody who knows its ports but not its numbers, sent to each node,
/// as a stranger and in the name of members.
#[test]
fn blind_segments_into_a_live_connection() {
    everywhere(|place| {
        let service = place.cluster.service();
        let mut connection = Dial::new(service).open(place.bed.client(0)).expect("answered");
        connection.fetch(&place.page).expect("the page");
        let client = connection.local();
        wait_until(SOON, "only this connection open", || {
            place.cluster.counted("adopted") == place.cluster.counted("closed") + 1
        });
        let closed = place.cluster.counted("closed");
        wait_until(SOON, "all idle", || {
            place.cluster.counted("serving_started") == place.cluster.counted("serving_ended")
        });
        let mut served = place.cluster.counted("serving_started");
        let segments = (0..60_u32).map(|number| {
            // Not where the connection may be: its numbers are within a megabyte of those of the packets.
            let (seq, ack) = (number.wrapping_mul(0x1234_5679), Some(number.wrapping_mul(0x0765_4321)));
            let plain = Tcp { seq, ack, ..Tcp::default() };
            let tcp = match number % 5 {
                0 => Tcp { rst: true, ..plain },
                1 => Tcp { rst: true, ack: None, ..plain },
                2 => Tcp { fin: true, ..plain },
                3 => Tcp { payload: b"GET /nothing HTTP/1.1\r\nHost: testbed\r\n\r\n", ..plain },
                _ => Tcp { syn: false, ..plain },
            };
            tcp_packet(client, service, tcp)
        });
        let segments: Vec<Vec<u8>> = segments.collect();
        let members: Vec<[u8; 6]> =
            place.bed.nodes().iter().map(|node| Frames::on(node, "eth0").mac()).collect();
        for node in place.bed.nodes() {
            let to = place.towards(node);
            for from in members.iter().copied().chain([place.frames.mac()]).filter(|from| *from != to) {
                for segment in &segments {
                    place.frames.send(&place.frames.framed(from, to, segment));
                }
                connection.fetch(&place.small).expect("the page, whatever others sent");
                served += 1;
                wait_until(SOON, "idle again", || place.cluster.counted("serving_ended") >= served);
            }
        }
        for busy in ["serving_started", "serving_ended"] {
            assert_eq!(place.cluster.counted(busy), served, "{busy}: by one who did not know its numbers");
        }
        assert_eq!(place.cluster.counted("closed"), closed, "closed by one who did not know its numbers");
        connection.fetch_last(&place.page).expect("the page at last");
        wait_until(SOON, "its end", || place.cluster.counted("closed") == closed + 1);
    });
}

/// Whatever is said to the control port by one without the secret; and how many say nothing at all.
#[test]
fn strangers_at_the_control_port() {
    everywhere(|place| {
        let mut idle: Vec<TcpStream> = Vec::new();
        place.with_visitors(|| {
            for node in place.bed.nodes() {
                let control = SocketAddr::new(node.address(), CONTROL_PORT);
                let open = || Dial::new(control).stream(&place.outsider);
                let greeting = |text: &[u8]| {
                    let mut stream = open().expect("accepted");
                    let _ = stream.write_all(text);
                    stream
                };
                let words: [Vec<u8>; 6] = [
                    Vec::new(),
                    b"GET / HTTP/1.1\r\n\r\n".to_vec(),
                    noise(1, 100_000),
                    vec![0; 5000],
                    vec![0xff; 5000],
                    vec![0, 32],
                ];
                idle.extend(words.iter().map(|text| greeting(text)));
                // Half of what a member says first.
                if let Some(said) = first_words(place, node) {
                    idle.push(greeting(&said[..said.len() / 2]));
                    idle.push(greeting(&said));
                }
                idle.extend((0..60).map_while(|_| open().ok()));
            }
            only_control_is_open(place);
            0
        });
        assert!(idle.len() > 200, "{}", idle.len());
        place.cluster.wait_formed();
        // None is kept for ever: what was accepted is closed.
        let first = &mut idle[0];
        let mut rest = Vec::new();
        let ended = first.read_to_end(&mut rest);
        assert!(!matches!(&ended, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock), "{ended:?}");
    });
}

/// What a node says first to one that connects as a member would; nothing if it waits.
fn first_words(place: &Place<'_>, node: &Host) -> Option<Vec<u8>> {
    let control = SocketAddr::new(node.address(), CONTROL_PORT);
    let mut stream = Dial::new(control).patience(Duration::from_millis(200)).stream(&place.outsider).ok()?;
    let mut said = [0; 1024];
    let length = stream.read(&mut said).ok().filter(|length| *length > 0)?;
    Some(said[..length].to_vec())
}

/// Of what a daemon listens on, only the control port is on an address that others reach.
fn only_control_is_open(place: &Place<'_>) {
    for baton in &place.cluster.batons {
        let sockets = baton.host().run("ss", ["-Hlntup"]);
        let mine = format!("pid={},", baton.process().id());
        for line in sockets.lines().filter(|line| line.contains(&mine) && line.starts_with("tcp")) {
            let local = line.split_whitespace().nth(4).expect("an address");
            let open = local.ends_with(&format!(":{CONTROL_PORT}"));
            let inside = local.starts_with("127.") || local.starts_with("[::1]");
            assert!(open || inside, "{line}");
        }
    }
}
