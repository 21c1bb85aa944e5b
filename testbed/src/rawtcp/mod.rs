//! A TCP client in user space that owns every bit of its packets, for scripts in which packets are
//! what no ordinary client sends: `syn`, `expect`, `send`, in the manner of packetdrill. It has an address
//! that no kernel holds, so that no kernel answers for it; every packet it gets is checked in all that
//! TCP promises (`judge`). [`crate::Testbed::raw_client`] makes one.
//!
//! `segment` is the wire format and pure, `judge` the checks and pure, `client` the packet socket,
//! `script` one connection.

mod client;
mod judge;
mod script;
mod segment;

pub use client::RawClient;
pub use script::{Answer, RawTcp};
pub use segment::{ACK, AE, CWR, ECE, FIN, Opt, PSH, RST, SYN, Segment, URG};
