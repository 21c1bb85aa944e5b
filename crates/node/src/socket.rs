//! The socket for commands: `baton status` and `baton reload` connect, say `status` or `reload`, and read one
//! JSON document. For a status the node asks its peers over their control connections and answers when all
//! have replied, or in time.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use baton_cluster::{Cluster, NodeId};
use baton_control::message::STATUS_BYTES_MAX;
use baton_control::{Message, StatusReply, StatusRequest};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use crate::NodeError;
use crate::report::cut;
use crate::status::{ClusterStatus, ConnectionStatus, NodeStatus};
use baton_core::Peers;

/// What a client of the socket says; both are of one length.
const STATUS: &[u8; 7] = b"status\n";
const RELOAD: &[u8; 7] = b"reload\n";
/// A peer that has not replied by then is shown as not reachable.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long to wait when nobody can be taken in.
const REST: Duration = Duration::from_millis(20);
/// Questions under way at once; one more is not answered.
const PENDING_MAX: usize = 16;

/// The socket, and the questions that wait for peers.
#[derive(Debug)]
pub(crate) struct StatusSocket {
    asked: mpsc::Receiver<Asked>,
    pending: BTreeMap<u32, Pending>,
    next: u32,
}

/// What somebody wants, and where to answer.
#[derive(Debug)]
pub(crate) enum Asked {
    Status(UnixStream),
    Reload(UnixStream),
}

#[derive(Debug)]
struct Pending {
    stream: UnixStream,
    status: ClusterStatus,
    waiting: Vec<NodeId>,
    until: Instant,
}

impl StatusSocket {
    pub(crate) fn listen(path: &Path) -> Result<Self, NodeError> {
        let failed = |source| NodeError::RunDir { path: path.to_owned(), source };
        let listener = UnixListener::bind(path).map_err(failed)?;
        let (to_daemon, asked) = mpsc::channel(1);
        tokio::spawn(accept(listener, to_daemon));
        Ok(Self { asked, pending: BTreeMap::new(), next: 0 })
    }

    /// What is wanted next; waits for it.
    pub(crate) async fn asked(&mut self) -> Option<Asked> {
        self.asked.recv().await
    }

    /// Answers at once.
    pub(crate) fn tell(&self, stream: UnixStream, answer: &impl Serialize) {
        let Ok(json) = serde_json::to_vec_pretty(answer) else { return };
        tokio::spawn(async move {
            // Whoever asked may be gone: then nobody misses the answer.
            let _ = tokio::time::timeout(PATIENCE, write(stream, &json)).await;
        });
    }

    /// Somebody wants the status: what peers that are up are to be asked.
    pub(crate) fn ask(
        &mut self,
        stream: UnixStream,
        mine: NodeStatus,
        cluster: &Cluster,
        peers: &Peers,
    ) -> Vec<(NodeId, Message)> {
        if self.pending.len() >= PENDING_MAX {
            return Vec::new();
        }
        let id = self.next;
        self.next = id.wrapping_add(1);
        let waiting: Vec<NodeId> = peers.others(cluster, |_| true).collect();
        let question = |peer: &NodeId| (*peer, Message::StatusRequest(StatusRequest { id }));
        let questions = waiting.iter().map(question).collect();
        let mut status =
            ClusterStatus { cluster: cluster.name.clone(), asked: mine.name.clone(), nodes: Vec::new() };
        for node in &cluster.nodes {
            status.nodes.push(if node.name == mine.name { mine.clone() } else { absent(node) });
        }
        self.pending.insert(id, Pending { stream, status, waiting, until: Instant::now() + PATIENCE });
        self.finish(|pending| pending.waiting.is_empty());
        questions
    }

    /// A peer replies.
    pub(crate) fn replied(&mut self, from: NodeId, id: u32, body: &[u8]) {
        let Some(pending) = self.pending.get_mut(&id) else { return };
        match postcard::from_bytes::<NodeStatus>(body) {
            Ok(theirs) => {
                if let Some(slot) = pending.status.nodes.get_mut(from.index()) {
                    *slot = theirs;
                }
            }
            Err(error) => tracing::warn!(%from, %error, "status reply not understood"),
        }
        pending.waiting.retain(|node| *node != from);
        self.finish(|pending| pending.waiting.is_empty());
    }

    pub(crate) fn tick(&mut self, now: Instant) {
        self.finish(|pending| now >= pending.until);
    }

    /// Answers the questions for which there is nothing more to wait for.
    fn finish(&mut self, done: impl Fn(&Pending) -> bool) {
        let ready: Vec<u32> = self.pending.iter().filter(|(_, p)| done(p)).map(|(id, _)| *id).collect();
        for id in ready {
            if let Some(pending) = self.pending.remove(&id) {
                self.tell(pending.stream, &pending.status);
            }
        }
    }
}

/// Takes questions one by one: whoever connects has something to say, or is left.
async fn accept(listener: UnixListener, to_daemon: mpsc::Sender<Asked>) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            // Out of files or memory: it may pass.
            tokio::time::sleep(REST).await;
            continue;
        };
        let mut question = [0; STATUS.len()];
        // All is read before the socket is closed, or the close would be a reset.
        let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut question)).await;
        let asked = match (read, &question) {
            (Ok(Ok(_)), STATUS) => Asked::Status(stream),
            (Ok(Ok(_)), RELOAD) => Asked::Reload(stream),
            _ => {
                let _ = write(stream, b"{\"error\": \"say status or reload\"}\n").await;
                continue;
            }
        };
        if to_daemon.send(asked).await.is_err() {
            return;
        }
    }
}

async fn write(mut stream: UnixStream, text: &[u8]) -> std::io::Result<()> {
    stream.write_all(text).await?;
    stream.shutdown().await
}

/// What this node replies to a peer that asks; `None` when it would not fit a message. Where very many nodes are
/// down, the reasons are cut short.
pub(crate) fn reply(id: u32, mine: &NodeStatus) -> Option<StatusReply> {
    let short = || {
        let mut mine = mine.clone();
        for error in mine.connections.iter_mut().filter_map(|connection| connection.last_error.as_mut()) {
            *error = cut(error, ConnectionStatus::ERROR_BYTES_LEAST);
        }
        postcard::to_stdvec(&mine)
    };
    let whole = postcard::to_stdvec(mine);
    let fits = whole.as_ref().is_ok_and(|body| body.len() <= STATUS_BYTES_MAX);
    match if fits { whole } else { short() } {
        Ok(body) if body.len() <= STATUS_BYTES_MAX => Some(StatusReply { id, body }),
        Ok(body) => {
            tracing::error!(bytes = body.len(), "status too large for a message");
            None
        }
        Err(error) => {
            tracing::error!(%error, "status not encoded");
            None
        }
    }
}

fn absent(node: &baton_cluster::Node) -> NodeStatus {
    NodeStatus {
        name: node.name.clone(),
        id: node.id.0,
        address: node.address.to_string(),
        roles: node.roles.names().map(str::to_owned).collect(),
        ..NodeStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reasons_of_many_nodes_are_cut_so_that_they_fit() {
        let why = "x".repeat(ConnectionStatus::ERROR_BYTES_MAX);
        let node = |others: usize| {
            let one = ConnectionStatus { last_error: Some(why.clone()), ..ConnectionStatus::default() };
            NodeStatus { connections: vec![one; others], ..NodeStatus::default() }
        };
        let told = |others| {
            let reply = reply(7, &node(others)).expect("it fits");
            let theirs: NodeStatus = postcard::from_bytes(&reply.body).expect("postcard");
            theirs.connections.last().and_then(|c| c.last_error.clone()).expect("a reason")
        };
        assert_eq!(told(10), why);
        assert_eq!(told(255), format!("{}...", "x".repeat(ConnectionStatus::ERROR_BYTES_LEAST - 3)));
    }
}
