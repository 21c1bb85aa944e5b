//! Changes of this node's host while it runs, and looks at it. They wait for the kernel, and for others who change hosts:
//! so they are made beside the event loop, one after the other, while packets are held and answered as ever.

use std::collections::VecDeque;
use std::future::pending;
use std::path::PathBuf;

use baton_cluster::{Changes, Cluster, NodeId, Succession};
use baton_host::{HostSeen, Mended, Wanted};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::host;
use crate::path::Paths;

/// Orders to reload that wait for those before them; one more is refused.
const WAITING_MAX: usize = 16;

/// Who ordered a reload: a command, which wants to hear of it; or a signal.
pub(crate) type Orderer = Option<UnixStream>;

/// What is to be done when the host is as it has to be, or cannot be.
#[derive(Debug)]
pub(crate) enum Then {
    /// Go by another cluster file.
    GoBy { known: Box<Succession>, changes: Changes, orderer: Orderer },
    /// Nothing: services have ended, and their VIPs should be gone.
    Ended,
    /// Follow what the look at the host has shown.
    Looked,
}

/// What a look at the host has shown, and put back.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) seen: HostSeen,
    pub(crate) mended: Vec<Mended>,
    pub(crate) paths: Paths,
}

/// How work ended: a look has something to show, unless somebody else was changing the host.
pub(crate) type Done = Result<Option<Box<Look>>, String>;

/// The change that is being made, and the orders that wait for its end.
#[derive(Debug, Default)]
pub(crate) struct HostWork {
    under_way: Option<(JoinHandle<Done>, Then)>,
    waiting: VecDeque<Orderer>,
}

impl HostWork {
    /// Whether a change is being made.
    pub(crate) fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    /// Begins a change; there must be none. `wanted`: nothing, if the host is the operator's affair.
    pub(crate) fn begin(&mut self, wanted: Option<Wanted>, run_dir: PathBuf, then: Then) {
        debug_assert!(self.under_way.is_none(), "two changes of the host at once");
        let task = tokio::spawn(async move {
            let Some(wanted) = wanted else { return Ok(None) };
            baton_host::update(&wanted, &run_dir).await.map(|()| None).map_err(|error| error.to_string())
        });
        self.under_way = Some((task, then));
    }

    /// Begins a look; there must be no change under way. `run_dir`: where the journal is, if the host is to be kept as it
    /// is wanted.
    pub(crate) fn look(
        &mut self,
        wanted: Wanted,
        run_dir: Option<PathBuf>,
        before: HostSeen,
        cluster: Cluster,
        me: NodeId,
    ) {
        debug_assert!(self.under_way.is_none(), "two changes of the host at once");
        let task =
            tokio::spawn(async move { host::look(&wanted, run_dir.as_deref(), &before, &cluster, me).await });
        self.under_way = Some((task, Then::Looked));
    }

    /// Waits for the end of the change that is being made; for ever, when there is none.
    pub(crate) async fn ended(&mut self) -> (Done, Then) {
        let Some((task, _)) = &mut self.under_way else { return pending().await };
        let ended = task.await.unwrap_or_else(|error| Err(format!("changing the host ended: {error}")));
        match self.under_way.take() {
            Some((_, then)) => (ended, then),
            None => pending().await,
        }
    }

    /// An order to reload, for when it is its turn; back if too many wait.
    pub(crate) fn order(&mut self, orderer: Orderer) -> Result<(), Orderer> {
        if self.waiting.len() >= WAITING_MAX {
            return Err(orderer);
        }
        self.waiting.push_back(orderer);
        Ok(())
    }

    /// The order whose turn it is.
    pub(crate) fn next(&mut self) -> Option<Orderer> {
        if self.is_busy() { None } else { self.waiting.pop_front() }
    }
}

impl Drop for HostWork {
    /// What was changed is in the journal, and undone with the rest.
    fn drop(&mut self) {
        if let Some((task, _)) = &self.under_way {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn orders_wait_for_their_turn_and_not_more_than_so_many() {
        let mut work = HostWork::default();
        work.begin(None, PathBuf::new(), Then::Ended);
        for _ in 0..WAITING_MAX {
            assert!(work.order(None).is_ok());
        }
        assert!(work.order(None).is_err(), "one more is told so");
        assert!(work.is_busy() && work.next().is_none(), "a change is being made");
        let (ended, then) = work.ended().await;
        assert!(ended.is_ok() && matches!(then, Then::Ended));
        assert_eq!(std::iter::from_fn(|| work.next()).count(), WAITING_MAX);
    }
}
