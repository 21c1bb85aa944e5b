//! What happens to nodes and between them: they are found, stop, are silent, come back.

use std::collections::BTreeMap;

use baton_cluster::{NodeId, Succession};
use baton_control::ClusterClock;
use baton_core::{Core, Link};
use baton_datapath::{Peer, Settings};
use baton_packet_model::{self as model, Model};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::{Ended, FAILURE_TIMEOUT, Happening, World, mac};
use crate::plan::{HOUR, MS, Mishap, vip};
use crate::planted::Planted;
use crate::shell::Shell;

impl World<'_> {
    /// A control connection between two nodes: each hears of it before any message of the other.
    pub(super) fn connect(&mut self, a: usize, b: usize) {
        let lives = [self.nodes[a].life, self.nodes[b].life];
        let at = self.now + self.rng.random_range(0..30 * MS);
        self.at(at, Happening::Up { node: a, life: lives[0], peer: b, peer_life: lives[1] });
        self.at(at, Happening::Up { node: b, life: lives[1], peer: a, peer_life: lives[0] });
    }

    pub(super) fn mishap(&mut self, mishap: Mishap) {
        self.tell(format!("{mishap:?}"));
        match mishap {
            Mishap::Crash { node, for_long } => {
                if self.nodes[node].core.take().is_none() {
                    return;
                }
                for other in 0..self.nodes.len() {
                    if other != node {
                        self.breaks(other, node);
                    }
                }
                self.calm_from = self.calm_from.max(self.now + for_long);
                let at = self.now + for_long;
                self.at(at, Happening::Starts { node });
            }
            Mishap::Deaf { node, other, for_long } => {
                let for_long = for_long + FAILURE_TIMEOUT + 100 * MS;
                self.silence(node, other, for_long);
            }
            Mishap::Stopped { node, for_long } => {
                self.nodes[node].stalled_until = self.now + for_long;
                for other in (0..self.nodes.len()).filter(|other| *other != node) {
                    self.silence(node, other, for_long);
                }
            }
            Mishap::Clogged(clog) => self.clogs(clog),
            Mishap::Stalled { node, for_long } => self.nodes[node].stalled_until = self.now + for_long,
        }
    }

    /// A heartbeat of another node has come.
    pub(super) fn hears_clock(&mut self, node: usize, of: usize) {
        if self.planted == Some(Planted::WallClocks) {
            return;
        }
        let theirs = &self.nodes[of].shell;
        let (reads, agreed) =
            (theirs.cluster_clock.reads(self.now + theirs.booted), theirs.cluster_clock.agreed);
        let mine = &mut self.nodes[node].shell;
        mine.cluster_clock.hear(self.now + mine.booted, reads, agreed);
    }

    /// A node takes another one for down, if it has not done so.
    pub(super) fn down(&mut self, node: usize, peer: usize) -> Ended {
        let id = NodeId(peer as u16);
        let Some(session) = self.nodes[node].shell.sessions.get_mut(&id) else { return Ok(()) };
        if !std::mem::take(&mut session.is_up) {
            return Ok(());
        }
        self.tell(format!("n{peer} is down for n{node}"));
        self.core(node, |core, shell, now| {
            core.down(id, false, shell, now);
            core.flush(shell, now);
        })
    }

    /// Two nodes do not hear each other for a while. If it is long, their control connection breaks.
    pub(super) fn silence(&mut self, node: usize, other: usize, for_long: u64) {
        if self.is_deaf(node, other) {
            return;
        }
        self.deaf.push((node, other));
        self.breaks(node, other);
        self.breaks(other, node);
        let at = self.now + for_long.max(FAILURE_TIMEOUT + 1);
        self.at(at, Happening::Hears { node, other });
    }

    /// One node notices that it does not hear another one any more.
    pub(super) fn breaks(&mut self, node: usize, peer: usize) {
        let now = self.now;
        if let Some(session) = self.nodes[node].shell.sessions.get_mut(&NodeId(peer as u16)) {
            session.silent_since.get_or_insert(now);
            let life = self.nodes[node].life;
            let at = self.now + FAILURE_TIMEOUT;
            self.at(at, Happening::Down { node, life, peer });
        }
    }

    pub(super) fn shell(&mut self, node: usize) -> Shell {
        let id = NodeId(node as u16);
        let cluster = &self.files[0];
        let all = &cluster.nodes;
        let me = &all[node];
        let settings = Settings {
            node: id,
            roles: me.roles,
            address: me.address,
            handoff_port: cluster.handoff_port,
            mtu: 1600,
            cluster_ifindex: 2,
            hold_ifindex: 3,
            has_switch: cluster.has_switch(),
            others: all.iter().any(|n| n.id != id && (n.roles.server || n.roles.distributor)),
        };
        let peer =
            |n: &baton_cluster::Node| Peer { address: n.address, roles: n.roles, routed: false, ifindex: 2 };
        let addresses = [(vip(1), 80), (vip(2), 80), (vip(3), 81)];
        let is_deserted = self.plan.sick.is_some_and(|sick| sick.node == node && !sick.hangs);
        let listeners = if me.roles.server && !is_deserted { addresses.into() } else { Default::default() };
        let tables = model::Tables {
            services: Default::default(),
            evidence: model::Evidence::default(),
            pools: Default::default(),
            guides: Default::default(),
            nodes: all.iter().map(|n| (n.id, peer(n))).collect(),
            path_mtu: 0,
            follows: false,
            members: Default::default(),
            spread: model::Spread::default(),
            latest_syns: Default::default(),
            leases: Vec::new(),
            decisions: Default::default(),
            loads: Default::default(),
            keys: cluster.keys(),
            daemon_until_ns: 0,
            bindings: Default::default(),
            exchanges: Default::default(),
            turns: Default::default(),
            unknowns: Default::default(),
        };
        // Another one at each start.
        let skew = self.plan.skews[node] * (u64::from(self.nodes.get(node).map_or(0, |n| n.life)) + 1) % HOUR;
        let (booted, wall) = ((node as u64 + 1) * 1_000_000 * MS, 1_700_000_000_000 * MS + skew);
        let stack = model::Stack { listeners, reader: true, sockets: Default::default(), adopts: true };
        Shell {
            model: Model { settings, mac: mac(node), tables, stack },
            sockets: BTreeMap::new(),
            counters: BTreeMap::new(),
            events: Vec::new(),
            deeds: Vec::new(),
            sessions: BTreeMap::new(),
            now: self.now,
            booted,
            cluster_clock: ClusterClock::alone(self.now + booted, self.now + wall),
            random: StdRng::seed_from_u64(self.rng.random()),
            planted: self.planted,
            unreached: None,
        }
    }

    pub(super) fn starts(&mut self, node: usize) -> Ended {
        self.nodes[node].shell = self.shell(node);
        self.nodes[node].life += 1;
        let life = self.nodes[node].life;
        self.tell(format!("n{node} starts"));
        let chance = self.rng.random();
        let file = self.nodes[node].file;
        let known = Succession::new(self.as_read(file));
        let link = Link { mac: mac(node), mtu: 1600, ipv6_nodes: false };
        let now = self.moment(node);
        let core = Core::new(known, NodeId(node as u16), link, now, chance);
        self.nodes[node].core = Some(core);
        self.nodes[node].is_changing = false;
        self.note_file(node, file);
        self.core(node, |core, shell, now| {
            core.furnish(shell).expect("the model refuses nothing");
            core.begun(shell, now);
        })?;
        self.at(self.now, Happening::Tick { node, life });
        for other in 0..self.nodes.len() {
            if other != node && self.nodes[other].core.is_some() {
                self.connect(node, other);
            }
        }
        Ok(())
    }
}
