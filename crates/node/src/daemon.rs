//! The one event loop of a node: everything that can wake it, and who takes it. All state is owned
//! here and used by one task, so nothing is locked.

use std::time::{Duration, Instant};

use baton_cluster::{Cluster, Node, NodeId, Succession};
use baton_control::{Event as MeshEvent, Mesh, MeshConfig, Message, Move, Taken};
use baton_datapath::{Datapath, Event, Events, Hold, Live};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use crate::dispatcher::DispatcherRole;
use crate::distributor::{Distributor, Tools};
use crate::news::News;
use crate::path::{self, Paths};
use crate::peers::Peers;
use crate::post::Post;
use crate::reader::{self, Reader};
use crate::server::{Ends, ServerRole};
use crate::services::Services;
use crate::setup::{Setup, decides, peer_entry};
use crate::socket::{Asked, StatusSocket};
use crate::switch::{self, SwitchRole};
use crate::watch::Watched;
use crate::{NodeError, Options, clock, raw};

/// Loads are told, and waits looked at, this often; while the server takes connections, more often:
/// what a distributor adds up between two reports counts connections that have ended meanwhile.
const TICK: Duration = Duration::from_millis(50);
const BUSY_TICK: Duration = Duration::from_millis(10);
/// Events of the programs gather for this long, so that one message tells of many.
const GATHER: Duration = Duration::from_millis(5);
/// The kernel decides alone when user space has not been heard of for this long.
const SILENCE: Duration = Duration::from_secs(2);
/// Held packets taken at once, before anything else is looked at.
const FRAMES_AT_ONCE: usize = 64;
/// The longest frame that a hold device of usual MTU gives; longer ones do not come.
const FRAME_MAX: usize = 65_550;

/// A running node.
pub(crate) struct Daemon {
    pub(crate) services: Services,
    pub(crate) me: NodeId,
    pub(crate) started: Instant,
    pub(crate) datapath: Datapath,
    hold: Option<Watched<Hold>>,
    /// Where held packets are read into.
    buffer: Vec<u8>,
    events: Watched<Events>,
    pub(crate) mesh: Mesh,
    mesh_events: mpsc::Receiver<MeshEvent>,
    pub(crate) socket: StatusSocket,
    pub(crate) peers: Peers,
    pub(crate) post: Post,
    pub(crate) distributor: Option<Distributor>,
    pub(crate) dispatcher: Option<DispatcherRole>,
    pub(crate) server: Option<ServerRole>,
    pub(crate) switch: Option<SwitchRole>,
    ends: Ends,
    news: News,
    cluster_interface: u32,
    paths: Paths,
    paths_seen: mpsc::Receiver<Paths>,
    pub(crate) options: Options,
}

/// What can wake the node.
enum Wake {
    Stop(&'static str),
    Mesh(MeshEvent),
    Held,
    Reader(reader::Event),
    Events,
    Asked(Asked),
    Hangup,
    Paths(Paths),
    Tick,
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
            buffer: Vec::new(),
            events,
            mesh: mesh.clone(),
            mesh_events,
            cluster_interface: setup.cluster_interface.index,
            paths: setup.paths.clone(),
            paths_seen,
            socket: StatusSocket::listen(setup.socket())?,
            peers: Peers::new(node.id),
            post: Post::new(node.id, mesh),
            distributor: reader.map(|reader| Distributor::new(&services, node.id, reader)),
            dispatcher: roles.dispatcher.then(|| DispatcherRole::new(cluster)),
            server: roles.server.then(|| ServerRole::new(&node, now)),
            switch: roles.switch.then(SwitchRole::new),
            ends: Ends::default(),
            news: News::default(),
            datapath,
            options: options.clone(),
            services,
        };
        setup.ready()?;
        tracing::info!(node = node.name, %roles, "running");
        Ok(daemon)
    }

    /// Runs until it is told to stop.
    pub(crate) async fn run(mut self) -> Result<(), NodeError> {
        let signals = |cause| NodeError::System { what: "signal handlers", cause };
        let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(signals)?;
        let mut tick_at = tokio::time::Instant::now();
        let mut events_from = tick_at;

        self.came_up(&self.node(self.me)?.clone())?;
        loop {
            let wake = tokio::select! {
                biased;
                _ = terminate.recv() => Wake::Stop("SIGTERM"),
                _ = interrupt.recv() => Wake::Stop("SIGINT"),
                _ = hangup.recv() => Wake::Hangup,
                Some(event) = self.mesh_events.recv() => Wake::Mesh(event),
                () = readable(self.hold.as_ref()) => Wake::Held,
                event = read(self.distributor.as_mut()) => Wake::Reader(event),
                () = async { sleep_until(events_from).await; self.events.readable().await }
                    => Wake::Events,
                Some(asked) = self.socket.asked() => Wake::Asked(asked),
                Some(paths) = self.paths_seen.recv() => Wake::Paths(paths),
                () = sleep_until(tick_at) => Wake::Tick,
            };
            match wake {
                Wake::Stop(signal) => {
                    tracing::info!(signal, "stopping");
                    break;
                }
                Wake::Mesh(event) => self.mesh_event(event)?,
                Wake::Held => self.held()?,
                Wake::Reader(event) => self.with_distributor(|d, tools| d.read(event, tools))?,
                Wake::Events => {
                    self.events()?;
                    events_from = tokio::time::Instant::now() + GATHER;
                }
                Wake::Asked(Asked::Status(stream)) => self.status_asked(stream)?,
                Wake::Asked(Asked::Reload(stream)) => self.reload_asked(stream).await?,
                Wake::Hangup => drop(self.reload().await?),
                Wake::Paths(paths) => self.paths_changed(paths)?,
                Wake::Tick => {
                    let busy = self.tick()?;
                    self.forget_ended().await?;
                    tick_at = tokio::time::Instant::now() + if busy { BUSY_TICK } else { TICK };
                }
            }
            while let Some(message) = self.post.take_local() {
                self.message(self.me, message)?;
            }
            // At once: until then clients are sent to who is gone, or to nobody.
            if let Some(switch) = &mut self.switch {
                switch.refresh(self.services.cluster(), &self.peers, &mut self.datapath)?;
            }
            self.send_news()?;
        }
        self.mesh.stop().await;
        Ok(())
    }

    pub(crate) fn node(&self, id: NodeId) -> Result<&Node, NodeError> {
        self.services.cluster().node(id).ok_or(NodeError::UnknownNode(id))
    }

    fn mesh_event(&mut self, event: MeshEvent) -> Result<(), NodeError> {
        match event {
            MeshEvent::Up { node, hello } => {
                let node = self.node(node)?.clone();
                tracing::info!(peer = node.name, version = hello.software, "up");
                self.datapath.set_member(hello.mac, node.id)?;
                self.peers.set(node.id, true);
                self.came_up(&node)
            }
            MeshEvent::Down { node, reason } => {
                let node = self.node(node)?.clone();
                tracing::warn!(peer = node.name, %reason, "down");
                self.peers.set(node.id, false);
                self.went_down(&node)
            }
            MeshEvent::Message { node, message } => self.message(node, message),
        }
    }

    /// A node is there, this one included: every component that it concerns is told.
    fn came_up(&mut self, node: &Node) -> Result<(), NodeError> {
        if let Some(dispatcher) = &mut self.dispatcher {
            dispatcher.up(node, &mut self.post);
        }
        if let Some(switch) = &mut self.switch {
            switch.distributors_changed();
        }
        let is_dispatcher = node.roles.dispatcher;
        self.with_distributor(|distributor, tools| {
            if is_dispatcher {
                distributor.guides.forget(tools.datapath)?;
            }
            distributor.guides.refresh(tools.peers, tools.datapath)
        })
    }

    fn went_down(&mut self, node: &Node) -> Result<(), NodeError> {
        if let Some(dispatcher) = &mut self.dispatcher {
            dispatcher.down(node, &mut self.post);
        }
        if let Some(switch) = &mut self.switch {
            switch.distributors_changed();
        }
        let is_dispatcher = node.roles.dispatcher;
        self.with_distributor(|distributor, tools| {
            distributor.guides.refresh(tools.peers, tools.datapath)?;
            if is_dispatcher { distributor.dispatcher_lost(tools) } else { Ok(()) }
        })
    }

    fn message(&mut self, from: NodeId, message: Message) -> Result<(), NodeError> {
        match message {
            Message::Ask(ask) => {
                if let Some(dispatcher) = &mut self.dispatcher {
                    dispatcher.ask(from, &ask, clock::monotonic(), &mut self.post);
                }
                Ok(())
            }
            Message::Load(load) => {
                if let Some(dispatcher) = &mut self.dispatcher {
                    dispatcher.load(from, &load);
                }
                self.with_distributor(|d, tools| d.guides.load(from, &load, tools.datapath))
            }
            Message::Answer(answer) => self.with_distributor(|d, tools| d.answered(answer, tools)),
            Message::Push(push) => self.with_distributor(|d, tools| d.guides.pushed(&push, tools.datapath)),
            Message::Guide(g) => {
                self.with_distributor(|d, tools| d.guides.guide(g.pool, g.guide, tools.datapath))
            }
            Message::Live(live) => self.with_distributor(|d, tools| {
                d.guides.named(Some(live.nodes));
                d.guides.refresh(tools.peers, tools.datapath)
            }),
            Message::Taken(taken) => {
                if let Some(distributor) = &mut self.distributor {
                    distributor.reader.replays.taken(&taken.flow, taken.start_seq);
                }
                Ok(())
            }
            Message::Update(update) => Ok(switch::updated(&self.datapath, &update)?),
            Message::Close(close) => Ok(switch::closed(&self.datapath, &close)?),
            Message::StatusRequest(request) => self.status_requested(from, request.id),
            Message::StatusReply(reply) => {
                self.socket.replied(from, reply.id, &reply.body);
                Ok(())
            }
        }
    }

    fn held(&mut self) -> Result<(), NodeError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(FRAME_MAX, 0);
        for _ in 0..FRAMES_AT_ONCE {
            let Some(hold) = &self.hold else { break };
            let Ok(length) = hold.try_read(|h| h.read(&mut buffer)) else { break };
            let frame = buffer.get(..length).unwrap_or(&[]);
            self.with_distributor(|distributor, tools| distributor.frame(frame, tools))?;
        }
        self.buffer = buffer;
        Ok(())
    }

    fn events(&mut self) -> Result<(), NodeError> {
        self.events.clear();
        let now = Instant::now();
        for event in self.events.get().take() {
            match event {
                Event::Bound { flow, start_seq, server, issued, distributor, .. } => {
                    let moved = Move { flow, server, start_seq, issued, from: self.me };
                    self.news.add(moved, distributor, now);
                }
                Event::Idle { flow } => self.with_distributor(|d, tools| d.idle(&flow, tools))?,
                Event::Taken { flow, start_seq, distributor } => {
                    self.tell_reader(distributor, Taken { flow, start_seq });
                }
                Event::TooBig { flow, seq, mtu, .. } => {
                    let packet = baton_datapath::too_big(&flow, seq, mtu);
                    if let Some(Err(error)) = packet.map(|packet| raw::send(&packet, &flow)) {
                        tracing::debug!(%error, %flow, "the client could not be told of the path's MTU");
                    }
                }
                Event::Closed { flow, start_seq, distributor, .. } => {
                    self.ends.add(flow, start_seq, distributor);
                }
            }
        }
        Ok(())
    }

    /// A route has changed, or a router has said what it cannot pass on.
    fn paths_changed(&mut self, paths: Paths) -> Result<(), NodeError> {
        tracing::info!(routed = paths.routed.len(), mtu = paths.mtu, "the ways to other nodes have changed");
        for peer in &self.services.cluster().nodes {
            self.datapath.set_node(peer.id, &peer_entry(peer, &paths, self.cluster_interface))?;
        }
        self.paths = paths;
        Ok(())
    }

    /// Whether the server is busy.
    fn tick(&mut self) -> Result<bool, NodeError> {
        let now = Instant::now();
        self.promise()?;
        self.with_distributor(Distributor::tick)?;
        let mut busy = false;
        if let Some(server) = &mut self.server {
            let cluster = self.services.cluster();
            busy = server.tick(now, &self.datapath, cluster, &self.peers, self.me, &mut self.post)?;
        }
        self.socket.tick(now);
        let replays = self.distributor.as_ref().is_some_and(|d| !d.reader.replays.is_empty());
        Ok(busy || replays || !self.news.is_empty())
    }

    /// Promises the programs that user space listens, and tells them the wall clock.
    pub(crate) fn promise(&self) -> Result<(), NodeError> {
        let reader = self.distributor.as_ref().map(|d| &d.reader);
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

    /// Moves before ends: what has ended must not be bound again by its own, later news.
    fn send_news(&mut self) -> Result<(), NodeError> {
        let cluster = self.services.cluster();
        self.news.send(self.me, cluster, &self.peers, &self.datapath, &mut self.post)?;
        self.ends.send(cluster, &self.peers, &mut self.post);
        Ok(())
    }

    fn status_asked(&mut self, stream: tokio::net::UnixStream) -> Result<(), NodeError> {
        let mine = self.status()?;
        self.socket.ask(stream, mine, self.services.cluster(), &self.peers, &mut self.post);
        Ok(())
    }

    fn status_requested(&mut self, from: NodeId, id: u32) -> Result<(), NodeError> {
        let mine = self.status()?;
        if let Some(reply) = crate::socket::reply(id, &mine) {
            self.post.send(from, Message::StatusReply(reply));
        }
        Ok(())
    }

    pub(crate) fn with_distributor(
        &mut self,
        act: impl FnOnce(&mut Distributor, &mut Tools<'_>) -> Result<(), baton_datapath::DatapathError>,
    ) -> Result<(), NodeError> {
        let (Some(distributor), Some(hold)) = (&mut self.distributor, &self.hold) else { return Ok(()) };
        let mut tools = Tools {
            services: &self.services,
            peers: &self.peers,
            datapath: &self.datapath,
            hold: hold.get(),
            post: &mut self.post,
            now: Instant::now(),
        };
        Ok(act(distributor, &mut tools)?)
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
    .map_err(|cause| NodeError::Listen { address: listen, cause })
}

/// Waits for the reader; for ever on a node that has none.
async fn read(distributor: Option<&mut Distributor>) -> reader::Event {
    match distributor {
        Some(distributor) => distributor.reader.event().await,
        None => std::future::pending().await,
    }
}

/// Waits for held packets; for ever on a node that holds none.
async fn readable(hold: Option<&Watched<Hold>>) {
    match hold {
        Some(hold) => hold.readable().await,
        None => std::future::pending().await,
    }
}
