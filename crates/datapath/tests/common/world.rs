//! One node twice: the loaded programs, and their model. Both are told the same and given the same
//! packets; what they do must be the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use baton_cluster::{Flow, Keys, Maker, NodeId, PoolId, Roles, Target};
use baton_datapath::constants::{UNKNOWN_PREFIX_MAX, UNKNOWN_WINDOW_SHIFT};
use baton_datapath::{
    Counters, Datapath, DatapathError, Events, GuideKind, Lease, LiveValues, ServiceEntry, Settings, Sizes,
    target_of,
};
use baton_http::parse_request;
use baton_packet_model::test_run::TestRun;
use baton_packet_model::{
    Binding, Clock, Decision, Evidence, Followed, Guided, Handoff, Load, Messages, Model, Outcome, Parsed,
    Spread, Stack, Tables, Verdict, prefix_slot,
};
use nix::time::{ClockId, clock_gettime};

use super::frames::{OUR_MAC, checksums_are_right, inner, same_frame};
use super::furnish::{Change, PLUG, SECURE, term};

pub const HANDOFF_PORT: u16 = 6081;
/// Twelve seconds into a cookie slot, so that no test crosses into the next by chance.
const WALL_NS: u64 = (25_000_123 << 36) + 12_000_000_000;

pub const SELF: NodeId = NodeId(0);
pub const OTHER: NodeId = NodeId(1);
pub const THIRD: NodeId = NodeId(2);
/// The pool of the service on port 80, whose requests move, by path.
pub const WEB: PoolId = PoolId(0);
/// That of port 81, whose connections stay, by path and query.
pub const QUERY: PoolId = PoolId(1);
/// On port 82, a strict service: pages on this node and OTHER, images on OTHER and THIRD.
pub const PAGES: PoolId = PoolId(2);
pub const IMAGES: PoolId = PoolId(3);
/// On port 83, routes by host: everything on all nodes.
pub const PLAIN: PoolId = PoolId(4);
pub const TENANTS: PoolId = PoolId(5);

/// Where the tests' reader listens, on 127.0.0.1.
pub const READER_PORT: u16 = 7000;

pub fn address(node: NodeId) -> IpAddr {
    Ipv4Addr::new(10, 1, 0, 10 + node.0 as u8).into()
}

pub fn address_v6(node: NodeId) -> IpAddr {
    Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 10 + node.0).into()
}

/// How the nodes are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Their addresses are IPv6 ones.
    pub v6: bool,
    /// THIRD is behind a router.
    pub routed: bool,
    /// The largest packet that reaches every node, if less than the link's.
    pub path_mtu: u16,
    /// There is no other node that may own connections.
    pub alone: bool,
}

impl Ways {
    pub fn address(self, node: NodeId) -> IpAddr {
        if self.v6 { address_v6(node) } else { address(node) }
    }
}

pub fn mac(node: NodeId) -> [u8; 6] {
    [2, 0, 0, 0, 1, node.0 as u8]
}

pub fn keys() -> Keys {
    Keys { cookie: [1, 2], clock: [3, 4], handoff: [5, 6], target: 7, control_psk: [8; 32] }
}

pub fn roles(letters: &str) -> Roles {
    let has = |letter| letters.contains(letter);
    Roles { switch: has('w'), distributor: has('d'), server: has('s'), ..Roles::default() }
}

/// A node as the kernel has it and as the model has it.
pub struct World {
    pub programs: TestRun,
    pub model: Model,
    pub events: Events,
    pub ways: Ways,
    /// Flows whose bindings are compared after each step.
    pub flows: Vec<Flow>,
    clock_ahead: u64,
    /// The services, by port, and the last number that one of them was given.
    pub entries: BTreeMap<u16, ServiceEntry>,
    pub fresh: u16,
    /// Those that are not as they were.
    pub altered: BTreeSet<u16>,
    /// What the last step was counted as, for the tests' own statements.
    pub counted: Vec<&'static str>,
    last: Counters,
}

/// How a packet meets the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It arrives.
    In,
    /// User space gives it back.
    Released,
    /// A program sends it to the node's own stack.
    Local,
    /// The node's stack sends it.
    Out,
    /// A program sends it to the client.
    Answer,
}

impl Way {
    fn through(self, model: &mut Model, frame: &[u8], clock: Clock) -> Outcome {
        match self {
            Self::In => model.ingress(frame, clock),
            Self::Released => model.ingress_released(frame, clock),
            Self::Local => model.ingress_local_reset(frame, clock),
            Self::Out => model.egress(frame, clock),
            Self::Answer => model.egress_answer(frame, clock),
        }
    }
}

/// The kernel programs' clock.
pub fn kernel_ns() -> u64 {
    let t = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has it");
    t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64
}

impl World {
    pub fn new(letters: &str, flows: &[Flow]) -> Self {
        Self::try_new(letters, flows, 1).expect("the kernel takes the programs")
    }

    /// `ifindex`: the cluster interface.
    pub fn try_new(letters: &str, flows: &[Flow], ifindex: u32) -> Result<Self, DatapathError> {
        Self::with(letters, flows, ifindex, Ways::default())
    }

    /// Nodes that are connected in these ways.
    pub fn with(letters: &str, flows: &[Flow], ifindex: u32, ways: Ways) -> Result<Self, DatapathError> {
        let settings = Settings {
            node: SELF,
            roles: roles(letters),
            address: ways.address(SELF),
            handoff_port: HANDOFF_PORT,
            mtu: 1500,
            cluster_ifindex: ifindex,
            hold_ifindex: ifindex,
            has_switch: true,
            others: !ways.alone,
        };
        let programs = TestRun(Datapath::load(settings, Sizes { bindings: 32_768, decisions: 4096 })?);
        let tables = Tables {
            services: HashMap::new(),
            evidence: Evidence::default(),
            pools: HashMap::new(),
            guides: HashMap::new(),
            nodes: HashMap::new(),
            path_mtu: ways.path_mtu,
            follows: true,
            members: HashMap::new(),
            spread: Spread::default(),
            latest_syns: HashMap::new(),
            leases: vec![Lease::direct(0)],
            decisions: HashMap::new(),
            loads: HashMap::new(),
            keys: keys(),
            daemon_until_ns: 0,
            bindings: HashMap::new(),
            exchanges: HashMap::new(),
            turns: HashMap::new(),
            unknowns: HashMap::new(),
        };
        let model = Model { settings, mac: OUR_MAC, tables, stack: Stack::default() };
        let (events, last) = (programs.events()?, programs.counters()?);
        let (flows, counted) = (flows.to_vec(), Vec::new());
        let entries = BTreeMap::new();
        let mut world = Self {
            programs,
            model,
            events,
            ways,
            flows,
            clock_ahead: 0,
            entries,
            fresh: 1000,
            altered: BTreeSet::new(),
            counted,
            last,
        };
        world.furnish()?;
        Ok(world)
    }

    /// Everything that a sequence of packets may have changed, back to where it was.
    pub fn rest(&mut self) -> Result<(), DatapathError> {
        for flow in self.programs.flows() {
            self.programs.remove_binding(&flow)?;
        }
        for (pool, target) in self.model.tables.decisions.keys() {
            self.programs.remove_decision(*pool, *target)?;
        }
        for port in std::mem::take(&mut self.altered) {
            self.serve(port, Change::None)?;
        }
        self.leases(vec![Lease::direct(0)])?;
        if self.model.settings.roles.switch {
            self.use_table(0, Duration::ZERO)?;
            self.maker(Maker { node: OTHER, term: term(OTHER), over: None })?;
        }
        self.programs.follow_none()?;
        self.programs.begin_rotas()?;
        for slot in std::mem::take(&mut self.model.tables.latest_syns).keys() {
            self.programs.forget_latest_syn(*slot)?;
        }
        self.programs.forget_unknowns()?;
        self.model.tables.unknowns.clear();
        self.model.tables.turns.clear();
        self.model.tables.exchanges.clear();
        self.model.tables.bindings.clear();
        self.model.tables.decisions.clear();
        for node in [SELF, OTHER, THIRD] {
            self.load(node, 0, 1, true);
        }
        self.guide(WEB, GuideKind::Cached { load_limit: 20 }, &[SELF, OTHER, THIRD], 1);
        self.guide(QUERY, GuideKind::Rota, &[OTHER, THIRD], 1);
        self.guide(PAGES, GuideKind::Cached { load_limit: 20 }, &[SELF, OTHER], 1);
        self.guide(IMAGES, GuideKind::Cached { load_limit: 20 }, &[OTHER, THIRD], 1);
        self.guide(PLAIN, GuideKind::Cached { load_limit: 20 }, &[SELF, OTHER, THIRD], 1);
        self.guide(TENANTS, GuideKind::Ask, &[THIRD], 1);
        self.guide(SECURE, GuideKind::Ask, &[OTHER], 1);
        self.guide(PLUG, GuideKind::Rota, &[OTHER, SELF], 1);
        self.clock_ahead = WALL_NS.wrapping_sub(kernel_ns());
        self.daemon(true);
        let _ = self.events.take();
        Ok(())
    }

    pub fn clock(&self) -> Clock {
        let kernel_ns = kernel_ns();
        Clock { kernel_ns, cluster_ns: kernel_ns.wrapping_add(self.clock_ahead) }
    }

    /// Whether user space promises to answer.
    pub fn daemon(&mut self, listens: bool) {
        self.model.tables.daemon_until_ns = if listens { u64::MAX } else { 0 };
        self.set_live();
    }

    /// Sets a binding in both.
    pub fn bind(&mut self, flow: Flow, b: Binding) {
        self.programs.set_whole_binding(&flow, &b).expect("bindings");
        self.model.tables.bindings.insert(flow, b);
    }

    /// Begins to follow a connection in both.
    pub fn follow(&mut self, flow: Flow, start_seq: u32, start_ack: u32) {
        self.programs.follow(&flow, start_seq, start_ack).expect("exchanges");
        self.model.tables.exchanges.insert(flow, Followed::new(start_seq, start_ack));
    }

    /// Lets the wall clock go on, and everything grow older: also beyond the boot of the machine that tests, whose
    /// clock began at 0. So times wrap, and ages are their differences.
    pub fn pass(&mut self, time: Duration) {
        let ns = time.as_nanos() as u64;
        self.clock_ahead += ns;
        self.set_live();
        for (flow, b) in &mut self.model.tables.bindings {
            b.seen_ns = b.seen_ns.wrapping_sub(ns);
            b.since_ns = b.since_ns.wrapping_sub(ns);
            self.programs.set_whole_binding(flow, b).expect("bindings");
        }
    }

    /// Sets the wall clock back, as on a node whose clock is behind the others'.
    pub fn set_back(&mut self, time: Duration) {
        self.clock_ahead -= time.as_nanos() as u64;
        self.set_live();
    }

    fn set_live(&self) {
        let live = LiveValues {
            clock_ahead: Duration::from_nanos(self.clock_ahead),
            daemon_until: Duration::from_nanos(self.model.tables.daemon_until_ns),
            reader_port: READER_PORT,
            reader_port_v6: READER_PORT,
            path_mtu: self.ways.path_mtu,
            follows: self.model.tables.follows,
            cluster_ifindex: 0,
            own_routes: false,
        };
        self.programs.set_live(&live).expect("live");
    }

    /// From the prefix of the flow's client came as many packets of unknown connections as user space takes in
    /// the present window of time.
    pub fn flooded(&mut self, flow: Flow) {
        let slot = prefix_slot(&keys(), flow.client);
        let window = (self.clock().kernel_ns >> UNKNOWN_WINDOW_SHIFT) as u32;
        let most = (window, UNKNOWN_PREFIX_MAX);
        self.programs.set_unknowns(slot, most).expect("unknowns");
        self.model.tables.unknowns.insert(slot, most);
    }

    pub fn load(&mut self, node: NodeId, reported: u32, weight: u16, live: bool) {
        self.programs.set_load(node, reported, weight, 1, live).expect("loads");
        let load = Load { reported, assigned: 0, weight, least_weight: 1, live, gone: false };
        self.model.tables.loads.insert(node, load);
    }

    /// The machine of a dead server answers nobody.
    pub fn gone(&mut self, node: NodeId, gone: bool) {
        self.programs.set_gone(node, gone).expect("loads");
        self.model.tables.loads.entry(node).or_default().gone = gone;
    }

    pub fn guide(&mut self, pool: PoolId, guide: GuideKind, rota: &[NodeId], generation: u32) {
        let rota = self.servers(rota);
        self.programs.set_guide(pool, &guide, &rota, generation).expect("guides");
        let guided = Guided { guide, rota, generation };
        self.model.tables.guides.insert(pool, guided);
    }

    /// Those of these nodes that are servers: this one may not be.
    fn servers(&self, nodes: &[NodeId]) -> Vec<NodeId> {
        let is_server = |node: &&NodeId| **node != SELF || self.model.settings.roles.server;
        nodes.iter().filter(is_server).copied().collect()
    }

    /// Caches a decision of a pool for the target of this request.
    pub fn decide(&mut self, pool: PoolId, request: &[u8], servers: &[NodeId], generation: u32) {
        let (target, servers) = (self.target(pool, request), self.servers(servers));
        if servers.is_empty() {
            return;
        }
        self.programs.set_decision(pool, target, &servers, None, generation).expect("decisions");
        let decision = Decision { servers, expires_ns: None, generation };
        self.model.tables.decisions.insert((pool, target), decision);
    }

    fn target(&self, pool: PoolId, request: &[u8]) -> Target {
        let baton_http::Parsed::Complete(request, _) = parse_request(request) else {
            panic!("no whole head: {request:?}");
        };
        let key = &self.model.tables.pools[&pool].key;
        target_of(&key.of(&request).unwrap_or_default(), keys().target)
    }

    /// A packet arrives. Panics when programs and model disagree.
    #[track_caller]
    pub fn ingress(&mut self, frame: &[u8]) -> Outcome {
        self.step(frame, Way::In).unwrap_or_else(|disagreement| panic!("{disagreement}"))
    }

    /// The node's stack sends a packet.
    #[track_caller]
    pub fn egress(&mut self, frame: &[u8]) -> Outcome {
        self.step(frame, Way::Out).unwrap_or_else(|disagreement| panic!("{disagreement}"))
    }

    /// One packet through both. `Err`: in what they differ.
    pub fn step(&mut self, frame: &[u8], way: Way) -> Result<Outcome, String> {
        self.begin_millisecond();
        let before = self.clock();
        let run = match way {
            Way::In => self.programs.run_ingress(frame),
            Way::Released => self.programs.run_released(frame),
            Way::Local => self.programs.run_local_reset(frame),
            Way::Out => self.programs.run_egress(frame),
            Way::Answer => self.programs.run_answer(frame),
        };
        let run = run.map_err(|e| e.to_string())?;
        let after = self.clock();
        let counters = self.programs.counters().map_err(|e| e.to_string())?;
        let counted: BTreeMap<_, _> = counters.since(&self.last).nonzero().collect();
        self.last = counters;
        self.counted = counted.keys().map(|c| c.name()).collect();
        let events = self.events.take();

        // Packets carry milliseconds; the program may have run in any of those that passed meanwhile.
        let mut differences = String::new();
        // A decision's own time, which is exact, is in the binding that it made.
        let span = before.cluster_ns..=after.cluster_ns;
        let mut walls: Vec<u64> = (before.cluster_ns / 1_000_000..=after.cluster_ns / 1_000_000)
            .map(|ms| before.cluster_ns.max(ms * 1_000_000))
            .collect();
        let issued = |flow| self.programs.whole_binding(flow).expect("bindings").map(|b| b.issued);
        walls.extend(self.flows.iter().filter_map(issued).filter(|issued| span.contains(issued)));
        // And something may have become too old meanwhile.
        let at = |kernel_ns| walls.iter().map(move |cluster_ns| Clock { cluster_ns: *cluster_ns, kernel_ns });
        for clock in at(before.kernel_ns).chain(at(after.kernel_ns)) {
            let mut model = self.model.clone();
            let said = way.through(&mut model, frame, clock);
            let mut wrong = String::new();
            let mut differ = |what: &str, program: &dyn std::fmt::Debug, model: &dyn std::fmt::Debug| {
                let _ = write!(wrong, "\n  {what}\n    program {program:02x?}\n    model   {model:02x?}");
            };
            if said.verdict != run.verdict {
                differ("verdict", &run.verdict, &said.verdict);
            }
            if said.verdict != Verdict::Drop && !same_frame(&said.frame, &run.frame) {
                differ("frame", &run.frame, &said.frame);
            }
            if said.counted != counted {
                differ("counted", &counted, &said.counted);
            }
            if said.events != events {
                differ("events", &events, &said.events);
            }
            for (flow, theirs, ours) in self.bindings_of(&model) {
                if !same_binding(theirs, ours, clock.kernel_ns, before.kernel_ns..=after.kernel_ns) {
                    differ(&format!("binding of {flow}"), &theirs, &ours);
                }
            }
            for (flow, theirs, ours) in self.messages_of(&model) {
                if !same_messages(theirs, ours) {
                    differ(&format!("messages of {flow}"), &theirs, &ours);
                }
            }
            if wrong.is_empty() {
                self.model = model;
                self.adopt_times();
                self.judge(frame, &said)?;
                return Ok(said);
            }
            differences.push_str(&wrong);
        }
        if before.cluster_ms() != after.cluster_ms() {
            // The program was interrupted for so long that it read two milliseconds: nothing is said.
            let said = way.through(&mut self.model, frame, before);
            self.adopt_times();
            return Ok(said);
        }
        Err(format!("{differences}\n  for {}", self.tell(frame)))
    }

    /// Puts the wall clock at the start of a millisecond: packets carry milliseconds, and a program that
    /// reads the clock twice should read the same.
    fn begin_millisecond(&mut self) {
        self.clock_ahead += 1_000_000 - self.clock().cluster_ns % 1_000_000;
        self.set_live();
    }

    fn bindings_of(&self, model: &Model) -> Vec<(Flow, Option<Binding>, Option<Binding>)> {
        let read = |flow: &Flow| self.programs.whole_binding(flow).expect("bindings");
        let both = |flow: &Flow| (*flow, read(flow), model.tables.bindings.get(flow).copied());
        self.flows.iter().map(both).collect()
    }

    /// Who serves and reads nothing follows nothing, and has no room for it.
    fn messages_of(&self, model: &Model) -> Vec<(Flow, Option<Messages>, Option<Messages>)> {
        if !(model.settings.roles.server || model.settings.roles.distributor) {
            return Vec::new();
        }
        let read = |flow: &Flow| self.programs.messages(flow).expect("exchanges");
        let said = |flow: &Flow| model.tables.exchanges.get(flow).map(Followed::messages);
        self.flows.iter().map(|flow| (*flow, read(flow), said(flow))).collect()
    }

    /// Takes over the programs' exact times, so that later ages are equal.
    fn adopt_times(&mut self) {
        for flow in &self.flows {
            if let Some(b) = self.programs.whole_binding(flow).expect("bindings") {
                self.model.tables.bindings.insert(*flow, b);
            }
        }
        for (slot, budget) in &mut self.model.tables.unknowns {
            *budget = self.programs.unknowns(*slot).expect("unknowns");
        }
    }

    /// What must hold of each packet that goes on, whatever program and model agree on.
    fn judge(&self, frame: &[u8], said: &Outcome) -> Result<(), String> {
        if said.verdict == Verdict::Redirect
            && checksums_are_right(frame) == Some(true)
            && checksums_are_right(&said.frame) != Some(true)
        {
            return Err(format!("wrong checksum in what goes on: {:02x?}", said.frame));
        }
        Ok(())
    }

    /// After an order of user space: bindings must be equal, and what it counted is not a packet's.
    pub fn settle(&mut self, before: Clock) -> Result<(), String> {
        let after = self.clock();
        for (flow, program, model) in self.bindings_of(&self.model) {
            let mut model = model;
            // as in step(): the order may have been carried out in any millisecond up to now
            if let (Some(p), Some(m)) = (program, &mut model)
                && (before.cluster_ns..=after.cluster_ns).contains(&p.issued)
                && m.issued == before.cluster_ns
            {
                m.issued = p.issued;
            }
            if !same_binding(program, model, before.kernel_ns, before.kernel_ns..=after.kernel_ns) {
                return Err(format!("binding of {flow}\n    program {program:x?}\n    model   {model:x?}"));
            }
        }
        for (flow, program, model) in self.messages_of(&self.model) {
            if !same_messages(program, model) {
                return Err(format!("messages of {flow}\n    program {program:x?}\n    model   {model:x?}"));
            }
        }
        self.adopt_times();
        self.last = self.programs.counters().map_err(|e| e.to_string())?;
        Ok(())
    }

    /// Opens a wrapped packet that must be a good one: what it says, and the frame in it.
    #[track_caller]
    pub fn open(&self, frame: &[u8]) -> (Handoff, Vec<u8>) {
        let (h, tag, inner) = Handoff::open(frame).expect("a wrapped packet");
        let (flow, ack) = match self.model.parse(&inner) {
            Parsed::Tcp(p) => (p.flow, p.ack),
            Parsed::Icmp(flow) => (flow, 0),
            other => panic!("with nothing for a service in it: {other:?}"),
        };
        let to = match frame[14] >> 4 {
            4 => IpAddr::from(<[u8; 4]>::try_from(&frame[30..34]).expect("four bytes")),
            _ => IpAddr::from(<[u8; 16]>::try_from(&frame[38..54]).expect("sixteen bytes")),
        };
        assert_eq!(h.verify((&keys(), to), tag, &flow, ack, self.clock()), Ok(()));
        (h, inner)
    }

    fn tell(&self, frame: &[u8]) -> String {
        match self.model.parse(frame) {
            Parsed::Tcp(p) => format!("{p:02x?}"),
            Parsed::Wrapped => {
                let inner = inner(frame).unwrap_or_default();
                format!("wrapped packet {:02x?} with {:02x?}", &frame[14..], self.model.parse(&inner))
            }
            other => format!("{other:?}: {frame:02x?}"),
        }
    }
}

/// `now`: what the model took the time to be; `while_`: when the program ran.
fn same_binding(
    program: Option<Binding>,
    model: Option<Binding>,
    now: u64,
    while_: std::ops::RangeInclusive<u64>,
) -> bool {
    let (Some(p), Some(mut m)) = (program, model) else { return program.is_none() && model.is_none() };
    let same_time = |p: u64, m: u64| if m == now { while_.contains(&p) } else { p == m };
    let times = same_time(p.seen_ns, m.seen_ns) && same_time(p.since_ns, m.since_ns);
    (m.seen_ns, m.since_ns) = (p.seen_ns, p.since_ns);
    times && p == m
}

/// In doubt, where is of no interest.
fn same_messages(program: Option<Messages>, model: Option<Messages>) -> bool {
    match (program, model) {
        (Some(p), Some(m)) if p.doubt.is_some() && p.doubt == m.doubt => p.start_seq == m.start_seq,
        _ => program == model,
    }
}
