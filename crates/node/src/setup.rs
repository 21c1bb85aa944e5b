//! Before the first packet and after the last: the programs and the hold device, then the host's settings and addresses;
//! at the end first the addresses go, then the guards that have dropped packets for them meanwhile.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{File, Metadata, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use baton_cluster::{Cluster, Node, Succession};
use baton_core::{decides, may_own};
use baton_datapath::{Datapath, DatapathError, GUARD_FILTER, Hold, Peer, Settings, Sizes};
use baton_host::{HostSeen, Interface, Undo, Wanted};

use crate::path::Paths;
use crate::{NodeError, Options};

/// The hold device's name; one daemon per network namespace.
const HOLD_NAME: &str = "baton-hold";

/// What was set up, and how to undo it.
#[derive(Debug)]
pub(crate) struct Setup {
    /// The host's interfaces, at the start.
    pub(crate) seen: HostSeen,
    /// How the other nodes are reached, at the start.
    pub(crate) paths: Paths,
    /// What the host has to be like, if that is this node's affair, and where the journal is.
    configure: Option<(Wanted, PathBuf)>,
    /// Where the guards have their names.
    guards: PathBuf,
    /// Filters stand for guards that have no names.
    filters: Cell<bool>,
    files: RunFiles,
}

/// Where a BPF file system is mounted.
const BPFFS: &str = "/sys/fs/bpf";

impl Setup {
    /// Finds the node's interfaces; changes nothing.
    pub(crate) async fn new(options: &Options) -> Result<Self, NodeError> {
        let node = options.cluster.node(options.node).ok_or(NodeError::UnknownNode(options.node))?;
        let files = RunFiles::new(&options.run_dir, &node.name)?;
        let wanted = wanted(&options.cluster, node);
        let seen = HostSeen::look(&wanted).await?;
        let configure = options.configure_host.then(|| (wanted, options.run_dir.clone()));
        let paths = Paths::look(&options.cluster, node.id).await;
        // Many nodes may share one file system, each in a network namespace of its own; one daemon runs in each.
        let here = |source| NodeError::System { what: "this network namespace", source };
        let namespace = std::fs::metadata("/proc/thread-self/ns/net").map_err(here)?.ino();
        let guards = Path::new(BPFFS).join("baton").join(format!("net-{namespace}"));
        Ok(Self { seen, paths, configure, guards, filters: Cell::new(false), files })
    }

    /// Makes the host what the node needs. The programs are attached by then: where packets for a VIP arrive before,
    /// the node's own stack would answer them.
    pub(crate) async fn configure(&self) -> Result<(), NodeError> {
        if let Some((wanted, run_dir)) = &self.configure {
            baton_host::apply(wanted, run_dir).await?;
        }
        if !self.filters.get() {
            // Of a daemon that was killed, and had no file system for its guards.
            self.forget_filters().await;
        }
        Ok(())
    }

    async fn forget_filters(&self) {
        if let Err(error) = baton_host::forget_filters(GUARD_FILTER).await {
            tracing::warn!(%error, "filters of a guard may be left: tc filter show dev DEV ingress");
        }
    }

    /// Attaches the programs to the interfaces of the cluster, and guards behind them and everywhere else.
    pub(crate) fn attach(&self, datapath: &mut Datapath) -> Result<(), NodeError> {
        let numbers = |of: &[Interface]| of.iter().map(|interface| interface.index).collect::<Vec<_>>();
        datapath.name_guards(&self.guards);
        let (watched, others) = (numbers(&self.seen.watched), numbers(&self.seen.others));
        datapath.keep_attached(&watched, &others, &self.seen.present())?;
        if let Some(why) = datapath.nameless_guards() {
            tracing::warn!(
                "if this daemon is killed, this node's own stack will reset the clients' connections: \
                 no BPF file system can be used ({why}); mount -t bpf bpf {BPFFS}"
            );
        }
        self.filters.set(datapath.has_filters());
        for interface in &self.seen.watched {
            tracing::info!(interface = interface.name, "attached");
        }
        Ok(())
    }

    /// Loads the programs for this node, and tells them of the nodes; of no service yet. Nothing is attached.
    pub(crate) fn load(&self, cluster: &Cluster, node: &Node) -> Result<(Datapath, Option<Hold>), NodeError> {
        let hold = decides(node.roles).then(|| Hold::create(HOLD_NAME)).transpose();
        let hold = hold.map_err(|error| match error {
            DatapathError::Hold { source, .. } if source.kind() == io::ErrorKind::ResourceBusy => {
                NodeError::HoldTaken { device: HOLD_NAME }
            }
            error => error.into(),
        })?;
        let settings = Settings {
            node: node.id,
            roles: node.roles,
            address: node.address,
            handoff_port: cluster.handoff_port,
            mtu: u16::try_from(self.seen.cluster.mtu).unwrap_or(u16::MAX),
            cluster_ifindex: self.seen.cluster.index,
            hold_ifindex: hold.as_ref().map_or(0, Hold::index),
            has_switch: cluster.has_switch(),
            others: cluster.with_role(may_own).any(|other| other.id != node.id),
        };
        let limits = cluster.limits;
        let sizes = Sizes { bindings: limits.bindings, decisions: limits.decisions };
        let datapath = Datapath::load(settings, sizes)?;
        datapath.set_keys(&cluster.keys())?;
        if node.roles.switch {
            // Clients are refused only when distributors have been missed: not before anybody has looked for one.
            datapath.set_spread(None, Duration::ZERO, Duration::MAX)?;
        }
        for peer in &cluster.nodes {
            datapath.set_node(peer.id, &peer_entry(peer, &self.paths, self.seen.cluster.index))?;
        }
        Ok((datapath, hold))
    }

    /// The status socket's place.
    pub(crate) fn socket(&self) -> &Path {
        &self.files.socket
    }

    /// Tells those who wait that the node is ready.
    pub(crate) fn ready(&self) -> Result<(), NodeError> {
        std::fs::write(&self.files.ready, std::process::id().to_string())
            .map_err(|source| NodeError::RunDir { path: self.files.ready.clone(), source })
    }

    /// Undoes what was done to the host.
    pub(crate) async fn undo(self) {
        self.files.remove([&self.files.socket, &self.files.ready]);
        if let Some((wanted, run_dir)) = &self.configure {
            match Undo::at(run_dir, &wanted.node).run().await {
                Ok(done) => tracing::info!(changes = done.len(), "host settings restored"),
                Err(error) => tracing::error!(%error, "host settings not restored; run `baton doctor --fix`"),
            }
        }
        if let Err(error) = baton_datapath::remove_guards(&self.guards) {
            tracing::error!(%error, "guards are left; remove them: rm -r {}", self.guards.display());
        }
        self.forget_filters().await;
        // The lock goes last, with the rest of this: from then on another one may be this node.
    }
}

/// The files of the run directory.
#[derive(Debug)]
struct RunFiles {
    socket: PathBuf,
    ready: PathBuf,
    /// Locked by the daemon that is this node, for as long as it lives: the other files, the journal of the host's
    /// changes and the node's place among its peers are that one's alone.
    lock: PathBuf,
    _locked: File,
}

impl RunFiles {
    fn new(run_dir: &Path, node: &str) -> Result<Self, NodeError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| NodeError::RunDir { path, source }
        };
        std::fs::create_dir_all(run_dir).map_err(failed(run_dir))?;
        let lock = run_dir.join(format!("{node}.lock"));
        let locked = locked(&lock).map_err(failed(&lock))?.map_err(|pid| {
            let node = node.to_owned();
            NodeError::Running { node, pid }
        })?;
        let files = Self {
            socket: run_dir.join(format!("{node}.sock")),
            ready: run_dir.join(format!("{node}.ready")),
            lock,
            _locked: locked,
        };
        files.remove([&files.socket, &files.ready]);
        Ok(files)
    }

    fn remove<const N: usize>(&self, paths: [&PathBuf; N]) {
        for path in paths {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "cannot remove");
                }
                _ => {}
            }
        }
    }
}

impl Drop for RunFiles {
    fn drop(&mut self) {
        self.remove([&self.socket, &self.ready, &self.lock]);
    }
}

/// Locks a file for this process, and writes its number into it; that of the process that has it, if one has.
fn locked(path: &Path) -> io::Result<Result<File, Option<u32>>> {
    loop {
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.take(16).read_to_string(&mut pid)?;
                return Ok(Err(pid.trim().parse().ok()));
            }
            Err(TryLockError::Error(error)) => return Err(error),
            Ok(()) => {}
        }
        // It may have been removed by its last owner, between the two.
        let same =
            |at: Metadata| file.metadata().map(|ours| (ours.dev(), ours.ino()) == (at.dev(), at.ino()));
        if !std::fs::metadata(path).and_then(same).unwrap_or(false) {
            continue;
        }
        file.set_len(0)?;
        file.write_all(std::process::id().to_string().as_bytes())?;
        return Ok(Ok(file));
    }
}

/// What this node's host must be like.
pub fn wanted(cluster: &Cluster, node: &Node) -> Wanted {
    wanted_by(&Succession::new(cluster.clone()), node)
}

/// The same while services of earlier files end.
pub(crate) fn wanted_by(known: &Succession, node: &Node) -> Wanted {
    let cluster = &known.cluster;
    let vips = cluster.vips().into_iter().map(|vip| (vip, cluster.announcers(vip).contains(&node.id)));
    let ending = known.ending_vips().map(|(vip, announcers)| (vip, announcers.contains(&node.id)));
    let (announced, others): (Vec<_>, Vec<_>) = vips.chain(ending).partition(|(_, announced)| *announced);
    let vips = |of: Vec<(IpAddr, bool)>| -> Vec<IpAddr> { of.into_iter().map(|(vip, _)| vip).collect() };
    let (on_interface, others) = (vips(announced), vips(others));
    let ports: BTreeSet<u16> = known.addresses().into_iter().map(|(_, port)| port).collect();
    let served = cluster
        .services
        .iter()
        .filter(|s| cluster.pools_of(s.id).any(|pool| pool.servers.contains(&node.id)));
    let listens = served.flat_map(|s| s.vips.iter().map(|vip| SocketAddr::new(*vip, s.port))).collect();
    Wanted {
        node: node.name.clone(),
        address: node.address,
        interfaces: node.interfaces.clone(),
        is_server: node.roles.server,
        is_distributor: node.roles.distributor,
        is_switch: node.roles.switch,
        decides: decides(node.roles),
        on_loopback: if node.roles.server || node.roles.distributor { others } else { Vec::new() },
        on_interface,
        ports: ports.into_iter().collect(),
        listens,
        control_port: cluster.control_port,
        handoff_port: cluster.handoff_port,
    }
}

/// A node as the programs are to know it.
pub(crate) fn peer_entry(node: &Node, paths: &Paths, cluster_interface: u32) -> Peer {
    let interface = paths.interfaces.iter().find(|(id, _)| *id == node.id);
    Peer {
        address: node.address,
        roles: node.roles,
        routed: paths.routed.contains(&node.id),
        ifindex: interface.map_or(cluster_interface, |(_, index)| *index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_has_the_lock_and_another_is_told_whose_it_is() {
        let dir = std::env::temp_dir().join(format!("baton-lock-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("an own directory");
        let path = dir.join("n1.lock");
        std::fs::write(&path, "4194304, left by one that was killed").expect("an own file");
        let first = locked(&path).expect("a file").expect("nobody has it");
        let me = std::process::id();
        assert!(matches!(locked(&path), Ok(Err(Some(pid))) if pid == me));
        // Removed and made anew: whoever waits for the old one does not believe in it.
        std::fs::remove_file(&path).expect("an own file");
        let second = locked(&path).expect("a file").expect("a new file is nobody's");
        drop(first);
        assert!(matches!(locked(&path), Ok(Err(Some(_)))));
        drop(second);
        assert!(locked(&path).expect("a file").is_ok());
        std::fs::remove_dir_all(&dir).expect("an own directory");
    }
}
