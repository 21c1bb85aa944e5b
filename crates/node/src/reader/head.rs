//! One connection of the reader: its head is read until it is whole, in doubt, too long or too late. Each
//! runs as a task of its own and touches nothing of the daemon's.

use std::io;
use std::time::Duration;

use baton_cluster::{Flow, Protocol};
use baton_http::{HeadReader, Parsed};
use baton_tls::HelloReader;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use baton_core::{Head, NOT_TLS, Refusal};

/// Read at once.
const PIECE: usize = 16 * 1024;

/// What a head may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    pub(crate) bytes: usize,
    pub(crate) time: Duration,
    /// Pools differ in servers, so what cannot be read is refused. Otherwise any server may have the
    /// connection, and it is the server's own business how long a head may be and take.
    pub(crate) strict: bool,
}

impl HeadLimits {
    /// What becomes of a head that is over a limit.
    fn exceeded(self, refusal: Refusal) -> Outcome {
        if self.strict { Outcome::Refused(refusal) } else { Outcome::Whole }
    }
}

/// How reading ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// All is known that will be: the head, or so much of it as there is.
    Whole,
    Refused(Refusal),
    /// The client left.
    Gone,
}

/// A connection that the listener took; `None` when its addresses are no client's.
pub(super) fn accepted(stream: TcpStream) -> Option<Head<TcpStream>> {
    let (Ok(client), Ok(vip)) = (stream.peer_addr(), stream.local_addr()) else { return None };
    let flow = Flow { client: client.ip(), client_port: client.port(), vip: vip.ip(), vip_port: vip.port() };
    Some(Head { stream, flow, protocol: Protocol::default(), bytes: Vec::new() })
}

/// Reads until the outcome is known, or another connection needs the place.
pub(super) async fn read(
    head: &mut Head<TcpStream>,
    limits: HeadLimits,
    evicted: oneshot::Receiver<()>,
) -> Outcome {
    let until = Instant::now() + limits.time;
    // A TLS service has no strict pools, but a name is needed for one: whoever has not said it is refused.
    let limits = HeadLimits { strict: limits.strict || head.protocol == Protocol::Tls, ..limits };
    tokio::select! {
        biased;
        read = timeout_at(until, pieces(head, limits)) => match read {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Outcome::Gone,
            Err(_) => limits.exceeded(Refusal::TooSlow),
        },
        Ok(()) = evicted => Outcome::Refused(Refusal::Crowded),
    }
}

async fn pieces(head: &mut Head<TcpStream>, limits: HeadLimits) -> io::Result<Outcome> {
    if head.protocol == Protocol::Tcp {
        return Ok(Outcome::Whole); // nobody reads anything
    }
    let is_tls = head.protocol == Protocol::Tls;
    let (mut request, mut hello) = (HeadReader::default(), HelloReader::default());
    loop {
        head.stream.readable().await?;
        head.bytes.reserve(PIECE);
        match head.stream.try_read_buf(&mut head.bytes) {
            // Its server may have something to say to that.
            Ok(0) if !is_tls && !limits.strict && !head.bytes.is_empty() => return Ok(Outcome::Whole),
            Ok(0) => return Ok(Outcome::Gone),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        let outcome = if is_tls {
            after_hello(hello.read(&head.bytes))
        } else {
            after_request(request.parse(&head.bytes), limits)
        };
        if let Some(outcome) = outcome {
            return Ok(outcome);
        }
        if head.bytes.len() >= limits.bytes {
            return Ok(limits.exceeded(Refusal::TooLong));
        }
    }
}

/// What a request's head comes to; `None`: more is to be read.
fn after_request(parsed: Parsed<'_>, limits: HeadLimits) -> Option<Outcome> {
    match parsed {
        Parsed::Complete(_, length) if length > limits.bytes => Some(limits.exceeded(Refusal::TooLong)),
        Parsed::Doubt(reason) if limits.strict => Some(Outcome::Refused(Refusal::Doubtful(reason))),
        Parsed::Complete(..) | Parsed::Doubt(_) => Some(Outcome::Whole),
        Parsed::Incomplete => None,
    }
}

/// What a ClientHello comes to. Which pool it belongs to, the daemon knows.
fn after_hello(reading: baton_tls::ParsedHello) -> Option<Outcome> {
    match reading {
        baton_tls::ParsedHello::Whole(_) => Some(Outcome::Whole),
        baton_tls::ParsedHello::NotTls => Some(Outcome::Refused(Refusal::Alert(NOT_TLS))),
        baton_tls::ParsedHello::Malformed(reason) => Some(Outcome::Refused(Refusal::Alert(reason.alert()))),
        baton_tls::ParsedHello::More => None,
    }
}
