//! Other cluster files while the nodes run: an operator gives them to one node after the other, as `baton reload` does, and
//! meanwhile nodes go by different ones. Which node may serve a request then is judged by the plan's files.

use baton_cluster::{Cluster, Succession};

use super::{Ended, Happening, World};
use crate::message::RequestId;
use crate::plan::MS;
use crate::planted::Planted;

impl World<'_> {
    /// Another file is on a node's disk, and its daemon is to read it.
    pub(super) fn rolled_out(&mut self, node: usize, file: usize) {
        self.tell(format!("n{node} is given file {file}"));
        let n = &mut self.nodes[node];
        n.file = file;
        let life = n.life;
        if n.core.is_some() {
            self.soon(MS, Happening::Reload { node, life });
        }
    }

    /// The daemon reads the file on its disk, and has its host prepared for it.
    pub(super) fn reload(&mut self, node: usize) -> Ended {
        let n = &self.nodes[node];
        let (life, file) = (n.life, n.file);
        let Some(core) = &n.core else { return Ok(()) };
        if n.is_changing {
            self.soon(50 * MS, Happening::Reload { node, life });
            return Ok(());
        }
        let known = core.services().known().reload(self.as_read(file));
        let (known, _) = known.map_err(|error| format!("n{node} refuses file {file}: {error}"))?;
        self.nodes[node].is_changing = true;
        self.soon(100 * MS, Happening::GoesBy { node, life, file, known: Box::new(known) });
        Ok(())
    }

    /// The host is ready: the node goes by the file.
    pub(super) fn goes_by(&mut self, node: usize, file: usize, known: Succession) -> Ended {
        self.tell(format!("n{node} goes by file {file}"));
        self.nodes[node].is_changing = false;
        self.take_over(node, known)?;
        self.note_file(node, file);
        Ok(())
    }

    fn take_over(&mut self, node: usize, known: Succession) -> Ended {
        self.core(node, |core, shell, now| {
            core.go_by(known, shell, now).expect("the model refuses nothing");
            shell.model.tables.follows = core.services().follow();
            core.pools_changed(shell, now);
            core.flush(shell, now);
        })
    }

    /// What a daemon does on each tick about services that have gone.
    pub(super) fn forget_ended(&mut self, node: usize) -> Ended {
        let mut left = None;
        let is_changing = self.nodes[node].is_changing;
        self.core(node, |core, shell, now| {
            core.sweep_services(shell).expect("the model refuses nothing");
            left = if is_changing { None } else { core.count_ending(shell, now) };
        })?;
        left.map_or(Ok(()), |known| self.take_over(node, known))
    }

    /// A file, as a daemon reads it.
    pub(super) fn as_read(&self, file: usize) -> Cluster {
        let mut cluster = self.files[file].clone();
        if self.planted == Some(Planted::NoLimits) {
            cluster.limits.held_packets = u32::MAX;
        }
        cluster
    }

    /// A node goes by a file from now on.
    pub(super) fn note_file(&mut self, node: usize, file: usize) {
        self.nodes[node].goes_by = file;
        let now = self.now;
        for (number, until) in self.in_force.iter_mut().enumerate() {
            if self.nodes.iter().any(|n| n.core.is_some() && n.goes_by == number) {
                *until = Some(u64::MAX);
            } else if *until == Some(u64::MAX) {
                *until = Some(now);
            }
        }
    }

    /// Whether a node may serve a request: by a file that some node has gone by since it was asked. Or because it has the
    /// connection already, and that is not moved: it began when all servers were alike, or they are now, or nothing
    /// of it is read (docs/services.md).
    pub(super) fn permits(&self, node: usize, (number, request): RequestId, path: usize) -> bool {
        let Some(client) = self.clients.get(number) else { return false };
        let Some(asked) = client.asked_at.get(request).copied() else { return false };
        let (vip, port) = client.plan.service;
        let before = request.checked_sub(1).and_then(|before| self.executed.get(&(number, before)));
        let has_it = before.is_some_and(|nodes| nodes.last() == Some(&node));
        (0..self.plan.files.len()).any(|file| {
            // A service that has gone ends by the rules that it had.
            let mut known = self.plan.files[..=file].iter().rev();
            let Some(service) = known.find_map(|file| file.service(vip, port)) else { return false };
            let since = |time| self.in_force[file].is_some_and(|until| until >= time);
            let stays = (service.opaque || !service.is_strict()) && has_it && since(client.plan.starts);
            stays || (service.servers(path).contains(&node) && since(asked))
        })
    }

    /// Whether a client may find nobody at its service's address: that has yet to come, or has gone.
    pub(super) fn may_be_refused(&self, number: usize) -> bool {
        let (vip, port) = self.clients[number].plan.service;
        self.plan.files.iter().any(|file| file.service(vip, port).is_none())
    }
}
