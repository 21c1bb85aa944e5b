//! The follower over packets: cut anywhere, lost, doubled, overlapping, out of order, around the wrap.

use baton_http::{Exchange, Fed, Phase};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::messages::{requests, spoilt};
use crate::naive::{self, Seen};

fn base() -> impl Strategy<Value = u32> {
    prop_oneof![select(vec![0, 1, u32::MAX, u32::MAX - 40, (1 << 31) - 20, 1 << 31]), any::<u32>()]
}

fn whole(base: u32, bytes: &[u8]) -> Exchange {
    let mut exchange = Exchange::new(base, 0);
    exchange.request(base, bytes);
    exchange
}

/// Where requests end in the bytes, as the naive reading has it, and whether what follows is bad.
fn naive_ends(bytes: &[u8]) -> (Vec<usize>, Seen) {
    let (mut ends, mut at) = (vec![], 0);
    loop {
        match naive::request(&bytes[at..]) {
            Seen::Whole { length, .. } => {
                at += length;
                ends.push(at);
            }
            other => return (ends, other),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn messages_end_where_the_naive_reading_ends_them(bytes in spoilt(requests()), base in base()) {
        let (ends, then) = naive_ends(&bytes);
        let mut exchange = Exchange::new(base, 0);
        let (mut at, mut found) = (0, vec![]);
        while at < bytes.len() && exchange.doubt().is_none() {
            let before = exchange;
            let (_, used) = exchange.one_request(base.wrapping_add(at as u32), &bytes[at..]);
            at += used;
            if before.requests().is_between_messages() && exchange.outstanding() == before.outstanding() {
                prop_assert!(exchange.doubt().is_some() || at == bytes.len(), "nothing but empty lines");
            } else if exchange.doubt().is_none() && exchange.requests().is_between_messages() {
                prop_assert_eq!(exchange.requests().boundary(), base.wrapping_add(at as u32));
                found.push(at);
            }
        }
        prop_assert_eq!(&found, &ends);
        match then {
            Seen::Bad => prop_assert!(exchange.doubt().is_some()),
            Seen::Begun { .. } => prop_assert_eq!(exchange.outstanding().asked(), ends.len() as u32 + 1),
            _ => prop_assert_eq!(exchange.outstanding().asked(), ends.len() as u32),
        }
        prop_assert_eq!(exchange, whole(base, &bytes));
    }

    #[test]
    fn pieces_of_any_size_lead_to_the_same_state(bytes in spoilt(requests()), base in base(), cuts in vec(any::<Index>(), 0..12)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut exchange = Exchange::new(base, 0);
        for pair in cuts.windows(2) {
            exchange.request(base.wrapping_add(pair[0] as u32), &bytes[pair[0]..pair[1]]);
        }
        prop_assert_eq!(exchange, whole(base, &bytes));
        let mut exchange = Exchange::new(base, 0);
        for (i, byte) in bytes.iter().enumerate() {
            exchange.request(base.wrapping_add(i as u32), &[*byte]);
        }
        prop_assert_eq!(exchange, whole(base, &bytes));
    }

    #[test]
    fn disorder_leads_to_the_same_state(
        bytes in spoilt(requests()),
        base in base(),
        cuts in vec((any::<Index>(), 1..60_usize), 1..20),
        order in vec(any::<Index>(), 0..60),
    ) {
        // Overlapping packets at random places, and enough others to cover the stream.
        let mut packets: Vec<(usize, usize)> = cuts
            .iter()
            .map(|(at, len)| (at.index(bytes.len()), *len))
            .chain((0..bytes.len()).step_by(17).map(|at| (at, 17)))
            .map(|(at, len)| (at, (at + len).min(bytes.len())))
            .collect();
        for index in order {
            let (i, last) = (index.index(packets.len()), packets.len() - 1);
            packets.swap(i, last);
            packets.push(packets[i]);
        }
        let expected = whole(base, &bytes);
        let mut exchange = Exchange::new(base, 0);
        // A sender repeats what was not taken; each round brings at least the first missing packet in.
        for _ in 0..=packets.len() {
            for (from, to) in &packets {
                let before = exchange;
                let fed = exchange.request(base.wrapping_add(*from as u32), &bytes[*from..*to]);
                let same = exchange == before;
                match fed {
                    Fed::Old | Fed::Gap => prop_assert!(same, "{fed:?}"),
                    Fed::Followed | Fed::Skipped => prop_assert!(!same, "{fed:?}"),
                    Fed::Doubt(reason) => prop_assert_eq!(exchange.doubt(), Some(reason)),
                }
            }
        }
        prop_assert_eq!(exchange, expected);
    }

    #[test]
    fn what_is_skipped_need_never_be_seen(length in 1..5000_u32, lost in any::<Index>(), base in base()) {
        let head = format!("PUT /a HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
        let mut exchange = Exchange::new(base, 0);
        exchange.request(base, head.as_bytes());
        let body = base.wrapping_add(head.len() as u32);
        let lost = lost.index(length as usize) as u32 + 1;
        let rest = vec![b'\n'; (length - lost) as usize];
        let next = b"GET / HTTP/1.1\r\n\r\n";
        let fed = exchange.request(body.wrapping_add(lost), &[&rest, &next[..]].concat());
        prop_assert_eq!(fed, Fed::Skipped);
        prop_assert_eq!(exchange.outstanding().asked(), 2);
        prop_assert_eq!(exchange.requests().boundary(), body.wrapping_add(length + next.len() as u32));
    }
}

#[test]
fn a_packet_beyond_the_body_is_a_gap() {
    let head = b"PUT /a HTTP/1.1\r\nContent-Length: 10\r\n\r\n";
    let mut exchange = whole(100, head);
    let body = 100 + head.len() as u32;
    let before = exchange;
    assert_eq!(exchange.request(body + 11, b"ET / HTTP/1.1\r\n"), Fed::Gap);
    assert_eq!(exchange.request(body - 1, b"\n"), Fed::Old);
    assert_eq!(exchange.request(body + 5, b""), Fed::Old);
    assert_eq!(exchange, before);
    assert_eq!(exchange.requests().left(), 10);
    assert_eq!(exchange.one_request(body + 10, b"GET"), (Fed::Skipped, 0));
    assert_eq!(exchange.requests().boundary(), body + 10);
    assert_eq!(exchange.one_request(body + 10, b"GET"), (Fed::Followed, 3));
    assert_eq!(exchange.request(body + 5, b"12345GET / HTTP"), Fed::Followed);
    assert_eq!(exchange.requests().phase(), Phase::Version);
}

#[test]
fn chunk_data_are_skipped_but_not_what_delimits_them() {
    let mut exchange = whole(0, b"PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n");
    let data = exchange.requests().at();
    assert_eq!(exchange.requests().left(), 255);
    assert_eq!(exchange.request(data + 256, b"\n0\r\n"), Fed::Gap);
    assert_eq!(exchange.request(data + 200, &[b'x'; 55]), Fed::Skipped);
    assert_eq!(exchange.requests().phase(), Phase::ChunkCr);
    assert_eq!(exchange.request(data + 250, b"12345\r\n0\r\n\r\n"), Fed::Followed);
    assert!(exchange.requests().is_between_messages());
}

#[test]
fn bodies_of_many_gigabytes_are_followed() {
    let length = 5 << 30_u64;
    let head = format!("PUT /a HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
    let mut exchange = whole(9, head.as_bytes());
    let step = vec![b'G'; 1 << 20];
    let mut seq = exchange.requests().at();
    for _ in 0..length / (2 << 20) {
        seq = seq.wrapping_add(1 << 20); // every second one is lost
        assert_eq!(exchange.request(seq, &step), Fed::Skipped);
        seq = seq.wrapping_add(1 << 20);
    }
    assert!(exchange.requests().is_between_messages());
    assert_eq!(exchange.request(seq, b"GET / HTTP/1.1\r\n\r\n"), Fed::Followed);
    assert_eq!(exchange.outstanding().asked(), 2);
}

#[test]
fn half_of_all_numbers_lie_ahead() {
    let exchange = whole(9, b"PUT /a HTTP/1.1\r\nContent-Length: 9999999999\r\n\r\n");
    let at = exchange.requests().at();
    assert_eq!({ exchange }.request(at.wrapping_add((1 << 31) - 1), b"x"), Fed::Skipped);
    assert_eq!({ exchange }.request(at.wrapping_add(1 << 31), b"x"), Fed::Old);
    assert_eq!({ exchange }.request(at.wrapping_sub(1), b"x"), Fed::Old);
}

#[test]
fn heads_of_any_length_are_followed() {
    let filler = "x".repeat(1 << 20);
    let head = format!("GET /{filler} HTTP/1.1\r\n{filler}: {filler}\r\nContent-Length: 1\r\n\r\n.");
    assert_eq!(whole(0, head.as_bytes()).outstanding().asked(), 1);
    assert!(whole(0, head.as_bytes()).requests().is_between_messages());
}

#[test]
fn names_longer_than_their_count_are_no_other_names() {
    // 256 bytes more would bring a count of one byte back to where the name ended.
    let name = format!("Host{}", "x".repeat(256));
    let head = format!("GET / HTTP/1.1\r\n{name}: a\r\n{name}: b\r\nHost: c\r\n\r\n");
    assert_eq!(whole(0, head.as_bytes()).doubt(), None);
}
