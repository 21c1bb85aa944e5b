//! The world of one run: nodes, wires, clients, and the order of all that happens.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use baton_cluster::{Cluster, Flow, NodeId, Succession};
use baton_control::Message;
use baton_core::{Core, Moment};
use baton_datapath::Event;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

mod bounds;
mod clogs;
mod dispatchers;
mod machine;
mod mishaps;
mod reload;
mod wires;

use crate::client::Client;
use crate::message::RequestId;
use crate::plan::{MS, Mishap, Plan, is_vip, vip};
use crate::planted::Planted;
use crate::segment::Segment;
use crate::shell::{Deed, Session, Shell};
use crate::{Failure, Summary};

/// The end of a run: a client that is not content by then never will be.
const PATIENCE: u64 = 90_000 * MS;
/// More packets than any run needs.
const PACKETS_MAX: u64 = 60_000;
/// Lines of the story that are kept.
const STORY: usize = 5000;
/// A daemon's regular tick, and the one when something is due.
const TICK: u64 = 50 * MS;
const BUSY_TICK: u64 = 10 * MS;
/// A silent peer is down after this (the cluster file's default, to which the leases are fitted).
const FAILURE_TIMEOUT: u64 = 1000 * MS;

/// What happens.
#[derive(Debug)]
enum Happening {
    /// A frame arrives at a node, in its life of this number.
    Frame {
        node: usize,
        life: u32,
        frame: Vec<u8>,
        released: bool,
    },
    ToClient {
        frame: Vec<u8>,
    },
    /// A held packet is read.
    Held {
        node: usize,
        life: u32,
        frame: Vec<u8>,
    },
    Told {
        node: usize,
        life: u32,
        event: Event,
    },
    Message {
        from: usize,
        to: usize,
        lives: (u32, u32),
        session: u64,
        message: Message,
    },
    Local {
        node: usize,
        life: u32,
    },
    Tick {
        node: usize,
        life: u32,
    },
    /// The reader has a head.
    Read {
        node: usize,
        life: u32,
        flow: Flow,
    },
    /// A socket's timeout, or an answer of its server.
    Socket {
        node: usize,
        life: u32,
        flow: Flow,
    },
    Client {
        number: usize,
    },
    /// A control connection is there.
    Up {
        node: usize,
        life: u32,
        peer: usize,
        peer_life: u32,
    },
    Down {
        node: usize,
        life: u32,
        peer: usize,
    },
    Mishap(Mishap),
    Starts {
        node: usize,
    },
    /// An operator gives a node another cluster file.
    RolledOut {
        node: usize,
        file: usize,
    },
    Reload {
        node: usize,
        life: u32,
    },
    /// Its host is prepared for the file.
    GoesBy {
        node: usize,
        life: u32,
        file: usize,
        known: Box<Succession>,
    },
    /// A link may carry as much as before.
    Unclogs,
    /// Two nodes hear each other again.
    Hears {
        node: usize,
        other: usize,
    },
}

struct Node {
    core: Option<Core<Flow>>,
    shell: Shell,
    life: u32,
    /// Until then the daemon does nothing.
    stalled_until: u64,
    /// The cluster file on its disk, and the one that it goes by.
    file: usize,
    goes_by: usize,
    /// Its host is being prepared for another file.
    is_changing: bool,
}

/// Who has sent which bytes of a connection: at any place one node alone.
#[derive(Default)]
struct Sent(Vec<(u32, u32, usize)>);

/// See the head of this file.
pub(crate) struct World<'a> {
    plan: &'a Plan,
    files: Vec<Cluster>,
    /// Until when a node has gone by each file; `None`: none has.
    in_force: Vec<Option<u64>>,
    started: Instant,
    now: u64,
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    next: u64,
    rng: StdRng,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    /// Pairs of nodes whose control messages do not pass.
    deaf: Vec<(usize, usize)>,
    clogged: Vec<clogs::Clogged>,
    executed: BTreeMap<RequestId, Vec<usize>>,
    sent: BTreeMap<(usize, u16), Sent>,
    story: VecDeque<String>,
    summary: Summary,
    mark: DefaultHasher,
    planted: Option<Planted>,
    steps: u64,
    /// All clients are content.
    is_calm: bool,
    /// When nothing has gone wrong for a while.
    calm_from: u64,
}

type Ended<T = ()> = Result<T, String>;

fn mac(node: usize) -> [u8; 6] {
    [2, 0, 0, 0, 1, node as u8]
}

const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];

impl<'a> World<'a> {
    pub(crate) fn new(plan: &'a Plan, planted: Option<Planted>) -> Self {
        let parsed = |file| {
            let text = plan.text(file);
            Cluster::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
        };
        let files: Vec<Cluster> = (0..plan.files.len()).map(parsed).collect();
        let mut world = Self {
            plan,
            in_force: vec![None; files.len()],
            files,
            started: Instant::now(),
            now: 0,
            heap: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next: 0,
            rng: StdRng::seed_from_u64(plan.seed ^ 0x5eed),
            nodes: Vec::new(),
            clients: Vec::new(),
            deaf: Vec::new(),
            clogged: Vec::new(),
            executed: BTreeMap::new(),
            sent: BTreeMap::new(),
            story: VecDeque::new(),
            summary: Summary::default(),
            mark: DefaultHasher::new(),
            planted,
            steps: 0,
            is_calm: false,
            calm_from: 0,
        };
        for node in 0..world.files[0].nodes.len() {
            let shell = world.shell(node);
            world.nodes.push(Node {
                core: None,
                shell,
                life: 0,
                stalled_until: 0,
                file: 0,
                goes_by: 0,
                is_changing: false,
            });
            let at = world.rng.random_range(0..20 * MS);
            world.at(at, Happening::Starts { node });
        }
        for (number, client) in plan.clients.iter().enumerate() {
            let flow = Flow {
                client: Ipv4Addr::new(10, 2, 0, 2 + number as u8).into(),
                client_port: 40_000 + number as u16,
                vip: vip(client.service.0),
                vip_port: client.service.1,
            };
            let isn = world.rng.random();
            world.clients.push(Client::new(number, flow, client.clone(), isn));
            world.at(client.starts, Happening::Client { number });
        }
        for rollout in &plan.rollouts {
            world.at(rollout.at, Happening::RolledOut { node: rollout.node, file: rollout.file });
        }
        for (at, mishap) in &plan.mishaps {
            world.at(*at, Happening::Mishap(*mishap));
        }
        world
    }

    fn at(&mut self, at: u64, what: Happening) {
        self.heap.push(Reverse((at.max(self.now), self.next)));
        self.happenings.insert(self.next, what);
        self.next += 1;
    }

    fn soon(&mut self, most: u64, what: Happening) {
        let at = self.now + self.rng.random_range(0..=most);
        self.at(at, what);
    }

    fn tell(&mut self, line: String) {
        line.hash(&mut self.mark);
        if self.story.len() >= STORY {
            self.story.pop_front();
        }
        self.story.push_back(format!("{:>10.3} {line}", self.now as f64 / MS as f64));
    }

    pub(crate) fn run(mut self) -> Result<Summary, Box<Failure>> {
        loop {
            if self.clients.iter().all(Client::is_over) {
                break;
            }
            let Some((at, what)) = self.next_happening() else { break };
            self.now = at;
            if at > PATIENCE && self.plan.crashes() && !self.plan.strictly {
                break;
            }
            let ended = if at > PATIENCE { Err(self.who_waits()) } else { self.step(what) };
            if let Err(what) = ended.and_then(|()| self.bounds()) {
                return Err(Box::new(Failure { what, story: self.story.into() }));
            }
        }
        self.summary.took_ms = self.now / MS;
        let is_judged = self.clients.iter().all(Client::is_over);
        let ended = self.sick_was_avoided();
        if let Some(what) = is_judged.then(|| ended.and_then(|()| self.calms_down()).err()).flatten() {
            return Err(Box::new(Failure { what, story: self.story.into() }));
        }
        self.summary.mark = self.mark.finish();
        Ok(self.summary)
    }

    fn next_happening(&mut self) -> Option<(u64, Happening)> {
        let Reverse((at, number)) = self.heap.pop()?;
        Some((at, self.happenings.remove(&number)?))
    }

    fn who_waits(&self) -> String {
        let waits = self.clients.iter().filter(|c| !c.is_over());
        let lines = waits.map(|c| {
            format!(
                "client {} ({:?}) has {} of {} answers",
                c.number,
                c.stage,
                c.answered,
                c.plan.requests.len()
            )
        });
        format!("not content: {}", lines.collect::<Vec<_>>().join("; "))
    }

    fn bounds(&self) -> Ended {
        if self.summary.packets > PACKETS_MAX {
            return Err(format!("{} packets: a storm", self.summary.packets));
        }
        Ok(())
    }

    fn moment(&self, node: usize) -> Moment {
        let instant = self.started + Duration::from_nanos(self.now);
        Moment { instant, monotonic: self.nodes[node].shell.monotonic() }
    }

    fn is_alive(&self, node: usize, life: u32) -> bool {
        let node = &self.nodes[node];
        node.core.is_some() && node.life == life
    }

    /// Lets a node's core act, and carries out what it orders.
    fn core(&mut self, node: usize, act: impl FnOnce(&mut Core<Flow>, &mut Shell, Moment)) -> Ended {
        let now = self.moment(node);
        let n = &mut self.nodes[node];
        let Some(core) = &mut n.core else { return Ok(()) };
        act(core, &mut n.shell, now);
        self.carry_out(node)
    }

    /// What the core's step has brought about.
    fn carry_out(&mut self, node: usize) -> Ended {
        loop {
            let deeds = std::mem::take(&mut self.nodes[node].shell.deeds);
            if deeds.is_empty() {
                break;
            }
            for deed in deeds {
                match deed {
                    Deed::Release(frame) => {
                        self.told_frame(&format!("given back at n{node}"), &frame);
                        self.ingress(node, &frame, true)?;
                    }
                    Deed::Packet(packet) => {
                        let frame = [&[0; 12][..], &[8, 0], &packet].concat();
                        self.send_to_client(node, frame);
                    }
                    Deed::Read(flow) => self.reader_has(node, flow),
                    Deed::Refuse(flow) => self.reader_refuses(node, flow)?,
                }
            }
        }
        let life = self.nodes[node].life;
        let Some(core) = &mut self.nodes[node].core else { return Ok(()) };
        let (errors, last) = (core.troubles.errors(), core.troubles.last().map(str::to_owned));
        let out = core.post.take_out();
        let local = core.post.has_local();
        if errors > 0 {
            return Err(format!("node {node}: {last:?}"));
        }
        self.reaches(node)?;
        for (to, message) in out {
            self.send_message(node, to.index(), message);
        }
        if local {
            self.soon(50_000, Happening::Local { node, life });
        }
        self.tell_events(node);
        Ok(())
    }

    fn tell_events(&mut self, node: usize) {
        let life = self.nodes[node].life;
        for event in std::mem::take(&mut self.nodes[node].shell.events) {
            if self.planted == Some(Planted::TakenIsNotTold) && matches!(event, Event::Taken { .. }) {
                continue;
            }
            if self.planted == Some(Planted::SignsAreNotTold) && matches!(event, Event::Failed { .. }) {
                continue;
            }
            self.soon(5 * MS, Happening::Told { node, life, event });
        }
    }

    fn send_message(&mut self, from: usize, to: usize, message: Message) {
        let lives = (self.nodes[from].life, self.nodes[to].life);
        let Some(session) =
            self.nodes[from].shell.sessions.get(&NodeId(to as u16)).filter(|s| s.is_up).map(|s| s.number)
        else {
            return;
        };
        if self.is_deaf(from, to) || self.is_swallowed(&message) {
            return; // the connection will break
        }
        // In order: what happens at one time happens as it was ordered.
        let waits = self.waits(Some(from), Some(to), true).unwrap_or(0);
        let at = self.now + self.plan.message_delay + waits;
        self.at(at, Happening::Message { from, to, lives, session, message });
    }

    fn is_deaf(&self, a: usize, b: usize) -> bool {
        self.deaf.iter().any(|pair| *pair == (a, b) || *pair == (b, a))
    }

    fn step(&mut self, what: Happening) -> Ended {
        let node = match &what {
            Happening::Frame { node, life, .. }
            | Happening::Held { node, life, .. }
            | Happening::Told { node, life, .. }
            | Happening::Local { node, life }
            | Happening::Tick { node, life }
            | Happening::Read { node, life, .. }
            | Happening::Socket { node, life, .. }
            | Happening::Reload { node, life }
            | Happening::GoesBy { node, life, .. }
            | Happening::Up { node, life, .. }
            | Happening::Down { node, life, .. } => Some((*node, *life)),
            Happening::Message { to, lives, .. } => Some((*to, lives.1)),
            _ => None,
        };
        if let Some((node, _)) = node {
            self.within_bounds(node)?;
        }
        if let Some((node, life)) = node {
            if !self.is_alive(node, life) {
                return Ok(());
            }
            self.nodes[node].shell.now = self.now;
            let until = self.nodes[node].stalled_until;
            let is_daemons = !matches!(what, Happening::Frame { .. } | Happening::Socket { .. });
            if is_daemons && until > self.now {
                self.at(until, what);
                return Ok(());
            }
        }
        match what {
            Happening::Frame { node, frame, released, .. } => {
                self.told_frame(&format!("at n{node}"), &frame);
                self.ingress(node, &frame, released)
            }
            Happening::ToClient { frame } => self.client_receives(&frame),
            Happening::Held { node, frame, .. } => {
                self.told_frame(&format!("held at n{node}"), &frame);
                self.core(node, |core, shell, now| {
                    core.held(&frame, shell, now);
                    core.flush(shell, now);
                })
            }
            Happening::Told { node, event, .. } => {
                self.tell(format!("n{node} is told {event:?}"));
                self.core(node, |core, shell, now| {
                    core.event(event, shell, now);
                    core.flush(shell, now);
                })
            }
            Happening::Message { from, to, lives, session, message } => {
                let theirs = self.nodes[from].shell.sessions.get(&NodeId(to as u16)).map(|s| s.number);
                let ours = self.nodes[to].shell.sessions.get(&NodeId(from as u16));
                let is_up = ours.is_some_and(|session| session.is_up);
                if lives.0 != self.nodes[from].life || theirs != Some(session) || !is_up {
                    return Ok(());
                }
                self.hears_clock(to, from);
                let text = format!("{message:?}");
                self.tell(format!("n{from} to n{to}: {}", &text[..text.len().min(150)]));
                self.core(to, |core, shell, now| {
                    core.message(NodeId(from as u16), message, shell, now);
                    core.flush(shell, now);
                })
            }
            Happening::Local { node, .. } => self.core(node, |core, shell, now| {
                core.local_message(shell, now);
                core.flush(shell, now);
            }),
            Happening::Tick { node, life } => {
                let mut busy = false;
                let stands_still = self.is_calm && self.planted == Some(Planted::NothingTimesOut);
                let began = stands_still.then_some(self.started);
                self.core(node, |core, shell, now| {
                    let now = began.map_or(now, |instant| Moment { instant, ..now });
                    let until = now.monotonic + Duration::from_secs(2);
                    shell.model.tables.daemon_until_ns = until.as_nanos() as u64;
                    shell.model.tables.follows = core.services().follow();
                    busy = core.tick(shell, now);
                    core.flush(shell, now);
                })?;
                self.forget_ended(node)?;
                let tick = if self.is_calm { bounds::CALM_TICK } else { TICK };
                let at = self.now + if busy { BUSY_TICK } else { tick };
                self.at(at, Happening::Tick { node, life });
                Ok(())
            }
            Happening::Read { node, flow, .. } => self.head(node, flow),
            Happening::Socket { node, flow, .. } => self.socket(node, flow),
            Happening::Client { number } => self.client(number),
            Happening::Up { node, peer, peer_life, .. } => {
                if !self.is_alive(peer, peer_life) || self.is_deaf(node, peer) {
                    return Ok(());
                }
                self.down(node, peer)?;
                let id = NodeId(peer as u16);
                self.tell(format!("n{peer} is up for n{node}"));
                let session = self.nodes[node].shell.sessions.entry(id).or_default();
                *session = Session { number: session.number + 1, silent_since: None, lag: 0, is_up: true };
                self.hears_clock(node, peer);
                let nodes = self.nodes.len();
                self.core(node, |core, shell, now| {
                    core.up(id, (mac(peer), nodes), shell, now);
                    core.flush(shell, now);
                })
            }
            Happening::Down { node, peer, .. } => {
                let session = self.nodes[node].shell.sessions.get(&NodeId(peer as u16));
                let is_silent = session.is_some_and(|session| session.silent_since.is_some());
                if is_silent { self.down(node, peer) } else { Ok(()) }
            }
            Happening::Mishap(mishap) => {
                self.mishap(mishap);
                Ok(())
            }
            Happening::Starts { node } => self.starts(node),
            Happening::RolledOut { node, file } => {
                self.rolled_out(node, file);
                Ok(())
            }
            Happening::Reload { node, .. } => self.reload(node),
            Happening::GoesBy { node, file, known, .. } => self.goes_by(node, file, *known),
            Happening::Unclogs => {
                self.unclogs();
                Ok(())
            }
            Happening::Hears { node, other } => {
                self.tell(format!("n{node} and n{other} hear each other again"));
                self.deaf.retain(|pair| *pair != (node, other) && *pair != (other, node));
                self.connect(node, other);
                Ok(())
            }
        }
    }

    fn told_frame(&mut self, place: &str, frame: &[u8]) {
        let line = match Segment::parse(frame) {
            Some(((_, port), _, segment)) => format!("{place} {port} {segment:?}"),
            None => format!("{place}: wrapped, {} bytes", frame.len()),
        };
        self.tell(line);
    }
}

/// Whether bytes hold a whole head.
fn is_whole(bytes: &[u8]) -> bool {
    bytes.windows(4).any(|w| w == b"\r\n\r\n")
}

fn is_from_vip(frame: &[u8]) -> bool {
    Segment::parse(frame).is_some_and(|((from, _), ..)| is_vip(from))
}
