//! Meshes over real sockets on loopback, and hand-driven peers that misbehave. Every wait is for a
//! condition, with a deadline far beyond what it should take.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_cluster::NodeId;
use baton_control::message::{Kind, Live, Load, STATUS_BYTES_MAX, StatusReply};
use baton_control::session::{Identity, Received, Session};
use baton_control::{Error, Hello, Mesh, MeshConfig, MeshEvent, Message, NodeClocks, PeerState, SendError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(30);

/// Longer than any test: where silence must not be what ends a connection.
const NEVER: Duration = Duration::from_secs(300);

/// A free address on loopback. Nothing keeps it free, but the kernel gives out others first.
fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address")
}

fn addresses(count: u16) -> Vec<(NodeId, SocketAddr)> {
    (0..count).map(|node| (NodeId(node), free_address())).collect()
}

fn config(me: u16, boot: u64, all: &[(NodeId, SocketAddr)], failure_timeout: Duration) -> MeshConfig {
    MeshConfig {
        me: NodeId(me),
        cluster_name: "shop".to_owned(),
        digest: [7; 32],
        nodes: digests(all.len()),
        names: (0..all.len()).map(|n| format!("n{n}")).collect(),
        psk: [9; 32],
        mac: [2, 0, 0, 0, 0, me as u8],
        boot,
        failure_timeout,
        clocks: Arc::new(NodeClocks::new(Instant::now(), Duration::ZERO)),
        listen: all[usize::from(me)].1,
        peers: all.iter().copied().filter(|(node, _)| node.0 != me).collect(),
    }
}

/// Of so many nodes.
fn digests(nodes: usize) -> Vec<[u8; 8]> {
    (0..nodes).map(|n| [n as u8; 8]).collect()
}

fn load(serving: u32) -> Message {
    Message::Load(Load { serving, adopted_total: 0, closed_total: 0, pressure: 0 })
}

#[track_caller]
fn within<T>(what: &str, result: Result<T, tokio::time::error::Elapsed>) -> T {
    result.unwrap_or_else(|_| panic!("{what} did not happen within {DEADLINE:?}"))
}

async fn next(events: &mut Receiver<MeshEvent>) -> MeshEvent {
    within("an event", timeout(DEADLINE, events.recv()).await).expect("the mesh runs")
}

async fn up(events: &mut Receiver<MeshEvent>) -> Hello {
    match next(events).await {
        MeshEvent::Up { hello, .. } => hello,
        other => panic!("expected a peer to come up, got {other:?}"),
    }
}

async fn down(events: &mut Receiver<MeshEvent>) -> Error {
    match next(events).await {
        MeshEvent::Down { reason, .. } => reason,
        other => panic!("expected a peer to go down, got {other:?}"),
    }
}

/// Looks again and again until it is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(what, timeout(DEADLINE, looking).await);
}

/// Starts node 0 of two, and says where node 1 would be.
fn lonely(failure_timeout: Duration) -> (Mesh, Receiver<MeshEvent>) {
    let all = addresses(2);
    Mesh::start(config(0, 1, &all, failure_timeout)).expect("a mesh")
}

/// Node 1, driven by hand.
struct Puppet {
    session: Session,
    stream: TcpStream,
    heard: VecDeque<Received>,
}

impl Puppet {
    async fn dial(mesh: &Mesh, boot: u64, psk: [u8; 32]) -> Puppet {
        let hello = Hello {
            cluster: "shop".to_owned(),
            node: NodeId(1),
            name: "n1".to_owned(),
            digest: [7; 32],
            nodes: digests(2),
            mac: [2; 6],
            boot,
            software: "puppet".to_owned(),
        };
        let peers = [NodeId(0)].into();
        let clocks = Arc::new(NodeClocks::new(Instant::now(), Duration::ZERO));
        let names = Vec::new();
        let identity = Arc::new(Identity { hello, psk, peers, names, failure_timeout: NEVER, clocks });
        let session = Session::dial(identity, NodeId(0), Instant::now()).expect("a session");
        let stream = TcpStream::connect(mesh.local_addr()).await.expect("the mesh listens");
        Puppet { session, stream, heard: VecDeque::new() }
    }

    /// Writes what is pending.
    async fn write(&mut self) {
        let pending = self.session.pending().to_vec();
        self.session.wrote(pending.len());
        self.stream.write_all(&pending).await.expect("the mesh reads");
    }

    /// Reads once. An error is the session's, or the end of the stream.
    async fn read(&mut self) -> Result<(), Error> {
        let mut bytes = [0; 4096];
        let count = within("bytes", timeout(DEADLINE, self.stream.read(&mut bytes)).await).unwrap_or(0);
        if count == 0 {
            return Err(self.session.closed());
        }
        self.session.receive(&bytes[..count], Instant::now(), &mut self.heard)
    }

    /// Sets the connection up, then says no more.
    async fn open(&mut self) -> Result<(), Error> {
        while !self.session.is_open() {
            self.write().await;
            self.read().await?;
        }
        self.write().await; // the heartbeat that opens the mesh's end
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_nodes_that_start_at_once_all_meet_once() {
    let all = addresses(4);
    let mut meshes: Vec<_> =
        (0..4).map(|me| Mesh::start(config(me, 1, &all, NEVER)).expect("a mesh")).collect();
    for (me, (mesh, events)) in meshes.iter_mut().enumerate() {
        let mut met = Vec::new();
        for _ in 0..3 {
            met.push(up(events).await.node.index());
        }
        met.sort_unstable();
        let others: Vec<usize> = (0..4).filter(|other| *other != me).collect();
        assert_eq!(met, others);
        assert!(mesh.peers().iter().all(|peer| peer.state == PeerState::Up && peer.ups == 1));
    }
    for me in 0..4u16 {
        for other in (0..4u16).filter(|other| *other != me) {
            meshes[usize::from(me)].0.send(NodeId(other), &load(me.into())).expect("the peer is up");
        }
    }
    for (me, (_, events)) in meshes.iter_mut().enumerate() {
        let mut heard = Vec::new();
        for _ in 0..3 {
            match next(events).await {
                MeshEvent::Message { node, message } => {
                    assert_eq!(message, load(node.0.into()));
                    heard.push(node.index());
                }
                other => panic!("node {me}: expected a message, got {other:?}"),
            }
        }
        assert_eq!(heard.len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_node_says_goodbye_after_what_it_had_to_say() {
    let all = addresses(2);
    let (zero, mut at_zero) = Mesh::start(config(0, 1, &all, NEVER)).expect("a mesh");
    let (one, mut at_one) = Mesh::start(config(1, 1, &all, NEVER)).expect("a mesh");
    up(&mut at_zero).await;
    up(&mut at_one).await;
    one.send(NodeId(0), &load(3)).expect("the peer is up");
    one.stop().await;
    assert_eq!(next(&mut at_zero).await, MeshEvent::Message { node: NodeId(1), message: load(3) });
    assert_eq!(down(&mut at_zero).await, Error::Stopping);
    assert_eq!(zero.send(NodeId(1), &load(1)), Err(SendError::Down(NodeId(1))));
    assert_eq!(zero.send(NodeId(0), &load(1)), Err(SendError::NoSuchPeer(NodeId(0))));
    assert_eq!(zero.send(NodeId(9), &load(1)), Err(SendError::NoSuchPeer(NodeId(9))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_is_down_at_once_and_up_when_it_is_back() {
    let all = addresses(2);
    let (_zero, mut at_zero) = Mesh::start(config(0, 1, &all, NEVER)).expect("a mesh");
    for boot in 1..=5 {
        let (one, mut at_one) = Mesh::start(config(1, boot, &all, NEVER)).expect("a mesh");
        // In one process a mesh does not die in one instant, as a killed process does: while it
        // does, a second connection of the old life may come up and end.
        while up(&mut at_zero).await.boot != boot {
            down(&mut at_zero).await;
        }
        up(&mut at_one).await;
        drop(one); // without a goodbye
        let reason = down(&mut at_zero).await;
        assert!(matches!(reason, Error::Closed | Error::Socket(_)), "{reason}");
        while at_one.recv().await.is_some() {} // until its tasks, and with them its sockets, are gone
    }
}

#[tokio::test]
async fn a_silent_peer_is_down_once() {
    let failure_timeout = Duration::from_millis(200);
    let (mesh, mut events) = lonely(failure_timeout);
    let mut puppet = Puppet::dial(&mesh, 1, [9; 32]).await;
    puppet.open().await.expect("an open connection");
    up(&mut events).await;
    assert_eq!(down(&mut events).await, Error::Silent { limit: failure_timeout });
    let status = mesh.peers();
    assert_eq!(status[0].state, PeerState::Down);
    mesh.stop().await;
    drop(mesh);
    assert_eq!(events.recv().await, None, "nothing more is told");
}

#[tokio::test]
async fn a_restarted_peer_replaces_its_former_life() {
    let (mesh, mut events) = lonely(NEVER);
    let mut first = Puppet::dial(&mesh, 1, [9; 32]).await;
    first.open().await.expect("an open connection");
    assert_eq!(up(&mut events).await.boot, 1);
    let mut second = Puppet::dial(&mesh, 2, [9; 32]).await;
    second.open().await.expect("an open connection");
    assert_eq!(down(&mut events).await, Error::Restarted);
    assert_eq!(up(&mut events).await.boot, 2);
    // The old connection ends; its last heartbeats may come first.
    let end = loop {
        if let Err(error) = first.read().await {
            break error;
        }
    };
    assert_eq!(end, Error::Closed);
    let encoded = |message: &Message| {
        let mut bytes = Vec::new();
        message.encode(&mut bytes).expect("a valid message");
        bytes
    };
    second.session.send(&encoded(&load(8))).expect("an open session");
    second.write().await;
    assert_eq!(next(&mut events).await, MeshEvent::Message { node: NodeId(1), message: load(8) });
}

#[tokio::test]
async fn a_second_connection_of_the_same_life_is_refused() {
    let (mesh, mut events) = lonely(NEVER);
    let mut first = Puppet::dial(&mesh, 1, [9; 32]).await;
    first.open().await.expect("an open connection");
    up(&mut events).await;
    let mut second = Puppet::dial(&mesh, 1, [9; 32]).await;
    assert_eq!(second.open().await, Err(Error::Duplicate));
    mesh.send(NodeId(1), &load(4)).expect("the first connection stands");
    while !first.heard.contains(&Received::Message(load(4))) {
        first.read().await.expect("the first connection stands");
    }
}

#[tokio::test]
async fn strangers_and_wrong_secrets_change_nothing() {
    let (mesh, mut events) = lonely(NEVER);
    for _ in 0..40 {
        let mut stranger = TcpStream::connect(mesh.local_addr()).await.expect("the mesh listens");
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("room in the socket");
        let mut answer = Vec::new();
        let end = within("the end", timeout(DEADLINE, stranger.read_to_end(&mut answer)).await);
        assert!(answer.is_empty(), "nothing is told to a stranger: {answer:?}, {end:?}");
    }
    let mut liar = Puppet::dial(&mesh, 1, [1; 32]).await;
    assert_eq!(liar.open().await, Err(Error::HungUp));
    let mut honest = Puppet::dial(&mesh, 1, [9; 32]).await;
    honest.open().await.expect("an open connection");
    up(&mut events).await;
}

#[tokio::test]
async fn a_wrong_secret_is_seen_in_the_status_of_both() {
    let all = addresses(2);
    let (zero, _at_zero) = Mesh::start(config(0, 1, &all, NEVER)).expect("a mesh");
    let wrong = MeshConfig { psk: [1; 32], ..config(1, 1, &all, NEVER) };
    let (one, _at_one) = Mesh::start(wrong).expect("a mesh");
    for mesh in [&zero, &one] {
        until("a refusal", || mesh.peers()[0].last_error == Some(Error::HungUp)).await;
        assert_eq!(mesh.peers()[0].state, PeerState::Down);
    }
}

#[tokio::test]
async fn a_peer_that_accepts_and_says_nothing_is_given_up() {
    let all = addresses(2);
    let listener = tokio::net::TcpListener::bind(all[1].1).await.expect("a free port");
    let (mesh, _events) = Mesh::start(config(0, 1, &all, Duration::from_millis(100))).expect("a mesh");
    let (mut stream, _) = within("a dial", timeout(DEADLINE, listener.accept()).await).expect("a connection");
    let limit = Duration::from_secs(1); // the least that set-up is given
    until("giving up", || mesh.peers()[0].last_error == Some(Error::SetUpTimeout { limit })).await;
    let mut greeting = Vec::new();
    within("the end", timeout(DEADLINE, stream.read_to_end(&mut greeting)).await).expect("closed in order");
    assert_eq!(greeting.get(2..6), Some(&b"BATN"[..]), "the dialler speaks first");
    within("another dial", timeout(DEADLINE, listener.accept()).await).expect("a connection");
}

#[tokio::test]
async fn another_cluster_file_is_seen_in_the_status_of_both() {
    let all = addresses(2);
    let (zero, _at_zero) = Mesh::start(config(0, 1, &all, NEVER)).expect("a mesh");
    let other = MeshConfig { digest: [8; 32], ..config(1, 1, &all, NEVER) };
    let (one, _at_one) = Mesh::start(other).expect("a mesh");
    for (mesh, node) in [(&zero, "n1"), (&one, "n0")] {
        let wrong = Error::WrongDigest { node: node.to_owned() };
        until("a refusal", || mesh.peers()[0].last_error.as_ref() == Some(&wrong)).await;
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_costs_drops_and_then_its_connection() {
    let (mesh, mut events) = lonely(NEVER);
    let mut puppet = Puppet::dial(&mesh, 1, [9; 32]).await;
    puppet.open().await.expect("an open connection");
    up(&mut events).await;
    let body = vec![0; STATUS_BYTES_MAX];
    let status = Message::StatusReply(StatusReply { id: 0, body });
    let full = |kind| Err(SendError::Full { node: NodeId(1), kind });
    until("a full bulk queue", || mesh.send(NodeId(1), &status) == full(Kind::StatusReply)).await;
    assert!(mesh.peers()[0].drops > 0);
    assert_eq!(mesh.send(NodeId(1), &load(1)), Ok(()), "what is urgent still has room");
    let live = Message::Live(Live { nodes: (0..256).map(NodeId).collect() });
    let mut sent = 0;
    let refused = loop {
        match mesh.send(NodeId(1), &live) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 1_000_000, "the queue has no bound");
        tokio::task::yield_now().await;
    };
    assert_eq!(Err(refused), full(Kind::Live));
    assert_eq!(down(&mut events).await, Error::Overflow { kind: Kind::Live });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_nobody_reads_hold_the_peer_back_but_do_not_lose_it() {
    let failure_timeout = Duration::from_secs(4);
    let all = addresses(2);
    let (zero, mut at_zero) = Mesh::start(config(0, 1, &all, failure_timeout)).expect("a mesh");
    let (one, mut at_one) = Mesh::start(config(1, 1, &all, failure_timeout)).expect("a mesh");
    up(&mut at_zero).await;
    up(&mut at_one).await;
    const COUNT: u32 = 10_000;
    for count in 0..COUNT {
        one.send(NodeId(0), &load(count)).expect("room in the queue");
    }
    // Time itself is the condition here: longer than the failure timeout, without a reader.
    tokio::time::sleep(failure_timeout * 3 / 2).await;
    assert_eq!((zero.peers()[0].ups, one.peers()[0].ups), (1, 1), "{:?} {:?}", zero.peers(), one.peers());
    for count in 0..COUNT {
        assert_eq!(next(&mut at_zero).await, MeshEvent::Message { node: NodeId(1), message: load(count) });
    }
    assert_eq!((zero.peers()[0].state, zero.peers()[0].messages_in), (PeerState::Up, COUNT.into()));
    until("a round trip", || one.peers()[0].rtt_us.is_some()).await;
}

/// Whatever the node does with its thread, its peers hear it: here it does nothing else for three times the time
/// after which a silent peer is down.
#[test]
fn a_node_that_is_busy_is_heard_all_the_same() {
    let failure_timeout = Duration::from_millis(500);
    let all = addresses(2);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (busy, other) = (runtime(), runtime());
    let (zero, mut at_zero) =
        busy.block_on(async { Mesh::start(config(0, 1, &all, failure_timeout)).expect("a mesh") });
    let (one, mut at_one) =
        other.block_on(async { Mesh::start(config(1, 1, &all, failure_timeout)).expect("a mesh") });
    busy.block_on(up(&mut at_zero));
    other.block_on(up(&mut at_one));
    // Neither does the node take its events, of which there are more than have room.
    for count in 0..5_000 {
        one.send(NodeId(0), &load(count)).expect("room in the queue");
    }
    busy.block_on(async { std::thread::sleep(3 * failure_timeout) });
    assert_eq!(one.peers()[0].ups, 1, "{:?}", one.peers());
    assert_eq!((zero.peers()[0].ups, zero.peers()[0].state), (1, PeerState::Up));
    other.block_on(async {
        assert!(timeout(Duration::ZERO, at_one.recv()).await.is_err(), "nothing has happened");
    });
    busy.block_on(async {
        for count in 0..5_000 {
            assert_eq!(
                next(&mut at_zero).await,
                MeshEvent::Message { node: NodeId(1), message: load(count) }
            );
        }
    });
}

/// Strangers that hold all the connections that they can get, and say nothing.
#[tokio::test]
async fn silent_strangers_keep_no_peer_out() {
    let (mesh, mut events) = lonely(NEVER);
    let mut strangers = Vec::new();
    // Fewer than the kernel's backlog has room for.
    for n in 0..200 {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket
            .bind(SocketAddr::from(([127, 0, 1, (n % 100) as u8 + 1], 0)))
            .expect("loopback is a large net");
        let connecting = timeout(DEADLINE, socket.connect(mesh.local_addr()));
        strangers.push(within("a handshake", connecting.await).expect("the mesh listens"));
    }
    let mut honest = Puppet::dial(&mesh, 1, [9; 32]).await;
    honest.open().await.expect("an open connection");
    up(&mut events).await;
    for mut stranger in strangers {
        let mut said = Vec::new();
        let end = within("the end", timeout(DEADLINE, stranger.read_to_end(&mut said)).await);
        assert!(said.is_empty(), "{said:?}, {end:?}");
    }
}

#[tokio::test]
async fn whoever_waits_for_the_end_of_a_mesh_is_told_of_it() {
    let (mesh, _events) = lonely(NEVER);
    assert!(timeout(Duration::from_millis(50), mesh.ended()).await.is_err(), "it runs");
    mesh.stop().await;
    within("the end", timeout(DEADLINE, mesh.ended()).await);
    mesh.stop().await; // once more does no harm
}
