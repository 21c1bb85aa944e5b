//! The packet path: the eBPF programs of `bpf/`, loaded, attached and spoken to through typed maps;
//! the device that holds packets for user space; and a reference model of every decision in Rust.
//!
//! Read `bpf/baton.bpf.c` first: its head tells the whole story. The programs execute, they hold no
//! policy: what they look up was decided in Rust.

mod connections;
mod counters;
mod decided;
mod error;
mod events;
mod hold;
pub mod model;
mod programs;
pub mod replay;
mod request;
mod routes;
mod shared;
mod skel;
mod tables;
pub mod test_run;
mod too_big;

pub use connections::{Asked, Binding, Heard, Reading, State};
pub use counters::{Counter, CounterKind, Counters};
pub use error::DatapathError;
pub use events::{Event, Events};
pub use hold::{Frame, Hold};
pub use programs::{Datapath, Roles, Settings, Sizes};
pub use request::target_of;
pub use routes::{PoolEntry, ServiceEntry};
pub use shared::constants;
pub use tables::{Guide, Live, Peer};
pub use too_big::too_big;
