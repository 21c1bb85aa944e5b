//! What Baton knows of HTTP/1: which request heads are clear, what path they mean, which pool a
//! request belongs to, what its target is made from, and where each message on a connection ends.
//! Bottom of the crate graph; the cluster file, the node and the packet path all use it. It does no
//! I/O, keeps no time and decides no server. Rules and examples for operators: `docs/requests.md`.

mod bytes;
mod head;
mod key;
mod rules;

pub use head::{Body, Headers, Request, Version};
pub use key::{Key, KeyError};
pub use rules::{HostMatch, PathMatch, Route, Rules};
