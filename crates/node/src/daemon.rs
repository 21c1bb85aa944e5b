//! A node's state, and what each thing that happens does to it. All state is owned here and used by one task
//! ([`crate::turns`] runs it), so nothing is locked.
//!
//! Nothing that happens to a running node ends it: an error costs what it was for, and is noted.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use baton_cluster::{Cluster, Node, NodeId, Succession};
use baton_control::{Event as MeshEvent, Grant, Heir, Mesh, MeshConfig, Message, Move, Taken, Term};
use baton_datapath::{Datapath, Event, Events, Hold, Live};
use baton_dispatcher::leases::Leases;
use nix::errno::Errno;
use tokio::sync::mpsc;

use crate::dispatcher::DispatcherRole;
use crate::gone::Gone;
use crate::host_work::HostWork;
use crate::lease::LeaseRole;
use crate::listeners::Listeners;
use crate::news::News;
use crate::path::{self, Paths};
use crate::peers::Peers;
use crate::placing::Placing;
use crate::post::Post;
use crate::raw::{Raw, TooBig};
use crate::reader::Reader;
use crate::server::{Ends, ServerRole};
use crate::services::Services;
use crate::setup::{Setup, decides, peer_entry, wanted_by};
use crate::socket::StatusSocket;
use crate::switch::{self, SwitchRole};
use crate::table::Table;
use crate::tools::Tools;
use crate::trouble::{Troubles, for_all};
use crate::watch::Watched;
use crate::{NodeError, Options, clock};

/// The kernel decides alone when user space has not been heard of for this long.
const SILENCE: Duration = Duration::from_secs(2);
/// What is done about held packets, events and messages in one turn, before others have theirs: some milliseconds of work.
const FRAMES_AT_ONCE: usize = 64;
const EVENTS_AT_ONCE: usize = 512;
/// A hold device that cannot be read, or a switch's table that cannot be written, is tried again after this.
pub(crate) const RETRY: Duration = Duration::from_secs(1);
/// The longest frame that a hold device of usual MTU gives; longer ones do not come.
const FRAME_MAX: usize = 65_550;

/// A running node.
pub(crate) struct Daemon {
    pub(crate) services: Services,
    pub(crate) me: NodeId,
    pub(crate) started: Instant,
    pub(crate) datapath: Datapath,
    pub(crate) hold: Option<Watched<Hold>>,
    /// From when the hold device is to be read, after it could not be.
    pub(crate) hold_from: Option<Instant>,
    /// Where held packets are read into.
    buffer: Vec<u8>,
    pub(crate) events: Watched<Events>,
    /// There are events that nobody tells of: the share of a turn was full.
    pub(crate) more_events: bool,
    pub(crate) mesh: Mesh,
    pub(crate) mesh_events: mpsc::Receiver<MeshEvent>,
    pub(crate) socket: StatusSocket,
    pub(crate) peers: Peers,
    pub(crate) post: Post,
    pub(crate) placing: Option<Placing>,
    pub(crate) dispatcher: Option<DispatcherRole>,
    pub(crate) server: Option<ServerRole>,
    pub(crate) switch: Option<SwitchRole>,
    lease: Option<LeaseRole>,
    /// From when the switch's table is to be written, after it could not be.
    switch_from: Option<Instant>,
    ends: Ends,
    news: News,
    /// The MAC address of each node that has been up, and whether the programs have yet to be told.
    members: BTreeMap<NodeId, ([u8; 6], bool)>,
    raw: Raw,
    pub(crate) too_big: TooBig,
    pub(crate) troubles: Troubles,
    pub(crate) listeners: Option<Listeners>,
    gone: Gone,
    pub(crate) table: Table,
    cluster_interface: u32,
    paths: Paths,
    pub(crate) paths_seen: mpsc::Receiver<Paths>,
    pub(crate) host_work: HostWork,
    pub(crate) options: Options,
}

impl Daemon {
    /// Loads, fills, attaches, listens: in this order, so that the first packet finds everything.
    pub(crate) fn start(options: &Options, setup: &Setup) -> Result<Self, NodeError> {
        let now = Instant::now();
        let services = Services::new(Succession::new(options.cluster.clone()), now);
        let cluster = services.cluster();
        let node = cluster.node(options.node).ok_or(NodeError::UnknownNode(options.node))?.clone();
        let (mut datapath, hold) = setup.load(&services, &node)?;
        let events = datapath.events()?;
        let (mesh, mesh_events) = join_mesh(cluster, &node, setup.cluster_interface.mac)?;
        let reader = decides(node.roles).then(|| {
            let at = &setup.cluster_interface;
            Reader::listen(cluster, at.mac, at.mtu)
        });
        let reader = reader.transpose()?;
        promise(&datapath, reader.as_ref(), &setup.paths, &services)?;
        let (to_daemon, paths_seen) = mpsc::channel(1);
        let (mtu, known) = (setup.cluster_interface.mtu, setup.paths.clone());
        tokio::spawn(path::watch(cluster.clone(), node.clone(), mtu, known, to_daemon));
        if let Some(hold) = &hold {
            datapath.attach_hold(hold.index())?;
        }
        if node.roles.server
            && let Err(error) = datapath.attach_sockets()
        {
            tracing::warn!(%error, "moved connections begin with a small congestion window");
        }
        for interface in &setup.interfaces {
            datapath.attach(interface.index)?;
            tracing::info!(interface = interface.name, "attached");
        }
        let hold = hold.map(Watched::new).transpose()?;
        let events = Watched::new(events)?;
        let roles = node.roles;
        let daemon = Self {
            me: node.id,
            started: now,
            hold,
            hold_from: None,
            buffer: Vec::new(),
            events,
            more_events: false,
            mesh: mesh.clone(),
            mesh_events,
            cluster_interface: setup.cluster_interface.index,
            paths: setup.paths.clone(),
            paths_seen,
            socket: StatusSocket::listen(setup.socket())?,
            peers: Peers::new(node.id),
            post: Post::new(node.id, mesh),
            placing: reader.map(|reader| Placing::new(&services, node.id, reader)),
            dispatcher: roles.dispatcher.then(|| DispatcherRole::new(cluster)),
            server: roles.server.then(|| ServerRole::new(&node, now)),
            switch: roles.switch.then(|| SwitchRole::new(cluster)),
            lease: roles.distributor.then(|| LeaseRole::new(leases(cluster, node.id))),
            switch_from: None,
            ends: Ends::default(),
            news: News::default(),
            members: BTreeMap::new(),
            raw: Raw::default(),
            too_big: TooBig::new(),
            listeners: roles.server.then(|| Listeners::watch(wanted_by(services.known(), &node))),
            troubles: Troubles::new(now),
            gone: Gone::default(),
            table: Table::new(services.cluster().limits.bindings, now),
            datapath,
            host_work: HostWork::default(),
            options: options.clone(),
            services,
        };
        setup.ready()?;
        tracing::info!(node = node.name, %roles, "running");
        Ok(daemon)
    }

    pub(crate) fn my_name(&self) -> String {
        self.services.cluster().node(self.me).map(|node| node.name.clone()).unwrap_or_default()
    }

    pub(crate) fn mesh_event(&mut self, event: MeshEvent) {
        let named = |id| self.services.cluster().node(id).cloned();
        match event {
            MeshEvent::Up { node, hello } => {
                let Some(node) = named(node) else { return };
                tracing::info!(peer = node.name, version = hello.software, "up");
                self.is_member(node.id, hello.mac);
                self.peers.set(node.id, true);
                self.came_up(&node);
            }
            MeshEvent::Down { node, reason } => {
                let Some(node) = named(node) else { return };
                tracing::warn!(peer = node.name, %reason, "down");
                self.peers.set(node.id, false);
                self.went_down(&node, reason.has_ended());
            }
            MeshEvent::Message { node, message } => self.message(node, message),
        }
    }

    /// A node's packets come from this MAC address from now on, and from no other.
    fn is_member(&mut self, node: NodeId, mac: [u8; 6]) {
        let before = self.members.insert(node, (mac, true));
        if let Some((old, _)) = before.filter(|(old, _)| *old != mac) {
            let removed = self.datapath.remove_member(old);
            self.troubles.note("a member's former address", removed.map_err(|error| error.to_string()));
        }
        self.tell_members();
    }

    fn tell_members(&mut self) {
        for (node, (mac, untold)) in self.members.iter_mut().filter(|(_, (_, untold))| *untold) {
            let told = self.datapath.set_member(*mac, *node);
            *untold = told.is_err();
            self.troubles.note("a member's address", told);
        }
    }

    /// A node is there, this one included: every component that it concerns is told.
    pub(crate) fn came_up(&mut self, node: &Node) {
        if let Some(dispatcher) = &mut self.dispatcher {
            dispatcher.up(node, clock::monotonic(), &mut self.post);
        }
        if let Some(lease) = self.lease.as_mut().filter(|_| node.id != self.me) {
            lease.up(node.id, node.roles.switch, &mut self.post);
        }
        if let Some(switch) = &mut self.switch
            && let Some(lease) = self.lease.as_ref().filter(|_| node.id == self.me)
        {
            switch.term(self.me, lease.direct());
        }
        let is_dispatcher = node.roles.dispatcher;
        self.with_placing("guides", |placing, tools| {
            placing.owners.came_up(node.id, tools.now);
            let forgotten = if is_dispatcher { placing.guides.forget(tools.datapath) } else { Ok(()) };
            forgotten.and(placing.guides.refresh(tools.peers, tools.datapath, tools.now))
        });
    }

    fn went_down(&mut self, node: &Node, ended: bool) {
        if let Some(dispatcher) = &mut self.dispatcher {
            dispatcher.down(node, clock::monotonic(), &mut self.post);
        }
        if let Some(switch) = &mut self.switch {
            switch.down(node.id, ended);
        }
        if let Some(lease) = &mut self.lease {
            lease.down(node.id);
        }
        let is_dispatcher = node.roles.dispatcher;
        self.with_placing("guides", |placing, tools| {
            let asked = placing.owners.went_down(node.id, tools);
            let told = placing.guides.refresh(tools.peers, tools.datapath, tools.now);
            let decided = if is_dispatcher { placing.dispatcher_lost(tools) } else { Ok(()) };
            asked.and(told).and(decided)
        });
    }

    pub(crate) fn message(&mut self, from: NodeId, message: Message) {
        match message {
            Message::Ask(ask) => {
                if let Some(dispatcher) = &mut self.dispatcher {
                    dispatcher.ask(from, &ask, clock::monotonic(), &mut self.post);
                }
            }
            Message::Load(load) => {
                if let Some(dispatcher) = &mut self.dispatcher {
                    dispatcher.load(from, &load);
                }
                self.with_placing("a load", |d, tools| d.guides.load(from, &load, tools.datapath));
            }
            Message::Answer(answer) => {
                self.with_placing("an answer", |d, tools| d.answered(answer, tools));
            }
            Message::Push(push) => {
                self.with_placing("a push", |d, tools| d.guides.pushed(&push, tools.datapath));
            }
            Message::Guide(g) => {
                self.with_placing("a guide", |d, tools| d.guides.guide(g.pool, g.guide, tools.datapath));
            }
            Message::Live(live) => self.with_placing("live servers", |d, tools| {
                d.guides.named(Some(live.nodes));
                d.guides.refresh(tools.peers, tools.datapath, tools.now)
            }),
            Message::Taken(taken) => {
                if let Some(placing) = &mut self.placing {
                    placing.reader.replays.taken(&taken.flow, taken.start_seq);
                }
            }
            Message::Term(Term { term }) => {
                if let Some(switch) = &mut self.switch {
                    let granted = switch.term(from, term);
                    self.post.send(from, Message::Grant(Grant { term, granted }));
                }
            }
            Message::Grant(grant) => {
                if let Some(lease) = &mut self.lease {
                    lease.answered(from, grant, &mut self.post);
                }
                self.refresh_leases();
            }
            Message::Heir(Heir { term }) => {
                if let Some(lease) = &mut self.lease {
                    lease.inherit(from, term);
                }
                self.refresh_leases();
            }
            Message::Whose(whose) => {
                self.with_placing("a question", |d, tools| d.owners.asked(from, &whose, tools));
            }
            Message::Owned(owned) => {
                self.with_placing("an answer", |d, tools| d.owners.answered(from, &owned, tools));
            }
            Message::Update(update) => {
                let told = switch::updated(&self.datapath, &update);
                self.troubles.note("an update", told);
            }
            Message::Close(close) => {
                let told = switch::closed(&self.datapath, &close);
                self.troubles.note("a close", told);
            }
            Message::StatusRequest(request) => self.status_requested(from, request.id),
            Message::StatusReply(reply) => self.socket.replied(from, reply.id, &reply.body),
        }
    }

    /// Held packets, as many as are a turn's share.
    ///
    /// # Errors
    /// The device is gone, and nothing can be held or given back any more.
    pub(crate) fn held(&mut self) -> Result<(), NodeError> {
        self.hold_from = None;
        let mut ended = Ok(());
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(FRAME_MAX, 0);
        for _ in 0..FRAMES_AT_ONCE {
            let Some(hold) = &self.hold else { break };
            let length = match hold.try_read(|h| h.read(&mut buffer)) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(cause) if cause.raw_os_error() == Some(Errno::EBADFD as i32) => {
                    ended = Err(NodeError::System { what: "the hold device", source: cause });
                    break;
                }
                Err(error) => {
                    hold.clear();
                    self.troubles.note("reading held packets", Err(error));
                    self.hold_from = Some(Instant::now() + RETRY);
                    break;
                }
            };
            let frame = buffer.get(..length).unwrap_or(&[]);
            self.with_placing("a held packet", |placing, tools| placing.frame(frame, tools));
        }
        self.buffer = buffer;
        ended
    }

    /// Events of the programs, as many as are a turn's share.
    pub(crate) fn events(&mut self) {
        self.events.clear();
        let now = Instant::now();
        let events = self.events.get().take_some(EVENTS_AT_ONCE);
        self.more_events = events.len() >= EVENTS_AT_ONCE;
        for event in events {
            match event {
                Event::Bound { flow, start_seq, server, issued, distributor, .. } => {
                    let moved = Move { flow, server, start_seq, issued, from: self.me };
                    self.news.add(moved, distributor, now);
                }
                Event::Idle { flow } => {
                    self.with_placing("an idle connection", |d, tools| d.feed(&flow, tools));
                }
                Event::Taken { flow, start_seq, distributor } => {
                    self.tell_reader(distributor, Taken { flow, start_seq });
                }
                Event::TooBig { flow, seq, mtu, .. } => {
                    if let Err(error) = self.too_big.tell(&flow, seq, mtu, &mut self.raw, now - self.started)
                    {
                        tracing::debug!(%error, %flow, "the client could not be told of the path's MTU");
                    }
                }
                Event::Closed { flow, start_seq, distributor, .. } => {
                    self.ends.add(flow, start_seq, distributor);
                }
            }
        }
    }

    /// A route has changed, or a router has said what it cannot pass on.
    pub(crate) fn paths_changed(&mut self, paths: Paths) {
        tracing::info!(routed = paths.routed.len(), mtu = paths.mtu, "the ways to other nodes have changed");
        let nodes = &self.services.cluster().nodes;
        let told = for_all(nodes, |peer| {
            self.datapath.set_node(peer.id, &peer_entry(peer, &paths, self.cluster_interface))
        });
        self.troubles.note("the ways to other nodes", told);
        self.paths = paths;
    }

    /// Whether the server is busy.
    pub(crate) fn tick(&mut self) -> bool {
        let now = Instant::now();
        let promised = self.promise();
        self.troubles.note("what changes while the programs run", promised);
        self.refresh_leases();
        self.with_placing("what waits", Placing::tick);
        if let Some(dispatcher) = &mut self.dispatcher {
            dispatcher.tick(clock::monotonic());
        }
        let mut busy = false;
        if let Some(server) = &mut self.server {
            let cluster = self.services.cluster();
            let told = server.tick(now, &self.datapath, cluster, &self.peers, self.me, &mut self.post);
            busy = *told.as_ref().unwrap_or(&false);
            self.troubles.note("this node's load", told.map(drop));
        }
        self.tell_members();
        let counted = self.table.tick(now, &self.datapath);
        self.troubles.note("the table of connections", counted);
        let told = self.gone.tick(self.services.cluster(), self.me, &self.peers, &self.datapath);
        self.troubles.note("nodes that are gone", told);
        self.socket.tick(now);
        busy || self.placing.as_ref().is_some_and(Placing::is_busy) || !self.news.is_empty()
    }

    /// Others decide what this node has not decided, as soon as they hear that it stops.
    pub(crate) fn end_leases(&mut self) {
        if let Some(lease) = &mut self.lease {
            let told = lease.end(&self.datapath);
            self.troubles.note("the leases", told);
        }
    }

    /// What the switches have granted, as of now.
    fn refresh_leases(&mut self) {
        if let Some(lease) = &mut self.lease {
            let told = lease.refresh(&self.mesh, &self.datapath);
            self.troubles.note("the leases", told);
        }
    }

    /// Promises the programs that user space listens, and tells them the wall clock.
    pub(crate) fn promise(&self) -> Result<(), NodeError> {
        let reader = self.placing.as_ref().map(|d| &d.reader);
        promise(&self.datapath, reader, &self.paths, &self.services)
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
    pub(crate) fn refresh_switch(&mut self) {
        let Some(switch) = &mut self.switch else { return };
        let now = Instant::now();
        if self.switch_from.is_some_and(|from| now < from) {
            return;
        }
        let written = switch.refresh(&self.datapath, &mut self.post);
        self.switch_from = written.is_err().then(|| now + RETRY);
        self.troubles.note("the switch's table", written);
    }

    /// Moves before ends: what has ended must not be bound again by its own, later news.
    pub(crate) fn send_news(&mut self) {
        let cluster = self.services.cluster();
        let told = self.news.send(self.me, cluster, &self.peers, &self.datapath, &mut self.post);
        self.ends.send(cluster, &self.peers, &mut self.post);
        self.troubles.note("news of connections", told);
    }

    pub(crate) fn status_asked(&mut self, stream: tokio::net::UnixStream) {
        let mine = self.status();
        self.socket.ask(stream, mine, self.services.cluster(), &self.peers, &mut self.post);
    }

    fn status_requested(&mut self, from: NodeId, id: u32) {
        let mine = self.status();
        if let Some(reply) = crate::socket::reply(id, &mine) {
            self.post.send(from, Message::StatusReply(reply));
        }
    }

    /// Lets the part that places requests act, if this node has it; `what` names the cause, if it fails.
    pub(crate) fn with_placing(
        &mut self,
        what: &'static str,
        act: impl FnOnce(&mut Placing, &mut Tools<'_>) -> Result<(), baton_datapath::DatapathError>,
    ) {
        let (Some(placing), Some(hold)) = (&mut self.placing, &self.hold) else { return };
        let mut tools = Tools {
            services: &self.services,
            peers: &self.peers,
            datapath: &self.datapath,
            hold: hold.get(),
            post: &mut self.post,
            raw: &mut self.raw,
            now: Instant::now(),
        };
        let ended = act(placing, &mut tools);
        self.troubles.note(what, ended);
    }
}

fn promise(
    datapath: &Datapath,
    reader: Option<&Reader>,
    paths: &Paths,
    services: &Services,
) -> Result<(), NodeError> {
    let live = Live {
        wall_offset: clock::wall_offset(),
        daemon_until: clock::monotonic() + SILENCE,
        reader_port: reader.map_or(0, Reader::port),
        reader_port_v6: reader.and_then(Reader::port_v6).unwrap_or(0),
        path_mtu: paths.mtu.unwrap_or(0),
        follows: services.follow(),
    };
    Ok(datapath.set_live(&live)?)
}

/// Without a switch every distributor takes every cookie, as it did before it was started again: nobody spreads
/// the connections but the routers outside.
fn leases(cluster: &Cluster, me: NodeId) -> Leases {
    let direct = if cluster.has_switch() { rand::random() } else { 0 };
    Leases::new(me, direct, cluster.failure_timeout)
}

fn join_mesh(
    cluster: &Cluster,
    node: &Node,
    mac: [u8; 6],
) -> Result<(Mesh, mpsc::Receiver<MeshEvent>), NodeError> {
    let at = |n: &Node| (n.address, cluster.control_port).into();
    let listen = at(node);
    Mesh::start(MeshConfig {
        me: node.id,
        cluster_name: cluster.name.clone(),
        digest: cluster.lasting_digest(),
        psk: cluster.keys().control_psk,
        mac,
        boot: rand::random(),
        failure_timeout: cluster.failure_timeout,
        listen,
        peers: cluster.nodes.iter().filter(|n| n.id != node.id).map(|n| (n.id, at(n))).collect(),
    })
    .map_err(|source| NodeError::Listen { address: listen, source })
}
