//! A running node: its core (`baton-core`), and what the core does not know of: devices, sockets, control
//! connections, the host. All of it is owned here and used by one task ([`crate::turns`] runs it), so nothing is locked.
//!
//! Nothing that happens to a running node ends it: an error costs what it was for, and is noted.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_cluster::{Cluster, Node, NodeId, Succession};
use baton_control::{Mac, Mesh, MeshConfig, MeshEvent, Message, NodeClocks, Probed};
use baton_core::{Core, Link, Services, decides, for_all};
use baton_datapath::{Counter, Event, Events, LiveValues, probe};
use nix::errno::Errno;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use crate::clock::{Apart, ProgramClock};
use crate::gone::Gone;
use crate::host::Host;
use crate::host_work::HostWork;
use crate::listeners::Listeners;
use crate::path::{self, MakeProbe, PathNews, Paths};
use crate::pressure::Pressure;
use crate::raw::{Raw, TooBig};
use crate::reader::{self, Reader};
use crate::setup::{Setup, peer_entry, wanted_by};
use crate::shell::{self, Shell};
use crate::socket::StatusSocket;
use crate::watch::Watched;
use crate::{NodeError, Options, clock};

/// The kernel decides alone when user space has not been heard of for this long.
const SILENCE: Duration = Duration::from_secs(2);
/// What is done about held packets, events and messages in one turn, before others have theirs: some milliseconds of work.
const FRAMES_AT_ONCE: usize = 64;
const EVENTS_AT_ONCE: usize = 512;
/// Probes of a node that may be acknowledged before the task that has sent them looks.
const PROBES_AT_ONCE: usize = 1024;
/// A hold device that cannot be read is tried again after this.
const RETRY: Duration = Duration::from_secs(1);
/// The longest frame that a hold device of usual MTU gives; longer ones do not come.
const FRAME_MAX: usize = 65_550;

/// A running node.
pub(crate) struct Daemon {
    pub(crate) core: Core<TcpStream>,
    pub(crate) outside: Shell,
    pub(crate) started: Instant,
    /// From when the hold device is to be read, after it could not be.
    pub(crate) hold_from: Option<Instant>,
    /// Where held packets are read into.
    buffer: Vec<u8>,
    pub(crate) events: Watched<Events>,
    /// There are events that nobody tells of: the share of a turn was full.
    pub(crate) more_events: bool,
    pub(crate) mesh: Mesh,
    pub(crate) mesh_events: mpsc::Receiver<MeshEvent>,
    /// The MAC address that control connections begin with.
    told_mac: [u8; 6],
    pub(crate) socket: StatusSocket,
    pub(crate) too_big: TooBig,
    pub(crate) listeners: Option<Listeners>,
    clocks: ProgramClock,
    apart: Apart,
    gone: Gone,
    pub(crate) host: Host,
    pub(crate) paths: Paths,
    to_paths: mpsc::Sender<PathNews>,
    /// Handoffs that had been sent again when that was looked at.
    repeated: u64,
    pub(crate) paths_seen: mpsc::Receiver<Paths>,
    pub(crate) host_work: HostWork,
    pub(crate) options: Options,
}

impl Daemon {
    /// Loads, fills, attaches, then takes the addresses and listens: in this order, so that the first packet finds
    /// everything.
    pub(crate) async fn start(options: &Options, setup: &Setup) -> Result<Self, NodeError> {
        let known = Succession::new(options.cluster.clone());
        let cluster = known.cluster.clone();
        let node = cluster.node(options.node).ok_or(NodeError::UnknownNode(options.node))?.clone();
        let host = Host::new(setup.seen.clone(), &wanted_by(&known, &node))?;
        let clocks = ProgramClock::begin();
        let at = &setup.seen.cluster;
        let link = Link {
            mac: at.mac,
            mtu: largest(&setup.paths, &host).into(),
            ipv6_nodes: cluster.nodes.iter().any(|node| node.address.is_ipv6()),
        };
        let core = Core::new(known, node.id, link, clock::moment(), rand::random());
        let (datapath, hold) = setup.load(&cluster, &node)?;
        let events = datapath.events()?;
        let reader = decides(node.roles).then(|| Reader::listen(&cluster)).transpose()?;
        let hold_index = hold.as_ref().map(baton_datapath::Hold::index);
        let mut outside = Shell {
            datapath,
            hold: hold.map(Watched::new).transpose()?,
            reader,
            raw: Raw::default(),
            sockets: shell::sockets(node.roles.server),
            queues: watch::Sender::default(),
            pressure: Pressure::new(&node),
            clock: clocks.clone(),
            mesh: None,
        };
        core.furnish(&mut outside)?;
        promise(&outside, &setup.paths, &host, &clocks, core.services())?;
        let (to_daemon, paths_seen) = mpsc::channel(1);
        let (to_paths, from_daemon) = mpsc::channel(PROBES_AT_ONCE);
        let prober = prober(&cluster, node.id, &clocks);
        let watch = path::Watch::new(cluster.clone(), node.clone(), host.mtu(), prober);
        tokio::spawn(watch.run(setup.paths.clone(), from_daemon, to_daemon));
        if let Some(index) = hold_index {
            outside.datapath.attach_hold(index)?;
        }
        if node.roles.server
            && let Err(error) = outside.datapath.attach_sockets()
        {
            tracing::warn!(%error, "moved connections begin with a small congestion window");
        }
        setup.attach(&mut outside.datapath)?;
        setup.configure().await?;
        // Others hear of this node when it can take what they give it.
        let (mesh, mesh_events) = join_mesh(&cluster, &node, at.mac, clocks.shared())?;
        outside.mesh = Some(mesh.clone());
        let events = Watched::new(events)?;
        let daemon = Self {
            started: Instant::now(),
            hold_from: None,
            buffer: Vec::new(),
            events,
            more_events: false,
            mesh,
            mesh_events,
            told_mac: at.mac,
            host,
            paths: setup.paths.clone(),
            to_paths,
            repeated: 0,
            paths_seen,
            socket: StatusSocket::listen(setup.socket())?,
            too_big: TooBig::new(),
            listeners: node
                .roles
                .server
                .then(|| Listeners::watch(wanted_by(core.services().known(), &node), outside.queues.clone())),
            clocks,
            apart: Apart::default(),
            gone: Gone::default(),
            host_work: HostWork::default(),
            options: options.clone(),
            core,
            outside,
        };
        setup.ready()?;
        tracing::info!(node = node.name, roles = %node.roles, "running");
        Ok(daemon)
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        self.core.services().cluster()
    }

    pub(crate) fn my_name(&self) -> String {
        self.cluster().node(self.core.me()).map(|node| node.name.clone()).unwrap_or_default()
    }

    /// Notes how something ended that the core knows nothing of.
    pub(crate) fn note<E: std::fmt::Display>(&mut self, what: &'static str, ended: Result<(), E>) {
        self.core.troubles.note(clock::monotonic(), what, ended);
    }

    pub(crate) fn mesh_event(&mut self, event: MeshEvent) {
        let name = |id| self.cluster().node(id).map(|node| node.name.clone());
        match event {
            MeshEvent::Up { node, hello } => {
                let Some(peer) = name(node) else { return };
                tracing::info!(peer, version = hello.software, "up");
                // Its packets are of the clock that has just been agreed on.
                let promised = self.promise();
                self.note("the cluster's clock", promised);
                self.tell_paths(PathNews::Up(node));
                let nodes = hello.nodes.len();
                let mac = self.host.seen.cluster.mac;
                if mac != self.told_mac {
                    self.core.post.send(node, Message::Mac(Mac { mac }));
                }
                self.core.up(node, (hello.mac, nodes), &mut self.outside, clock::moment());
            }
            MeshEvent::Down { node, reason } => {
                let Some(peer) = name(node) else { return };
                tracing::warn!(peer, %reason, "down");
                self.tell_paths(PathNews::Down(node));
                self.core.down(node, reason.has_ended(), &mut self.outside, clock::moment());
            }
            MeshEvent::Message { node, message } => self.message(node, message),
        }
    }

    fn message(&mut self, from: NodeId, message: Message) {
        match message {
            Message::StatusRequest(request) => self.status_requested(from, request.id),
            Message::Probed(Probed { number, least }) => {
                self.tell_paths(PathNews::Probed(from, number, least))
            }
            Message::StatusReply(reply) => self.socket.replied(from, reply.id, &reply.body),
            message => self.core.message(from, message, &mut self.outside, clock::moment()),
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
            let Some(hold) = &self.outside.hold else { break };
            let length = match hold.try_read(|h| h.read(&mut buffer)) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(cause) if cause.raw_os_error() == Some(Errno::EBADFD as i32) => {
                    ended = Err(NodeError::System { what: "the hold device", source: cause });
                    break;
                }
                Err(error) => {
                    hold.clear();
                    self.note("reading held packets", Err(error));
                    self.hold_from = Some(Instant::now() + RETRY);
                    break;
                }
            };
            let frame = buffer.get(..length).unwrap_or(&[]);
            self.core.held(frame, &mut self.outside, clock::moment());
        }
        self.buffer = buffer;
        ended
    }

    /// What the reader has to say.
    pub(crate) fn read(&mut self, event: reader::ReaderEvent) {
        match event {
            reader::ReaderEvent::Accepted(head) => {
                self.core.accepted(head, &mut self.outside, clock::moment())
            }
            reader::ReaderEvent::Read(id, how, head) => {
                if let Some(reader) = &mut self.outside.reader {
                    reader.ended(id, how);
                }
                if let Some(head) = head {
                    self.core.read(head, &mut self.outside, clock::moment());
                }
            }
        }
    }

    /// Events of the programs, as many as are a turn's share.
    pub(crate) fn events(&mut self) {
        self.events.clear();
        let events = self.events.get().take_some(EVENTS_AT_ONCE);
        self.more_events = events.len() >= EVENTS_AT_ONCE;
        for event in events {
            let (flow, seq, mtu) = match event {
                Event::TooBig { flow, seq, mtu, .. } => (flow, seq, mtu),
                Event::Probed { from, number } => {
                    let least = self.paths.mine.unwrap_or(u16::MAX).min(self.host.mtu());
                    self.core.post.send(from, Message::Probed(Probed { number, least }));
                    continue;
                }
                event => {
                    self.core.event(event, &mut self.outside, clock::moment());
                    continue;
                }
            };
            let told = self.too_big.tell(&flow, seq, mtu, &mut self.outside.raw, self.started.elapsed());
            if let Err(error) = told {
                tracing::debug!(%error, %flow, "the client could not be told of the path's MTU");
            }
        }
    }

    /// A route has changed, or a router has said what it cannot pass on.
    pub(crate) fn paths_changed(&mut self, paths: Paths) {
        if (&paths.routed, &paths.interfaces, paths.mtu)
            != (&self.paths.routed, &self.paths.interfaces, self.paths.mtu)
        {
            tracing::info!(
                routed = paths.routed.len(),
                mtu = paths.mtu,
                "the ways to other nodes have changed (routed: wrapped for them)"
            );
        }
        let told = for_all(&self.cluster().nodes, |peer| {
            let entry = peer_entry(peer, &paths, self.host.seen.cluster.index);
            self.outside.datapath.set_node(peer.id, &entry)
        });
        self.note("the ways to other nodes", told);
        self.paths = paths;
        self.core.link_changed(self.host.seen.cluster.mac, largest(&self.paths, &self.host).into());
    }

    /// Whether the next time is to be soon.
    pub(crate) fn tick(&mut self) -> bool {
        let promised = self.promise();
        self.note("what changes while the programs run", promised);
        let now = clock::moment();
        let busy = self.core.tick(&mut self.outside, now);
        let (cluster, me) = (self.core.services().cluster(), self.core.me());
        let told = self.gone.tick(cluster, me, self.core.peers(), &self.outside.datapath);
        self.note("nodes that are gone", told);
        self.look_at_clocks(now.instant);
        self.look_at_repetitions();
        self.socket.tick(now.instant);
        busy
    }

    /// Tells the task that looks at paths, which takes all that there is ten times a second: there is room.
    pub(crate) fn tell_paths(&self, news: PathNews) {
        let _ = self.to_paths.try_send(news);
    }

    /// What clients repeat after it was handed off may have been too large for its way.
    fn look_at_repetitions(&mut self) {
        let repeated = self.outside.datapath.counter(Counter::HandoffAgain).unwrap_or(self.repeated);
        if repeated > self.repeated {
            self.tell_paths(PathNews::Repeated);
        }
        self.repeated = repeated;
    }

    /// Says which other nodes' wall clocks are far from this one's.
    fn look_at_clocks(&mut self, now: Instant) {
        if !self.apart.is_due(now) {
            return;
        }
        for peer in self.mesh.peers() {
            let Some((apart, ahead_us)) = self.apart.look(&peer) else { continue };
            let peer = self.cluster().node(peer.node).map(|node| node.name.as_str());
            let ahead_s = ahead_us as f64 / 1e6;
            if apart {
                tracing::warn!(
                    peer,
                    ahead_s,
                    "its wall clock differs from this node's: set one of them right (NTP)"
                );
            } else {
                tracing::info!(peer, ahead_s, "its wall clock is right again");
            }
        }
    }

    /// What has gathered is told: to the programs, and to other nodes.
    pub(crate) fn flush(&mut self) {
        self.core.flush(&mut self.outside, clock::moment());
        self.send();
    }

    /// Sends what the core has to say to others.
    pub(crate) fn send(&mut self) {
        for (to, message) in self.core.post.take_out() {
            match self.mesh.send(to, &message) {
                Ok(()) => {}
                Err(error) => {
                    if !matches!(error, baton_control::SendError::Down(_)) {
                        let to = self.cluster().node(to).map_or_else(|| to.to_string(), |n| n.name.clone());
                        tracing::warn!(to, kind = %message.kind(), %error, "message not sent");
                    }
                    if matches!(message, Message::Ask(_)) {
                        self.core.unsent(to, &mut self.outside, clock::moment());
                    }
                }
            }
        }
    }

    /// Promises the programs that user space listens, and tells them the cluster's clock.
    pub(crate) fn promise(&self) -> Result<(), NodeError> {
        promise(&self.outside, &self.paths, &self.host, &self.clocks, self.core.services())
    }

    pub(crate) fn status_asked(&mut self, stream: tokio::net::UnixStream) {
        let mine = self.status();
        let cluster = self.core.services().cluster();
        for (to, question) in self.socket.ask(stream, mine, cluster, self.core.peers()) {
            self.core.post.send(to, question);
        }
    }

    fn status_requested(&mut self, from: NodeId, id: u32) {
        let mine = self.status();
        if let Some(reply) = crate::socket::reply(id, &mine) {
            self.core.post.send(from, Message::StatusReply(reply));
        }
    }
}

fn promise(
    outside: &Shell,
    paths: &Paths,
    host: &Host,
    clocks: &ProgramClock,
    services: &Services,
) -> Result<(), NodeError> {
    let reader = outside.reader.as_ref();
    let live = LiveValues {
        clock_ahead: Duration::from_nanos(clocks.ahead_ns()),
        daemon_until: clock::monotonic() + SILENCE,
        reader_port: reader.map_or(0, Reader::port),
        reader_port_v6: reader.and_then(Reader::port_v6).unwrap_or(0),
        path_mtu: largest(paths, host),
        follows: services.follow(),
        cluster_ifindex: host.seen.cluster.index,
        own_routes: host.has_own_routes(),
    };
    Ok(outside.datapath.set_live(&live)?)
}

/// The largest packet that gets from any node to any other, as far as is known, bytes.
pub(crate) fn largest(paths: &Paths, host: &Host) -> u16 {
    paths.mtu.unwrap_or(u16::MAX).min(host.mtu())
}

/// Makes probes for other nodes.
fn prober(cluster: &Cluster, me: NodeId, clocks: &ProgramClock) -> MakeProbe {
    let (keys, clocks) = (cluster.keys(), clocks.clone());
    Box::new(move |to, number, bytes| probe(&keys, me, to.address, number, clocks.cluster_ns(), bytes))
}

fn join_mesh(
    cluster: &Cluster,
    node: &Node,
    mac: [u8; 6],
    clocks: Arc<NodeClocks>,
) -> Result<(Mesh, mpsc::Receiver<MeshEvent>), NodeError> {
    let at = |n: &Node| (n.address, cluster.control_port).into();
    let listen = at(node);
    Mesh::start(MeshConfig {
        me: node.id,
        cluster_name: cluster.name.clone(),
        digest: cluster.common_digest(),
        nodes: cluster.node_digests(),
        names: cluster.nodes.iter().map(|node| node.name.clone()).collect(),
        psk: cluster.keys().control_psk,
        mac,
        boot: rand::random(),
        failure_timeout: cluster.failure_timeout,
        clocks,
        listen,
        peers: cluster.nodes.iter().filter(|n| n.id != node.id).map(|n| (n.id, at(n))).collect(),
    })
    .map_err(|source| NodeError::Listen { address: listen, source })
}
