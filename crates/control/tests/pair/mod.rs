//! Two sessions joined by memory, with a clock of the test's own.
#![allow(dead_code, missing_docs, reason = "each test file uses a part of it")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_cluster::NodeId;
use baton_control::message::{Load, Message};
use baton_control::session::{Identity, Received, Session};
use baton_control::{Error, Hello, NodeClocks};

pub const FAILURE_TIMEOUT: Duration = Duration::from_secs(1);

pub fn identity(node: u16) -> Identity {
    Identity {
        hello: Hello {
            cluster: "shop".to_owned(),
            node: NodeId(node),
            name: format!("n{node}"),
            digest: [7; 32],
            nodes: (0..4).map(|n| [n; 8]).collect(),
            mac: [2, 0, 0, 0, 0, node as u8],
            boot: 100 + u64::from(node),
            software: "test".to_owned(),
        },
        psk: [9; 32],
        peers: (0..4).map(NodeId).filter(|peer| peer.0 != node).collect(),
        names: (0..4).map(|n| format!("n{n}")).collect(),
        failure_timeout: FAILURE_TIMEOUT,
        clocks: Arc::new(NodeClocks::new(Instant::now(), Duration::from_secs(1_700_000_000))),
    }
}

pub fn encoded(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes).expect("a valid message");
    bytes
}

pub fn load(serving: u32) -> Message {
    Message::Load(Load { serving, adopted_total: 0, closed_total: 0, pressure: 0 })
}

/// One end of a connection in memory.
pub struct End {
    pub session: Session,
    pub heard: VecDeque<Received>,
    pub error: Option<Error>,
}

impl End {
    pub fn new(session: Session) -> End {
        End { session, heard: VecDeque::new(), error: None }
    }

    pub fn receive(&mut self, bytes: &[u8], now: Instant) {
        if self.error.is_none() {
            self.error = self.session.receive(bytes, now, &mut self.heard).err();
        }
    }

    pub fn tick(&mut self, now: Instant) {
        if self.error.is_none() && self.session.deadline() <= now {
            self.error = self.session.tick(now).err();
        }
    }

    pub fn send(&mut self, message: &Message) {
        self.session.send(&encoded(message)).expect("an open session");
    }

    /// Takes what is to be written.
    pub fn written(&mut self) -> Vec<u8> {
        let bytes = self.session.pending().to_vec();
        self.session.wrote(bytes.len());
        bytes
    }

    pub fn messages(&mut self) -> Vec<Message> {
        let heard = std::mem::take(&mut self.heard);
        heard
            .into_iter()
            .filter_map(|heard| if let Received::Message(message) = heard { Some(message) } else { None })
            .collect()
    }
}

pub struct Pair {
    pub dialler: End,
    pub listener: End,
    pub now: Instant,
}

impl Pair {
    pub fn of(dialler: Identity, dialled: u16, listener: Identity) -> Pair {
        let now = Instant::now();
        let dialler = Session::dial(Arc::new(dialler), NodeId(dialled), now).expect("a session");
        let listener = Session::listen(Arc::new(listener), now).expect("a session");
        Pair { dialler: End::new(dialler), listener: End::new(listener), now }
    }

    /// Nodes 0 and 1; `lower_dials` says which dials.
    pub fn new(lower_dials: bool) -> Pair {
        if lower_dials {
            Pair::of(identity(0), 1, identity(1))
        } else {
            Pair::of(identity(1), 0, identity(0))
        }
    }

    /// Carries bytes both ways until there are none. A proposed connection is accepted.
    pub fn settle(&mut self) {
        loop {
            let (forth, back) = (self.dialler.written(), self.listener.written());
            if forth.is_empty() && back.is_empty() {
                return;
            }
            self.listener.receive(&forth, self.now);
            self.dialler.receive(&back, self.now);
            for end in [&mut self.dialler, &mut self.listener] {
                if end.error.is_none() && matches!(end.heard.back(), Some(Received::Proposed(_))) {
                    let _already_accepted = end.session.accept(self.now);
                }
            }
        }
    }

    /// Lets time pass in small steps, with everything carried at once.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now = (self.now + Duration::from_millis(10)).min(until);
            self.dialler.tick(self.now);
            self.listener.tick(self.now);
            self.settle();
        }
    }

    pub fn opened(lower_dials: bool) -> Pair {
        let mut pair = Pair::new(lower_dials);
        pair.settle();
        assert!(pair.dialler.session.is_open() && pair.listener.session.is_open());
        pair
    }
}
