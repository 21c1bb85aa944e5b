//! The daemon: the roles of one node, wired together. It configures the host, loads the packet path,
//! keeps the control connections, and runs one event loop over everything that can wake it.
//!
//! Packets are the kernel's business: what is done here is deciding what the kernel could not
//! ([`distributor`]), deciding for others ([`dispatcher`]), and telling others what happened
//! ([`server`], [`switch`]).

mod clock;
mod daemon;
mod dispatcher;
mod distributor;
mod early;
mod error;
mod guides;
mod news;
mod path;
mod peers;
mod post;
mod pressure;
mod question;
mod raw;
mod reader;
mod report;
mod server;
mod setup;
mod socket;
pub mod status;
mod switch;
mod waiting;
mod watch;

use std::path::PathBuf;

use baton_cluster::{Cluster, NodeId};

pub use error::NodeError;
pub use setup::wanted;

/// What a daemon is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster file, the same on every node.
    pub cluster: Cluster,
    /// Which of its nodes this is.
    pub node: NodeId,
    /// Where the status socket, the ready file and the journal of host changes live.
    pub run_dir: PathBuf,
    /// Whether to configure the host (VIPs, ARP, sysctls) at start, and undo it at the end.
    pub configure_host: bool,
}

/// Runs a node until SIGTERM or SIGINT. Must be called on a current-thread tokio runtime, in the
/// network namespace that is to be the node.
///
/// # Errors
/// When the node cannot start, or loses what it cannot go on without.
pub async fn run(options: Options) -> Result<(), NodeError> {
    let setup = setup::Setup::new(&options).await?;
    let ran = daemon::Daemon::start(&options, &setup)?.run().await;
    setup.undo().await;
    ran
}
