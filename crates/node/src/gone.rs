//! Nodes that are down: whether their machines are there. A node counts as down when its control connection
//! is; its daemon may have died, or the connection alone be cut, and its kernel and web server serve on.
//! Then its connections are nobody else's business. But of a machine that is off they never hear again.
//!
//! The proof: no connection to its control port comes about, and the reason is that the last router, or this
//! node itself, has asked in vain who has its address (`EHOSTUNREACH`: RFC 1122 2.3.2.1, RFC 792). The kernel is
//! made to ask at once; it asks three times the machine that it knows of, and three times everybody, a second
//! each. A refusal comes from a machine that is there; a time-out proves nothing, for packets may be
//! filtered. Whoever hears of no other node either may be cut off itself, and says nothing of others.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use baton_cluster::{Cluster, NodeId};
use baton_datapath::{Datapath, DatapathError};
use baton_host::Way;
use nix::errno::Errno;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use baton_core::Peers;

/// Longer than the kernel asks in vain (`mcast_solicit`, `ucast_solicit` and `retrans_time` of a neighbour: 3 s).
const PATIENCE: Duration = Duration::from_secs(4);
/// Between two attempts, and where the machine has answered.
const REST: Duration = Duration::from_millis(500);
const LONG_REST: Duration = Duration::from_secs(2);

/// One node that is down.
#[derive(Debug)]
struct Probe {
    task: AbortHandle,
    proved: watch::Receiver<bool>,
    /// What the programs were told.
    told: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    probes: BTreeMap<NodeId, Probe>,
}

impl Gone {
    /// Looks at all nodes, and tells the programs what has changed.
    pub(crate) fn tick(
        &mut self,
        cluster: &Cluster,
        me: NodeId,
        peers: &Peers,
        datapath: &Datapath,
    ) -> Result<(), DatapathError> {
        let others = || cluster.nodes.iter().filter(|node| node.id != me);
        let hears_anybody = others().count() == 1 || others().any(|node| peers.is_up(node.id));
        for node in others() {
            if peers.is_up(node.id) {
                if let Some(probe) = self.probes.remove(&node.id) {
                    probe.task.abort();
                    datapath.set_gone(node.id, false)?;
                }
                continue;
            }
            let address = (node.address, cluster.control_port).into();
            let probe = self.probes.entry(node.id).or_insert_with(|| Probe::start(address));
            let gone = hears_anybody && *probe.proved.borrow();
            if gone != probe.told {
                probe.told = gone;
                datapath.set_gone(node.id, gone)?;
                if gone {
                    tracing::warn!(peer = node.name, "its machine is gone: its connections are refused");
                } else {
                    tracing::info!(peer = node.name, "its machine may be there again");
                }
            }
        }
        Ok(())
    }
}

impl Probe {
    fn start(address: SocketAddr) -> Self {
        let (tell, proved) = watch::channel(false);
        let task = tokio::spawn(probe(address, tell)).abort_handle();
        Self { task, proved, told: false }
    }
}

/// Tries for ever.
async fn probe(address: SocketAddr, tell: watch::Sender<bool>) {
    if let Err(error) = Way::doubt(address.ip()).await {
        tracing::debug!(%address, %error, "not verified at once");
    }
    loop {
        let ended = timeout(PATIENCE, TcpStream::connect(address)).await;
        let answered = ended.as_ref().is_ok_and(|ended| !is_proof(ended));
        let proved = ended.is_ok_and(|ended| is_proof(&ended));
        tell.send_if_modified(|said| std::mem::replace(said, proved) != proved);
        tokio::time::sleep(if answered { LONG_REST } else { REST }).await;
    }
}

/// Whether an attempt to connect has failed for want of the machine.
fn is_proof<T>(attempt: &io::Result<T>) -> bool {
    attempt.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::EHOSTUNREACH as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_that_nobody_has_is_a_proof() {
        let failed = |errno: Errno| Err::<(), _>(io::Error::from_raw_os_error(errno as i32));
        assert!(is_proof(&failed(Errno::EHOSTUNREACH)));
        for other in [Errno::ECONNREFUSED, Errno::ENETUNREACH, Errno::ETIMEDOUT, Errno::ECONNRESET] {
            assert!(!is_proof(&failed(other)), "{other}");
        }
        assert!(!is_proof(&Ok(())), "it is there");
    }
}
