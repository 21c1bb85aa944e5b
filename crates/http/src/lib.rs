//! What Baton knows of HTTP/1: which request heads are clear, what path they mean, which pool a
//! request belongs to, what its target is made from, and where each message on a connection ends.
//! Bottom of the crate graph; the cluster file, the node and the packet path all use it. It does no
//! I/O, keeps no time and decides no server. Rules and examples for operators: `docs/requests.md`.

mod bytes;
mod framing;
mod head;
mod key;
mod normal;
mod readings;
mod reason;
mod rules;
mod scan;

pub use framing::{Exchange, Fed, Follower, OUTSTANDING_MAX, Outstanding};
pub use head::{Body, HeadReader, Headers, Parsed, Request, Version, is_method, parse_request};
pub use key::{Key, KeyError};
pub use normal::{is_normal, normalise};
pub use readings::is_plain;
pub use reason::Reason;
pub use rules::{HostMatch, PathMatch, Route, Rules};
pub use scan::Phase;
