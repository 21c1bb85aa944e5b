//! A connection of the reader, as the core knows it: its own sockets and tasks are the daemon's.

use baton_cluster::{Flow, Protocol};
use baton_http::Reason;
use baton_tls::Alert;

/// A connection of the reader, and what has been read of it.
#[derive(Debug)]
pub struct Head<S> {
    /// Its socket.
    pub stream: S,
    /// Which.
    pub flow: Flow,
    /// What the client is thought to speak: its head is a request's, or a ClientHello.
    pub protocol: Protocol,
    /// From the first byte on.
    pub bytes: Vec<u8>,
}

/// What the reader's socket had acknowledged, all of it.
#[derive(Debug)]
pub struct TakenBytes {
    /// From the first byte on.
    pub bytes: Vec<u8>,
    /// The client had ended its direction behind them.
    pub fin: bool,
}

/// Why a request is not handed off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its head can be read in several ways, and where it goes matters.
    Doubtful(Reason),
    /// Its head took too long.
    TooSlow,
    /// Its head is too long.
    TooLong,
    /// More heads are being read than may be, and this one has been for the longest time.
    Crowded,
    /// No server is there for it.
    NoServer,
    /// TLS that cannot be read, or that no pool is for.
    Alert(Alert),
}
