//! Before the first packet and after the last: the host's settings, the programs, the hold device.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use baton_cluster::{Cluster, Node, PHttp, Service};
use baton_datapath::{Datapath, Hold, Peer, PoolEntry, Roles, ServiceEntry, Settings, Sizes};
use baton_host::{Interface, Undo, Wanted};

use crate::path::Paths;
use crate::{NodeError, Options};

/// The hold device's name; one daemon per network namespace.
const HOLD_NAME: &str = "baton-hold";

/// What was set up, and how to undo it.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Every interface that packets of the service may come or go by.
    pub(crate) interfaces: Vec<Interface>,
    /// The one of them that leads to the other nodes.
    pub(crate) cluster_interface: Interface,
    /// How the other nodes are reached, at the start.
    pub(crate) paths: Paths,
    undo: Option<Undo>,
    files: RunFiles,
}

impl Setup {
    /// Finds the node's interfaces and configures the host, if that is wanted.
    pub(crate) async fn new(options: &Options) -> Result<Self, NodeError> {
        let node = options.cluster.node(options.node).ok_or(NodeError::UnknownNode(options.node))?;
        let files = RunFiles::new(&options.run_dir, &node.name)?;
        let wanted = wanted(&options.cluster, node);
        let interfaces = baton_host::cluster_interfaces(&wanted).await?;
        let holder = Wanted { interfaces: Vec::new(), ..wanted.clone() };
        let cluster_interface = baton_host::cluster_interfaces(&holder).await?.swap_remove(0);
        let undo = if options.configure_host {
            Some(baton_host::apply(&wanted, &options.run_dir).await?)
        } else {
            None
        };
        let paths = Paths::look(&options.cluster, node.id).await;
        Ok(Self { interfaces, cluster_interface, paths, undo, files })
    }

    /// Loads the programs for this node and fills the tables that do not change. Nothing is attached.
    pub(crate) fn load(&self, options: &Options, node: &Node) -> Result<(Datapath, Option<Hold>), NodeError> {
        let cluster = &options.cluster;
        let hold = decides(cluster, node).then(|| Hold::create(HOLD_NAME)).transpose()?;
        let settings = Settings {
            node: node.id,
            roles: datapath_roles(node),
            address: node.address,
            handoff_port: cluster.handoff_port,
            mtu: u16::try_from(self.cluster_interface.mtu).unwrap_or(u16::MAX),
            cluster_ifindex: self.cluster_interface.index,
            hold_ifindex: hold.as_ref().map_or(0, Hold::index),
            has_switch: cluster.has_switch(),
        };
        let limits = cluster.limits;
        let sizes = Sizes { bindings: limits.bindings, decisions: limits.decisions };
        let datapath = Datapath::load(settings, sizes)?;
        datapath.set_keys(&cluster.keys())?;
        for peer in &cluster.nodes {
            datapath.set_node(peer.id, &peer_entry(peer, &self.paths, self.cluster_interface.index))?;
        }
        for pool in &cluster.pools {
            datapath.set_pool(&PoolEntry {
                id: pool.id,
                service: pool.service,
                key: pool.key.clone(),
                p_http: pool.p_http,
                servers: pool.servers.clone(),
            })?;
        }
        for service in &cluster.services {
            datapath.set_service(&service_entry(cluster, service))?;
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
            .map_err(|cause| NodeError::RunDir { path: self.files.ready.clone(), cause })
    }

    /// Undoes what was done to the host.
    pub(crate) async fn undo(self) {
        self.files.remove();
        let Some(undo) = self.undo else { return };
        match undo.run().await {
            Ok(done) => tracing::info!(changes = done.len(), "host settings restored"),
            Err(error) => tracing::error!(%error, "host settings not restored; run `baton doctor --fix`"),
        }
    }
}

/// The files of the run directory.
#[derive(Debug)]
struct RunFiles {
    socket: PathBuf,
    ready: PathBuf,
}

impl RunFiles {
    fn new(run_dir: &Path, node: &str) -> Result<Self, NodeError> {
        std::fs::create_dir_all(run_dir)
            .map_err(|cause| NodeError::RunDir { path: run_dir.to_owned(), cause })?;
        let files = Self {
            socket: run_dir.join(format!("{node}.sock")),
            ready: run_dir.join(format!("{node}.ready")),
        };
        files.remove();
        Ok(files)
    }

    fn remove(&self) {
        for path in [&self.socket, &self.ready] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "cannot remove");
                }
                _ => {}
            }
        }
    }
}

/// What this node's host must be like.
pub fn wanted(cluster: &Cluster, node: &Node) -> Wanted {
    let (on_interface, others): (Vec<IpAddr>, Vec<IpAddr>) =
        cluster.vips().into_iter().partition(|vip| cluster.announcers(*vip).contains(&node.id));
    let mut ports: Vec<u16> = cluster.services.iter().map(|s| s.port).collect();
    ports.sort_unstable();
    ports.dedup();
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
        decides: decides(cluster, node),
        on_loopback: if node.roles.server || node.roles.distributor { others } else { Vec::new() },
        on_interface,
        ports,
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
        roles: datapath_roles(node),
        routed: paths.routed.contains(&node.id),
        ifindex: interface.map_or(cluster_interface, |(_, index)| *index),
    }
}

fn datapath_roles(node: &Node) -> Roles {
    Roles { switch: node.roles.switch, distributor: node.roles.distributor, server: node.roles.server }
}

/// Whether later requests of the service's connections may have to move.
fn follows(cluster: &Cluster, service: &Service) -> bool {
    service.is_strict(cluster) || cluster.pools_of(service.id).any(|pool| pool.p_http != PHttp::Stay)
}

/// Whether those of any may.
pub(crate) fn follows_any(cluster: &Cluster) -> bool {
    cluster.services.iter().any(|service| follows(cluster, service))
}

/// Whether requests are decided on this node: first ones, or those of connections that it serves.
pub(crate) fn decides(cluster: &Cluster, node: &Node) -> bool {
    node.roles.distributor || (node.roles.server && follows_any(cluster))
}

/// The service as the programs are to know it.
pub(crate) fn service_entry(cluster: &Cluster, service: &Service) -> ServiceEntry {
    ServiceEntry {
        id: service.id,
        vips: service.vips.clone(),
        port: service.port,
        protocol: service.protocol,
        rules: cluster.rules(service.id).unwrap_or_default(),
        names: service.names.clone(),
        pools: service.pools.clone(),
        strict: service.is_strict(cluster),
        follows: follows(cluster, service),
    }
}
