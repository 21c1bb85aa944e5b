//! One switch, three distributors, one connection, servers as one place, and the messages between them. What the
//! programs do (`bpf/lease.h`) is a few lines here; what the switch and the distributors know is the code that
//! runs in the daemon.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use baton_cluster::{Heirs, Maker, NodeId, SLOT_MAKERS, SpreadLine};
use baton_dispatcher::leases::Leases;
use baton_dispatcher::spread::{Spread, SpreadChange};

pub const SWITCH: NodeId = NodeId(9);
pub const DISTRIBUTORS: [NodeId; 3] = [NodeId(0), NodeId(1), NodeId(2)];
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// The slot of the connection.
const SLOT: usize = 0;

/// What is broken on purpose, one rule each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// The switch leaves connections to others as soon as it misses their distributor.
    pub no_fence: bool,
    /// A distributor decides without a lease.
    pub no_lease: bool,
    /// The heirs are those of the table in force, whichever that is.
    pub heirs_change: bool,
    /// The switch sends what follows a handshake by the table in force, and everybody takes it.
    pub by_table: bool,
    /// An heir does not ask whether somebody has the connection.
    pub no_question: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Event {
    /// Time passes: a twentieth of the failure timeout, in which everybody is heard whose link carries.
    Time,
    Cut(NodeId),
    Heal(NodeId),
    Crash(NodeId),
    Restart(NodeId),
    /// The oldest message to, or from, a distributor arrives.
    Arrives {
        of: NodeId,
        at_switch: bool,
    },
    /// The client's SYN is answered, once.
    Syn,
    /// The client sends its request, again and again.
    Request,
    /// A distributor that has the request asks who has the connection, and is told.
    Ask(NodeId),
    /// It decides.
    Decide(NodeId),
}

#[derive(Clone, Debug)]
enum Said {
    Term(u32),
    Grant(u32, bool),
    Heir(u32),
}

#[derive(Clone, Debug)]
struct Distributor {
    leases: Leases,
    runs: bool,
    link: bool,
    /// Each end's connection, as it sees it; and when each has heard the other last.
    up: bool,
    switch_up: bool,
    session: u64,
    heard: Duration,
    switch_heard: Duration,
    to_switch: VecDeque<Said>,
    from_switch: VecDeque<Said>,
    /// The request: the term that its cookie proved.
    holds: Option<u32>,
    asked: bool,
}

#[derive(Clone, Debug)]
pub struct World {
    faults: Faults,
    now: Duration,
    terms: u32,
    spread: Spread,
    distributors: BTreeMap<NodeId, Distributor>,
    /// The switch's programs.
    tables: BTreeMap<u8, SpreadLine>,
    makers: BTreeMap<u16, Maker>,
    in_use: Option<u8>,
    /// The term of the connection's cookie.
    cookie: Option<u32>,
    /// Who has decided it, in order.
    pub decided: Vec<NodeId>,
    /// The client was told that nobody has it.
    pub reset: bool,
}

impl World {
    pub fn new(faults: Faults) -> Self {
        let fence = if faults.no_fence { TIMEOUT / 20 } else { TIMEOUT };
        let weights = DISTRIBUTORS.map(|node| (node, 1));
        let leases = |node| Leases::new(node, 1, TIMEOUT);
        let fresh = |node| Distributor {
            leases: leases(node),
            runs: true,
            link: true,
            up: false,
            switch_up: false,
            session: 0,
            heard: Duration::ZERO,
            switch_heard: Duration::ZERO,
            to_switch: VecDeque::new(),
            from_switch: VecDeque::new(),
            holds: None,
            asked: false,
        };
        let mut world = Self {
            faults,
            now: Duration::from_secs(1000),
            terms: 100,
            spread: Spread::with_size(weights, fence, 7),
            distributors: DISTRIBUTORS.map(|node| (node, fresh(node))).into(),
            tables: BTreeMap::new(),
            makers: BTreeMap::new(),
            in_use: None,
            cookie: None,
            decided: Vec::new(),
            reset: false,
        };
        for node in DISTRIBUTORS {
            world.connect(node);
        }
        for _ in 0..2 {
            for of in DISTRIBUTORS {
                world.step(Event::Arrives { of, at_switch: true });
                world.step(Event::Arrives { of, at_switch: false });
            }
            world.step(Event::Time);
        }
        world
    }

    /// What may happen now.
    pub fn events(&self) -> Vec<Event> {
        let mut events = vec![Event::Time];
        for (node, d) in &self.distributors {
            let node = *node;
            events.push(if d.link { Event::Cut(node) } else { Event::Heal(node) });
            events.push(if d.runs { Event::Crash(node) } else { Event::Restart(node) });
            if !d.to_switch.is_empty() {
                events.push(Event::Arrives { of: node, at_switch: true });
            }
            if !d.from_switch.is_empty() {
                events.push(Event::Arrives { of: node, at_switch: false });
            }
            if d.runs && d.holds.is_some() {
                events.extend([Event::Decide(node), Event::Ask(node)]);
            }
        }
        events.push(if self.cookie.is_none() { Event::Syn } else { Event::Request });
        events
    }

    pub fn step(&mut self, event: Event) {
        match event {
            Event::Time => self.time(),
            Event::Cut(node) => self.of(node).link = false,
            Event::Heal(node) => self.of(node).link = true,
            Event::Crash(node) => {
                let d = self.of(node);
                (d.runs, d.up, d.holds, d.asked) = (false, false, None, false);
                d.from_switch.clear();
                d.to_switch.clear();
                // Its machine says so, where that is heard.
                if d.link && std::mem::take(&mut d.switch_up) {
                    self.switch_misses(node, true);
                }
            }
            Event::Restart(node) => {
                let direct = self.fresh();
                let d = self.of(node);
                (d.runs, d.leases) = (true, Leases::new(node, direct, TIMEOUT));
            }
            Event::Arrives { of, at_switch: true } => {
                let said = self.of(of).to_switch.pop_front();
                if let Some(Said::Term(term)) = said {
                    let granted = self.spread.term(of, term, self.now);
                    self.of(of).from_switch.push_back(Said::Grant(term, granted));
                }
            }
            Event::Arrives { of, at_switch: false } => self.told(of),
            Event::Syn => {
                let Some(node) = self.choice() else { return };
                let now = self.now;
                let entry = self.of(node).leases.entries(now).into_iter().find(|e| e.from == Some(SWITCH));
                let answers = |until: Option<Duration>| until.is_none_or(|until| now < until);
                if self.carries(node)
                    && let Some(entry) = entry.filter(|entry| answers(entry.until))
                {
                    self.cookie = Some(entry.term);
                }
            }
            Event::Request => self.request(),
            Event::Ask(node) => {
                let owned = !self.decided.is_empty() && !self.faults.no_question;
                let d = self.of(node);
                d.asked = true;
                if owned {
                    d.holds = None;
                }
            }
            Event::Decide(node) => self.decide(node),
        }
        self.switch_acts();
    }

    /// Decided twice.
    pub fn is_wrong(&self) -> bool {
        self.decided.len() > 1
    }

    fn of(&mut self, node: NodeId) -> &mut Distributor {
        self.distributors.get_mut(&node).expect("a distributor")
    }

    fn carries(&self, node: NodeId) -> bool {
        self.distributors.get(&node).is_some_and(|d| d.runs)
    }

    fn fresh(&mut self) -> u32 {
        self.terms += 1;
        self.terms
    }

    fn connect(&mut self, node: NodeId) {
        let (now, fresh) = (self.now, self.fresh());
        let d = self.of(node);
        d.session += 1;
        (d.up, d.switch_up, d.heard, d.switch_heard) = (true, true, now, now);
        let term = d.leases.up(SWITCH, d.session, now, fresh);
        d.to_switch.push_back(Said::Term(term));
    }

    fn told(&mut self, node: NodeId) {
        let (now, fresh) = (self.now, self.fresh());
        let d = self.of(node);
        match d.from_switch.pop_front() {
            Some(Said::Grant(term, granted)) => {
                if let Some(term) = d.leases.answered(SWITCH, term, granted, now, fresh) {
                    d.to_switch.push_back(Said::Term(term));
                }
            }
            Some(Said::Heir(term)) => d.leases.inherit(SWITCH, term, now),
            _ => {}
        }
    }

    fn switch_misses(&mut self, node: NodeId, ended: bool) {
        let now = self.now;
        self.of(node).from_switch.clear();
        self.spread.down(node, ended, now);
    }

    fn time(&mut self) {
        self.now += TIMEOUT / 20;
        let now = self.now;
        for node in DISTRIBUTORS {
            let d = self.of(node);
            if d.runs && d.link && d.up && d.switch_up {
                // What was sent a step ago has been heard, and its echo is here.
                d.leases.heard(SWITCH, d.session, now - TIMEOUT / 20);
                (d.heard, d.switch_heard) = (now, now);
            }
            if d.up && now - d.heard > TIMEOUT {
                d.up = false;
                d.to_switch.clear();
                d.leases.down(SWITCH);
            }
            if d.switch_up && now - d.switch_heard > TIMEOUT {
                d.switch_up = false;
                self.switch_misses(node, false);
            }
            let d = self.of(node);
            if d.runs && d.link && !d.up && !d.switch_up {
                self.connect(node);
            }
        }
    }

    /// What the switch has to do by now, and what its programs are told.
    fn switch_acts(&mut self) {
        for change in self.spread.tick(self.now) {
            match change {
                SpreadChange::Table { table, spread } => {
                    self.tables.insert(table, *spread.line(SLOT).expect("a slot"));
                }
                SpreadChange::Maker { number, maker } => {
                    self.makers.insert(number, maker);
                }
                SpreadChange::Use { table, .. } => self.in_use = Some(table),
                SpreadChange::Heirs { term, nodes } => {
                    for node in nodes {
                        self.of(node).from_switch.push_back(Said::Heir(term));
                    }
                }
            }
        }
    }

    fn line(&self) -> SpreadLine {
        self.in_use.and_then(|table| self.tables.get(&table)).copied().unwrap_or_default()
    }

    fn maker(&self, place: usize) -> Option<Maker> {
        self.makers.get(&self.line().makers[place]?).copied()
    }

    fn choice(&self) -> Option<NodeId> {
        self.maker(0).map(|maker| maker.node)
    }

    /// `choice_for` of `bpf/lease.h`.
    fn choice_for(&self, cookie: u32) -> Option<NodeId> {
        let is_its = |place: &usize| self.maker(*place).is_some_and(|maker| maker.term == cookie);
        let place = (0..SLOT_MAKERS).find(is_its).filter(|_| !self.faults.by_table);
        let Some(mut place) = place else { return self.choice() };
        for _ in 0..SLOT_MAKERS {
            let maker = self.maker(place)?;
            match maker.over {
                None => return Some(maker.node),
                Some(Heirs::Soon) => return None,
                Some(Heirs::Told) if self.faults.heirs_change => return self.choice(),
                Some(Heirs::Told) => match self.line().heirs[place] {
                    Some(heir) => place = usize::from(heir),
                    None => return self.choice(),
                },
            }
        }
        None
    }

    fn request(&mut self) {
        // A client that was reset says no more.
        let Some(cookie) = self.cookie.filter(|_| !self.reset) else { return };
        let Some(node) = self.choice_for(cookie) else { return };
        let (now, takes_all) = (self.now, self.faults.by_table);
        let nobody_has_it = self.decided.is_empty()
            && self.distributors.values().all(|d| d.holds.is_none() || !d.runs || !d.link);
        let d = self.of(node);
        let terms: BTreeSet<u32> = d.leases.entries(now).iter().map(|entry| entry.term).collect();
        if !d.runs || d.holds.is_some() {
            return;
        }
        if takes_all || terms.contains(&cookie) {
            (d.holds, d.asked) = (Some(cookie), takes_all);
        } else if nobody_has_it && d.link {
            self.reset = true;
        }
    }

    fn decide(&mut self, node: NodeId) {
        let (now, faults) = (self.now, self.faults);
        let d = self.of(node);
        let Some(term) = d.holds else { return };
        let entry = d.leases.entries(now).into_iter().find(|entry| entry.term == term);
        // Of its own it knows that nobody else has it.
        let knows = |is_heir: bool| !is_heir || d.asked || faults.no_question;
        let holds = entry.is_some_and(|e| e.until.is_some_and(|until| now < until) && knows(e.is_heir));
        if holds || faults.no_lease || faults.by_table {
            // It is bound, and not decided again here.
            d.holds = None;
            if self.decided.last() != Some(&node) || faults.no_question {
                self.decided.push(node);
            }
        }
    }
}
