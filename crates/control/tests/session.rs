//! Two sessions and what they say to each other: set-up, heartbeats, silence, and which of two connections stays.

mod pair;

use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_cluster::NodeId;
use baton_control::message::{Message, StatusRequest};
use baton_control::session::{Identity, Received, Settlement, settle};
use baton_control::word::Bye;
use baton_control::{Error, NodeClocks};
use pair::{FAILURE_TIMEOUT, Pair, identity, load};
use proptest::prelude::*;

#[test]
fn opens_whoever_dials() {
    for lower_dials in [true, false] {
        let mut pair = Pair::new(lower_dials);
        pair.settle();
        let (lower, higher) =
            if lower_dials { (&pair.dialler, &pair.listener) } else { (&pair.listener, &pair.dialler) };
        assert_eq!(lower.heard, [Received::Proposed(identity(1).hello), Received::Opened(identity(1).hello)]);
        assert_eq!(higher.heard, [Received::Opened(identity(0).hello)]);
        assert!(lower.session.is_open() && higher.session.is_open());
    }
}

#[test]
fn carries_messages_both_ways_in_order() {
    let mut pair = Pair::opened(true);
    pair.dialler.heard.clear();
    pair.listener.heard.clear();
    for count in 0..100 {
        pair.dialler.send(&load(count));
        pair.listener.send(&Message::StatusRequest(StatusRequest { id: count }));
    }
    pair.settle();
    assert_eq!(pair.listener.messages(), (0..100).map(load).collect::<Vec<_>>());
    let requests = (0..100).map(|id| Message::StatusRequest(StatusRequest { id }));
    assert_eq!(pair.dialler.messages(), requests.collect::<Vec<_>>());
}

#[test]
fn bytes_may_come_one_at_a_time() {
    let mut pair = Pair::new(true);
    loop {
        let (forth, back) = (pair.dialler.written(), pair.listener.written());
        if forth.is_empty() && back.is_empty() {
            break;
        }
        forth.iter().for_each(|byte| pair.listener.receive(&[*byte], pair.now));
        back.iter().for_each(|byte| pair.dialler.receive(&[*byte], pair.now));
        if pair.dialler.heard.len() == 1 {
            let _already_accepted = pair.dialler.session.accept(pair.now);
        }
    }
    assert!(pair.dialler.session.is_open() && pair.listener.session.is_open());
}

#[test]
fn no_heartbeat_is_missed_while_all_is_well() {
    let mut pair = Pair::opened(false);
    pair.pass(FAILURE_TIMEOUT * 20);
    assert_eq!((pair.dialler.error.clone(), pair.listener.error.clone()), (None, None));
    assert_eq!(pair.dialler.session.measured().rtt_us, Some(0), "carried without delay in the test's clock");
}

#[test]
fn the_round_trip_is_measured_without_the_wait_at_the_other_end() {
    let mut pair = Pair::opened(true);
    let one_way = Duration::from_millis(3);
    for _ in 0..10 {
        pair.now += FAILURE_TIMEOUT / 4;
        for _ in 0..2 {
            pair.dialler.tick(pair.now);
            let forth = pair.dialler.written();
            pair.now += one_way;
            pair.listener.receive(&forth, pair.now);
            pair.listener.tick(pair.now);
            let back = pair.listener.written();
            pair.now += one_way;
            pair.dialler.receive(&back, pair.now);
        }
    }
    assert_eq!((pair.dialler.error.clone(), pair.listener.error.clone()), (None, None));
    assert_eq!(pair.dialler.session.measured().rtt_us, Some(6_000));
}

/// Before anybody knows that the connection is up, both have one clock; and each learns what the other's wall says.
#[test]
fn clocks_are_agreed_on_with_the_first_heartbeats() {
    for lower_is_ahead in [true, false] {
        let now = Instant::now();
        let clocks = |wall| Arc::new(NodeClocks::new(now, Duration::from_secs(wall)));
        let (ahead, behind) = (clocks(5000), clocks(1000));
        let (lower, higher) = if lower_is_ahead { (&ahead, &behind) } else { (&behind, &ahead) };
        let node = |number, clocks: &Arc<NodeClocks>| Identity { clocks: clocks.clone(), ..identity(number) };
        let mut pair = Pair::of(node(0, lower), 1, node(1, higher));
        pair.settle();
        assert!(pair.dialler.session.is_open() && pair.listener.session.is_open());
        assert_eq!(lower.cluster_at_origin_ns(), higher.cluster_at_origin_ns());
        assert!(lower.cluster_at_origin_ns().abs_diff(5_000_000_000_000) < 1_000_000_000);
        let listener = pair.listener.session.measured().wall_ahead_us;
        assert_eq!(listener, None, "none of its heartbeats has been repeated yet");
        pair.pass(FAILURE_TIMEOUT);
        let told = pair.dialler.session.measured().wall_ahead_us.expect("measured");
        let theirs = if lower_is_ahead { 1000 } else { 5000 } * 1_000_000;
        assert!(told.abs_diff(theirs) < 1_000_000, "{told} us");
    }
}

#[test]
fn silence_is_failure_after_the_timeout_and_not_before() {
    let mut pair = Pair::opened(true);
    let opened = pair.now;
    pair.now = opened + FAILURE_TIMEOUT;
    pair.dialler.tick(pair.now);
    assert_eq!(pair.dialler.error, None);
    pair.now += Duration::from_nanos(1);
    assert!(pair.dialler.session.deadline() <= pair.now, "the deadline is not missed");
    pair.dialler.tick(pair.now);
    assert_eq!(pair.dialler.error, Some(Error::Silent { limit: FAILURE_TIMEOUT }));
}

#[test]
fn an_end_that_did_not_read_does_not_call_the_other_silent() {
    let mut pair = Pair::opened(true);
    pair.now += FAILURE_TIMEOUT * 3;
    pair.dialler.session.was_not_reading(pair.now);
    pair.dialler.tick(pair.now);
    assert_eq!(pair.dialler.error, None);
    pair.now += FAILURE_TIMEOUT * 2;
    pair.dialler.session.was_busy(FAILURE_TIMEOUT);
    pair.dialler.tick(pair.now);
    assert_eq!(pair.dialler.error, None, "busy for half of it");
    pair.now += Duration::from_nanos(1);
    pair.dialler.tick(pair.now);
    assert_eq!(pair.dialler.error, Some(Error::Silent { limit: FAILURE_TIMEOUT }));
}

#[test]
fn a_set_up_that_does_not_go_on_ends() {
    let mut pair = Pair::new(true);
    let limit = FAILURE_TIMEOUT;
    pair.now += limit;
    for end in [&mut pair.dialler, &mut pair.listener] {
        end.tick(pair.now);
        assert_eq!(end.error, Some(Error::SetUpTimeout { limit }));
    }
}

#[test]
fn messages_before_the_decision_are_out_of_place() {
    let mut pair = Pair::new(true);
    let greeting = pair.dialler.written();
    pair.listener.receive(&greeting, pair.now);
    pair.listener.send(&load(1)); // behind its Hello, but before the dialler has decided
    let early = pair.listener.written();
    pair.dialler.receive(&early, pair.now);
    let kind = load(1).kind();
    assert_eq!(pair.dialler.error, Some(Error::OutOfPlace { kind }));
}

#[test]
fn a_refused_or_stopping_peer_says_so() {
    let mut pair = Pair::opened(true);
    pair.dialler.send(&load(5));
    pair.dialler.session.refuse(Bye::Stopping).expect("a goodbye");
    pair.listener.heard.clear();
    let last = pair.dialler.written();
    pair.listener.receive(&last, pair.now);
    assert_eq!(pair.listener.messages(), [load(5)], "what was said before the goodbye counts");
    assert_eq!(pair.listener.error, Some(Error::Stopping));

    let mut pair = Pair::opened(false);
    pair.listener.session.refuse(Bye::Duplicate).expect("a goodbye");
    pair.settle();
    assert_eq!(pair.dialler.error, Some(Error::Duplicate));
}

#[test]
fn heartbeats_do_not_pile_up_for_a_peer_that_does_not_read() {
    let mut pair = Pair::opened(true);
    for _ in 0..1_000_000u32 {
        if pair.dialler.session.pending().len() >= 64 * 1024 {
            break;
        }
        pair.dialler.send(&load(1));
    }
    let full = pair.dialler.session.pending().len();
    pair.now += FAILURE_TIMEOUT / 2;
    pair.dialler.tick(pair.now);
    assert_eq!(pair.dialler.error, None);
    assert_eq!(pair.dialler.session.pending().len(), full);
}

#[test]
fn settlement() {
    assert_eq!(settle(None, 5), Settlement::Take);
    assert_eq!(settle(Some(5), 5), Settlement::Refuse);
    assert_eq!(settle(Some(5), 6), Settlement::Replace);
}

/// Both nodes dial; bytes of the two connections arrive in any order. Whatever it is, both ends are
/// left with the same single connection, and it works.
fn simultaneous(order: &[u8]) -> Result<(), TestCaseError> {
    let mut pairs = [Pair::new(true), Pair::new(false)];
    let now = pairs[0].now;
    // The connection that the lower node has decided for, and those that each node holds open.
    let (mut promised, mut lower, mut higher) = (None, None, None);
    let order = order.iter().copied().chain((0..4).cycle().take(60));
    for turn in order {
        let place = usize::from(turn >> 1 & 1);
        let pair = &mut pairs[place];
        let (from, to) = if turn & 1 == 0 {
            (&mut pair.dialler, &mut pair.listener)
        } else {
            (&mut pair.listener, &mut pair.dialler)
        };
        let bytes = from.written();
        to.receive(&bytes, now);
        match to.heard.pop_front() {
            Some(Received::Proposed(hello)) => {
                if settle(promised.map(|_| hello.boot), hello.boot) == Settlement::Refuse {
                    to.session.refuse(Bye::Duplicate).expect("a goodbye");
                } else {
                    promised = Some(place);
                    to.session.accept(now).expect("a proposal can be accepted");
                }
            }
            Some(Received::Opened(hello)) if hello.node == NodeId(1) => {
                prop_assert_eq!(lower, None, "opened twice");
                lower = Some(place);
            }
            Some(Received::Opened(_)) => {
                prop_assert_eq!(higher, None, "opened twice");
                higher = Some(place);
            }
            _ => (),
        }
    }
    prop_assert!(lower.is_some());
    prop_assert_eq!(lower, higher);
    let pair = &mut pairs[lower.unwrap_or(0)];
    pair.dialler.send(&load(1));
    pair.settle();
    prop_assert_eq!(pair.listener.messages(), vec![load(1)]);
    let refused = &pairs[1 - lower.unwrap_or(0)];
    let higher_end = if lower == Some(0) { &refused.dialler } else { &refused.listener };
    prop_assert_eq!(higher_end.error.clone(), Some(Error::Duplicate));
    Ok(())
}

proptest! {
    // Each case makes real keys, which is slow in an unoptimised build.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_simultaneous_dial_leaves_one_connection(order in prop::collection::vec(0u8..4, 0..30)) {
        simultaneous(&order)?;
    }

    /// Any bit flipped on the way ends the connection; nothing that was said is misunderstood.
    #[test]
    fn a_flipped_bit_ends_it(
        after in 0usize..6,
        place in any::<prop::sample::Index>(),
        bit in 0u8..8,
        in_handshake: bool,
    ) {
        let mut pair = if in_handshake { Pair::new(true) } else { Pair::opened(true) };
        if !in_handshake {
            pair.listener.heard.clear();
            for count in 0..=after as u32 {
                pair.dialler.send(&load(count));
            }
        }
        let mut bytes = pair.dialler.written();
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        pair.listener.receive(&bytes, pair.now);
        // A flipped length may announce more than comes; then the silence or the next bytes end it.
        pair.listener.receive(&[0; 66_000], pair.now);
        prop_assert!(pair.listener.error.is_some());
        let heard = pair.listener.messages();
        prop_assert_eq!(&heard, &(0..heard.len() as u32).map(load).collect::<Vec<_>>());
        prop_assert!(heard.len() <= after);
    }

    /// A stream that ends early is understood up to its last whole frame.
    #[test]
    fn a_truncated_stream_is_no_error_yet(cut in any::<prop::sample::Index>()) {
        let mut pair = Pair::opened(true);
        pair.listener.heard.clear();
        let mut ends = vec![0];
        let mut bytes = Vec::new();
        for count in 0..5 {
            pair.dialler.send(&load(count));
            bytes.extend(pair.dialler.written());
            ends.push(bytes.len());
        }
        let cut = cut.index(bytes.len());
        pair.listener.receive(&bytes[..cut], pair.now);
        prop_assert_eq!(&pair.listener.error, &None);
        let whole = ends.iter().filter(|end| **end <= cut && **end > 0).count();
        prop_assert_eq!(pair.listener.messages(), (0..whole as u32).map(load).collect::<Vec<_>>());
        prop_assert_eq!(pair.listener.session.closed(), Error::Closed);
    }

    /// Arbitrary bytes at either stage: an error or patience, never a panic.
    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400), in_handshake: bool) {
        let mut pair = if in_handshake { Pair::new(false) } else { Pair::opened(false) };
        pair.listener.heard.clear();
        pair.listener.receive(&bytes, pair.now);
        prop_assert!(pair.listener.heard.is_empty());
    }
}
