//! Sequence numbers and clocks that pass 2^32 within a connection.

use baton_testbed::get;
use baton_testbed::rawtcp::{ACK, RawTcp, SYN};

use crate::field::{Field, answered, contents, fetch, play};
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
