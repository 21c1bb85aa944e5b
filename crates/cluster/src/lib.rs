//! The vocabulary every other crate shares: the cluster file as types that cannot be wrong,
//! identifiers, the keys that derive from the cluster's secret, and the values about who decides that
//! more than one crate passes on: guides, makers and their heirs. Pure: no I/O, no clock, no randomness.

pub mod bounded;
mod check;
mod cluster;
mod digest;
mod draft;
mod error;
mod fresh;
mod guide;
mod id;
mod keys;
mod maker;
mod parse;
mod pool;
mod pool_check;
mod pool_draft;
mod protocol;
mod protocol_draft;
mod read;
mod sign;
mod similar;
mod succession;
mod unique;
mod value;
mod warning;

pub use cluster::{Cluster, Forwarding, Limits, Node, Roles, Service};
pub use error::{ConfigError, ConfigErrors};
pub use guide::Guide;
pub use id::{Flow, NodeId, PoolHash, PoolId, ServiceId, Target};
pub use keys::Keys;
pub use maker::{Heirs, Maker, SLOT_MAKERS, SpreadLine, SpreadTable};
pub use pool::{Consult, PHttp, PolicyConfig, PolicyKind, Pool};
pub use protocol::{NameRoute, NameRules, Protocol, Unrouted};
pub use sign::Sign;
pub use succession::{Changes, Ending, ReloadError, Succession};
pub use warning::Warning;
