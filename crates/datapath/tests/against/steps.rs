//! What may happen to a node, in random order: packets of a few clients, well formed and spoilt, and what
//! user space, other nodes and time do.

use baton_datapath::constants::NODE_READER;
use baton_packet_model::flag::{ACK, FIN, PSH, RST, URG};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;

use crate::common::furnish::Change;

/// What a client, or somebody in its name, sends.
#[derive(Clone, Debug)]
pub enum Kind {
    Syn {
        step: u32,
        options: u8,
    },
    /// `seq` and `ack`: how far from the connection's first bytes; [`ALL`]: behind all that was sent.
    Segment {
        flags: u8,
        seq: i32,
        ack: i32,
        stamps: bool,
        payload: u8,
    },
}

#[derive(Clone, Debug)]
pub enum Step {
    Packet {
        flow: u8,
        from: u8,
        kind: Kind,
        mutation: Option<Mutation>,
    },
    /// Another distributor hands a connection off to this node.
    Handoff {
        flow: u8,
        seq: i32,
        hops: u8,
        late_ms: i32,
        /// How many of the first bytes come from a reader.
        replay: Option<u8>,
        kind: Kind,
        mutation: Option<Mutation>,
    },
    /// An ICMP error about the connection.
    Icmp {
        flow: u8,
        kind: u8,
        /// Even: by the router's frame; from 2 on wrapped by another node.
        from: u8,
        mutation: Option<Mutation>,
    },
    /// The node's server sends.
    Egress {
        flow: u8,
        flags: u8,
        at: i32,
        payload: u8,
        mutation: Option<Mutation>,
    },
    Held {
        flow: u8,
        node: u16,
    },
    /// So many packets were read from the hold device, and given back.
    Released {
        flow: u8,
        held: u32,
    },
    Told {
        flow: u8,
        seq: i32,
        node: u16,
        late_ms: i32,
    },
    /// The neighbours of the flow's client have sent as many packets of unknown connections as user space takes.
    Flooded {
        flow: u8,
    },
    /// A node was asked about the flow, and owns it.
    Found {
        flow: u8,
        seq: i32,
        node: u16,
        late_ms: i32,
    },
    /// The kernel agreed to an adoption, which it never does in a test-run: this node serves the
    /// connection, and follows its messages.
    Adopted {
        flow: u8,
    },
    /// This node has moved the connection to another: what comes next begins there.
    Moved {
        flow: u8,
    },
    /// User space names a server for the next request of a connection that waits here.
    DecideAsked {
        flow: u8,
        seq: i32,
        node: u16,
    },
    ReadHeld {
        flow: u8,
    },
    Freeze {
        flow: u8,
    },
    BindRead {
        flow: u8,
        node: u16,
        replay: u8,
    },
    CloseTold {
        flow: u8,
        seq: i32,
    },
    /// What a changed cluster file may bring: the service of the connection gives its address up, or has
    /// done so long ago, or has changed.
    End {
        flow: u8,
    },
    Close {
        flow: u8,
    },
    Serve {
        flow: u8,
        change: Change,
    },
    /// User space says what a host is.
    Seen {
        flow: u8,
    },
    /// Which terms this node knows, and which hold.
    Leases(u8),
    /// Which of its tables the switch has, and who in them is gone.
    Spread(u8),
    Pass {
        ms: u64,
    },
    /// The node's wall clock falls behind the others'.
    Back {
        ms: u64,
    },
    Daemon(bool),
    Guide(u8),
    /// User space is silent, and all servers were dead when it was heard last.
    Alone,
    /// A server is down, and perhaps gone.
    Dead {
        node: u16,
        gone: bool,
    },
    /// The connection was handed to a node that is down, once more lately.
    Deaf {
        flow: u8,
    },
    Load {
        node: u16,
        reported: u32,
        weight: u16,
        live: bool,
    },
    Decision {
        request: u8,
        servers: Vec<u16>,
        generation: u32,
    },
}

/// What noise, or malice, does to a frame.
#[derive(Clone, Debug)]
pub enum Mutation {
    Byte { at: u16, value: u8, repaired: bool },
    Cut { to: u16 },
    Pad { by: u8 },
    Total(i16),
    Doff(u8),
    Ttl(u8),
    Fragment(u16),
    Options(Vec<u8>),
}

pub const ALL: i32 = i32::MAX;

/// What a client's packet may carry.
pub const REQUESTS: [&[u8]; 30] = [
    b"",
    b"\0",
    b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /a?q=1 HTTP/1.0\r\n\r\n",
    b"POST /b HTTP/1.1\r\n\r\nbody",
    b"GET /a HT",
    b"\x16\x03\x01\x02\0\x01",
    b"GET http://x/a HTTP/1.1\r\n\r\n",
    b"GET /img/a HTTP/1.1\r\nHost: t.example.com\r\n\r\n",
    b"HEAD /img//a HTTP/1.1\r\nHost: tenant.example.org\r\n\r\n",
    b"GET /a HTTP/1.1\r\n\r\nGET /img/a HTTP/1.1\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: x\r\n",
    b"\r\n",
    b"POST /img/a HTTP/1.1\r\nContent-Length: 9\r\n\r\nbo",
    b"dy12345",
    b"dy12345GET /img/a HTTP/1.1\r\n\r\n",
    b"\r\nGET /img/a HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /a HTTP/1.1\r\n\r\n\r\n\r\n",
    b"GET /a HTTP/1.1\r\n\r\n\n\rGET http://t.example.com/img/a HTTP/1.1\r\n\r\n",
    b"GET /img/a;b HTTP/1.1\r\nHost: t.example.com\r\n\r\n",
    b"GET /img%2Fa HTTP/1.1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /a#b HTTP/1.1\r\n\r\n",
    b"M-SEARCH /img/a HTTP/1.1\r\nHost: x:80a\r\n\r\n",
    b"GET /a HTTP/1.1\r\n\r\nHEAD /b HTTP/1.1\r\n\r\nGET /img",
    b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\na\r\n",
    b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nz",
    b"GET /a HTTP/1.1\r\nConnection: x, Close\r\n\r\nGET /a HTTP/1.1\r\n\r\n",
    b"GET /a HTTP/1.1\r\nUpgrade: h2c\r\n\r\n",
    b"GET /a HTTP/1.1\r\nUpgrade: a , b\r\nConnection: keep-alive\r\n\r\nnonsense",
];

/// Those of them with a clear head; the usual one more often.
const DECIDED: [u8; 15] = [2, 2, 2, 2, 3, 4, 7, 8, 9, 10, 13, 16, 17, 19, 20];

const CHANGES: [Change; 4] = [Change::None, Change::Routes, Change::Pools, Change::Follows];

/// What a packet of the server may carry.
pub const RESPONSES: [&[u8]; 11] = [
    b"",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 304\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\n\r\n",
    b"HTTP/1.1 200 OK\n",
];

fn kinds() -> impl Strategy<Value = Kind> {
    let flags = prop_oneof![
        6 => Just(ACK), 4 => Just(ACK | PSH), 1 => Just(ACK | URG), 3 => Just(FIN | ACK), 1 => Just(RST), 1 => Just(RST | ACK),
        1 => any::<u8>(),
    ];
    let offset = || prop_oneof![6 => Just(0), 1 => Just(-1), 1 => Just(1), 1 => Just(500), 3 => Just(ALL), 1 => any::<i32>()];
    let usual = |flags, seq, ack, payload| Just(Kind::Segment { flags, seq, ack, stamps: true, payload });
    prop_oneof![
        2 => usual(ACK | PSH, 0, 0, 2),
        2 => (0..30_u8).prop_map(|payload| {
            Kind::Segment { flags: ACK | PSH, seq: ALL, ack: ALL, stamps: true, payload }
        }),
        2 => usual(ACK, ALL, ALL, 0),
        1 => select(vec![(ACK, -1), (FIN | ACK, 0)]).prop_map(|(flags, seq)| {
            Kind::Segment { flags, seq, ack: 0, stamps: true, payload: 0 }
        }),
        1 => (select(vec![0, 0, 70_000, 1]), 0..16_u8).prop_map(|(step, options)| Kind::Syn { step, options }),
        4 => (flags, offset(), offset(), any::<bool>(), 0..30_u8).prop_map(|(flags, seq, ack, stamps, payload)| {
            Kind::Segment { flags, seq, ack, stamps, payload }
        }),
    ]
}

fn mutations() -> impl Strategy<Value = Option<Mutation>> {
    let mutation = prop_oneof![
        4 => (0..140_u16, any::<u8>(), any::<bool>())
            .prop_map(|(at, value, repaired)| Mutation::Byte { at, value, repaired }),
        1 => (14..140_u16).prop_map(|to| Mutation::Cut { to }),
        1 => (1..40_u8).prop_map(|by| Mutation::Pad { by }),
        1 => (-60..60_i16).prop_map(Mutation::Total),
        1 => (0..16_u8).prop_map(Mutation::Doff),
        2 => (0..3_u8).prop_map(Mutation::Ttl),
        1 => any::<u16>().prop_map(Mutation::Fragment),
        2 => vec(prop_oneof![0..12_u8, any::<u8>()], 0..40).prop_map(Mutation::Options),
    ];
    prop_oneof![5 => Just(None), 1 => mutation.prop_map(Some)]
}

/// Whose a later request may be: a node's, or the reader's to answer.
fn decided() -> impl Strategy<Value = u16> {
    prop_oneof![6 => 0..3_u16, 1 => Just(NODE_READER as u16)]
}

fn steps() -> impl Strategy<Value = Step> {
    let flows = || 0..8_u8;
    let nodes = || 0..3_u16;
    let near = || prop_oneof![5 => Just(0), 1 => any::<i32>(), 1 => Just(1)];
    let at = prop_oneof![5 => Just(ALL), 5 => Just(0), 1 => any::<i32>(), 1 => Just(1)];
    let replay = prop_oneof![3 => Just(None), 1 => (0..60_u8).prop_map(Some)];
    let late = || prop_oneof![4 => Just(0), 1 => -140_000..140_000_i32];
    let times =
        select(vec![1, 200, 2_001, 3_001, 59_000, 61_000, 70_000, 140_000, 301_000, 700_000, 7_201_000]);
    prop_oneof![
        24 => (flows(), 0..6_u8, kinds(), mutations())
            .prop_map(|(flow, from, kind, mutation)| Step::Packet { flow, from, kind, mutation }),
        4 => (flows(), near(), 0..6_u8, late(), replay, kinds(), mutations())
            .prop_map(|(flow, seq, hops, late_ms, replay, kind, mutation)| {
                Step::Handoff { flow, seq, hops, late_ms, replay, kind, mutation }
            }),
        2 => (flows(), prop_oneof![3 => 1..4_u8, 2 => Just(11), 1 => any::<u8>()], 0..12_u8, mutations())
            .prop_map(|(flow, kind, from, mutation)| Step::Icmp { flow, kind, from, mutation }),
        5 => (flows(), select(vec![ACK, ACK, FIN | ACK, RST, RST | ACK]), at, 0..11_u8, mutations())
            .prop_map(|(flow, flags, at, payload, mutation)| Step::Egress { flow, flags, at, payload, mutation }),
        2 => (flows(), nodes()).prop_map(|(flow, node)| Step::Held { flow, node }),
        1 => (flows(), 1..3_u32).prop_map(|(flow, held)| Step::Released { flow, held }),
        2 => (flows(), near(), nodes(), late())
            .prop_map(|(flow, seq, node, late_ms)| Step::Told { flow, seq, node, late_ms }),
        1 => (flows(), near(), nodes(), late())
            .prop_map(|(flow, seq, node, late_ms)| Step::Found { flow, seq, node, late_ms }),
        2 => flows().prop_map(|flow| Step::Adopted { flow }),
        2 => (flows(), prop_oneof![4 => Just(ALL), 1 => Just(0)], decided())
            .prop_map(|(flow, seq, node)| Step::DecideAsked { flow, seq, node }),
        1 => flows().prop_map(|flow| Step::ReadHeld { flow }),
        1 => flows().prop_map(|flow| Step::Freeze { flow }),
        1 => (flows(), nodes(), 0..60_u8)
            .prop_map(|(flow, node, replay)| Step::BindRead { flow, node, replay }),
        1 => (flows(), near()).prop_map(|(flow, seq)| Step::CloseTold { flow, seq }),
        1 => flows().prop_map(|flow| Step::End { flow }),
        1 => flows().prop_map(|flow| Step::Close { flow }),
        3 => (flows(), select(CHANGES.to_vec())).prop_map(|(flow, change)| Step::Serve { flow, change }),
        1 => flows().prop_map(|flow| Step::Seen { flow }),
        2 => (0..6_u8).prop_map(Step::Leases),
        2 => (0..6_u8).prop_map(Step::Spread),
        2 => times.prop_map(|ms| Step::Pass { ms }),
        1 => (0..80_000_u64).prop_map(|ms| Step::Back { ms }),
        1 => any::<bool>().prop_map(Step::Daemon),
        1 => (0..3_u8).prop_map(Step::Guide),
        1 => Just(Step::Alone),
        1 => (1..3_u16, any::<bool>()).prop_map(|(node, gone)| Step::Dead { node, gone }),
        3 => flows().prop_map(|flow| Step::Deaf { flow }),
        3 => (nodes(), 0..50_u32, 1..4_u16, 0..4_u8)
            .prop_map(|(node, reported, weight, n)| Step::Load { node, reported, weight, live: n > 0 }),
        2 => (select(DECIDED.to_vec()), vec(nodes(), 1..4), select(vec![1, 1, 1, 2]))
            .prop_map(|(request, servers, generation)| Step::Decision { request, servers, generation }),
    ]
}

/// One step, or what the life of a connection that this node serves consists of.
pub fn blocks() -> impl Strategy<Value = Vec<Step>> {
    let segment = |flow, from, payload| {
        let kind = Kind::Segment { flags: ACK | PSH, seq: ALL, ack: ALL, stamps: true, payload };
        Step::Packet { flow, from, kind, mutation: None }
    };
    let life =
        (select(vec![0, 2, 4, 4, 4, 5_u8]), vec((2..30_u8, 0..11_u8, decided(), 0..6_u8), 1..4), 0..3_u8);
    let life = life.prop_map(move |(flow, exchanges, end)| {
        let mut steps = vec![Step::Adopted { flow }];
        for (request, response, node, what) in exchanges {
            steps.push(segment(flow, 0, request));
            if what > 3 {
                steps.extend([Step::DecideAsked { flow, seq: ALL, node }, segment(flow, 4, request)]);
                steps.push(Step::Released { flow, held: 1 });
            }
            if what > 0 {
                steps.push(Step::Egress { flow, flags: ACK, at: ALL, payload: response, mutation: None });
            }
        }
        if end == 0 {
            let kind = Kind::Segment { flags: ACK | PSH, seq: 0, ack: 0, stamps: true, payload: 2 };
            let again = Step::Packet { flow, from: 0, kind, mutation: None };
            steps.extend([Step::Moved { flow }, again, segment(flow, 0, 2), segment(flow, 1, 2)]);
        }
        steps
    });
    // A handshake and its first request, of which something is known or not.
    let opening = (0..8_u8, select(DECIDED.to_vec()), vec(0..3_u16, 1..3), 0..4_u8, 0..15_u8);
    let opening = opening.prop_map(|(flow, request, servers, what, payload)| {
        let packet = |kind| Step::Packet { flow, from: 0, kind, mutation: None };
        let first = |flags, payload| packet(Kind::Segment { flags, seq: 0, ack: 0, stamps: true, payload });
        let mut steps = vec![packet(Kind::Syn { step: 70_000, options: 15 })];
        if what > 0 {
            steps.push(first(ACK, 0));
        }
        if what > 1 {
            steps.push(Step::Decision { request, servers, generation: 1 });
        }
        steps.push(first(ACK | PSH, if what == 3 { payload } else { request }));
        steps
    });
    // The reader's, as far as a test-run goes: it gets no connection.
    let read = (0..8_u8, 0..3_u16, 0..60_u8, 0..3_u32).prop_map(|(flow, node, replay, held)| {
        let packet = |kind| Step::Packet { flow, from: 0, kind, mutation: None };
        let first = |flags, payload| packet(Kind::Segment { flags, seq: 0, ack: 0, stamps: true, payload });
        let syn = packet(Kind::Syn { step: 70_000, options: 15 });
        let frozen = [first(ACK | PSH, 5), Step::Freeze { flow }, first(ACK, 0), first(ACK | PSH, 11)];
        let bound =
            [Step::BindRead { flow, node, replay }, Step::Released { flow, held }, first(ACK | PSH, 2)];
        [&[syn][..], &frozen, &bound].concat()
    });
    // What chance alone seldom brings about.
    let rare = (0..6_u8, 0..10_u8, 0..3_u8).prop_map(move |(flow, what, ttl)| {
        let packet = |kind, mutation| Step::Packet { flow, from: 0, kind, mutation };
        let bare = |seq| Kind::Segment { flags: ACK, seq, ack: 0, stamps: true, payload: 0 };
        match what {
            0 => {
                let syn = packet(Kind::Syn { step: 70_000, options: 15 }, None);
                vec![syn, packet(bare(0), None), packet(bare(-1), None)]
            }
            3 => {
                let syn = packet(Kind::Syn { step: 70_000, options: 15 }, None);
                let blind = Kind::Segment { flags: RST, seq: 500_000, ack: 0, stamps: true, payload: 0 };
                vec![syn, packet(bare(0), None), packet(blind, None)]
            }
            9 => {
                let packet = |kind| Step::Packet { flow, from: 1, kind, mutation: None };
                let first = Kind::Segment { flags: ACK | PSH, seq: 0, ack: 0, stamps: true, payload: 2 };
                let syn = packet(Kind::Syn { step: 70_000, options: 15 });
                vec![Step::Leases(1), syn, packet(bare(0)), Step::Leases(2), packet(first), Step::Leases(1)]
            }
            1 => {
                let told = Step::Told { flow, seq: 0, node: 1, late_ms: 0 };
                vec![told, packet(bare(0), Some(Mutation::Ttl(ttl)))]
            }
            2 => {
                let syn = packet(Kind::Syn { step: 70_000, options: 15 }, None);
                let first = Kind::Segment { flags: ACK | PSH, seq: 0, ack: 0, stamps: true, payload: 2 };
                vec![syn, Step::Pass { ms: 301_000 }, packet(first, None)]
            }
            4 => {
                let syn = || packet(Kind::Syn { step: 70_000, options: 15 }, None);
                let (first, end) = (packet(bare(0), None), Step::End { flow });
                vec![syn(), end, first, syn(), Step::Serve { flow, change: Change::None }]
            }
            5 => {
                let packet = |kind| Step::Packet { flow: 5, from: 0, kind, mutation: None };
                let first = Kind::Segment { flags: ACK | PSH, seq: 0, ack: 0, stamps: true, payload: 8 };
                vec![Step::Seen { flow: 5 }, packet(Kind::Syn { step: 70_000, options: 15 }), packet(first)]
            }
            6 => {
                let syn = packet(Kind::Syn { step: 70_000, options: 15 }, None);
                let end = |flags, at| Kind::Segment { flags, seq: at, ack: at, stamps: true, payload: 0 };
                vec![syn, packet(end(FIN | ACK, 0), None), packet(end(ACK, 1), None)]
            }
            7 => {
                let lost = Kind::Segment { flags: ACK, seq: 9000, ack: 9000, stamps: true, payload: 0 };
                vec![Step::Flooded { flow }, packet(lost, None)]
            }
            _ => {
                let (first, second) = (segment(4, 0, 2), segment(4, 0, 8));
                vec![Step::Daemon(false), Step::Adopted { flow: 4 }, first, second, Step::Daemon(true)]
            }
        }
    });
    let single = steps().prop_map(|step| vec![step]);
    prop_oneof![16 => single, 2 => life, 2 => opening, 1 => read, 1 => rare]
}
