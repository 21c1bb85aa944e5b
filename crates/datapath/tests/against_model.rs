//! Random packets on a few flows, well formed and mutated, in random order, with user space, other
//! nodes and time doing what they do in between: after each, the loaded programs and their model must
//! agree on verdict, packet, counters, events and bindings. Seeded; a failing run prints its shortest
//! sequence. Needs root.

mod common;

use std::collections::HashMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use baton_cluster::{Flow, NodeId};
use baton_datapath::constants::{FLAG_ADOPTED, FLAG_CLOSED};
use baton_datapath::model::flag::{ACK, FIN, PSH, RST, SYN};
use baton_datapath::model::{Handoff, Offer, Options, Verdict, cookie_of};
use baton_datapath::{Counter, Guide, State};
use common::frames::{INNER, MSS, ROUTER_MAC, SACK, VIP, WSCALE, fix_checksums, flow, read, timestamps};
use common::world::{HANDOFF_PORT, OTHER, QUERY, SELF, THIRD, WEB, Way, address, keys, mac};
use common::{Tcp, World, in_netns};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

/// What a client, or somebody in its name, sends.
#[derive(Clone, Debug)]
enum Kind {
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
enum Step {
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
        kind: Kind,
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
    /// The kernel agreed to an adoption, which it never does in a test-run.
    Adopted {
        flow: u8,
    },
    CloseTold {
        flow: u8,
        seq: i32,
    },
    Pass {
        ms: u64,
    },
    /// The node's wall clock falls behind the others'.
    Back {
        ms: u64,
    },
    Daemon(bool),
    Guide(u8),
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
enum Mutation {
    Byte { at: u16, value: u8, repaired: bool },
    Cut { to: u16 },
    Pad { by: u8 },
    Total(i16),
    Doff(u8),
    Ttl(u8),
    Fragment(u16),
    Options(Vec<u8>),
}

const ALL: i32 = i32::MAX;

const REQUESTS: [&[u8]; 8] = [
    b"",
    b"\0",
    b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /a?q=1 HTTP/1.0\r\n\r\n",
    b"POST /b HTTP/1.1\r\n\r\nbody",
    b"GET /a HT",
    b"\x16\x03\x01\x02\0\x01",
    b"GET http://x/a HTTP/1.1\r\n\r\n",
];

fn kinds() -> impl Strategy<Value = Kind> {
    let flags = prop_oneof![
        6 => Just(ACK), 4 => Just(ACK | PSH), 3 => Just(FIN | ACK), 1 => Just(RST), 1 => Just(RST | ACK),
        1 => any::<u8>(),
    ];
    let offset = || prop_oneof![6 => Just(0), 1 => Just(-1), 1 => Just(1), 1 => Just(500), 3 => Just(ALL), 1 => any::<i32>()];
    let usual = |flags, seq, ack, payload| Just(Kind::Segment { flags, seq, ack, stamps: true, payload });
    prop_oneof![
        2 => usual(ACK | PSH, 0, 0, 2),
        2 => usual(ACK, ALL, ALL, 0),
        1 => (select(vec![0, 0, 70_000, 1]), 0..16_u8).prop_map(|(step, options)| Kind::Syn { step, options }),
        4 => (flags, offset(), offset(), any::<bool>(), 0..8_u8).prop_map(|(flags, seq, ack, stamps, payload)| {
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
        1 => (0..3_u8).prop_map(Mutation::Ttl),
        1 => any::<u16>().prop_map(Mutation::Fragment),
        2 => proptest::collection::vec(prop_oneof![0..12_u8, any::<u8>()], 0..40).prop_map(Mutation::Options),
    ];
    prop_oneof![5 => Just(None), 1 => mutation.prop_map(Some)]
}

fn steps() -> impl Strategy<Value = Step> {
    let flows = || 0..4_u8;
    let nodes = || 0..3_u16;
    let near = || prop_oneof![5 => Just(0), 1 => any::<i32>(), 1 => Just(1)];
    let late = || prop_oneof![4 => Just(0), 1 => -140_000..140_000_i32];
    let times =
        select(vec![1, 200, 2_001, 3_001, 59_000, 61_000, 70_000, 140_000, 301_000, 700_000, 7_201_000]);
    prop_oneof![
        24 => (flows(), 0..5_u8, kinds(), mutations())
            .prop_map(|(flow, from, kind, mutation)| Step::Packet { flow, from, kind, mutation }),
        4 => (flows(), near(), 0..6_u8, late(), kinds(), mutations())
            .prop_map(|(flow, seq, hops, late_ms, kind, mutation)| {
                Step::Handoff { flow, seq, hops, late_ms, kind, mutation }
            }),
        5 => (flows(), select(vec![ACK, FIN | ACK, RST, RST | ACK]), near(), 0..8_u8, mutations())
            .prop_map(|(flow, flags, at, payload, mutation)| Step::Egress { flow, flags, at, payload, mutation }),
        2 => (flows(), nodes()).prop_map(|(flow, node)| Step::Held { flow, node }),
        1 => (flows(), 1..3_u32).prop_map(|(flow, held)| Step::Released { flow, held }),
        2 => (flows(), near(), nodes(), late())
            .prop_map(|(flow, seq, node, late_ms)| Step::Told { flow, seq, node, late_ms }),
        2 => flows().prop_map(|flow| Step::Adopted { flow }),
        1 => (flows(), near()).prop_map(|(flow, seq)| Step::CloseTold { flow, seq }),
        2 => times.prop_map(|ms| Step::Pass { ms }),
        1 => (0..80_000_u64).prop_map(|ms| Step::Back { ms }),
        1 => any::<bool>().prop_map(Step::Daemon),
        1 => (0..3_u8).prop_map(Step::Guide),
        3 => (nodes(), 0..50_u32, 1..4_u16, any::<bool>())
            .prop_map(|(node, reported, weight, live)| Step::Load { node, reported, weight, live }),
        2 => (2..5_u8, proptest::collection::vec(nodes(), 1..4), 1..3_u32)
            .prop_map(|(request, servers, generation)| Step::Decision { request, servers, generation }),
    ]
}

/// What a client knows of its connection.
#[derive(Clone, Copy, Default)]
struct Client {
    isn: u32,
    cookie: u32,
    tsval: u32,
    /// What the client, and what the server, has sent behind its first byte.
    sent: u32,
    answered: u32,
}

/// One sequence, over a world that was at rest.
struct Play<'w> {
    world: &'w mut World,
    clients: HashMap<u8, Client>,
}

fn earlier(wall_ns: u64, ms: i32) -> u64 {
    wall_ns.wrapping_add_signed(-i64::from(ms) * 1_000_000)
}

fn flow_of(number: u8) -> Flow {
    let mut f = flow(40_000 + u16::from(number));
    f.vip_port = if number == 3 { 81 } else { 80 };
    f
}

impl Play<'_> {
    fn client(&mut self, number: u8) -> &mut Client {
        let isn = 0xffff_ff00_u32.wrapping_add(u32::from(number) * 0x40);
        self.clients.entry(number).or_insert(Client { isn, ..Client::default() })
    }

    fn build(&mut self, number: u8, kind: &Kind) -> Tcp {
        let client = self.client(number);
        match kind {
            Kind::Syn { step, options } => {
                client.isn = client.isn.wrapping_add(*step);
                (client.sent, client.answered) = (0, 0);
                let stamps = timestamps(77, 0);
                let offered = [MSS, SACK, WSCALE, &stamps];
                let chosen = (0..4).filter(|i| options & (1 << i) != 0).map(|i| offered[i]);
                Tcp::new(flow_of(number), SYN, client.isn, 0).options(&chosen.collect::<Vec<_>>())
            }
            Kind::Segment { flags, seq, ack, stamps, payload } => {
                let behind = |all: u32, offset: i32| if offset == ALL { all } else { offset as u32 };
                let seq = client.isn.wrapping_add(1).wrapping_add(behind(client.sent, *seq));
                let ack = client.cookie.wrapping_add(1).wrapping_add(behind(client.answered, *ack));
                client.sent = client.sent.max(REQUESTS[usize::from(*payload)].len() as u32);
                let stamps = if *stamps { timestamps(78, client.tsval) } else { Vec::new() };
                Tcp::new(flow_of(number), *flags, seq, ack)
                    .options(&[&stamps])
                    .data(REQUESTS[usize::from(*payload)])
            }
        }
    }

    fn packet(
        &mut self,
        number: u8,
        from: u8,
        kind: &Kind,
        mutation: Option<&Mutation>,
    ) -> Result<(), String> {
        let macs = [ROUTER_MAC, mac(OTHER), mac(THIRD), ROUTER_MAC, ROUTER_MAC];
        let mut frame = self.build(number, kind).by(macs[usize::from(from)]).frame();
        mutate(&mut frame, mutation);
        let way = if from == 4 { Way::Released } else { Way::In };
        let said = self.world.step(&frame, way)?;
        if mutation.is_none() && matches!(kind, Kind::Syn { .. }) && said.verdict == Verdict::Redirect {
            let tcp = read(&said.frame);
            if tcp.ack {
                let tsval = tcp.options_iterator().find_map(|o| match o {
                    Ok(etherparse::TcpOptionElement::Timestamp(value, _)) => Some(value),
                    _ => None,
                });
                let client = self.client(number);
                (client.cookie, client.tsval) = (tcp.sequence_number, tsval.unwrap_or(0));
            }
        }
        // A node that answers no SYN meets connections that another node of the cluster opened.
        if matches!(kind, Kind::Syn { .. }) && said.verdict == Verdict::Drop {
            let (clock, flow) = (self.world.clock(), flow_of(number));
            let offer =
                Offer::of(&Options { mss: Some(1460), wscale: Some(9), sack: true, timestamps: None });
            let client = self.client(number);
            client.cookie = cookie_of(&keys(), &flow, client.isn, offer, clock);
        }
        Ok(())
    }

    fn handoff(&mut self, step: &Step) -> Result<(), String> {
        let Step::Handoff { flow, seq, hops, late_ms, kind, mutation } = step else { return Ok(()) };
        let inner = self.build(*flow, kind).frame();
        let client = *self.client(*flow);
        let handoff = Handoff {
            hops: *hops,
            options: 7,
            snd_wscale: 9,
            start_seq: client.isn.wrapping_add(1).wrapping_add_signed(*seq),
            tsval: 5,
            issued: earlier(self.world.clock().wall_ns, *late_ms),
            mss: 1460,
            distributor: 1,
            service: 0,
            rtt_ms: 3,
            cwnd: 0,
            flags: 0,
            replay_end: 0,
        };
        let wrapped = handoff.wrap(&keys(), &inner, address(OTHER), address(SELF), HANDOFF_PORT);
        let mut frame = wrapped.expect("a whole packet");
        mutate(&mut frame, mutation.as_ref());
        self.world.step(&frame, Way::In).map(drop)
    }

    fn told(&mut self, number: u8, seq: i32, node: u16, late_ms: i32) -> Result<(), String> {
        let start_seq = self.client(number).isn.wrapping_add(1).wrapping_add_signed(seq);
        let clock = self.world.clock();
        let issued = earlier(clock.wall_ns, late_ms);
        let flow = flow_of(number);
        let told = self.world.programs.bind_told(&flow, start_seq, NodeId(node), OTHER, issued);
        told.map_err(|e| e.to_string())?;
        self.world.model.bind_told(&flow, start_seq, NodeId(node), OTHER, issued, clock);
        self.world.settle(clock)
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Packet { flow, from, kind, mutation } => self.packet(*flow, *from, kind, mutation.as_ref()),
            Step::Handoff { .. } => self.handoff(step),
            Step::Egress { flow, flags, at, payload, mutation } => {
                let client = self.client(*flow);
                let seq = client.cookie.wrapping_add(1).wrapping_add_signed(*at);
                let mut tcp = Tcp::new(flow_of(*flow), *flags, seq, client.isn.wrapping_add(1))
                    .data(REQUESTS[usize::from(*payload)]);
                tcp.back = true;
                if *at == 0 {
                    client.answered = client.answered.max(tcp.payload.len() as u32);
                }
                let mut frame = tcp.frame();
                mutate(&mut frame, mutation.as_ref());
                self.world.step(&frame, Way::Out).map(drop)
            }
            Step::Held { flow, node } => {
                let start_seq = self.client(*flow).isn.wrapping_add(1);
                let (flow, clock) = (flow_of(*flow), self.world.clock());
                let bound = self.world.programs.bind_held(&flow, start_seq, NodeId(*node));
                let said = self.world.model.bind_held(&flow, start_seq, NodeId(*node), clock);
                if bound.map_err(|e| e.to_string())?.is_some() != said {
                    return Err(format!("bind_held: the model says {said}"));
                }
                self.world.settle(clock)
            }
            Step::Released { flow, held } => {
                let start_seq = self.client(*flow).isn.wrapping_add(1);
                let (flow, clock) = (flow_of(*flow), self.world.clock());
                let done =
                    self.world.programs.released(&flow, start_seq, *held).map_err(|e| e.to_string())?;
                let said = self.world.model.released(&flow, start_seq, *held);
                if done != said {
                    return Err(format!("released: the model says {said}"));
                }
                self.world.settle(clock)
            }
            Step::Told { flow, seq, node, late_ms } => self.told(*flow, *seq, *node, *late_ms),
            Step::CloseTold { flow, seq } => {
                let start_seq = self.client(*flow).isn.wrapping_add(1).wrapping_add_signed(*seq);
                let clock = self.world.clock();
                let closed = self.world.programs.close_told(&flow_of(*flow), start_seq);
                closed.map_err(|e| e.to_string())?;
                self.world.model.close_told(&flow_of(*flow), start_seq, clock);
                self.world.settle(clock)
            }
            Step::Pass { ms } => {
                self.world.pass(Duration::from_millis(*ms));
                Ok(())
            }
            _ => {
                self.change(step);
                Ok(())
            }
        }
    }

    /// What user space may change at any time.
    fn change(&mut self, step: &Step) {
        match step {
            Step::Back { ms } => self.world.set_back(Duration::from_millis(*ms)),
            Step::Adopted { flow } => {
                let own = State::Bound(SELF);
                let known = self.world.model.tables.bindings.get_mut(&flow_of(*flow));
                if let Some(b) = known.filter(|b| b.state == own) {
                    b.flags = b.flags & !FLAG_CLOSED | FLAG_ADOPTED;
                    self.world.programs.set_whole_binding(&flow_of(*flow), b).expect("bindings");
                }
            }
            Step::Daemon(listens) => self.world.daemon(*listens),
            Step::Guide(kind) => {
                let guide = match kind {
                    0 => Guide::Ask,
                    1 => Guide::Rota,
                    _ => Guide::Cached { load_limit: 20 },
                };
                self.world.guide(WEB, guide, &[SELF, OTHER, THIRD], 1);
            }
            Step::Load { node, reported, weight, live } => {
                self.world.load(NodeId(*node), *reported, *weight, *live);
            }
            Step::Decision { request, servers, generation } => {
                let servers: Vec<_> = servers.iter().map(|n| NodeId(*n)).collect();
                for service in [WEB, QUERY] {
                    self.world.decide(service, REQUESTS[usize::from(*request)], &servers, *generation);
                }
            }
            _ => {}
        }
    }
}

fn mutate(frame: &mut Vec<u8>, mutation: Option<&Mutation>) {
    let Some(mutation) = mutation else { return };
    let mut repair = true;
    match mutation {
        Mutation::Byte { at, value, repaired } => {
            let at = usize::from(*at) % frame.len();
            frame[at] = *value;
            repair = *repaired;
        }
        Mutation::Cut { to } => frame.truncate(usize::from(*to).max(14 + 20)),
        Mutation::Pad { by } => frame.resize(frame.len() + usize::from(*by), 0xaa),
        Mutation::Total(by) => {
            let total = u16::from_be_bytes([frame[16], frame[17]]).wrapping_add_signed(*by);
            frame[16..18].copy_from_slice(&total.to_be_bytes());
        }
        Mutation::Doff(words) => frame[14 + 20 + 12] = words << 4,
        Mutation::Ttl(ttl) => frame[14 + 8] = *ttl,
        Mutation::Fragment(bits) => frame[14 + 6..14 + 8].copy_from_slice(&bits.to_be_bytes()),
        Mutation::Options(bytes) => options(frame, bytes),
    }
    if repair && frame.len() < INNER {
        fix_checksums(frame);
    }
}

/// Garbage in the place of the options, lengths kept true.
fn options(frame: &mut Vec<u8>, bytes: &[u8]) {
    let room = bytes.len() / 4 * 4;
    frame.truncate(14 + 20 + 20);
    frame.extend(&bytes[..room]);
    frame[14 + 20 + 12] = (((20 + room) / 4) << 4) as u8;
    frame[16..18].copy_from_slice(&((40 + room) as u16).to_be_bytes());
    fix_checksums(frame);
}

fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 4000, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

/// Random sequences through a node of these roles.
fn agree(letters: &'static str) {
    in_netns(move || {
        let _listener = TcpListener::bind((VIP, 80)).expect("a namespace of our own");
        let flows: Vec<_> = (0..4).map(flow_of).collect();
        let mut world = World::new(letters, &flows);
        world.model.stack.listeners.insert((VIP, 80));
        let world = std::cell::RefCell::new(world);
        let until = Instant::now() + Duration::from_secs(30);
        let sequences = proptest::collection::vec(steps(), 1..40);
        let outcome = runner(350).run(&sequences, |sequence| {
            let mut world = world.borrow_mut();
            world.rest().map_err(|e| TestCaseError::fail(e.to_string()))?;
            let mut play = Play { world: &mut world, clients: HashMap::new() };
            for (i, step) in sequence.iter().enumerate() {
                if Instant::now() > until {
                    return Ok(()); // a slow machine sees fewer packets
                }
                play.step(step).map_err(|e| TestCaseError::fail(format!("step {i}, {step:?}: {e}")))?;
            }
            Ok(())
        });
        if let Err(e) = outcome {
            panic!("roles {letters:?}: {e}");
        }
        let total = world.borrow().programs.counters().expect("counters");
        let seen = Counter::all().filter(|c| total.get(*c) > 0).count();
        assert!(seen > 10, "the packets reach too little of the programs: {seen} counters");
    });
}

#[test]
fn distributor_and_model_agree() {
    agree("d");
}

#[test]
fn server_and_model_agree() {
    agree("s");
}

#[test]
fn switch_and_model_agree() {
    agree("w");
}

#[test]
fn distributor_that_serves_and_model_agree() {
    agree("ds");
}

#[test]
fn switch_that_serves_and_model_agree() {
    agree("ws");
}

#[test]
fn node_of_all_roles_and_model_agree() {
    agree("wds");
}
