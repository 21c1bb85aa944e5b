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
mod reload;
mod report;
mod server;
mod services;
mod setup;
mod socket;
pub mod status;
mod switch;
mod waiting;
mod watch;

use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;

use baton_cluster::{Cluster, NodeId};

pub use error::NodeError;
pub use setup::wanted;

/// What a daemon is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster file, the same on every node.
    pub cluster: Cluster,
    /// Reads the file again, when the node is told to reload it.
    pub reread: Reread,
    /// Which of its nodes this is.
    pub node: NodeId,
    /// Where the status socket, the ready file and the journal of host changes live.
    pub run_dir: PathBuf,
    /// Whether to configure the host (VIPs, ARP, sysctls) at start, and undo it at the end.
    pub configure_host: bool,
}

/// How a cluster file is read once more: by whoever knows where it is, and how to say what is wrong with it.
#[derive(Clone)]
pub struct Reread(pub Rc<dyn Fn() -> Result<Cluster, String>>);

impl fmt::Debug for Reread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reread")
    }
}

/// Runs a node until SIGTERM or SIGINT; SIGHUP makes it read its cluster file again. Must be called on a current-thread tokio runtime, in the
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
