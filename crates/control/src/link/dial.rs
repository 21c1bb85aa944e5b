//! How connections come to be: one task dials each peer whenever it is down, one accepts.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::connection::{Connection, socket};
use super::fails_together;
use super::peers::{MeshPeer, MeshState, stopped};
use super::places::{Place, Places};
use crate::error::Error;
use crate::pace::Pace;

/// The first wait before a peer is dialled again.
const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// The longest wait before a peer is dialled again.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// A stranger that has not begun to speak by then has nothing to say: a peer speaks first, and at once.
const STRANGERS_SILENCE: Duration = Duration::from_millis(250);

/// Lines of the log about connections that came and were nobody's, a second. Anybody can cause them.
const LINES_A_SECOND: u32 = 1;
const LINES_AT_ONCE: u32 = 20;

/// Asked of the kernel for each socket: what is in it can no longer be overtaken by urgent messages.
const SEND_BUFFER_BYTES: u32 = 256 * 1024;

/// Segments that every path carries, with the headers of IPv6 and options, in 1280 bytes (RFC 8200 5): a way that is
/// narrower than both ends believe does not part them, and its probes are acknowledged.
const SEGMENT_BYTES: u32 = 1280 - 40 - 20;

/// Connections waiting to be accepted.
const BACKLOG: u32 = 256;

/// Dials a peer whenever it is down, until the mesh stops.
pub(super) async fn dial_for_ever(shared: &MeshState, peer: &MeshPeer) {
    let mut stop = shared.stop.subscribe();
    let mut is_up = peer.is_up.subscribe();
    let mut backoff = BACKOFF_MIN;
    // Both ends start at once: if the lower number goes first, the other rarely has to dial at all.
    let courtesy = if shared.identity.hello.node > peer.node { BACKOFF_MIN } else { Duration::ZERO };
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = down_for(&mut is_up, courtesy) => (),
        }
        // Not within the select: a connection has its own way to stop, with a goodbye.
        let error = dial(shared, peer, &mut stop).await;
        if error == Error::Stopping && *stop.borrow() {
            return;
        }
        let name = shared.identity.name(peer.node);
        if error != Error::Duplicate && peer.failed(&error) {
            warn!(peer = name, address = %peer.address, "no connection: {error}");
        } else {
            debug!(peer = name, "connection ended: {error}");
        }
        let had_been_up = is_up.has_changed().unwrap_or(false);
        is_up.mark_unchanged();
        backoff = if had_been_up { BACKOFF_MIN } else { (backoff * 2).min(BACKOFF_MAX) };
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = sleep(jittered(backoff)) => (),
        }
    }
}

/// Waits until the peer is down, and is so still after the courtesy.
async fn down_for(is_up: &mut watch::Receiver<bool>, courtesy: Duration) {
    loop {
        drop(is_up.wait_for(|up| !*up).await);
        sleep(jittered(courtesy)).await;
        if !*is_up.borrow() {
            return;
        }
    }
}

/// Between half and all of a wait, so that nodes that lost each other at once do not meet again at once.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// One attempt, and the connection if it comes to one.
async fn dial(shared: &MeshState, peer: &MeshPeer, stop: &mut watch::Receiver<bool>) -> Error {
    let limit = shared.identity.set_up_timeout();
    let connected = tokio::select! {
        () = stopped(stop) => return Error::Stopping,
        connected = timeout(limit, connect(shared.listen, peer.address)) => connected,
    };
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(cause)) => return socket(cause),
        Err(_) => return Error::SetUpTimeout { limit },
    };
    match Connection::new(shared, Some(peer.node)) {
        Ok(connection) => connection.run(stream).await,
        Err(error) => error,
    }
}

async fn connect(source: SocketAddr, peer: SocketAddr) -> io::Result<TcpStream> {
    let socket = open(peer)?;
    if !source.ip().is_unspecified() && source.is_ipv4() == peer.is_ipv4() {
        socket.bind(SocketAddr::new(source.ip(), 0))?;
    }
    let stream = socket.connect(peer).await?;
    // TCP connects a socket with itself if it happens to get the dialled port as its own.
    if stream.local_addr()? == peer {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

fn open(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    SockRef::from(&socket).set_tcp_mss(SEGMENT_BYTES)?;
    Ok(socket)
}

/// A listening socket; accepted ones inherit its options.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(address)?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts connections until the mesh stops, then waits for those it accepted. All are taken out of the kernel's
/// backlog at once, where strangers could be in front of peers; those for whom there is no place are closed.
pub(super) async fn accept_for_ever(shared: Arc<MeshState>, listener: TcpListener) {
    let mut stop = shared.stop.subscribe();
    let mut accepted = JoinSet::new();
    let mut places = Places::new(shared.peers.values().map(|peer| peer.address.ip()));
    let mut log = Log { pace: Pace::new(LINES_A_SECOND, LINES_AT_ONCE), started: Instant::now() };
    loop {
        tokio::select! {
            () = stopped(&mut stop) => break,
            Some(ended) = accepted.join_next(), if !accepted.is_empty() => {
                if let Ok((from, error)) = ended.map_err(|panic| fails_together(Err(panic))) {
                    places.give_back(SocketAddr::ip(&from));
                    log.ended(from, &error);
                }
            }
            incoming = listener.accept() => match incoming {
                Ok((stream, from)) => match places.take(from.ip()) {
                    Some(place) => drop(accepted.spawn(accept(shared.clone(), stream, from, place))),
                    None => log.refused(from),
                },
                Err(cause) => {
                    // Out of descriptors, most likely: what waits is tried again.
                    log.say(|| warn!("cannot accept control connections: {cause}"));
                    sleep(BACKOFF_MIN).await;
                }
            },
        }
    }
    while accepted.join_next().await.is_some() {}
}

/// What is said of connections that came: not more than a reader of the log can use.
struct Log {
    pace: Pace,
    started: Instant,
}

impl Log {
    fn say(&mut self, line: impl FnOnce()) {
        if self.pace.allows(self.started.elapsed()) {
            line();
        }
    }

    fn refused(&mut self, from: SocketAddr) {
        self.say(|| info!(%from, "no place for another control connection from there"));
    }

    fn ended(&mut self, from: SocketAddr, error: &Error) {
        match error {
            // Who accepts is the one that refuses another secret. The other end hangs up when both have dialled at once, or when it stops.
            Error::Duplicate | Error::Stopping | Error::Closed | Error::Restarted | Error::HungUp => {
                debug!(%from, "control connection ended: {error}");
            }
            Error::WrongSecret => self.say(|| warn!(%from, "control connection refused: {error}")),
            _ => self.say(|| info!(%from, "control connection ended: {error}")),
        }
    }
}

async fn accept(
    shared: Arc<MeshState>,
    stream: TcpStream,
    from: SocketAddr,
    place: Place,
) -> (SocketAddr, Error) {
    let limit = STRANGERS_SILENCE;
    if place == Place::Stranger && timeout(limit, stream.peek(&mut [0])).await.is_err() {
        return (from, Error::SetUpTimeout { limit });
    }
    let ended = match Connection::new(&shared, None) {
        Ok(connection) => connection.run(stream).await,
        Err(error) => error,
    };
    (from, ended)
}
