//! Why a node cannot start or go on.

use std::io;
use std::path::PathBuf;

use baton_cluster::NodeId;
use baton_datapath::DatapathError;
use baton_host::HostError;

/// An error that ends the daemon.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The cluster file has no such node.
    #[error("{0} is not in the cluster file")]
    UnknownNode(NodeId),
    /// The host could not be read or configured.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The packet path could not be loaded, attached or spoken to.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The control port could not be had.
    #[error(
        "cannot listen for control connections on {address}: {cause}\n  help: is another baton running here? (control_port in the cluster file)"
    )]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// The system's error.
        cause: io::Error,
    },
    /// A file of the run directory could not be made.
    #[error("{path}: {cause}\n  help: --run-dir must name a directory that this user may write to")]
    RunDir {
        /// Which file.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// Something of the system that the daemon needs while it runs.
    #[error("{what}: {cause}")]
    System {
        /// What.
        what: &'static str,
        /// The system's error.
        cause: io::Error,
    },
}
