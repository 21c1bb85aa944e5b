//! However a hello is cut into records and packets, it says the same; and what no hello can begin with is
//! refused as soon as that is seen.

use baton_tls::{HELLO_BYTES_MAX, HelloError, HelloReader, ParsedHello, read_client_hello};
use proptest::prelude::*;

use crate::made::{HANDSHAKE, body, extension, hellos, message, opening, record, records, sent, server_name};

proptest! {
    #[test]
    fn a_right_hello_says_what_it_was_made_to_say((message, wanted, protocols) in hellos()) {
        let ParsedHello::Whole(hello) = read_client_hello(&records(&message, 1 << 14)) else {
            return Err(TestCaseError::fail("not whole"));
        };
        prop_assert_eq!((&hello.name, hello.encrypted), (&wanted.name, wanted.encrypted));
        prop_assert!(hello.alpn.iter().eq(protocols.iter().map(Vec::as_slice)));
        prop_assert_eq!(hello.alpn.is_empty(), protocols.is_empty());
        prop_assert!(protocols.iter().all(|p| hello.alpn.contains(p)));
        prop_assert!(!hello.alpn.contains(b"a protocol longer than twenty bytes"));
    }

    #[test]
    fn records_and_packets_change_nothing((message, ..) in hellos(), most in 1_usize..2000, packet in 1_usize..1500) {
        let whole = read_client_hello(&records(&message, 1 << 14));
        let cut = records(&message, most);
        prop_assert_eq!(&read_client_hello(&cut), &whole);
        let mut reader = HelloReader::default();
        for end in (0..cut.len()).step_by(packet) {
            prop_assert_eq!(reader.read(&cut[..end]), ParsedHello::More);
        }
        prop_assert_eq!(&reader.read(&cut), &whole);
        // Early data and the like, which the server reads.
        let more = [&cut[..], b"\x17\x03\x03\x00\x05early"].concat();
        prop_assert_eq!(&reader.read(&more), &whole);
        prop_assert_eq!(&read_client_hello(&more), &whole);
    }

    #[test]
    fn every_beginning_waits_for_more((message, ..) in hellos(), most in 1_usize..2000, end in any::<prop::sample::Index>()) {
        let sent = records(&message, most);
        prop_assert_eq!(read_client_hello(&sent[..end.index(sent.len())]), ParsedHello::More);
    }

    /// Spoilt bytes: whatever is said of a beginning, other than that more are needed, stays so; and in
    /// pieces the answer is that for the whole.
    #[test]
    fn an_answer_stays((message, ..) in hellos(), most in 1_usize..700, spoil in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
        let mut sent = records(&message, most);
        for (at, byte) in spoil {
            let at = at.index(sent.len().min(120));
            sent[at] = byte;
        }
        let mut reader = HelloReader::default();
        let mut answer = ParsedHello::More;
        for end in 0..=sent.len() {
            let next = reader.read(&sent[..end]);
            prop_assert!(answer == ParsedHello::More || answer == next, "{:?} then {:?} at {}", answer, next, end);
            answer = next;
        }
        prop_assert_eq!(answer, read_client_hello(&sent));
    }

    #[test]
    fn any_bytes_have_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..300), tls in any::<bool>()) {
        let bytes = if tls { records(&message(1, &bytes), 50) } else { bytes };
        let answer = read_client_hello(&bytes);
        prop_assert_eq!(&answer, &HelloReader::default().read(&bytes));
        if !tls && bytes.first().is_some_and(|c| *c != HANDSHAKE) {
            prop_assert_eq!(answer, ParsedHello::NotTls);
        }
    }
}

#[test]
fn other_protocols_are_not_tls() {
    let ssl2: &[u8] = &[0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10];
    let cases: [&[u8]; 8] = [
        b"G",
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"SSH-2.0-x\r\n",
        ssl2,
        &[22, 2, 0, 0, 10],
        // TLS, but no beginning of a handshake.
        &[21, 3, 3, 0, 2, 2, 40],
        &[23, 3, 3, 0, 1, 0],
    ];
    for bytes in cases {
        assert_eq!(read_client_hello(bytes), ParsedHello::NotTls, "{bytes:?}");
    }
    for begun in [&[][..], &[22], &[22, 3], &[22, 3, 1, 0]] {
        assert_eq!(read_client_hello(begun), ParsedHello::More, "{begun:?}");
    }
}

#[track_caller]
fn malformed(bytes: &[u8], reason: HelloError) {
    assert_eq!(read_client_hello(bytes), ParsedHello::Malformed(reason));
}

#[test]
fn records_that_cannot_hold_a_hello_are_refused_by_their_header() {
    malformed(&[22, 3, 1, 0, 0], HelloError::EmptyRecord);
    malformed(&[22, 3, 1, 0x40, 1], HelloError::RecordLength);
    assert_eq!(read_client_hello(&[22, 3, 1, 0x40, 0]), ParsedHello::More);
    let begun = record(HANDSHAKE, &sent(&[])[5..20]);
    malformed(&[&begun[..], &[22, 3, 3, 0, 0]].concat(), HelloError::EmptyRecord);
    for content in [20, 21, 23, 24, 0, 255] {
        malformed(&[&begun[..], &[content]].concat(), HelloError::Interleaved);
    }
}

#[test]
fn another_message_is_refused_by_its_first_byte() {
    for kind in [0, 2, 11, 16, 255] {
        malformed(&[22, 3, 1, 0, 50, kind], HelloError::NotHello);
    }
}

#[test]
fn nothing_may_follow_the_hello_in_its_record() {
    let hello = message(1, &body(&[server_name("a.example")]));
    let two = record(HANDSHAKE, &[&hello[..], &hello].concat());
    malformed(&two, HelloError::Behind);
    // As soon as both lengths are there.
    malformed(&two[..9], HelloError::Behind);
    assert_eq!(read_client_hello(&two[..8]), ParsedHello::More);
    // In the second record, too.
    malformed(
        &[record(HANDSHAKE, &hello[..60]), record(HANDSHAKE, &[&hello[60..], &[0]].concat())].concat(),
        HelloError::Behind,
    );
}

#[test]
fn the_longest_hello_is_read_and_a_longer_one_refused_by_its_length() {
    // One extension cannot fill it, and all together have a length of two bytes.
    let room = 65_535 - 4 - server_name("a.example").len();
    let long = body(&[server_name("a.example"), extension(21, &vec![0; room])]);
    assert!(long.len() > HELLO_BYTES_MAX, "the longest possible list of extensions is too long by the rest");
    malformed(&records(&message(1, &long), 1 << 14)[..9], HelloError::TooLong);

    let fits = room - (long.len() - HELLO_BYTES_MAX);
    let longest = body(&[server_name("a.example"), extension(21, &vec![0; fits])]);
    assert_eq!(longest.len(), HELLO_BYTES_MAX);
    for most in [1, 100, 1 << 14] {
        let reading = read_client_hello(&records(&message(1, &longest), most));
        assert!(matches!(reading, ParsedHello::Whole(hello) if hello.name.as_deref() == Some("a.example")));
    }
    malformed(&[22, 3, 1, 0x40, 0, 1, 1, 0, 1], HelloError::TooLong);
}

#[test]
fn a_hello_without_extensions_names_nothing() {
    for body in [opening(), body(&[])] {
        let ParsedHello::Whole(hello) = read_client_hello(&records(&message(1, &body), 50)) else {
            panic!("whole")
        };
        assert_eq!((hello.name, hello.alpn.is_empty(), hello.encrypted), (None, true, false));
    }
}
