//! Breadth-first search over all reachable states: the first that is wrong, with the steps that lead to
//! it, or the first from which no completed one can be reached any more.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Instant;

use super::world::{CLIENT, Message, NOBODY, News, Packet, Setup, State, role};
use super::{peers, program};

/// One step of somebody.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// The packet arrives; the owner wants the request to go to the node.
    Arrives(Packet, Option<u8>),
    /// It arrives, and will once more.
    ArrivesTwice(Packet, Option<u8>),
    /// It is lost.
    Lost(Packet),
    /// The message arrives.
    Told(Message),
    /// The client sends its next byte.
    ClientSends,
    /// The client repeats what is not acknowledged.
    ClientRepeats,
    /// The application answers, whole or by half.
    Answers(u8),
    /// The server's stack repeats.
    ServerRepeats(u8),
    /// The server closes.
    Closes(u8),
    /// The move under way at the node goes on.
    MoveGoesOn(u8),
    /// The stack takes what the program has passed.
    StackTakes(u8),
    /// The local RST arrives.
    SocketEnds(u8),
    /// The reader gives its next order.
    ReaderActs(u8),
    /// The reader replays.
    ReaderReplays(u8),
}

/// A step that must not be needed for a connection to complete.
fn is_mishap(setup: &Setup, step: &Step) -> bool {
    match step {
        Step::Arrives(_, choice) => choice.is_some() && setup.homes.is_empty(),
        Step::ArrivesTwice(..) | Step::Lost(_) | Step::Closes(_) => true,
        _ => false,
    }
}

/// The steps that lead away from a state.
struct Fork<'a> {
    setup: &'a Setup,
    state: &'a State,
    out: Vec<(Step, State)>,
}

impl Fork<'_> {
    /// Tries a step; one that has nothing to do says so by false.
    fn attempt(&mut self, step: Step, act: impl FnOnce(&mut State) -> bool) {
        let mut next = self.state.clone();
        if act(&mut next) {
            check(&mut next);
            self.out.push((step, next));
        }
    }

    /// The packet in that place arrives, once or twice, or is lost.
    fn packet(&mut self, i: usize, p: Packet) {
        let setup = self.setup;
        if self.state.losses > 0 {
            self.attempt(Step::Lost(p), |s| {
                s.losses -= 1;
                s.net.remove(i);
                true
            });
        }
        if p.at == CLIENT {
            return self.attempt(Step::Arrives(p, None), |s| {
                s.net.remove(i);
                peers::client_receives(setup, s, p);
                true
            });
        }
        if self.state.nodes[p.at as usize].moving.is_some() && setup.rules.claim {
            return;
        }
        let servers = (0..setup.roles.len() as u8).filter(|&n| setup.is(n, role::SERVER));
        for choice in servers.map(Some).chain([None]) {
            self.attempt(Step::Arrives(p, choice), |s| {
                s.net.remove(i);
                program::ingress(setup, s, p, choice)
            });
            if self.state.copies > 0 {
                self.attempt(Step::ArrivesTwice(p, choice), |s| {
                    s.copies -= 1;
                    program::ingress(setup, s, p, choice)
                });
            }
        }
    }

    /// The message in that place arrives, if it is the next of its sender.
    fn message(&mut self, i: usize, m: Message) {
        let (setup, told) = (self.setup, &self.state.told);
        if i == 0 || (told[i - 1].from, told[i - 1].to) != (m.from, m.to) {
            self.attempt(Step::Told(m), |s| {
                s.told.remove(i);
                program::told(setup, s, m);
                true
            });
        }
    }

    /// What happens on a node by itself.
    fn node(&mut self, n: u8) {
        let (setup, node) = (self.setup, &self.state.nodes[n as usize]);
        if node.moving.is_some() {
            self.attempt(Step::MoveGoesOn(n), |s| program::step(setup, s, n));
        }
        for i in 0..node.up.len() {
            self.attempt(Step::StackTakes(n), |s| {
                peers::stack_takes(setup, s, n, i);
                true
            });
        }
        if node.socket.is_some() {
            for whole in [false, true] {
                self.attempt(Step::Answers(n), |s| peers::answers(setup, s, n, whole));
            }
            self.attempt(Step::ServerRepeats(n), |s| peers::server_repeats(s, n));
            self.attempt(Step::Closes(n), |s| peers::closes(setup, s, n));
            self.attempt(Step::SocketEnds(n), |s| peers::socket_ends(s, n));
        }
        if setup.reader && (setup.is(n, role::DISTRIBUTOR) || setup.reads_later()) {
            self.attempt(Step::ReaderActs(n), |s| peers::reader_acts(setup, s, n));
            self.attempt(Step::ReaderReplays(n), |s| peers::reader_replays(setup, s, n));
        }
    }
}

fn steps(setup: &Setup, state: &State) -> Vec<(Step, State)> {
    let mut fork = Fork { setup, state, out: Vec::new() };
    for (i, &p) in state.net.iter().enumerate() {
        fork.packet(i, p);
    }
    for (i, &m) in state.told.iter().enumerate() {
        fork.message(i, m);
    }
    fork.attempt(Step::ClientSends, |s| peers::client_sends(setup, s));
    for all in [false, true] {
        fork.attempt(Step::ClientRepeats, |s| peers::client_repeats(setup, s, all));
    }
    for n in 0..setup.roles.len() as u8 {
        fork.node(n);
    }
    fork.out
}

/// What holds of a state by itself.
fn check(s: &mut State) {
    let live = |n: u8| s.egress_open(n) && s.nodes[n as usize].socket.is_some_and(|socket| !socket.doomed);
    if (0..s.nodes.len() as u8).filter(|&n| live(n)).count() > 1 {
        s.wrong = Some("two nodes own the connection");
    }
}

/// A fast hash: states are no adversaries.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u8(byte);
        }
    }
    fn write_u8(&mut self, n: u8) {
        self.write_u64(n.into());
    }
    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
    fn write_isize(&mut self, n: isize) {
        self.write_u64(n as u64);
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

/// What is wrong, and how it comes to it.
#[derive(Debug)]
pub struct Fault {
    /// In a word.
    pub what: &'static str,
    /// The steps that lead there, one a line, and what it then looks like.
    pub trace: String,
}

/// All reachable states, and what leads to each.
struct Graph<'a> {
    setup: &'a Setup,
    states: Vec<State>,
    known: HashMap<State, u32, BuildHasherDefault<Mix>>,
    /// Whence each was reached first.
    parents: Vec<u32>,
    /// Whence each is reached without a mishap.
    back: Vec<Vec<u32>>,
}

/// Searches everything reachable; panics when that is more than `most` states.
pub fn explore(setup: &Setup, most: usize) -> Result<(), Fault> {
    let started = Instant::now();
    let mut graph =
        Graph { setup, states: Vec::new(), known: HashMap::default(), parents: Vec::new(), back: Vec::new() };
    graph.place(State::new(setup), 0);
    let (mut at, mut count) = (0, 0);
    while at < graph.states.len() {
        for (step, next) in steps(setup, &graph.states[at].clone()) {
            let id = graph.place(next, at as u32);
            if let Some(what) = graph.states[id as usize].wrong {
                return Err(Fault { what, trace: graph.trace(id) });
            }
            if !is_mishap(setup, &step) {
                graph.back[id as usize].push(at as u32);
            }
            count += 1;
        }
        at += 1;
        assert!(at <= most, "{}: more than {most} states", setup.name);
    }
    let (stuck, completed) = graph.first_stuck();
    let seconds = started.elapsed().as_secs_f32();
    println!("{}: {at} states, {count} steps, {completed} completed, {seconds:.1} s", setup.name);
    match stuck {
        Some(id) => Err(Fault { what: "the connection is stuck", trace: graph.trace(id) }),
        None => Ok(()),
    }
}

impl Graph<'_> {
    /// The state's number; a new one for a new state.
    fn place(&mut self, state: State, parent: u32) -> u32 {
        let fresh = self.states.len() as u32;
        *self.known.entry(state).or_insert_with_key(|state| {
            self.states.push(state.clone());
            self.parents.push(parent);
            self.back.push(Vec::new());
            fresh
        })
    }

    /// The first state from which no completed one can be reached without mishaps; how many are completed.
    fn first_stuck(&self) -> (Option<u32>, usize) {
        let mut good: Vec<bool> = self.states.iter().map(|s| s.complete(self.setup)).collect();
        let mut reached: Vec<usize> = (0..good.len()).filter(|&i| good[i]).collect();
        let completed = reached.len();
        while let Some(i) = reached.pop() {
            for &from in &self.back[i] {
                if !good[from as usize] {
                    good[from as usize] = true;
                    reached.push(from as usize);
                }
            }
        }
        (good.iter().position(|&good| !good).map(|i| i as u32), completed)
    }

    fn trace(&self, mut id: u32) -> String {
        let end = &self.states[id as usize];
        let mut path = vec![id];
        while id != 0 {
            id = self.parents[id as usize];
            path.push(id);
        }
        path.reverse();
        let mut text = String::new();
        for pair in path.windows(2) {
            let after = &self.states[pair[1] as usize];
            let taken = steps(self.setup, &self.states[pair[0] as usize]).into_iter();
            for (step, _) in taken.filter(|(_, next)| next == after).take(1) {
                let _ = writeln!(text, "  {}", tell(&step));
            }
        }
        let _ = writeln!(text, "  client {:?}", end.client);
        for (n, node) in end.nodes.iter().enumerate() {
            let _ = writeln!(text, "  node {n}: {:?} {:?}", node.binding, node.socket);
        }
        for p in &end.net {
            let _ = writeln!(text, "  in flight: {}", show(p));
        }
        text
    }
}

fn tell(step: &Step) -> String {
    let to = |to: &Option<u8>| to.map_or(String::new(), |to| format!(", moved to {to}"));
    match step {
        Step::Arrives(p, choice) => format!("arrives: {}{}", show(p), to(choice)),
        Step::ArrivesTwice(p, choice) => format!("arrives, a copy is in flight: {}{}", show(p), to(choice)),
        Step::Lost(p) => format!("lost: {}", show(p)),
        Step::Told(Message { from, to, news: News::Owner(b) }) => {
            format!("told: node {to} by node {from}: owner {}, issued {}", b.node, b.issued)
        }
        Step::Told(Message { from, to, news: News::Taken(end) }) => {
            format!("told: node {to} by node {from}: taken up to {end}")
        }
        Step::ClientSends => "the client sends its next byte".into(),
        Step::ClientRepeats => "the client repeats".into(),
        Step::Answers(n) => format!("node {n}: the application answers"),
        Step::ServerRepeats(n) => format!("node {n}: the socket repeats"),
        Step::Closes(n) => format!("node {n}: the application closes"),
        Step::MoveGoesOn(n) => format!("node {n}: the move goes on"),
        Step::StackTakes(n) => format!("node {n}: the stack takes what was passed"),
        Step::SocketEnds(n) => format!("node {n}: the local RST ends the socket"),
        Step::ReaderActs(n) => format!("node {n}: the reader's next order"),
        Step::ReaderReplays(n) => format!("node {n}: the reader replays"),
    }
}

fn show(p: &Packet) -> String {
    let node = |n: u8| match n {
        CLIENT => "client".to_owned(),
        NOBODY => "outside".to_owned(),
        n => format!("node {n}"),
    };
    let fin = if p.fin { " FIN" } else { "" };
    let wrap = p.wrap.map(|w| format!(" HANDOFF start {} issued {}", w.start_seq, w.issued));
    let (from, at) = (node(p.from), node(p.at));
    format!("{from} -> {at}: {}+{} ack {}{fin}{}", p.seq, p.len, p.ack, wrap.unwrap_or_default())
}
