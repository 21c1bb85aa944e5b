//! The vocabulary every other crate shares: the cluster file as types that cannot be wrong,
//! identifiers, and the keys that derive from the cluster's secret. Pure: no I/O, no clock.

mod id;

pub use id::{Flow, NodeId, ServiceId, Target};
