//! The reader: the distributor's slow path. It listens on the loopback address; the programs adopt into it
//! connections whose first packet does not hold a whole request head. Heads are read by tasks, bounded in
//! bytes, time and number; what is known then goes to the core (`placing`), which has it decided and hands
//! the connection off by giving the server the client's bytes once more ([`mod@take`]).

mod answer;
mod head;
mod take;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use baton_cluster::Cluster;
use baton_core::{Head, Refusal};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::NodeError;
use crate::status::ReaderStatus;

use head::{HeadLimits, Outcome};
pub(crate) use take::take;

/// Connections that wait for being taken.
const BACKLOG: i32 = 1024;
/// The kernel doubles it; a fixed size bounds what a client can send while its request is decided.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// Events that wait for the daemon; then tasks wait.
const EVENTS: usize = 256;
/// How long the listener rests when the system has no more files or memory.
const REST: Duration = Duration::from_millis(20);

/// What wakes the daemon.
#[derive(Debug)]
pub(crate) enum ReaderEvent {
    /// The programs have given a connection.
    Accepted(Head<TcpStream>),
    /// A task has ended; with a head, if it is to be handed off.
    Read(u64, Counted, Option<Head<TcpStream>>),
}

/// How a task ended, for the tally.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Counted {
    Whole,
    Refused(Refusal),
    Gone,
}

/// The reader of this node.
#[derive(Debug)]
pub(crate) struct Reader {
    port: u16,
    port_v6: Option<u16>,
    events: mpsc::Receiver<ReaderEvent>,
    to_daemon: mpsc::Sender<ReaderEvent>,
    limits: HeadLimits,
    most: usize,
    /// Connections being read, the oldest first.
    open: BTreeMap<u64, oneshot::Sender<()>>,
    next: u64,
    closing: Arc<Semaphore>,
    tally: ReaderStatus,
}

impl Reader {
    /// Begins to listen. Must be called in the node's network namespace, on its runtime.
    pub(crate) fn listen(cluster: &Cluster) -> Result<Self, NodeError> {
        allow_files();
        let failed = |source| NodeError::System { what: "the reader's listening socket", source };
        let (v4, port) = listener(Ipv4Addr::LOCALHOST.into()).map_err(failed)?;
        let (to_daemon, events) = mpsc::channel(EVENTS);
        tokio::spawn(accept(v4, to_daemon.clone()));
        let limits = cluster.limits;
        let most = limits.reader_connections as usize;
        let mut reader = Self {
            port,
            port_v6: None,
            events,
            to_daemon,
            limits: HeadLimits {
                bytes: limits.head_bytes as usize,
                time: limits.head_timeout,
                strict: false,
            },
            most,
            open: BTreeMap::new(),
            next: 0,
            closing: Arc::new(Semaphore::new(most)),
            tally: ReaderStatus::default(),
        };
        reader.listen_as_needed(cluster)?;
        Ok(reader)
    }

    /// Listens for IPv6 too, once the cluster has such a VIP.
    pub(crate) fn listen_as_needed(&mut self, cluster: &Cluster) -> Result<(), NodeError> {
        if self.port_v6.is_none() && cluster.vips().iter().any(IpAddr::is_ipv6) {
            let failed = |source| NodeError::System { what: "the reader's listening socket", source };
            let (v6, port) = listener(Ipv6Addr::LOCALHOST.into()).map_err(failed)?;
            tokio::spawn(accept(v6, self.to_daemon.clone()));
            self.port_v6 = Some(port);
        }
        Ok(())
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The same for IPv6, where the cluster has such a VIP.
    pub(crate) fn port_v6(&self) -> Option<u16> {
        self.port_v6
    }

    /// What it says of itself.
    pub(crate) fn status(&self) -> ReaderStatus {
        ReaderStatus { reading_now: self.open.len() as u64, ..self.tally.clone() }
    }

    /// What comes next; waits for it.
    pub(crate) async fn event(&mut self) -> ReaderEvent {
        match self.events.recv().await {
            Some(event) => event,
            // Never: a sender is kept here.
            None => std::future::pending().await,
        }
    }

    /// Begins to read a head. The oldest of too many is refused.
    pub(crate) fn begin(&mut self, head: Head<TcpStream>, strict: bool) {
        if self.open.len() >= self.most
            && let Some((_, oldest)) = self.open.pop_first()
        {
            // It may have ended just now.
            let _ = oldest.send(());
        }
        let id = self.next;
        self.next += 1;
        let (evict, evicted) = oneshot::channel();
        self.open.insert(id, evict);
        let limits = HeadLimits { strict, ..self.limits };
        tokio::spawn(read(id, head, limits, evicted, self.to_daemon.clone(), Arc::clone(&self.closing)));
    }

    /// A task has ended.
    pub(crate) fn ended(&mut self, id: u64, how: Counted) {
        self.open.remove(&id);
        match how {
            Counted::Whole => self.tally.read += 1,
            Counted::Refused(refusal) => self.count(refusal),
            Counted::Gone => self.tally.gone += 1,
        }
    }

    /// The client had left when its connection was to be handed off.
    pub(crate) fn gone(&mut self) {
        self.tally.gone += 1;
    }

    /// Answers a request that was read, but cannot be handed off.
    pub(crate) fn refuse(&mut self, head: Head<TcpStream>, refusal: Refusal) {
        self.count(refusal);
        let answer = answer::answer(refusal, head.protocol);
        tokio::spawn(answer::refuse(head.stream, answer, Arc::clone(&self.closing)));
    }

    fn count(&mut self, refusal: Refusal) {
        let count = match refusal {
            Refusal::Doubtful(_) => &mut self.tally.doubtful,
            Refusal::TooSlow => &mut self.tally.too_slow,
            Refusal::TooLong => &mut self.tally.too_long,
            Refusal::Alert(_) => &mut self.tally.alerted,
            Refusal::Crowded | Refusal::NoServer => &mut self.tally.refused,
        };
        *count += 1;
    }
}

/// As many open files as the system lets this process have: each connection is one.
fn allow_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

fn listener(at: IpAddr) -> std::io::Result<(TcpListener, u16)> {
    let at = SocketAddr::new(at, 0);
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    // Its connections have the VIP and the service's port for their own: what is left of one that was
    // answered here (TIME-WAIT) must not keep a web server from listening there.
    socket.set_reuse_address(true)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

async fn accept(listener: TcpListener, to_daemon: mpsc::Sender<ReaderEvent>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Some(head) = head::accepted(stream) else { continue };
                if to_daemon.send(ReaderEvent::Accepted(head)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the reader cannot take a connection");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// One connection's task.
async fn read(
    id: u64,
    mut head: Head<TcpStream>,
    limits: HeadLimits,
    evicted: oneshot::Receiver<()>,
    to_daemon: mpsc::Sender<ReaderEvent>,
    closing: Arc<Semaphore>,
) {
    let event = match head::read(&mut head, limits, evicted).await {
        Outcome::Whole => ReaderEvent::Read(id, Counted::Whole, Some(head)),
        Outcome::Gone => ReaderEvent::Read(id, Counted::Gone, None),
        Outcome::Refused(refusal) => {
            let _ = to_daemon.send(ReaderEvent::Read(id, Counted::Refused(refusal), None)).await;
            return answer::refuse(head.stream, answer::answer(refusal, head.protocol), closing).await;
        }
    };
    let _ = to_daemon.send(event).await;
}
