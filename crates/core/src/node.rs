//! One node: what happens to it goes to the part that it concerns. In the order in which the daemon, or the simulation,
//! tells it: what peers say, what the programs hold and tell, what the reader has read, and time.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use baton_cluster::{Node, NodeId, Succession};
use baton_control::{Message, Move, Taken};
use baton_datapath::{DatapathError, Event};
use baton_dispatcher::leases::Leases;

use crate::dispatcher::DispatcherRole;
use crate::head::Head;
use crate::lease::LeaseRole;
use crate::news::News;
use crate::outside::{Moment, Outside};
use crate::peers::Peers;
use crate::placing::{Link, Placing};
use crate::post::Post;
use crate::server::{Ends, ServerRole};
use crate::services::{Services, decides};
use crate::standing::Standing;
use crate::switch::SwitchRole;
use crate::table::Occupancy;
use crate::tools::Tools;
use crate::trouble::Troubles;
use crate::witness::Witness;

mod dispatching;
mod messages;

/// A switch's table that cannot be written is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// The rules of one node, and all that it knows.
#[derive(Debug)]
pub struct Core<S> {
    me: NodeId,
    /// Messages that wait to be sent.
    pub post: Post,
    /// What went wrong.
    pub troubles: Troubles,
    services: Services,
    peers: Peers,
    placing: Option<Placing<S>>,
    dispatcher: Option<DispatcherRole>,
    server: Option<ServerRole>,
    switch: Option<SwitchRole>,
    lease: Option<LeaseRole>,
    /// From when the switch's table is to be written, after it could not be.
    switch_from: Option<Instant>,
    /// On nodes that have servers, or hand connections to them.
    witness: Option<Witness>,
    standing: Standing,
    ends: Ends,
    news: News,
    table: Occupancy,
    /// The MAC address of each node that has been up, and whether the programs have yet to be told.
    members: BTreeMap<NodeId, ([u8; 6], bool)>,
}

impl<S: Debug> Core<S> {
    /// A node that knows of no other yet. `chance`: a number that nobody can guess. A node that is
    /// not in the file has no role.
    pub fn new(known: Succession, me: NodeId, link: Link, now: Moment, chance: u32) -> Self {
        let services = Services::new(known, now.instant);
        let cluster = services.cluster();
        let roles = cluster.node(me).map(|node| node.roles).unwrap_or_default();
        // Without a switch every distributor takes every cookie, as it did before it was started again: nobody spreads
        // the connections but the routers outside.
        let direct = if cluster.has_switch() { chance } else { 0 };
        let leases = || LeaseRole::new(Leases::new(me, direct, cluster.failure_timeout));
        Self {
            me,
            post: Post::new(me),
            troubles: Troubles::default(),
            peers: Peers::new(me, cluster.nodes.len()),
            placing: decides(roles).then(|| Placing::new(&services, me, link, now.instant)),
            dispatcher: roles.dispatcher.then(|| DispatcherRole::new(cluster, me, now.monotonic)),
            server: roles.server.then(|| ServerRole::new(now.instant)),
            switch: roles.switch.then(|| SwitchRole::new(cluster)),
            lease: roles.distributor.then(leases),
            switch_from: None,
            witness: decides(roles).then(Witness::default),
            standing: Standing::default(),
            ends: Ends::default(),
            news: News::default(),
            table: Occupancy::new(cluster.limits.bindings, now.instant),
            members: BTreeMap::new(),
            services,
        }
    }

    /// Which node this is.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// The services that it knows.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// The nodes that are up.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The interface to the other nodes has another MAC address, or packets for them may be larger or smaller (bytes).
    pub fn link_changed(&mut self, mac: [u8; 6], mtu: usize) {
        if let Some(placing) = &mut self.placing {
            (placing.link.mac, placing.link.mtu) = (mac, mtu);
        }
    }

    /// Its part in placing requests, if it has one.
    pub fn placing(&self) -> Option<&Placing<S>> {
        self.placing.as_ref()
    }

    /// Which servers are doubted, and by whom.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Connections that its server serves now.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn serving(&self, outside: &mut impl Outside<Stream = S>) -> Result<Option<u32>, DatapathError> {
        self.server.as_ref().map(|server| server.serving(outside)).transpose()
    }

    /// Live connections that the kernel has forgotten for want of room.
    pub fn displaced(&self) -> u64 {
        self.table.displaced()
    }

    /// News that others have yet to hear.
    pub(crate) fn untold(&self) -> usize {
        self.news.len()
    }

    /// Whether something is due sooner than usual.
    pub fn is_busy(&self) -> bool {
        self.placing.as_ref().is_some_and(Placing::is_busy)
    }

    /// The node itself has begun.
    pub fn begun(&mut self, outside: &mut impl Outside<Stream = S>, now: Moment) {
        if let Some(me) = self.services.cluster().node(self.me).cloned() {
            self.came_up(&me, outside, now);
        }
    }

    /// There is a control connection to a node now, whose packets come from this MAC address, and whose cluster file has
    /// so many nodes.
    pub fn up(
        &mut self,
        id: NodeId,
        (mac, nodes): ([u8; 6], usize),
        outside: &mut impl Outside<Stream = S>,
        now: Moment,
    ) {
        let Some(node) = self.services.cluster().node(id).cloned() else { return };
        self.is_member(id, mac, outside, now);
        self.peers.came_up(id, nodes);
        self.came_up(&node, outside, now);
    }

    /// There is none any more. `ended`: the node has said goodbye.
    pub fn down(&mut self, id: NodeId, ended: bool, outside: &mut impl Outside<Stream = S>, now: Moment) {
        let Some(node) = self.services.cluster().node(id).cloned() else { return };
        self.peers.went_down(id);
        if let Some(witness) = &mut self.witness {
            witness.gone(id);
        }
        if self.standing.gone(id) {
            self.doubts_changed(outside, now);
        }
        self.went_down(&node, ended, outside, now);
    }

    /// A node's packets come from this MAC address from now on, and from no other.
    fn is_member(&mut self, node: NodeId, mac: [u8; 6], outside: &mut impl Outside<Stream = S>, now: Moment) {
        let before = self.members.insert(node, (mac, true));
        if let Some((old, _)) = before.filter(|(old, _)| *old != mac) {
            self.troubles.note(now.monotonic, "a member's former address", outside.remove_member(old));
        }
        self.tell_members(outside, now);
    }

    fn tell_members(&mut self, outside: &mut impl Outside<Stream = S>, now: Moment) {
        for (node, (mac, untold)) in self.members.iter_mut().filter(|(_, (_, untold))| *untold) {
            let told = outside.set_member(*mac, *node);
            *untold = told.is_err();
            self.troubles.note(now.monotonic, "a member's address", told);
        }
    }

    /// A node is there, this one included: every component that it concerns is told.
    fn came_up(&mut self, node: &Node, outside: &mut impl Outside<Stream = S>, now: Moment) {
        self.dispatcher_up(node, now);
        if let Some(lease) = self.lease.as_mut().filter(|_| node.id != self.me) {
            lease.up(node.id, node.roles.switch, now.monotonic, outside.random(), &mut self.post);
        }
        if let Some(switch) = &mut self.switch
            && let Some(lease) = self.lease.as_ref().filter(|_| node.id == self.me)
        {
            switch.term(self.me, lease.direct(), now.monotonic);
        }
        self.with_placing("guides", outside, now, |placing, tools| {
            placing.owners.came_up(node.id, tools);
            let followed = placing.came_up(node.id, tools);
            followed.and(placing.guides.refresh(tools.peers, tools.outside, tools.now))
        });
    }

    fn went_down(&mut self, node: &Node, ended: bool, outside: &mut impl Outside<Stream = S>, now: Moment) {
        self.dispatcher_down(node, now);
        if let Some(switch) = &mut self.switch {
            switch.down(node.id, ended, now.monotonic);
        }
        if let Some(lease) = &mut self.lease {
            lease.down(node.id);
        }
        self.with_placing("guides", outside, now, |placing, tools| {
            let asked = placing.owners.went_down(node.id, tools);
            let told = placing.guides.refresh(tools.peers, tools.outside, tools.now);
            let decided = placing.went_down(node.id, tools);
            asked.and(told).and(decided)
        });
    }

    /// A message could not be sent to a node.
    pub fn unsent(&mut self, to: NodeId, outside: &mut impl Outside<Stream = S>, now: Moment) {
        if self.services.cluster().node(to).is_some_and(|node| node.roles.dispatcher) {
            self.with_placing("questions", outside, now, |placing, tools| placing.refuses(to, tools));
        }
    }

    /// A packet that the programs hold.
    pub fn held(&mut self, frame: &[u8], outside: &mut impl Outside<Stream = S>, now: Moment) {
        self.with_placing("a held packet", outside, now, |placing, tools| placing.frame(frame, tools));
    }

    /// The programs have given the reader a connection.
    pub fn accepted(&mut self, head: Head<S>, outside: &mut impl Outside<Stream = S>, now: Moment) {
        self.with_placing("a connection of the reader", outside, now, |placing, tools| {
            placing.accepted(head, tools);
            Ok(())
        });
    }

    /// The reader has a request's head.
    pub fn read(&mut self, head: Head<S>, outside: &mut impl Outside<Stream = S>, now: Moment) {
        self.with_placing("a request's head", outside, now, |placing, tools| placing.whole_head(head, tools));
    }

    /// The programs have told something; but for what is too big for a path, which is the daemon's to say.
    pub fn event(&mut self, event: Event, outside: &mut impl Outside<Stream = S>, now: Moment) {
        match event {
            Event::Bound { flow, start_seq, server, issued, distributor, .. } => {
                let moved = Move { flow, server, start_seq, issued, from: self.me };
                self.news.add(moved, distributor, now.instant);
            }
            Event::Idle { flow } => {
                self.with_placing("an idle connection", outside, now, |d, tools| d.feed(&flow, tools));
            }
            Event::Taken { flow, start_seq, distributor } => {
                self.tell_reader(distributor, Taken { flow, start_seq });
            }
            Event::Closed { flow, start_seq, distributor, .. } => {
                self.ends.add(flow, start_seq, distributor);
            }
            Event::Failed { flow, sign, spoke } => {
                let Some(witness) = &mut self.witness else { return };
                let seen = witness.failed(&flow, (sign, spoke), &self.services, outside, now.monotonic);
                self.troubles.note(now.monotonic, "a sign of this node's server", seen);
            }
            Event::TooBig { .. } | Event::Probed { .. } => {}
        }
    }

    /// Called regularly. Whether the next time is to be soon.
    pub fn tick(&mut self, outside: &mut impl Outside<Stream = S>, now: Moment) -> bool {
        self.refresh_leases(outside, now);
        self.with_placing("what waits", outside, now, Placing::tick);
        if let Some(dispatcher) = &mut self.dispatcher {
            let times = (now.monotonic, outside.cluster_time());
            dispatcher.tick(self.services.cluster(), times, &mut self.post);
        }
        let mut busy = false;
        if let Some(server) = &mut self.server {
            let cluster = self.services.cluster();
            let told = server.tick(now, outside, cluster, &self.peers, self.me, &mut self.post);
            busy = *told.as_ref().unwrap_or(&false);
            self.troubles.note(now.monotonic, "this node's load", told.map(drop));
        }
        if let Some(witness) = &mut self.witness {
            let seen = witness.tick(&self.services, &self.peers, outside, &mut self.post, now);
            self.troubles.note(now.monotonic, "what this node has seen of servers", seen);
        }
        self.tell_members(outside, now);
        let counted = self.table.tick(now.instant, outside);
        self.troubles.note(now.monotonic, "the table of connections", counted);
        let takes_over = self.dispatcher.as_ref().is_some_and(DispatcherRole::is_busy);
        busy || takes_over || self.is_busy() || !self.news.is_empty()
    }

    /// Called when all that woke the node has been done: what has gathered is told.
    pub fn flush(&mut self, outside: &mut impl Outside<Stream = S>, now: Moment) {
        self.refresh_switch(outside, now);
        self.with_placing("questions", outside, now, |d, tools| d.owners.flush(tools));
        self.send_news(outside, now);
    }

    /// Others decide what this node has not decided, as soon as they hear that it stops.
    pub fn end_leases(&mut self, outside: &mut impl Outside<Stream = S>, now: Moment) {
        if let Some(lease) = &mut self.lease {
            self.troubles.note(now.monotonic, "the leases", lease.end(outside));
        }
    }

    /// What the switches have granted, as of now.
    fn refresh_leases(&mut self, outside: &mut impl Outside<Stream = S>, now: Moment) {
        if let Some(lease) = &mut self.lease {
            self.troubles.note(now.monotonic, "the leases", lease.refresh(now.monotonic, outside));
        }
    }

    /// The server of this node has what a reader gave it: the distributor's; or, for a later request in a
    /// strict service, that of a server which had the connection before.
    fn tell_reader(&mut self, distributor: NodeId, taken: Taken) {
        self.post.send(distributor, Message::Taken(taken));
        if self.services.of(&taken.flow).is_none_or(|service| !service.strict) {
            return;
        }
        for to in self.peers.others(self.services.cluster(), |r| r.server).filter(|to| *to != distributor) {
            self.post.send(to, Message::Taken(taken));
        }
        if distributor != self.me {
            self.post.send(self.me, Message::Taken(taken));
        }
    }

    /// At once: until then clients are sent to who is gone, or to nobody.
    fn refresh_switch(&mut self, outside: &mut impl Outside<Stream = S>, now: Moment) {
        let Some(switch) = &mut self.switch else { return };
        if self.switch_from.is_some_and(|from| now.instant < from) {
            return;
        }
        let written = switch.refresh(now.monotonic, outside, &mut self.post);
        self.switch_from = written.is_err().then(|| now.instant + RETRY);
        self.troubles.note(now.monotonic, "the switch's table", written);
    }

    /// Moves before ends: what has ended must not be bound again by its own, later news.
    fn send_news(&mut self, outside: &mut impl Outside<Stream = S>, now: Moment) {
        let cluster = self.services.cluster();
        let told = self.news.send(self.me, now.instant, cluster, &self.peers, outside, &mut self.post);
        self.ends.send(cluster, &self.peers, &mut self.post);
        self.troubles.note(now.monotonic, "news of connections", told);
    }

    /// Fills the programs' tables, which know nothing yet.
    ///
    /// # Errors
    /// A table refuses something.
    pub fn furnish(&self, outside: &mut impl Outside<Stream = S>) -> Result<(), DatapathError> {
        self.services.furnish(outside)
    }

    /// Goes by another cluster file from now on.
    ///
    /// # Errors
    /// A table refuses something: all is as before.
    pub fn go_by(
        &mut self,
        known: Succession,
        outside: &mut impl Outside<Stream = S>,
        now: Moment,
    ) -> Result<(), DatapathError> {
        self.services.follow_up(known, outside, now.instant)
    }

    /// Tells those who decide of another cluster file, when the tables have all of it.
    pub fn pools_changed(&mut self, outside: &mut impl Outside<Stream = S>, now: Moment) {
        self.with_placing("guides of other pools", outside, now, |d, tools| {
            d.guides.pools_changed(tools.services, tools.outside)
        });
        if let Some(dispatcher) = &mut self.dispatcher {
            dispatcher.pools_changed(self.services.cluster(), &mut self.post);
        }
        self.doubts_changed(outside, now);
    }

    /// Removes what no packet can be under way by any more.
    ///
    /// # Errors
    /// A table refuses that.
    pub fn sweep_services(&mut self, outside: &mut impl Outside<Stream = S>) -> Result<(), DatapathError> {
        self.services.sweep(outside)
    }

    /// Counts what is left of services that end. What follows when some address has nothing left.
    pub fn count_ending(
        &mut self,
        outside: &mut impl Outside<Stream = S>,
        now: Moment,
    ) -> Option<Succession> {
        self.services.count(outside, now)
    }

    /// Lets the part that places requests act, if this node has it; `what` names the cause, if it fails.
    fn with_placing<O: Outside<Stream = S>>(
        &mut self,
        what: &'static str,
        outside: &mut O,
        now: Moment,
        act: impl FnOnce(&mut Placing<S>, &mut Tools<'_, O>) -> Result<(), DatapathError>,
    ) {
        let Some(placing) = &mut self.placing else { return };
        let mut tools = Tools {
            services: &self.services,
            peers: &self.peers,
            outside,
            post: &mut self.post,
            now: now.instant,
            monotonic: now.monotonic,
        };
        let ended = act(placing, &mut tools);
        self.troubles.note(now.monotonic, what, ended);
    }
}
