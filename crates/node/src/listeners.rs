//! The web server's listening sockets, looked at now and then: one that speaks MPTCP resets every client, and whoever
//! runs the node should not have to find out by himself. Sockets of programs in Go do by default.

use std::collections::BTreeSet;
use std::time::Duration;

use baton_host::{Finding, Severity, Wanted, web_server};
use tokio::task::{AbortHandle, spawn};
use tokio::time::sleep;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(20);

/// Looks until it is dropped.
#[derive(Debug)]
pub(crate) struct Listeners(AbortHandle);

impl Listeners {
    /// Those of a node that is to be so.
    pub(crate) fn watch(wanted: Wanted) -> Self {
        Self(spawn(look_for_ever(wanted)).abort_handle())
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn look_for_ever(wanted: Wanted) {
    let mut said = BTreeSet::new();
    loop {
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
        sleep(EVERY).await;
    }
}
