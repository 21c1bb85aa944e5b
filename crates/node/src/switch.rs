//! The switch role's share in user space: which distributors there are, and where flows went.

use baton_cluster::{Cluster, NodeId};
use baton_control::{Close, Update};
use baton_datapath::{Datapath, DatapathError};
use baton_dispatcher::maglev::{TABLE_SIZE, Table};

use crate::peers::Peers;

/// The switch of this node.
#[derive(Debug)]
pub(crate) struct SwitchRole {
    stale: bool,
}

impl SwitchRole {
    pub(crate) fn new() -> Self {
        Self { stale: true }
    }

    /// A distributor came or went: the table is to be made anew.
    pub(crate) fn distributors_changed(&mut self) {
        self.stale = true;
    }

    /// Makes the table if it is not as the distributors are.
    pub(crate) fn refresh(
        &mut self,
        cluster: &Cluster,
        peers: &Peers,
        datapath: &mut Datapath,
    ) -> Result<(), DatapathError> {
        if !std::mem::take(&mut self.stale) {
            return Ok(());
        }
        let members: Vec<(NodeId, u16)> = cluster
            .with_role(|r| r.distributor)
            .filter(|n| peers.is_up(n.id))
            .map(|n| (n.id, n.weight))
            .collect();
        let table = Table::new(&members);
        let slots: Vec<Option<NodeId>> = if table.entries().is_empty() {
            vec![None; TABLE_SIZE]
        } else {
            table.entries().iter().copied().map(Some).collect()
        };
        tracing::info!(distributors = members.len(), "switch table made");
        datapath.set_maglev(&slots)
    }
}

/// An update message: flows that have moved.
pub(crate) fn updated(datapath: &Datapath, update: &Update) -> Result<(), DatapathError> {
    for m in &update.moves {
        datapath.bind_told(&m.flow, m.start_seq, m.server, m.from, m.issued)?;
    }
    Ok(())
}

/// A close message: flows that have ended.
pub(crate) fn closed(datapath: &Datapath, close: &Close) -> Result<(), DatapathError> {
    for end in &close.ends {
        datapath.close_told(&end.flow, end.start_seq)?;
    }
    Ok(())
}
