//! The daemon: the roles of one node, wired together. It configures the host, loads the packet path,
//! keeps the control connections, and runs one event loop over everything that can wake it.
//!
//! Packets are the kernel's business: what is done here is deciding what the kernel could not
//! (`placing`), deciding for others (`dispatcher`), and telling others what happened
//! (`server`, `switch`).

mod clock;
mod daemon;
mod error;
mod gone;
mod host;
mod host_work;
mod listeners;
mod mends;
mod path;
mod pressure;
mod raw;
mod reader;
mod reload;
mod report;
mod search;
mod setup;
mod shell;
mod socket;
pub mod status;
mod turns;
mod watch;

use std::any::Any;
use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::task::Poll;

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
/// However it ends, also by a panic, the host is as it was before.
///
/// # Errors
/// When the node cannot start, or loses what it cannot go on without.
pub async fn run(options: Options) -> Result<(), NodeError> {
    let setup = setup::Setup::new(&options).await?;
    let ran = whatever_happens(async { daemon::Daemon::start(&options, &setup).await?.run().await }).await;
    setup.undo().await;
    ran
}

/// Runs a daemon to its end, which may be a panic.
async fn whatever_happens(daemon: impl Future<Output = Result<(), NodeError>>) -> Result<(), NodeError> {
    let mut daemon = Box::pin(daemon);
    let ended = poll_fn(|context| {
        // Nothing of the daemon is used after a panic: it is dropped.
        let polled = catch_unwind(AssertUnwindSafe(|| daemon.as_mut().poll(context)));
        polled.unwrap_or_else(|panic| Poll::Ready(Err(NodeError::Panicked(said(&*panic)))))
    })
    .await;
    // Its programs, devices and connections go before the host is put back; guards stay until that is done.
    drop(daemon);
    ended
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_and_what_the_daemon_had_is_dropped() {
        struct Has(std::sync::mpsc::Sender<()>);
        impl Drop for Has {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        let (tell, dropped) = std::sync::mpsc::channel();
        let has = Has(tell);
        let ended = whatever_happens(async move {
            let _has = &has;
            tokio::task::yield_now().await;
            panic!("slot {}", 7)
        });
        assert!(matches!(ended.await, Err(NodeError::Panicked(text)) if text == "slot 7"));
        assert!(dropped.try_recv().is_ok());
        assert!(whatever_happens(async { Ok(()) }).await.is_ok());
    }
}
