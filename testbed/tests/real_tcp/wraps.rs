//! Sequence numbers and clocks that pass 2^32 within a connection.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use baton_cluster::{Cluster, Flow};
use baton_packet_model::{Clock, flow_clock};
use baton_testbed::rawtcp::{ACK, RawTcp, SYN};
use baton_testbed::{DocRoot, Figure, Testbed, WebServer, get};

use crate::field::{Field, NODES, answered, contents, fetch, play, two_pools};
use crate::streams::upload;

/// The client's clock wraps at each step of the connection's life.
#[test]
fn the_clients_clock_wraps() {
    play(&[], |field| {
        let [first, second] = field.pages.clone();
        for step in 0..7 {
            let mut raw = field.tcp().clock(u32::MAX - 2_000);
            let mut now = 0..;
            let mut at = |raw: &mut RawTcp<'_>| {
                if now.next() == Some(step) {
                    raw.tick(3_000);
                }
            };
            let options = raw.all_options();
            raw.syn(&options);
            raw.expect("a SYN-ACK", |s| s.is(SYN | ACK));
            at(&mut raw);
            raw.ack();
            at(&mut raw);
            fetch(&mut raw, &first);
            at(&mut raw);
            raw.probe(b"x");
            fetch(&mut raw, &first);
            at(&mut raw);
            fetch(&mut raw, &second);
            at(&mut raw);
            fetch(&mut raw, &second);
            at(&mut raw);
            let request = get(&first, false);
            raw.write(&request[..20]);
            at(&mut raw);
            raw.write(&request[20..]);
            answered(&mut raw, &first);
            raw.close();
        }
    });
}

/// The client's sequence numbers wrap within, before and behind its SYN, its first request, a head that is
/// read by the reader, a request that moves, and an upload.
#[test]
fn the_clients_sequence_numbers_wrap() {
    play(&[], |field| {
        let [first, second] = field.pages.clone();
        let request = get(&first, false).len() as u32;
        let (upload, moved) = (upload(30_000), get(&second, false).len() as u32);
        let places = [0, 1, 2, 20, request - 1, request, request + 1, request + 15, request + moved];
        for before in places.into_iter().chain([request + moved + 15, request + moved + 10_000]) {
            let mut raw = field.tcp().isn(u32::MAX.wrapping_sub(before));
            raw.open();
            fetch(&mut raw, &first);
            let halves = get(&second, false);
            raw.write(&halves[..20]);
            raw.write(&halves[20..]);
            answered(&mut raw, &second);
            raw.upload(&upload.request(), 1300);
            let answer = raw.answer();
            assert_eq!((answer.status, &answer.body[..]), (200, &b"ok 30000\n"[..]));
            fetch(&mut raw, &second);
            raw.close();
        }
    });
}

/// A connection whose server's sequence numbers are at most so many bytes before 2^32: of many cookies the
/// one. Nobody keeps anything of the others.
fn near_the_wrap(field: &Field, at_most: u32) -> RawTcp<'_> {
    const AT_ONCE: usize = 64;
    for _ in 0..1000 {
        let mut all: Vec<RawTcp<'_>> = (0..AT_ONCE).map(|_| field.tcp()).collect();
        for raw in &mut all {
            let options = raw.all_options();
            raw.syn(&options);
        }
        for raw in &mut all {
            raw.expect("a SYN-ACK", |s| s.is(SYN | ACK));
        }
        let near = |raw: &RawTcp<'_>| raw.expected().wrapping_neg() <= at_most;
        if let Some(place) = all.iter().position(near) {
            let mut raw = all.swap_remove(place);
            raw.ack();
            return raw;
        }
    }
    panic!("no cookie of 64,000 was so near to 2^32");
}

/// The servers' sequence numbers wrap within an answer: of the first server, or of the one that the
/// connection has moved to.
#[test]
fn the_servers_sequence_numbers_wrap() {
    play(&[], |field| {
        let (pages, huge) = (field.pages.clone(), contents("huge", 1_500_000));
        for which in [0, 1] {
            let mut raw = near_the_wrap(field, 1_200_000);
            fetch(&mut raw, &pages[1 - which]);
            fetch(&mut raw, &huge[which]);
            assert!(raw.expected() < 1 << 31, "it has wrapped");
            fetch(&mut raw, &pages[1 - which]);
            fetch(&mut raw, &pages[which]);
            raw.close();
        }
    });
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as u64
}

/// A cluster file, and a client's port whose flow's clock passes 2^32 between these times from now, in
/// milliseconds. Clocks begin where the cluster's keys say: of many secrets the one.
fn about_to_wrap(config: &str, flow: Flow, from: u64, to: u64) -> (String, u16) {
    let clock = Clock { kernel_ns: 0, cluster_ns: wall_ms() * 1_000_000 };
    let secret = config.lines().find(|line| line.starts_with("secret = ")).expect("there is one");
    for number in 0..1000 {
        let text =
            config.replace(secret, &format!("secret = \"6f1c0a9be47d82355ac4e09d17b86f3e{number:08}\""));
        let keys = Cluster::parse(&text).expect("a good file").keys();
        let wraps = |port: &u16| {
            let left = flow_clock(&keys, &Flow { client_port: *port, ..flow }, clock).wrapping_neg();
            (from..to).contains(&u64::from(left))
        };
        if let Some(port) = (2000..60_000).find(wraps) {
            return (text, port);
        }
    }
    panic!("no clock of 58,000,000 was so near to 2^32");
}

/// The servers' clock wraps, which is the flow's and goes on from node to node: before and behind it the
/// connection moves.
#[test]
fn the_servers_clock_wraps() {
    let figure = Figure::Seven;
    let pages = contents("page", 3000);
    for patience in [9_000, 18_000, 36_000] {
        let bed = Testbed::builder().figure(figure).one_cpu().without_offloads().build();
        let raw = bed.raw_client(0);
        let (client, vip) = (raw.address(), figure.vips(&bed)[0]);
        let flow = Flow { client, client_port: 0, vip, vip_port: 80 };
        let config = figure.config(&bed, &two_pools());
        let begun = wall_ms();
        let (config, port) = about_to_wrap(&config, flow, patience, patience + 3_000);
        let cluster = figure.start_with(&bed, WebServer::nginx, &DocRoot::shared(), &config);
        if wall_ms() > begun + patience - 1_000 {
            // A slow machine: the clock may have wrapped already.
            continue;
        }
        let (pages, service) = (&pages, cluster.service());
        let seen = bed.client(0).inside(move || {
            let mut tcp = raw.tcp(port, service);
            let before = tcp.open().timestamps().expect("as offered").0;
            fetch(&mut tcp, &pages[0]);
            fetch(&mut tcp, &pages[1]);
            while wall_ms() < begun + patience + 3_100 {
                thread::sleep(Duration::from_millis(500));
                fetch(&mut tcp, &pages[1]);
            }
            tcp.write(&get(&pages[0], false));
            let after =
                tcp.expect("the answer", |s| !s.payload.is_empty()).timestamps().expect("as before").0;
            assert_eq!(tcp.answer_of(&pages[0]), NODES[0]);
            fetch(&mut tcp, &pages[1]);
            tcp.close();
            (before, after)
        });
        assert!(seen.0 > u32::MAX - 60_000 && seen.1 < 60_000, "{seen:?}");
        assert_eq!((cluster.counted("fault_map"), cluster.counted("move_doubt")), (0, 0));
        assert!(cluster.counted("moved") >= 3);
        cluster.stop();
        return;
    }
    panic!("the cluster never started within 35 s");
}
