//! The web server's listening sockets, looked at now and then. One that speaks MPTCP resets every client, and whoever
//! runs the node should not have to find out by himself: sockets of programs in Go do by default. One of which nobody takes
//! the connections is that of a program that hangs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use baton_host::{Finding, Severity, Wanted, waiting, web_server};
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn};
use tokio::time::sleep;

/// Between two looks at what waits for the sockets.
const LOOK: Duration = Duration::from_secs(1);
/// Of so many looks one is also at what the sockets are.
const EVERY: u64 = 20;

/// The number of a look, and the connections that waited then, by port.
pub(crate) type Queues = (u64, BTreeMap<u16, u32>);

/// Looks until it is dropped.
#[derive(Debug)]
pub(crate) struct Listeners(AbortHandle);

impl Listeners {
    /// Those of a node that is to be so.
    pub(crate) fn watch(wanted: Wanted, queues: watch::Sender<Queues>) -> Self {
        Self(spawn(look_for_ever(wanted, queues)).abort_handle())
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn look_for_ever(wanted: Wanted, queues: watch::Sender<Queues>) {
    let mut said = BTreeSet::new();
    for look in 0_u64.. {
        // Who sees nothing doubts nobody.
        let now = waiting(&wanted).await.unwrap_or_default();
        queues.send_modify(|(number, last)| (*number, *last) = (*number + 1, now));
        sleep(LOOK).await;
        if !look.is_multiple_of(EVERY) {
            continue;
        }
        let found = web_server(&wanted).await;
        let wrong = found.into_iter().filter(|f| f.id == "mptcp-listener" && f.severity == Severity::Error);
        let now: BTreeSet<(String, Option<String>)> =
            wrong.map(|Finding { what, mend, .. }| (what, mend)).collect();
        for (what, mend) in now.difference(&said) {
            let help = mend.as_deref().unwrap_or_default();
            tracing::warn!(help, "{what}: every client that is handed to this node is reset");
        }
        // One that has gone and comes again is said again.
        said = now;
    }
}
