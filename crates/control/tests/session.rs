//! Two sessions joined by memory, with a clock of the test's own: set-up, identity, damage on the
//! way, silence, and which of two connections stays.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_cluster::NodeId;
use baton_control::message::{Load, Message, PROTOCOL_VERSION, StatusRequest};
use baton_control::session::{Bye, Heard, Identity, Session, Settlement, settle};
use baton_control::{Error, Hello};
use proptest::prelude::*;

const FAILURE_TIMEOUT: Duration = Duration::from_secs(1);

fn identity(node: u16) -> Identity {
    Identity {
        hello: Hello {
            cluster: "shop".to_owned(),
            node: NodeId(node),
            digest: [7; 32],
            mac: [2, 0, 0, 0, 0, node as u8],
            boot: 100 + u64::from(node),
            software: "test".to_owned(),
        },
        psk: [9; 32],
        peers: (0..4).map(NodeId).filter(|peer| peer.0 != node).collect(),
        failure_timeout: FAILURE_TIMEOUT,
    }
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes).expect("a valid message");
    bytes
}

fn load(serving: u32) -> Message {
    Message::Load(Load { serving, adopted_total: 0, closed_total: 0, pressure: 0 })
}

/// One end of a connection in memory.
struct End {
    session: Session,
    heard: VecDeque<Heard>,
    error: Option<Error>,
}

impl End {
    fn new(session: Session) -> End {
        End { session, heard: VecDeque::new(), error: None }
    }

    fn receive(&mut self, bytes: &[u8], now: Instant) {
        if self.error.is_none() {
            self.error = self.session.receive(bytes, now, &mut self.heard).err();
        }
    }

    fn tick(&mut self, now: Instant) {
        if self.error.is_none() && self.session.deadline() <= now {
            self.error = self.session.tick(now).err();
        }
    }

    fn send(&mut self, message: &Message) {
        self.session.send(&encoded(message)).expect("an open session");
    }

    /// Takes what is to be written.
    fn written(&mut self) -> Vec<u8> {
        let bytes = self.session.pending().to_vec();
        self.session.wrote(bytes.len());
        bytes
    }

    fn messages(&mut self) -> Vec<Message> {
        let heard = std::mem::take(&mut self.heard);
        heard
            .into_iter()
            .filter_map(|heard| if let Heard::Message(message) = heard { Some(message) } else { None })
            .collect()
    }
}

struct Pair {
    dialler: End,
    listener: End,
    now: Instant,
}

impl Pair {
    fn of(dialler: Identity, dialled: u16, listener: Identity) -> Pair {
        let now = Instant::now();
        let dialler = Session::dial(Arc::new(dialler), NodeId(dialled), now).expect("a session");
        let listener = Session::listen(Arc::new(listener), now).expect("a session");
        Pair { dialler: End::new(dialler), listener: End::new(listener), now }
    }

    /// Nodes 0 and 1; `lower_dials` says which dials.
    fn new(lower_dials: bool) -> Pair {
        if lower_dials {
            Pair::of(identity(0), 1, identity(1))
        } else {
            Pair::of(identity(1), 0, identity(0))
        }
    }

    /// Carries bytes both ways until there are none. A proposed connection is accepted.
    fn settle(&mut self) {
        loop {
            let (forth, back) = (self.dialler.written(), self.listener.written());
            if forth.is_empty() && back.is_empty() {
                return;
            }
            self.listener.receive(&forth, self.now);
            self.dialler.receive(&back, self.now);
            for end in [&mut self.dialler, &mut self.listener] {
                if end.error.is_none() && matches!(end.heard.back(), Some(Heard::Proposed(_))) {
                    let _already_accepted = end.session.accept(self.now);
                }
            }
        }
    }

    /// Lets time pass in small steps, with everything carried at once.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now = (self.now + Duration::from_millis(10)).min(until);
            self.dialler.tick(self.now);
            self.listener.tick(self.now);
            self.settle();
        }
    }

    fn opened(lower_dials: bool) -> Pair {
        let mut pair = Pair::new(lower_dials);
        pair.settle();
        assert!(pair.dialler.session.is_open() && pair.listener.session.is_open());
        pair
    }
}

#[test]
fn opens_whoever_dials() {
    for lower_dials in [true, false] {
        let mut pair = Pair::new(lower_dials);
        pair.settle();
        let (lower, higher) =
            if lower_dials { (&pair.dialler, &pair.listener) } else { (&pair.listener, &pair.dialler) };
        assert_eq!(lower.heard, [Heard::Proposed(identity(1).hello), Heard::Opened(identity(1).hello)]);
        assert_eq!(higher.heard, [Heard::Opened(identity(0).hello)]);
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
    assert_eq!(pair.dialler.session.rtt_us(), Some(0), "carried without delay in the test's clock");
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
    assert_eq!(pair.dialler.session.rtt_us(), Some(6_000));
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

/// The errors of both ends when the listener differs from what the dialler expects.
fn mismatch(change: impl FnOnce(&mut Identity)) -> (Option<Error>, Option<Error>) {
    let mut other = identity(1);
    change(&mut other);
    let mut pair = Pair::of(identity(0), 1, other);
    pair.settle();
    assert!(!pair.dialler.session.is_open() && !pair.listener.session.is_open());
    (pair.dialler.error, pair.listener.error)
}

#[test]
fn each_mismatch_is_named_at_both_ends() {
    let (dialler, listener) = mismatch(|other| other.hello.digest = [8; 32]);
    assert_eq!(dialler, Some(Error::WrongDigest { node: NodeId(1) }));
    assert_eq!(listener, Some(Error::WrongDigest { node: NodeId(0) }));
    assert!(dialler.is_some_and(|error| error.to_string().contains("node 1 runs a different cluster file")));

    let (dialler, listener) = mismatch(|other| other.hello.cluster = "bank".to_owned());
    let (shop, bank) = ("shop".to_owned(), "bank".to_owned());
    assert_eq!(dialler, Some(Error::WrongCluster { theirs: bank.clone(), ours: shop.clone() }));
    assert_eq!(listener, Some(Error::WrongCluster { theirs: shop, ours: bank }));

    let (dialler, listener) = mismatch(|other| *other = identity(2));
    assert_eq!(dialler, Some(Error::WrongNode { expected: NodeId(1), found: NodeId(2) }));
    assert_eq!(listener, None, "the listener has nothing against the dialler");

    let (dialler, listener) = mismatch(|other| {
        *other = identity(0);
        other.hello.boot = 1;
    });
    assert_eq!(dialler, Some(Error::UnknownNode { node: NodeId(0) }));
    assert_eq!(listener, Some(Error::UnknownNode { node: NodeId(0) }));

    let (dialler, _) = mismatch(|other| other.hello.node = NodeId(77));
    assert_eq!(dialler, Some(Error::UnknownNode { node: NodeId(77) }));
}

#[test]
fn a_wrong_secret_is_named_and_nothing_is_told() {
    let mut other = identity(1);
    other.psk = [1; 32];
    let mut pair = Pair::of(identity(0), 1, other);
    let greeting = pair.dialler.written();
    pair.listener.receive(&greeting, pair.now);
    assert_eq!(pair.listener.error, Some(Error::WrongSecret));
    assert!(pair.listener.error.is_some_and(|error| error.to_string().contains("control_psk")));
    assert!(pair.listener.session.pending().is_empty());
    assert_eq!(pair.dialler.session.closed(), Error::HungUp);
}

#[test]
fn another_version_is_named_at_both_ends() {
    let mut pair = Pair::new(true);
    let mut greeting = pair.dialler.written();
    greeting[6] = PROTOCOL_VERSION + 1; // after two bytes of length and four of magic
    pair.listener.receive(&greeting, pair.now);
    assert_eq!(pair.listener.error, Some(Error::Version { theirs: PROTOCOL_VERSION + 1 }));
    let mut reply = pair.listener.written();
    reply[6] = PROTOCOL_VERSION + 1;
    pair.dialler.receive(&reply, pair.now);
    assert_eq!(pair.dialler.error, Some(Error::Version { theirs: PROTOCOL_VERSION + 1 }));
}

#[test]
fn a_stranger_is_refused_at_its_first_bytes() {
    for (bytes, error) in [
        (&b"GET / HTTP/1.1\r\n"[..], Error::FrameLength { bytes: 0x4745 }),
        (&[0, 0], Error::FrameLength { bytes: 0 }),
        (&[0, 3, 1, 2, 3], Error::NotBaton),
        (&[0, 5, b'B', b'A', b'T', b'S', 1], Error::NotBaton),
        (&[0, 5, b'B', b'A', b'T', b'N', 1], Error::WrongSecret),
    ] {
        let mut listener =
            End::new(Session::listen(Arc::new(identity(0)), Instant::now()).expect("a session"));
        listener.receive(bytes, Instant::now());
        assert_eq!(listener.error, Some(error));
        assert!(listener.session.pending().is_empty());
    }
}

#[test]
fn a_frame_beyond_the_limit_is_refused_before_it_comes() {
    let mut pair = Pair::opened(true);
    pair.listener.receive(&[0xff, 0xff], pair.now);
    assert_eq!(pair.listener.error, Some(Error::FrameLength { bytes: 65_535 }));
}

#[test]
fn a_repeated_or_swapped_frame_is_refused() {
    let mut pair = Pair::opened(true);
    pair.dialler.send(&load(1));
    let first = pair.dialler.written();
    pair.dialler.send(&load(2));
    let second = pair.dialler.written();
    let mut swapped = Pair::opened(true);
    swapped.listener.receive(&second, swapped.now);
    assert_eq!(swapped.listener.error, Some(Error::Tampered), "a frame of another connection");
    pair.listener.heard.clear();
    pair.listener.receive(&first, pair.now);
    assert_eq!(pair.listener.messages(), [load(1)]);
    pair.listener.receive(&first, pair.now);
    assert_eq!(pair.listener.error, Some(Error::Tampered));
}

#[test]
fn a_recorded_connection_cannot_be_replayed() {
    let mut pair = Pair::new(true);
    let mut recorded = Vec::new();
    loop {
        let forth = pair.dialler.written();
        recorded.extend_from_slice(&forth);
        pair.listener.receive(&forth, pair.now);
        let back = pair.listener.written();
        if back.is_empty() {
            break;
        }
        pair.dialler.receive(&back, pair.now);
        if pair.dialler.heard.len() == 1 {
            let _already_accepted = pair.dialler.session.accept(pair.now);
        }
    }
    assert!(pair.listener.session.is_open());
    let mut again = End::new(Session::listen(Arc::new(identity(1)), pair.now).expect("a session"));
    again.receive(&recorded, pair.now);
    assert_eq!(again.error, Some(Error::Tampered));
    assert!(again.heard.is_empty());
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
            Some(Heard::Proposed(hello)) => {
                if settle(promised.map(|_| hello.boot), hello.boot) == Settlement::Refuse {
                    to.session.refuse(Bye::Duplicate).expect("a goodbye");
                } else {
                    promised = Some(place);
                    to.session.accept(now).expect("a proposal can be accepted");
                }
            }
            Some(Heard::Opened(hello)) if hello.node == NodeId(1) => {
                prop_assert_eq!(lower, None, "opened twice");
                lower = Some(place);
            }
            Some(Heard::Opened(_)) => {
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
