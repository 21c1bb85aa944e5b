//! The wire format against golden bytes, round trips, and bytes that are no message.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use baton_cluster::{Flow, Target};
use proptest::prelude::*;

use super::*;
use crate::message::{Change, Claim, Doubted, End, Lost, Move, Question, RecallPlace, Verdict};
use crate::word::{Clocks, Echo};

/// One line for each message below: its name and its bytes. Lines are added, never changed: bytes
/// that differ are another protocol version.
const GOLDEN: &str = include_str!("../../testdata/golden-v2.txt");

fn flow() -> Flow {
    Flow {
        client: Ipv4Addr::new(192, 0, 2, 7).into(),
        client_port: 50_000,
        vip: Ipv4Addr::new(198, 51, 100, 1).into(),
        vip_port: 80,
    }
}

fn flow_v6() -> Flow {
    let host = |last| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
    Flow { client: host(7), vip: host(1), ..flow() }
}

fn hello() -> Hello {
    Hello {
        cluster: "shop".to_owned(),
        node: NodeId(3),
        name: "s3".to_owned(),
        digest: std::array::from_fn(|place| place as u8),
        nodes: vec![[0xa0; 8], [0xa1; 8], [0xa2; 8], [0xa3; 8]],
        mac: [2, 0, 0, 0, 0, 3],
        boot: 0x0123_4567_89ab_cdef,
        software: "0.1.0".to_owned(),
    }
}

/// Every kind at least once, with every choice of every field that has choices.
fn samples() -> Vec<(&'static str, Word)> {
    let (pool, target) = (PoolHash(0xd00f_beef), Target(0xfeed_beef));
    let verdict = |server, keep| Verdict { server, keep };
    let guide = |guide| Message::Guide(Guidance { pool, guide });
    let mapped = |servers: &[u16]| MappedTarget {
        target,
        servers: servers.iter().copied().map(NodeId).collect(),
        changed: 1_700_000_000_000_000_000,
    };
    let messages = vec![
        (
            "ask",
            Message::Ask(Ask {
                batch: 300,
                questions: vec![
                    Question { pool, target: Some(target), at: None },
                    Question { pool: PoolHash(0), target: None, at: Some(NodeId(2)) },
                ],
            }),
        ),
        ("ask-empty", Message::Ask(Ask { batch: 0, questions: Vec::new() })),
        (
            "answer",
            Message::Answer(Answer {
                batch: 300,
                answers: vec![
                    verdict(Some(NodeId(2)), Some(vec![NodeId(2), NodeId(255)])),
                    verdict(Some(NodeId(0)), None),
                    verdict(None, Some(Vec::new())),
                    verdict(None, None),
                ],
            }),
        ),
        (
            "push",
            Message::Push(Push {
                pool,
                changes: vec![
                    Change { target, servers: vec![NodeId(1)] },
                    Change { target: Target(u64::MAX), servers: Vec::new() },
                ],
            }),
        ),
        ("guide-ask-always", guide(Guide::AskAlways)),
        ("guide-cached", guide(Guide::Cached { load_limit: 65 })),
        ("guide-rota", guide(Guide::Rota(vec![NodeId(1), NodeId(2), NodeId(1)]))),
        (
            "load",
            Message::Load(Load {
                serving: 25,
                adopted_total: 1_000_000,
                closed_total: 999_975,
                pressure: 40,
            }),
        ),
        (
            "update",
            Message::Update(Update {
                moves: vec![Move {
                    flow: flow(),
                    server: NodeId(4),
                    start_seq: 0xdead_beef,
                    issued: 1_000_000_000,
                    from: NodeId(1),
                }],
            }),
        ),
        ("close", Message::Close(Close { ends: vec![End { flow: flow(), start_seq: 1 }] })),
        ("live", Message::Live(Live { nodes: vec![NodeId(0), NodeId(2)] })),
        ("status-request", Message::StatusRequest(StatusRequest { id: 9 })),
        ("status-reply", Message::StatusReply(StatusReply { id: 9, body: b"{}".to_vec() })),
        ("taken", Message::Taken(Taken { flow: flow(), start_seq: 0xdead_beef })),
        ("taken-ipv6", Message::Taken(Taken { flow: flow_v6(), start_seq: 0xdead_beef })),
        ("term", Message::Term(Term { term: 0xdead_beef })),
        ("grant", Message::Grant(Grant { term: 0xdead_beef, granted: true })),
        ("grant-refused", Message::Grant(Grant { term: 1, granted: false })),
        ("heir", Message::Heir(Heir { term: 0xdead_beef })),
        ("probed", Message::Probed(Probed { number: 0xdead_beef, least: 1400 })),
        ("mac", Message::Mac(Mac { mac: [2, 0, 0, 0, 0, 7] })),
        (
            "doubts",
            Message::Doubts(Doubts {
                taken: 1_000_000,
                servers: vec![
                    Doubted { server: NodeId(2), pool: Some(pool), sign: 1, count: 300 },
                    Doubted { server: NodeId(255), pool: None, sign: 5, count: 3 },
                ],
            }),
        ),
        ("doubts-none", Message::Doubts(Doubts { taken: 0, servers: Vec::new() })),
        (
            "whose",
            Message::Whose(Whose {
                batch: 300,
                lost: vec![
                    Lost { flow: flow(), seq: 0xdead_beef, ack: 1 },
                    Lost { flow: flow_v6(), seq: 0, ack: u32::MAX },
                ],
            }),
        ),
        (
            "owned",
            Message::Owned(Owned {
                batch: 300,
                claims: vec![
                    Some(Claim {
                        owner: NodeId(255),
                        start_seq: 0xdead_beef,
                        issued: 1_000_000_000,
                        ended: false,
                    }),
                    None,
                    Some(Claim { owner: NodeId(1), start_seq: 7, issued: 0, ended: true }),
                ],
            }),
        ),
        ("ready", Message::Ready(Ready { ready: true })),
        ("ready-not", Message::Ready(Ready { ready: false })),
        ("mapped", Message::Mapped(Mapped { pool, targets: vec![mapped(&[2, 255]), mapped(&[])] })),
        ("recall", Message::Recall(Recall { place: RecallPlace { pool, from: 0 } })),
        (
            "recalled",
            Message::Recalled(Recalled {
                place: RecallPlace { pool, from: 0 },
                next: Some(1024),
                targets: vec![mapped(&[1])],
            }),
        ),
        (
            "recalled-last",
            Message::Recalled(Recalled {
                place: RecallPlace { pool, from: 1024 },
                next: None,
                targets: Vec::new(),
            }),
        ),
    ];
    let heartbeat = |echo| {
        let clocks =
            Clocks { cluster_ns: 1_700_000_000_000_000_000, agreed: true, wall_us: 1_700_000_000_000_000 };
        Word::Heartbeat(Heartbeat { sequence: 5, sent_us: 1_250_000, clocks, echo })
    };
    let mut words = vec![
        ("hello", Word::Hello(hello())),
        ("heartbeat-first", heartbeat(None)),
        ("heartbeat", heartbeat(Some(Echo { sent_us: 1_000_000, held_us: 249_000 }))),
        ("bye-duplicate", Word::Bye(Bye::Duplicate)),
        ("bye-stopping", Word::Bye(Bye::Stopping)),
    ];
    words.extend(messages.into_iter().map(|(name, message)| (name, Word::Message(message))));
    words
}

fn encoded(word: &Word) -> Vec<u8> {
    let mut out = Vec::new();
    word.encode(&mut out).expect("a message within its limits");
    out
}

fn ask(count: usize) -> Message {
    let question =
        Question { pool: PoolHash(u32::MAX), target: Some(Target(u64::MAX)), at: Some(NodeId(255)) };
    Message::Ask(Ask { batch: u32::MAX, questions: vec![question; count] })
}

#[test]
fn golden_bytes() {
    let mut lines = String::new();
    for (name, word) in samples() {
        let bytes = encoded(&word);
        let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let _ = writeln!(lines, "{name} {hex}");
        assert_eq!(Word::decode(&bytes), Ok(word), "{name}");
    }
    assert_eq!(lines, GOLDEN, "the wire format has changed; these are the bytes now:\n{lines}");
}

#[test]
fn every_kind_has_a_golden_line() {
    let kinds: std::collections::HashSet<u8> = samples().iter().map(|(_, word)| encoded(word)[1]).collect();
    assert_eq!(kinds.len(), Kind::ALL.len());
}

/// Every message at its limits fits one frame, with every field at its longest.
#[test]
fn the_largest_messages_fit() {
    let far = NodeId(255);
    let far_away = IpAddr::from([0xff_u8; 16]);
    let wide = Flow { client: far_away, client_port: u16::MAX, vip: far_away, vip_port: u16::MAX };
    let verdict = Verdict { server: Some(far), keep: Some(vec![far; SERVERS_MAX]) };
    let change = Change { target: Target(u64::MAX), servers: vec![far; SERVERS_MAX] };
    let moved = Move { flow: wide, server: far, start_seq: u32::MAX, issued: u64::MAX, from: far };
    let end = End { flow: wide, start_seq: u32::MAX };
    let pool = PoolHash(u32::MAX);
    let mapped =
        MappedTarget { target: Target(u64::MAX), servers: vec![far; SERVERS_MAX], changed: u64::MAX };
    let place = RecallPlace { pool, from: u32::MAX };
    let largest = [
        ask(QUESTIONS_MAX),
        Message::Answer(Answer { batch: u32::MAX, answers: vec![verdict; QUESTIONS_MAX] }),
        Message::Push(Push { pool, changes: vec![change; CHANGES_MAX] }),
        Message::Guide(Guidance { pool, guide: Guide::Rota(vec![far; Guide::ROTA_MAX]) }),
        Message::Update(Update { moves: vec![moved; MOVES_MAX] }),
        Message::Close(Close { ends: vec![end; ENDS_MAX] }),
        Message::Live(Live { nodes: vec![far; NodeId::MAX_NODES] }),
        Message::StatusReply(StatusReply { id: u32::MAX, body: vec![0xff; STATUS_BYTES_MAX] }),
        Message::Load(Load {
            serving: u32::MAX,
            adopted_total: u64::MAX,
            closed_total: u64::MAX,
            pressure: 100,
        }),
        Message::Taken(Taken { flow: wide, start_seq: u32::MAX }),
        Message::Term(Term { term: u32::MAX }),
        Message::Grant(Grant { term: u32::MAX, granted: true }),
        Message::Heir(Heir { term: u32::MAX }),
        Message::Probed(Probed { number: u32::MAX, least: u16::MAX }),
        Message::Mac(Mac { mac: [0xff; 6] }),
        Message::Ready(Ready { ready: true }),
        Message::Mapped(Mapped { pool, targets: vec![mapped.clone(); MAPPED_MAX] }),
        Message::Recall(Recall { place }),
        Message::Recalled(Recalled { place, next: Some(u32::MAX), targets: vec![mapped; MAPPED_MAX] }),
        Message::Doubts(Doubts {
            taken: u64::MAX,
            servers: vec![
                Doubted { server: far, pool: Some(pool), sign: u8::MAX, count: u32::MAX };
                DOUBTS_MAX
            ],
        }),
        Message::Whose(Whose {
            batch: u32::MAX,
            lost: vec![Lost { flow: wide, seq: u32::MAX, ack: u32::MAX }; LOST_MAX],
        }),
        Message::Owned(Owned {
            batch: u32::MAX,
            claims: vec![
                Some(Claim { owner: far, start_seq: u32::MAX, issued: u64::MAX, ended: true });
                LOST_MAX
            ],
        }),
    ];
    for message in largest {
        let mut out = Vec::new();
        assert_eq!(message.encode(&mut out), Ok(()), "{}", message.kind());
        assert!(out.len() <= MESSAGE_BYTES_MAX);
        assert_eq!(Message::decode(&out), Ok(message));
    }
}

#[test]
fn one_too_many_is_refused_by_both_ends() {
    let mut out = vec![1, 2, 3];
    assert_eq!(ask(QUESTIONS_MAX + 1).encode(&mut out), Err(Error::TooMany { kind: Kind::Ask }));
    assert_eq!(out, [1, 2, 3], "left as it was");

    let Message::Ask(body) = ask(QUESTIONS_MAX + 1) else { return };
    let mut out = Vec::new();
    put(Kind::Ask, &body, &mut out).expect("it fits a frame");
    assert_eq!(Message::decode(&out), Err(Error::TooMany { kind: Kind::Ask }));

    let verdict = Verdict { server: None, keep: Some(vec![NodeId(1); SERVERS_MAX + 1]) };
    let mut out = Vec::new();
    put(Kind::Answer, &Answer { batch: 0, answers: vec![verdict] }, &mut out).expect("it fits a frame");
    assert_eq!(Message::decode(&out), Err(Error::TooMany { kind: Kind::Answer }));
}

#[test]
fn each_fault_is_named() {
    let kind = Kind::StatusRequest;
    let cases: Vec<(&[u8], Error)> = vec![
        (&[], Error::Short { bytes: 0 }),
        (&[1], Error::Short { bytes: 1 }),
        (&[3, 24, 9], Error::Version { theirs: 3 }),
        (&[PROTOCOL_VERSION, 3, 0], Error::UnknownKind { number: 3 }),
        (&[PROTOCOL_VERSION, 24], Error::Field { kind, source: postcard::Error::DeserializeUnexpectedEnd }),
        (
            &[PROTOCOL_VERSION, 24, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            Error::Field { kind, source: postcard::Error::DeserializeBadVarint },
        ),
        (&[PROTOCOL_VERSION, 24, 9, 0, 0], Error::LeftOver { kind, bytes: 2 }),
        (&[PROTOCOL_VERSION, 1, 0, 0, 0, 0, 0, 0], Error::OutOfPlace { kind: Kind::Heartbeat }),
        (&[PROTOCOL_VERSION, 2, 2], Error::UnknownChoice { kind: Kind::Bye, choice: 2 }),
        (&[PROTOCOL_VERSION, 19, 0, 3], Error::UnknownChoice { kind: Kind::Guide, choice: 3 }),
        (&[PROTOCOL_VERSION, 16, 0, 1, 0, 0, 1, 0x80, 2], Error::BadNode { kind: Kind::Ask, id: 256 }),
        (&[PROTOCOL_VERSION, 20, 0, 0, 0, 101], Error::BadPercent { kind: Kind::Load, percent: 101 }),
        (
            &[PROTOCOL_VERSION, 21, 1, 0, 192, 0, 2, 7, 1, 0, 198, 51, 100, 1, 80, 4, 0, 0, 0x80, 2],
            Error::BadNode { kind: Kind::Update, id: 256 },
        ),
        (&[PROTOCOL_VERSION, 23, 1, 0x80, 2], Error::BadNode { kind: Kind::Live, id: 256 }),
        (&[PROTOCOL_VERSION, 41, 0, 1, 0, 1, 0x80, 2, 0], Error::BadNode { kind: Kind::Mapped, id: 256 }),
        (
            &[PROTOCOL_VERSION, 40, 2],
            Error::Field { kind: Kind::Ready, source: postcard::Error::DeserializeBadBool },
        ),
        (&[PROTOCOL_VERSION, 30, 0, 1, 1, 0x80, 2, 0, 0, 0], Error::BadNode { kind: Kind::Owned, id: 256 }),
        (
            &[PROTOCOL_VERSION, 30, 0, 1, 1, 0, 0, 0, 2],
            Error::Field { kind: Kind::Owned, source: postcard::Error::DeserializeBadBool },
        ),
        (&[PROTOCOL_VERSION, 17, 0, 1, 1, 0x80, 2, 0], Error::BadNode { kind: Kind::Answer, id: 256 }),
        (
            &[PROTOCOL_VERSION, 17, 0, 1, 2],
            Error::Field { kind: Kind::Answer, source: postcard::Error::DeserializeBadOption },
        ),
    ];
    for (bytes, error) in cases {
        assert_eq!(Message::decode(bytes), Err(error), "{bytes:?}");
    }
    let bytes = MESSAGE_BYTES_MAX + 1;
    assert_eq!(Message::decode(&vec![1; bytes]), Err(Error::TooLong { bytes }));
    let mut rota = vec![PROTOCOL_VERSION, 19, 0, 2, 0x81, 2];
    rota.extend([0; 257]);
    assert_eq!(Message::decode(&rota), Err(Error::TooMany { kind: Kind::Guide }));
    let long = Word::Hello(Hello { cluster: "x".repeat(NAME_BYTES_MAX + 1), ..hello() });
    assert_eq!(long.encode(&mut Vec::new()), Err(Error::TooMany { kind: Kind::Hello }));
    let many = Word::Hello(Hello { nodes: vec![[0; 8]; NodeId::MAX_NODES + 1], ..hello() });
    assert_eq!(many.encode(&mut Vec::new()), Err(Error::TooMany { kind: Kind::Hello }));
}

/// A list that claims to be long costs nothing: it is refused before memory is set aside.
#[test]
fn a_claimed_length_sets_no_memory_aside() {
    let claim = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    for kind in [
        Kind::Ask,
        Kind::Answer,
        Kind::Push,
        Kind::Update,
        Kind::Close,
        Kind::Live,
        Kind::StatusReply,
        Kind::Whose,
        Kind::Owned,
        Kind::Mapped,
        Kind::Recalled,
        Kind::Doubts,
    ] {
        let first: &[u8] = match kind {
            Kind::Update | Kind::Close | Kind::Live => &[],
            Kind::Recalled => &[0, 0, 0],
            _ => &[0],
        };
        let bytes = [&[PROTOCOL_VERSION, kind as u8], first, &claim[..]].concat();
        let refused = Message::decode(&bytes);
        assert!(matches!(refused, Err(Error::Field { .. } | Error::TooMany { .. })), "{kind}: {refused:?}");
    }
}

fn a_node() -> impl Strategy<Value = NodeId> {
    (0..256u16).prop_map(NodeId)
}

fn a_pool() -> impl Strategy<Value = PoolHash> {
    any::<u32>().prop_map(PoolHash)
}

fn some_nodes(max: usize) -> impl Strategy<Value = Vec<NodeId>> {
    prop::collection::vec(a_node(), 0..=max)
}

fn an_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|v4| Ipv4Addr::from(v4).into()),
        any::<u128>().prop_map(|v6| Ipv6Addr::from(v6).into())
    ]
}

fn a_flow() -> impl Strategy<Value = Flow> {
    (an_address(), any::<u16>(), an_address(), any::<u16>())
        .prop_map(|(client, client_port, vip, vip_port)| Flow { client, client_port, vip, vip_port })
}

fn a_message() -> impl Strategy<Value = Message> {
    let question = (a_pool(), prop::option::of(any::<u64>().prop_map(Target)), prop::option::of(a_node()))
        .prop_map(|(pool, target, at)| Question { pool, target, at });
    let verdict = (prop::option::of(a_node()), prop::option::of(some_nodes(SERVERS_MAX)))
        .prop_map(|(server, keep)| Verdict { server, keep });
    let change = (any::<u64>(), some_nodes(SERVERS_MAX))
        .prop_map(|(target, servers)| Change { target: Target(target), servers });
    let guide = prop_oneof![
        Just(Guide::AskAlways),
        any::<u32>().prop_map(|load_limit| Guide::Cached { load_limit }),
        some_nodes(Guide::ROTA_MAX).prop_map(Guide::Rota),
    ];
    let moved = (a_flow(), a_node(), a_node(), any::<(u32, u64)>())
        .prop_map(|(flow, server, from, (start_seq, issued))| Move { flow, server, start_seq, issued, from });
    let end = (a_flow(), any::<u32>()).prop_map(|(flow, start_seq)| End { flow, start_seq });
    let lost = (a_flow(), any::<(u32, u32)>()).prop_map(|(flow, (seq, ack))| Lost { flow, seq, ack });
    let claim = (a_node(), any::<(u32, u64, bool)>()).prop_map(|(owner, (start_seq, issued, ended))| Claim {
        owner,
        start_seq,
        issued,
        ended,
    });
    let mapped = (any::<u64>(), some_nodes(SERVERS_MAX), any::<u64>())
        .prop_map(|(target, servers, changed)| MappedTarget { target: Target(target), servers, changed })
        .boxed();
    let place = (a_pool(), any::<u32>()).prop_map(|(pool, from)| RecallPlace { pool, from }).boxed();
    prop_oneof![
        any::<bool>().prop_map(|ready| Message::Ready(Ready { ready })),
        (a_pool(), prop::collection::vec(mapped.clone(), 0..50))
            .prop_map(|(pool, targets)| Message::Mapped(Mapped { pool, targets })),
        place.clone().prop_map(|place| Message::Recall(Recall { place })),
        (place, any::<Option<u32>>(), prop::collection::vec(mapped, 0..50))
            .prop_map(|(place, next, targets)| Message::Recalled(Recalled { place, next, targets })),
        (any::<u32>(), prop::collection::vec(question, 0..50))
            .prop_map(|(batch, questions)| Message::Ask(Ask { batch, questions })),
        (any::<u32>(), prop::collection::vec(verdict, 0..50))
            .prop_map(|(batch, answers)| Message::Answer(Answer { batch, answers })),
        (a_pool(), prop::collection::vec(change, 0..50))
            .prop_map(|(pool, changes)| Message::Push(Push { pool, changes })),
        (a_pool(), guide).prop_map(|(pool, guide)| Message::Guide(Guidance { pool, guide })),
        (any::<(u32, u64, u64)>(), 0..=100u8).prop_map(
            |((serving, adopted_total, closed_total), pressure)| {
                Message::Load(Load { serving, adopted_total, closed_total, pressure })
            }
        ),
        (a_flow(), any::<u32>()).prop_map(|(flow, start_seq)| Message::Taken(Taken { flow, start_seq })),
        any::<u32>().prop_map(|term| Message::Term(Term { term })),
        any::<(u32, bool)>().prop_map(|(term, granted)| Message::Grant(Grant { term, granted })),
        any::<u32>().prop_map(|term| Message::Heir(Heir { term })),
        any::<(u32, u16)>().prop_map(|(number, least)| Message::Probed(Probed { number, least })),
        any::<[u8; 6]>().prop_map(|mac| Message::Mac(Mac { mac })),
        (any::<u32>(), prop::collection::vec(lost, 0..50))
            .prop_map(|(batch, lost)| Message::Whose(Whose { batch, lost })),
        (any::<u32>(), prop::collection::vec(prop::option::of(claim), 0..50))
            .prop_map(|(batch, claims)| Message::Owned(Owned { batch, claims })),
        prop::collection::vec(moved, 0..50).prop_map(|moves| Message::Update(Update { moves })),
        prop::collection::vec(end, 0..50).prop_map(|ends| Message::Close(Close { ends })),
        some_nodes(NodeId::MAX_NODES).prop_map(|nodes| Message::Live(Live { nodes })),
        any::<u32>().prop_map(|id| Message::StatusRequest(StatusRequest { id })),
        (any::<u32>(), prop::collection::vec(any::<u8>(), 0..500))
            .prop_map(|(id, body)| Message::StatusReply(StatusReply { id, body })),
    ]
}

proptest! {
    #[test]
    fn round_trip(message in a_message(), before in prop::collection::vec(any::<u8>(), 0..4)) {
        let mut out = before.clone();
        message.encode(&mut out).expect("within its limits");
        prop_assert_eq!(&out[..before.len()], &before[..]);
        prop_assert_eq!(Message::decode(&out[before.len()..]), Ok(message));
    }

    /// Cut short anywhere, or with anything after it, a message is refused.
    #[test]
    fn cut_or_longer(message in a_message(), at in any::<prop::sample::Index>(), more in 0u8..) {
        let mut out = Vec::new();
        message.encode(&mut out).expect("within its limits");
        prop_assert!(Message::decode(&out[..at.index(out.len())]).is_err());
        out.push(more);
        prop_assert!(Message::decode(&out).is_err());
    }

    /// Whatever the bytes are: no panic, and what is understood can be said again.
    #[test]
    fn arbitrary_bytes(number in 0u8..48, body in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = [&[PROTOCOL_VERSION, number], &body[..]].concat();
        if let Ok(word) = Word::decode(&bytes) {
            prop_assert_eq!(Word::decode(&encoded(&word)), Ok(word));
        }
    }

    /// A valid message with some bytes changed: the same.
    #[test]
    fn mutated(
        message in a_message(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes).expect("within its limits");
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Ok(word) = Word::decode(&bytes) {
            prop_assert_eq!(Word::decode(&encoded(&word)), Ok(word));
        }
    }
}
