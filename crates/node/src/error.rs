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
        "cannot listen for control connections on {address}: {source}\n  help: is another baton running here? (control_port in the cluster file)"
    )]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// A file of the run directory could not be made.
    #[error("{path}: {source}\n  help: --run-dir must name a directory that this user may write to")]
    RunDir {
        /// Which file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A part of the daemon has panicked that runs by itself; the log has it.
    #[error("{0} ended by a mistake in Baton: the log says which")]
    PartEnded(&'static str),
    /// The daemon has panicked; the log has it.
    #[error("the daemon has ended by a mistake in Baton: {0}")]
    Panicked(String),
    /// Another daemon is this node already.
    #[error(
        "{node} already runs here{}\n  help: `baton status --node {node}` asks it; stop it first to start another", .pid.map(|pid| format!(", pid {pid}")).unwrap_or_default()
    )]
    Running {
        /// The node's name.
        node: String,
        /// Whose it is, if it has said so.
        pid: Option<u32>,
    },
    /// The hold device's name is taken.
    #[error(
        "another node of Baton runs in this network namespace: the device {device} is its\n  help: `baton status` asks it; one daemon runs in one network namespace"
    )]
    HoldTaken {
        /// The device.
        device: &'static str,
    },
    /// The host has become one that the node cannot be on, and stayed so.
    #[error("this node cannot stay on this host: {0}")]
    HostLost(String),
    /// Something of the system that the daemon needs while it runs.
    #[error("{what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}
