//! What a dispatcher leaves to distributors, as it decides it, as the wire carries it and as a distributor obeys it.

use serde::{Deserialize, Serialize};

use crate::NodeId;
use crate::bounded::at_most;

/// What a distributor may decide by itself for one pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Guide {
    /// Nothing: ask for every request, as in the paper.
    AskAlways,
    /// Use a cached mapping while the load of the least loaded of its servers is at most
    /// `load_limit`, for a server of the smallest weight; others may have more in proportion. Ask otherwise.
    ///
    /// That is for the first request of a connection, and for any under LARD and LARD/R where they
    /// move connections. Under extended LARD a later request may be kept without asking where its
    /// target's cached mapping names the server that has the connection, whatever its load; and no
    /// later request may be sent elsewhere without asking.
    Cached {
        /// Connections being served: LARD's `t_high` (extended LARD's less one). Up to this load the
        /// policy would not move the target either.
        load_limit: u32,
    },
    /// Turns: each new connection goes to the next server of this order, from any place in it, then from its
    /// start again (weighted round robin); over a whole round the weights are met. At most [`Guide::ROTA_MAX`]
    /// entries; empty when no server is up.
    Rota(#[serde(deserialize_with = "at_most::<{ Guide::ROTA_MAX }, _, _>")] Vec<NodeId>),
}

impl Guide {
    /// The longest rota: it fits one frame and one kernel table.
    pub const ROTA_MAX: usize = 256;
}
