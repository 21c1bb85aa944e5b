//! The packet path: the eBPF programs of `bpf/`, loaded, attached and spoken to through typed maps;
//! and the device that holds packets for user space. `baton-packet-model` says every decision again in Rust.
//!
//! Read `bpf/baton.bpf.c` first: its head tells the whole story. The programs execute, they hold no
//! policy: what they look up was decided in Rust.

pub mod answer;
mod attached;
mod connection;
mod connections;
mod counters;
mod decided;
mod error;
mod events;
mod filter;
mod headers;
mod hold;
mod lease;
mod map;
mod probe;
mod programs;
#[doc(hidden)]
pub mod raw;
pub mod replay;
mod request;
mod routes;
mod said;
mod shared;
mod skel;
mod spread;
mod tables;
mod too_big;
mod unknown;
mod written;

pub use attached::{Newly, program_name, remove_guards};
pub use connection::{Binding, Heard, Progress, Reading, Receipt, State, Swept};
pub use counters::{Counter, CounterKind, Counters};
pub use error::DatapathError;
pub use events::{Event, Events};
pub use filter::GUARD_FILTER;
pub use hold::{Frame, Hold};
pub use lease::Lease;
pub use probe::probe;
pub use programs::{Datapath, Settings, Sizes};
pub use request::target_of;
pub use routes::{PoolEntry, ServiceEntry};
pub use shared::constants;
pub use tables::{GuideKind, LiveValues, Peer};
pub use too_big::too_big;
pub use unknown::{Known, Numbers};
