//! A sequence of steps, done to the programs and to their model.

use std::collections::HashMap;
use std::time::Duration;

use baton_cluster::{Flow, Heirs, Maker, NodeId, SpreadLine};
use baton_datapath::constants::{
    FLAG_ADOPTED, FLAG_ASKED_AGAIN, FLAG_CONFIRMED, FLAG_HANDED, FLAG_MOVED, FLAG_REPLAY,
};
use baton_datapath::{Counter, GuideKind, Lease, State};
use baton_packet_model::flag::{RST, SYN};
use baton_packet_model::{Binding, Handoff, Offer, Options, Outcome, Parsed, Verdict, cookie_of, flow_clock};

use super::steps::{ALL, Kind, Mutation, REQUESTS, RESPONSES, Step};
use crate::common::frames::{
    INNER, MSS, ROUTER_MAC, SACK, WSCALE, fix_checksums, flow, flow_v6, icmp_error, l4, read, timestamps,
};
use crate::common::furnish::{PLUG, term};
use crate::common::world::{
    HANDOFF_PORT, IMAGES, OTHER, PAGES, PLAIN, QUERY, SELF, THIRD, WEB, Way, keys, mac,
};
use crate::common::{Tcp, World};

/// What a client knows of its connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Client {
    isn: u32,
    cookie: u32,
    tsval: u32,
    /// What the client, and what the server, has sent behind its first byte.
    sent: u32,
    answered: u32,
}

/// One sequence, over a world that was at rest.
pub struct Play<'w> {
    pub world: &'w mut World,
    pub clients: HashMap<u8, Client>,
    /// Which connections are IPv6.
    pub swapped: bool,
}

fn earlier(cluster_ns: u64, ms: i32) -> u64 {
    cluster_ns.wrapping_add_signed(-i64::from(ms) * 1_000_000)
}

/// The client's connection, and its service; every other one is of the other address family.
pub fn flow_of(number: u8, swapped: bool) -> Flow {
    let port = 40_000 + u16::from(number);
    let mut f = if (number % 2 == 1) == swapped { flow(port) } else { flow_v6(port) };
    f.vip_port = match number {
        3..8 => 78 + u16::from(number),
        _ => 80,
    };
    f
}

impl Play<'_> {
    fn client(&mut self, number: u8) -> &mut Client {
        let isn = 0xffff_ff00_u32.wrapping_add(u32::from(number) * 0x40);
        self.clients.entry(number).or_insert(Client { isn, ..Client::default() })
    }

    fn build(&mut self, number: u8, kind: &Kind) -> Tcp {
        let flow = self.flow_of(number);
        let client = self.client(number);
        match kind {
            Kind::Syn { step, options } => {
                client.isn = client.isn.wrapping_add(*step);
                (client.sent, client.answered) = (0, 0);
                let stamps = timestamps(77, 0);
                let offered = [MSS, SACK, WSCALE, &stamps];
                let chosen = (0..4).filter(|i| options & (1 << i) != 0).map(|i| offered[i]);
                Tcp::new(flow, SYN, client.isn, 0).options(&chosen.collect::<Vec<_>>())
            }
            Kind::Segment { flags, seq, ack, stamps, payload } => {
                let behind = |all: u32, offset: i32| if offset == ALL { all } else { offset as u32 };
                let seq = client.isn.wrapping_add(1).wrapping_add(behind(client.sent, *seq));
                let ack = client.cookie.wrapping_add(1).wrapping_add(behind(client.answered, *ack));
                client.sent = client.sent.max(REQUESTS[usize::from(*payload)].len() as u32);
                let stamps = if *stamps { timestamps(78, client.tsval) } else { Vec::new() };
                Tcp::new(flow, *flags, seq, ack).options(&[&stamps]).data(REQUESTS[usize::from(*payload)])
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
        let macs = [ROUTER_MAC, mac(OTHER), mac(THIRD), ROUTER_MAC, ROUTER_MAC, ROUTER_MAC];
        let before = *self.client(number);
        let frame = self.build(number, kind).by(macs[usize::from(from)]).frame();
        let ways = [Way::In, Way::In, Way::In, Way::In, Way::Released, Way::Local];
        // A RST that a program makes is rare, and means nothing else.
        let way = if matches!(kind, Kind::Segment { flags, .. } if flags & RST != 0) || from != 5 {
            ways[usize::from(from)]
        } else {
            Way::In
        };
        let hops = if from == 3 { 1 + number % 5 } else { 0 };
        let said = self.forwarded(frame, hops, mutation, way)?;
        // What goes to another node may be wrapped.
        let answered = said.verdict == Verdict::Redirect && said.counted.contains_key(&Counter::SynAnswered);
        if mutation.is_none() && matches!(kind, Kind::Syn { .. }) && answered {
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
        if let Kind::Segment { seq: ALL, payload, .. } = kind
            && (said.verdict == Verdict::Stack && mutation.is_none())
        {
            let length = REQUESTS[usize::from(*payload)].len() as u32;
            self.client(number).sent = before.sent + length;
        }
        // A node that answers no SYN meets connections that another node of the cluster opened.
        if matches!(kind, Kind::Syn { .. }) && !answered {
            let (clock, flow) = (self.world.clock(), self.flow_of(number));
            let options = Options { mss: Some(1460), wscale: Some(9), sack: true, timestamps: Some((78, 0)) };
            let offer = Offer::of(&options, flow.vip.is_ipv6());
            let client = self.client(number);
            let term = if number.is_multiple_of(2) { 0 } else { term(OTHER) };
            client.cookie = cookie_of(&keys(), &flow, client.isn, offer, term, clock);
            client.tsval = flow_clock(&keys(), &flow, clock);
        }
        Ok(())
    }

    /// As `from` wraps it for this node.
    fn wrapped(&self, handoff: &Handoff, from: NodeId, inner: &[u8]) -> Vec<u8> {
        let (flow, ack) = match self.world.model.parse(inner) {
            Parsed::Tcp(p) => (p.flow, p.ack),
            Parsed::Icmp(flow) => (flow, 0),
            // whatever: nobody reads as far as the tag
            _ => (flow(1), 0),
        };
        let ways = self.world.ways;
        let (from, to) = (ways.address(from), ways.address(SELF));
        handoff.wrap(&keys(), (inner, flow, ack), from, to, HANDOFF_PORT).expect("a whole packet")
    }

    /// What a router has to say about the server's packets, perhaps by way of a node.
    fn icmp(&mut self, number: u8, kind: u8, from: u8, mutation: Option<&Mutation>) -> Result<(), String> {
        let frame = icmp_error(&self.flow_of(number), kind, [ROUTER_MAC, mac(OTHER)][usize::from(from % 2)]);
        self.forwarded(frame, from / 2, mutation, Way::In).map(drop)
    }

    /// A packet, from outside or forwarded by another node.
    fn forwarded(
        &mut self,
        mut frame: Vec<u8>,
        hops: u8,
        mutation: Option<&Mutation>,
        way: Way,
    ) -> Result<Outcome, String> {
        mutate(&mut frame, mutation);
        if hops > 0 {
            let forwarded = Handoff::forwarded(THIRD, hops - 1, self.world.clock());
            frame = self.wrapped(&forwarded, THIRD, &frame);
        }
        self.world.step(&frame, way)
    }

    pub fn flow_of(&self, number: u8) -> Flow {
        flow_of(number, self.swapped)
    }

    fn handoff(&mut self, step: &Step) -> Result<(), String> {
        let Step::Handoff { flow, seq, hops, late_ms, replay, kind, mutation } = step else { return Ok(()) };
        let inner = self.build(*flow, kind).frame();
        let client = *self.client(*flow);
        let start_seq = client.isn.wrapping_add(1).wrapping_add_signed(*seq);
        let handoff = Handoff {
            hops: *hops,
            options: 7,
            snd_wscale: 9,
            start_seq,
            tsval: 5,
            issued: earlier(self.world.clock().cluster_ns, *late_ms),
            mss: 1460,
            distributor: 1,
            reserved: u16::from(*hops) * 7,
            rtt_ms: 3,
            cwnd: u16::from(*hops) * 10,
            flags: if replay.is_some() { (FLAG_REPLAY | FLAG_MOVED) as u16 } else { 0 },
            replay_end: replay.map_or(0, |bytes| start_seq.wrapping_add(bytes.into())),
        };
        let mut frame = self.wrapped(&handoff, OTHER, &inner);
        mutate(&mut frame, mutation.as_ref());
        self.world.step(&frame, Way::In).map(drop)
    }

    fn egress(
        &mut self,
        number: u8,
        flags: u8,
        at: i32,
        payload: u8,
        mutation: Option<&Mutation>,
    ) -> Result<(), String> {
        let client = *self.client(number);
        let behind = if at == ALL { client.answered } else { at as u32 };
        let seq = client.cookie.wrapping_add(1).wrapping_add(behind);
        let ack = client.isn.wrapping_add(1).wrapping_add(client.sent);
        let mut tcp = Tcp::new(self.flow_of(number), flags, seq, ack).data(RESPONSES[usize::from(payload)]);
        tcp.back = true;
        let end = behind.wrapping_add(tcp.payload.len() as u32);
        let mut frame = tcp.frame();
        mutate(&mut frame, mutation);
        // What a program itself says to a client: some of what ends a connection.
        let way = if flags & RST != 0 && payload == 0 { Way::Answer } else { Way::Out };
        self.world.step(&frame, way)?;
        if matches!(at, 0 | ALL) && mutation.is_none() {
            let client = self.client(number);
            client.answered = client.answered.max(end);
        }
        Ok(())
    }

    /// What user space orders, in both: they must agree on whether there was anything to be changed.
    fn order(&mut self, step: &Step) -> Result<(), String> {
        let (Step::DecideAsked { flow: number, .. }
        | Step::ReadHeld { flow: number }
        | Step::Freeze { flow: number }
        | Step::BindRead { flow: number, .. }) = step
        else {
            return Ok(());
        };
        let client = *self.client(*number);
        let (flow, start_seq) = (self.flow_of(*number), client.isn.wrapping_add(1));
        let clock = self.world.clock();
        let server = match step {
            Step::DecideAsked { node, .. } | Step::BindRead { node, .. } => self.server(*node),
            _ => SELF,
        };
        let World { programs, model, .. } = &mut *self.world;
        let (done, said) = match step {
            Step::DecideAsked { seq, .. } => {
                let sent = if *seq == ALL { client.sent } else { *seq as u32 };
                let seq = start_seq.wrapping_add(sent);
                let done = programs.decide_asked(&flow, seq, server).map_err(|e| e.to_string())?;
                (done, model.decide_asked(&flow, seq, server, clock))
            }
            Step::BindRead { replay, .. } => {
                let end = start_seq.wrapping_add((*replay).into());
                let done = programs.bind_read(&flow, start_seq, server, end);
                let done = done.map_err(|e| e.to_string())?.map(|_| 0);
                (done, model.bind_read(&flow, start_seq, server, end, clock).then_some(0))
            }
            Step::Freeze { .. } => {
                let done = programs.freeze(&flow, start_seq).map_err(|e| e.to_string())?;
                (done.then_some(0), model.freeze(&flow, start_seq).then_some(0))
            }
            _ => {
                let done = programs.read_held(&flow, start_seq).map_err(|e| e.to_string())?;
                (done.then_some(0), model.read_held(&flow, start_seq, clock).then_some(0))
            }
        };
        if done != said {
            return Err(format!("{step:?}: done {done:?}, the model says {said:?}"));
        }
        self.world.settle(clock)
    }

    /// What switches, far or on this node, leave to this distributor.
    fn leases(&mut self, which: u8) {
        let of = |term, until_ms| Lease {
            until: Duration::from_millis(until_ms),
            term,
            from: Some(OTHER),
            is_heir: false,
        };
        let (direct, for_ever) = (Lease::direct(0), u64::MAX / 2_000_000);
        let leases = match which {
            0 => vec![direct],
            1 => vec![direct, of(5, for_ever)],
            2 => vec![direct, of(5, 1)],
            3 => vec![direct, of(5, for_ever), Lease { is_heir: true, ..of(6, for_ever) }],
            4 => vec![direct, of(5, 0)],
            _ => vec![direct, of(6, for_ever)],
        };
        self.world.leases(leases).expect("leases");
    }

    fn spread(&mut self, which: u8) {
        if !self.world.model.settings.roles.switch {
            return;
        }
        let over = [None, None, None, Some(Heirs::Soon), Some(Heirs::Told), Some(Heirs::Told)];
        let over = over.get(usize::from(which)).copied().flatten();
        let in_force = |slot: usize| [Some(SELF), Some(OTHER), None][slot % 3].map(|node| node.0);
        let before = |slot: usize| [Some(OTHER), None, Some(THIRD), Some(SELF)][slot % 4].map(|node| node.0);
        let slot = |slot| {
            if which < 2 {
                return SpreadLine::of(before(slot));
            }
            let mut of = SpreadLine::of(in_force(slot));
            of.makers[5] = before(slot).filter(|maker| Some(*maker) != in_force(slot));
            of.heirs[5] = [None, Some(0), Some(1), Some(5)][slot % 5 % 4];
            of
        };
        let unsettled = if which < 2 { 0 } else { u64::MAX };
        let maker = Maker { node: OTHER, term: term(OTHER), over };
        // The table that all begin with stays.
        let table = u8::from(which > 0);
        let slots = (table == 1).then(|| (0..65_537).map(slot).collect());
        let written = slots.map_or(Ok(()), |slots| self.world.spread_table(table, slots));
        let set = written
            .and_then(|()| self.world.maker(maker))
            .and_then(|()| self.world.use_table(table, Duration::from_nanos(unsettled)));
        set.expect("tables of the switch");
    }

    /// The node, or another when it is this one and no server.
    fn server(&self, node: u16) -> NodeId {
        let node = NodeId(node);
        if node == SELF && !self.world.model.settings.roles.server { OTHER } else { node }
    }

    /// This node serves the connection from its first byte on.
    fn adopted(&mut self, number: u8) {
        if !self.world.model.settings.roles.server {
            return;
        }
        let flow = self.flow_of(number);
        let client = self.client(number);
        (client.sent, client.answered) = (0, 0);
        let (seq, ack) = (client.isn.wrapping_add(1), client.cookie.wrapping_add(1));
        let now = self.world.clock();
        let b = Binding {
            seen_ns: now.kernel_ns,
            since_ns: now.kernel_ns,
            issued: now.cluster_ns,
            flags: FLAG_ADOPTED | FLAG_CONFIRMED,
            start_ack: ack,
            snd_end: ack,
            mss: 1460,
            distributor: OTHER.0,
            ..Binding::unknown(seq, State::Bound(SELF))
        };
        self.world.bind(flow, b);
        self.world.follow(flow, seq, ack);
    }

    /// The connection was decided here, for a node that is down.
    fn deaf(&mut self, number: u8) {
        let (flow, client) = (self.flow_of(number), *self.client(number));
        let now = self.world.clock();
        let b = Binding {
            seen_ns: now.kernel_ns,
            since_ns: now.kernel_ns.saturating_sub(200_000_000),
            issued: now.cluster_ns,
            flags: FLAG_HANDED | FLAG_ASKED_AGAIN,
            start_ack: client.cookie.wrapping_add(1),
            options: 7,
            mss: 1460,
            distributor: SELF.0,
            ..Binding::unknown(client.isn.wrapping_add(1), State::Bound(OTHER))
        };
        self.world.bind(flow, b);
        self.world.load(OTHER, 0, 1, false);
    }

    /// This node had the connection, and has handed it on where it stands now.
    fn moved(&mut self, number: u8) {
        let (flow, client) = (self.flow_of(number), *self.client(number));
        let now = self.world.clock();
        let b = Binding {
            seen_ns: now.kernel_ns,
            since_ns: now.kernel_ns,
            issued: now.cluster_ns,
            flags: FLAG_MOVED | FLAG_HANDED,
            start_ack: client.cookie.wrapping_add(1).wrapping_add(client.answered),
            options: 7,
            mss: 1460,
            cwnd: 12,
            distributor: THIRD.0,
            ..Binding::unknown(client.isn.wrapping_add(1).wrapping_add(client.sent), State::Bound(OTHER))
        };
        self.world.bind(flow, b);
    }

    fn told(&mut self, number: u8, seq: i32, node: u16, late_ms: i32) -> Result<(), String> {
        let start_seq = self.client(number).isn.wrapping_add(1).wrapping_add_signed(seq);
        let clock = self.world.clock();
        let issued = earlier(clock.cluster_ns, late_ms);
        let flow = self.flow_of(number);
        let told = self.world.programs.bind_told(&flow, start_seq, NodeId(node), OTHER, issued);
        told.map_err(|e| e.to_string())?;
        self.world.model.bind_told(&flow, start_seq, NodeId(node), OTHER, issued, clock);
        self.world.settle(clock)
    }

    fn found(&mut self, number: u8, seq: i32, node: u16, late_ms: i32) -> Result<(), String> {
        let start_seq = self.client(number).isn.wrapping_add(1).wrapping_add_signed(seq);
        let clock = self.world.clock();
        let issued = earlier(clock.cluster_ns, late_ms);
        let flow = self.flow_of(number);
        let bound = self.world.programs.bind_found(&flow, start_seq, NodeId(node), issued);
        bound.map_err(|e| e.to_string())?;
        self.world.model.bind_found(&flow, start_seq, NodeId(node), issued, clock);
        self.world.settle(clock)
    }

    /// One step in both; in what they differ, otherwise.
    pub fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Packet { flow, from, kind, mutation } => self.packet(*flow, *from, kind, mutation.as_ref()),
            Step::Handoff { .. } => self.handoff(step),
            Step::Icmp { flow, kind, from, mutation } => self.icmp(*flow, *kind, *from, mutation.as_ref()),
            Step::Egress { flow, flags, at, payload, mutation } => {
                self.egress(*flow, *flags, *at, *payload, mutation.as_ref())
            }
            Step::DecideAsked { .. }
            | Step::ReadHeld { .. }
            | Step::Freeze { .. }
            | Step::BindRead { .. } => self.order(step),
            Step::Held { flow, node } => {
                let start_seq = self.client(*flow).isn.wrapping_add(1);
                let (flow, clock) = (self.flow_of(*flow), self.world.clock());
                let node = self.server(*node);
                let bound = self.world.programs.bind_held(&flow, start_seq, node);
                let said = self.world.model.bind_held(&flow, start_seq, node, clock);
                if bound.map_err(|e| e.to_string())?.is_some() != said {
                    return Err(format!("bind_held: the model says {said}"));
                }
                self.world.settle(clock)
            }
            Step::Released { flow, held } => {
                let start_seq = self.client(*flow).isn.wrapping_add(1);
                let (flow, clock) = (self.flow_of(*flow), self.world.clock());
                let done =
                    self.world.programs.released(&flow, start_seq, *held).map_err(|e| e.to_string())?;
                let said = self.world.model.released(&flow, start_seq, *held);
                if done != said {
                    return Err(format!("released: the model says {said}"));
                }
                self.world.settle(clock)
            }
            Step::Told { flow, seq, node, late_ms } => self.told(*flow, *seq, *node, *late_ms),
            Step::Found { flow, seq, node, late_ms } => self.found(*flow, *seq, *node, *late_ms),
            Step::CloseTold { flow, seq } => {
                let start_seq = self.client(*flow).isn.wrapping_add(1).wrapping_add_signed(*seq);
                let clock = self.world.clock();
                let closed = self.world.programs.close_told(&self.flow_of(*flow), start_seq);
                closed.map_err(|e| e.to_string())?;
                self.world.model.close_told(&self.flow_of(*flow), start_seq, clock);
                self.world.settle(clock)
            }
            Step::End { .. } | Step::Close { .. } | Step::Serve { .. } | Step::Seen { .. } => {
                self.reload(step).map_err(|e| e.to_string())?;
                self.count_connections()
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
            Step::Adopted { flow } => self.adopted(*flow),
            Step::Moved { flow } => self.moved(*flow),
            Step::Leases(which) => self.leases(*which),
            Step::Spread(which) => self.spread(*which),
            Step::Daemon(listens) => self.world.daemon(*listens),
            Step::Flooded { flow } => self.world.flooded(self.flow_of(*flow)),
            Step::Dead { node, gone } => {
                self.world.load(NodeId(*node), 0, 1, false);
                self.world.gone(NodeId(*node), *gone);
            }
            Step::Deaf { flow } => self.deaf(*flow),
            Step::Alone => {
                self.world.daemon(false);
                for node in [SELF, OTHER, THIRD] {
                    self.world.load(node, 0, 1, false);
                }
            }
            Step::Guide(kind) => {
                let guide = match kind {
                    0 => GuideKind::Ask,
                    1 => GuideKind::Rota,
                    _ => GuideKind::Cached { load_limit: 20 },
                };
                for (pool, rota) in
                    [(WEB, &[SELF, OTHER, THIRD][..]), (PAGES, &[SELF, OTHER]), (IMAGES, &[THIRD, OTHER])]
                {
                    self.world.guide(pool, guide.clone(), rota, 1);
                }
            }
            Step::Load { node, reported, weight, live } => {
                self.world.load(NodeId(*node), *reported, *weight, *live);
            }
            Step::Decision { request, servers, generation } => {
                let servers: Vec<_> = servers.iter().map(|n| NodeId(*n)).collect();
                for pool in [WEB, QUERY, PAGES, IMAGES, PLAIN, PLUG] {
                    self.world.decide(pool, REQUESTS[usize::from(*request)], &servers, *generation);
                }
            }
            _ => {}
        }
    }
}

fn mutate(frame: &mut Vec<u8>, mutation: Option<&Mutation>) {
    let Some(mutation) = mutation else { return };
    let mut repair = true;
    let v6 = l4(frame) > 34;
    match mutation {
        Mutation::Byte { at, value, repaired } => {
            let at = usize::from(*at) % frame.len();
            frame[at] = *value;
            repair = *repaired;
        }
        Mutation::Cut { to } => frame.truncate(usize::from(*to).max(l4(frame))),
        Mutation::Pad { by } => frame.resize(frame.len() + usize::from(*by), 0xaa),
        Mutation::Total(by) => {
            let at = if v6 { 18 } else { 16 };
            let total = u16::from_be_bytes([frame[at], frame[at + 1]]).wrapping_add_signed(*by);
            frame[at..at + 2].copy_from_slice(&total.to_be_bytes());
        }
        Mutation::Doff(words) => {
            let at = l4(frame) + 12;
            if let Some(doff) = frame.get_mut(at) {
                *doff = words << 4;
            }
        }
        Mutation::Ttl(ttl) => frame[14 + if v6 { 7 } else { 8 }] = *ttl,
        // The next header, of which some are read behind.
        Mutation::Fragment(bits) if v6 => {
            frame[20] = [0, 43, 44, 51, 60, 135, 17, 58][usize::from(*bits % 8)]
        }
        Mutation::Fragment(bits) => frame[14 + 6..14 + 8].copy_from_slice(&bits.to_be_bytes()),
        Mutation::Options(bytes) => options(frame, bytes),
    }
    if repair && frame.len() < INNER {
        fix_checksums(frame);
    }
}

/// Garbage in the place of the options, lengths kept true.
fn options(frame: &mut Vec<u8>, bytes: &[u8]) {
    let (room, l4) = (bytes.len() / 4 * 4, l4(frame));
    if frame.len() < l4 + 20 {
        return;
    }
    frame.truncate(l4 + 20);
    frame.extend(&bytes[..room]);
    frame[l4 + 12] = (((20 + room) / 4) << 4) as u8;
    let (at, length) = if l4 > 34 { (18, 20 + room) } else { (16, 40 + room) };
    frame[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
    fix_checksums(frame);
}
