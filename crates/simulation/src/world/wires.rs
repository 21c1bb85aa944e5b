//! Packets on their way, and the clients at the other end.

use baton_cluster::Flow;
use rand::Rng as _;
use rand::rngs::StdRng;

use super::{Ended, Happening, ROUTER, World, mac};
use crate::client::Stage;
use crate::plan::{MS, Place};
use crate::segment::Segment;

impl World<'_> {
    /// A frame for a client: over the network, or lost.
    pub(super) fn send_to_client(&mut self, node: usize, frame: Vec<u8>) {
        for at in self.ways(Some(node), None) {
            self.at(at, Happening::ToClient { frame: frame.clone() });
        }
    }

    /// A frame for a node, from another one, or from a client.
    pub(super) fn send_to_node(&mut self, from: Place, node: usize, frame: Vec<u8>) {
        let life = self.nodes[node].life;
        for at in self.ways(from, Some(node)) {
            self.at(at, Happening::Frame { node, life, frame: frame.clone(), released: false });
        }
    }

    /// When a packet arrives: once, never, twice, late.
    pub(super) fn ways(&mut self, from: Place, to: Place) -> Vec<u64> {
        self.summary.packets += 1;
        let in_order = self.is_clogged(from, to);
        // Once all mishaps are over, the network is kind, so that all must end.
        let kind = self.now > 20_000 * MS;
        let is = |rng: &mut StdRng, of: u32| !kind && rng.random_range(0..1000) < of;
        if is(&mut self.rng, self.plan.lost) {
            self.tell("   lost".into());
            return Vec::new();
        }
        let copies = if is(&mut self.rng, self.plan.twice) { 2 } else { 1 };
        let mut ways = Vec::new();
        for _ in 0..copies {
            let Some(waits) = self.waits(from, to, false) else {
                self.tell("   no room on the link".into());
                continue;
            };
            let late = if !in_order && is(&mut self.rng, self.plan.late) {
                self.rng.random_range(0..=self.plan.lateness)
            } else {
                0
            };
            // Without lateness in order: the delay is the same for all.
            ways.push(self.now + self.plan.delay + waits + late);
        }
        ways
    }

    pub(super) fn client_receives(&mut self, frame: &[u8]) -> Ended {
        let Some((_, (_, port), segment)) = Segment::parse(frame) else {
            return Err("a client gets what is no TCP".into());
        };
        let number = usize::from(port - 40_000);
        self.tell(format!("client {number} gets {segment:?}"));
        let now = self.now;
        let Some(client) = self.clients.get_mut(number) else { return Ok(()) };
        let (before, answered) = (client.stage.clone(), client.answered);
        client.receive(&segment, now).map_err(|error| format!("client {number}: {error}"))?;
        self.summary.answered += (client.answered - answered) as u64;
        if client.stage == Stage::Reset && before != Stage::Reset {
            self.summary.lost += 1;
            // A distributor that has lost the right to decide cannot give back what its reader has acknowledged.
            let begins = before == Stage::Opening && self.may_be_refused(number);
            let meets = !self.plan.mishaps.is_empty() || self.plan.sick.is_some();
            let forgiven = begins || self.plan.crashes() || (answered == 0 && meets);
            if !forgiven {
                let answered = self.clients[number].answered;
                return Err(format!("client {number} is reset after {answered} answers"));
            }
        }
        self.client(number)
    }

    /// A client sends what it has to send.
    pub(super) fn client(&mut self, number: usize) -> Ended {
        let now = self.now;
        let mut frames = Vec::new();
        let rng = &mut self.rng;
        let client = &mut self.clients[number];
        let flow = client.flow;
        frames.extend(client.open(now));
        client.write(now);
        if let Some(end) = &mut client.end
            && client.stage == Stage::Open
        {
            let mut piece = |most: usize| {
                if most > 40 && rng.random_ratio(1, 4) { rng.random_range(1..=most) } else { most }
            };
            frames.extend(end.repeat(now, &mut piece));
            frames.extend(end.send(now, &mut piece));
        }
        if client.stage == Stage::Done
            && let Some(end) = &mut client.end
        {
            frames.extend(end.send(now, |most| most));
        }
        frames.extend(client.probe(now));
        client.finish();
        if client.finds_nobody() {
            self.summary.lost += 1;
            if !self.plan.crashes() && !self.may_be_refused(number) {
                return Err(format!("client {number} finds nobody"));
            }
            return Ok(());
        }
        if client.gives_up(now) || (self.plan.sick.is_some() && client.leaves(now)) {
            self.summary.lost += 1;
            if !self.plan.crashes() && self.plan.sick.is_none() {
                return Err(format!("client {number} waits for answer {} for ever", client.answered));
            }
        }
        let patience =
            (client.stage == Stage::Open).then_some(client.got + 30_001 * MS).filter(|at| *at > now);
        let probe = (client.stage == Stage::Open).then_some(client.probe_at()).filter(|at| *at > now);
        let more = client.has_more_to_write().then_some(client.write_at.max(now + 1));
        let due = client.end.as_ref().and_then(|end| end.due);
        let times = [
            client.syn_due,
            due,
            more,
            patience,
            probe,
            client.waits_until().map(|at| at.max(client.write_at).max(now + 1)),
        ];
        let is_over = client.is_over();
        let at = times.into_iter().flatten().min().filter(|_| !is_over);
        if let Some(at) = at.filter(|at| client.timer.is_none_or(|timer| *at < timer || timer <= now)) {
            client.timer = Some(at);
            self.at(at, Happening::Client { number });
        }
        for segment in frames {
            self.tell(format!("client {number} sends {segment:?}"));
            let entry = self.entry(&flow);
            let frame = segment.frame(&flow, false, (ROUTER, mac(entry)));
            self.send_to_node(None, entry, frame);
        }
        Ok(())
    }

    /// The node that the router sends the VIP's packets to.
    pub(super) fn entry(&self, flow: &Flow) -> usize {
        let announcers = self.files.iter().flat_map(|file| file.announcers(flow.vip));
        announcers.map(|id| id.index()).next().unwrap_or(0)
    }
}
