//! One connection of the reader: its head is read until it is whole, in doubt, too long or too late. Each
//! runs as a task of its own and touches nothing of the daemon's.

use std::io;
use std::time::Duration;

use baton_cluster::Flow;
use baton_http::{Parsed, Reading};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::answer::Refusal;

/// Read at once.
const PIECE: usize = 16 * 1024;

/// What a head may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    pub(crate) bytes: usize,
    pub(crate) time: Duration,
    /// A doubtful head is refused, because pools differ in servers.
    pub(crate) strict: bool,
}

/// A connection of the reader, and what has been read of it.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) stream: TcpStream,
    pub(crate) flow: Flow,
    pub(crate) bytes: Vec<u8>,
}

/// How reading ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// All is known that will be.
    Whole,
    Refused(Refusal),
    /// The client left.
    Gone,
}

impl Head {
    /// A connection that the listener took; `None` when its addresses are no client's.
    pub(crate) fn new(stream: TcpStream) -> Option<Self> {
        let (Ok(client), Ok(vip)) = (stream.peer_addr(), stream.local_addr()) else { return None };
        let flow =
            Flow { client: client.ip(), client_port: client.port(), vip: vip.ip(), vip_port: vip.port() };
        Some(Self { stream, flow, bytes: Vec::new() })
    }

    /// Reads until the outcome is known, or another connection needs the place.
    pub(crate) async fn read(&mut self, limits: HeadLimits, evicted: oneshot::Receiver<()>) -> Outcome {
        let until = Instant::now() + limits.time;
        tokio::select! {
            biased;
            read = timeout_at(until, self.pieces(limits)) => match read {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Outcome::Gone,
                Err(_) => Outcome::Refused(Refusal::TooSlow),
            },
            Ok(()) = evicted => Outcome::Refused(Refusal::Crowded),
        }
    }

    async fn pieces(&mut self, limits: HeadLimits) -> io::Result<Outcome> {
        let mut reading = Reading::default();
        loop {
            self.stream.readable().await?;
            self.bytes.reserve(PIECE);
            match self.stream.try_read_buf(&mut self.bytes) {
                // Its server may have something to say to that.
                Ok(0) if !limits.strict && !self.bytes.is_empty() => return Ok(Outcome::Whole),
                Ok(0) => return Ok(Outcome::Gone),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
            match reading.parse(&self.bytes) {
                Parsed::Complete(_, length) if length > limits.bytes => {
                    return Ok(Outcome::Refused(Refusal::TooLong));
                }
                Parsed::Complete(..) => return Ok(Outcome::Whole),
                Parsed::Doubt(reason) if limits.strict => {
                    return Ok(Outcome::Refused(Refusal::Doubtful(reason)));
                }
                Parsed::Doubt(_) => return Ok(Outcome::Whole),
                Parsed::Incomplete if self.bytes.len() >= limits.bytes => {
                    return Ok(Outcome::Refused(Refusal::TooLong));
                }
                Parsed::Incomplete => {}
            }
        }
    }
}
