//! What a session refuses while it is set up, and bytes that were changed on the way.

mod pair;

use std::sync::Arc;
use std::time::Instant;

use baton_cluster::NodeId;
use baton_control::Error;
use baton_control::message::PROTOCOL_VERSION;
use baton_control::session::{Identity, Session};
use pair::{End, Pair, identity, load};

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
    let name = |n: u16| format!("n{n}");
    let (dialler, listener) = mismatch(|other| other.hello.digest = [8; 32]);
    assert_eq!(dialler, Some(Error::WrongDigest { node: name(1) }));
    assert_eq!(listener, Some(Error::WrongDigest { node: name(0) }));
    assert!(dialler.is_some_and(|error| error.to_string().contains("n1 runs a different cluster file")));

    let (dialler, listener) = mismatch(|other| other.hello.cluster = "bank".to_owned());
    let (shop, bank) = ("shop".to_owned(), "bank".to_owned());
    assert_eq!(dialler, Some(Error::WrongCluster { theirs: bank.clone(), ours: shop.clone() }));
    assert_eq!(listener, Some(Error::WrongCluster { theirs: shop, ours: bank }));

    let (dialler, listener) = mismatch(|other| *other = identity(2));
    assert_eq!(dialler, Some(Error::WrongNode { expected: name(1), found: name(2) }));
    assert_eq!(listener, None, "the listener has nothing against the dialler");

    let (dialler, listener) = mismatch(|other| {
        *other = identity(0);
        other.hello.boot = 1;
    });
    assert_eq!(dialler, Some(Error::UnknownNode { node: name(0) }));
    assert_eq!(listener, Some(Error::UnknownNode { node: name(0) }));

    let (dialler, _) = mismatch(|other| other.hello.node = NodeId(77));
    assert_eq!(dialler, Some(Error::UnknownNode { node: name(1) }));
}

/// Files may differ in nodes at their ends: who both have talk, and whoever one of them lacks is named.
#[test]
fn nodes_may_come_at_the_end_of_the_file_and_nowhere_else() {
    let mut longer = identity(1);
    longer.hello.nodes.push([9; 8]);
    longer.peers.insert(NodeId(4));
    let mut pair = Pair::of(identity(0), 1, longer.clone());
    pair.settle();
    assert!(pair.dialler.session.is_open() && pair.listener.session.is_open());

    // The one that has come, and a node that does not have it yet.
    let mut come = longer.clone();
    (come.hello.node, come.hello.name) = (NodeId(4), "n4".to_owned());
    come.peers = (0..4).map(NodeId).collect();
    let mut pair = Pair::of(come, 0, identity(0));
    pair.settle();
    assert_eq!(pair.dialler.error, Some(Error::NotThere { node: "n0".to_owned() }));
    assert_eq!(pair.listener.error, Some(Error::NotHere { node: "n4".to_owned() }));

    // Between others it gives them other numbers; so does one that has gone.
    let digests = |numbers: &[u8]| numbers.iter().map(|n| [*n; 8]).collect::<Vec<_>>();
    for nodes in [digests(&[0, 1, 9, 2, 3]), digests(&[0, 1, 3])] {
        let (dialler, listener) = mismatch(|other| other.hello.nodes = nodes);
        assert_eq!(dialler, Some(Error::WrongOrder { node: "n1".to_owned(), place: 3 }));
        assert_eq!(listener, Some(Error::WrongOrder { node: "n0".to_owned(), place: 3 }));
        assert!(dialler.is_some_and(|error| error.to_string().contains("only at the end of the file")));
    }
}

#[test]
fn a_wrong_secret_is_named_and_nothing_is_told() {
    let mut other = identity(1);
    other.psk = [1; 32];
    let mut pair = Pair::of(identity(0), 1, other);
    let greeting = pair.dialler.written();
    pair.listener.receive(&greeting, pair.now);
    assert_eq!(pair.listener.error, Some(Error::WrongSecret));
    assert!(pair.listener.error.is_some_and(|error| error.to_string().contains("another secret")));
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
        (&[0, 5, b'B', b'A', b'T', b'N', PROTOCOL_VERSION], Error::WrongSecret),
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
