//! What Baton knows of TLS: the first message of a connection, as far as choosing a pool needs it, and
//! the alerts that refuse one. Beside `baton-http` at the bottom of the crate graph. It does no I/O, keeps
//! no time, holds no key and decides no server: what else a ClientHello says is for the server that
//! terminates TLS. What operators should know of it: `docs/tls.md`.
#![forbid(unsafe_code)]

mod alert;
mod hello;
mod name;
mod reader;
mod reason;
mod vectors;

pub use alert::{Alert, alert};
pub use hello::{ClientHello, Protocols};
pub use name::Name;
pub use reader::{HELLO_BYTES_MAX, HelloReader, ParsedHello, read_client_hello};
pub use reason::HelloError;
