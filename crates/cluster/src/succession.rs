//! One cluster file after another while a node runs: which services come, change and go, and by which
//! numbers this node knows them and their pools. A service that leaves the file ends: it takes no new
//! connections, and those that it has go on. Pure: the daemon does what a succession says, and tells it
//! when nothing is left of an address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use thiserror::Error;

use crate::{Cluster, Node, NodeId, Pool, PoolHash, PoolId, Service, ServiceId};

/// The cluster file that a node goes by, and what is left of those before it.
#[derive(Clone, Debug)]
pub struct Succession {
    /// The file, its services and pools by this node's numbers.
    pub cluster: Cluster,
    /// Services that have left the file, or VIPs that a service has lost, while they have connections.
    pub ending: Vec<Ending>,
    /// The number of the next service that comes.
    next: u16,
}

/// A service, or some of its VIPs, that the file has no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// As it last was; `vips` are those that end.
    pub service: Service,
    /// Its pools.
    pub pools: Vec<Pool>,
    /// Whether its pools differed in servers ([`Service::is_strict`]).
    pub strict: bool,
    /// For each of `vips`, who announces it.
    pub announcers: Vec<Vec<NodeId>>,
}

/// What a new file changes, by the names of services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Services that the file before did not have.
    pub added: Vec<String>,
    /// Services of which something differs.
    pub changed: Vec<String>,
    /// Services that the file has no more.
    pub removed: Vec<String>,
}

/// Why a node cannot go by a new file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReloadError {
    /// It differs in what lasts for as long as a node runs.
    #[error(
        "the file changes {}, which cannot change while the node runs\n  \
         help: take that back, or restart all nodes with the new file",
        .0.join(", ")
    )]
    Lasting(Vec<String>),
    /// Without a switch, another distributor would announce a VIP, and its connections would be lost.
    #[error(
        "VIP {vip} would move from {from} to {to}, and lose its connections\n  \
         help: VIPs are dealt to distributors by their places in the list: add new ones at its end, \
         and do not remove one before others"
    )]
    Dealt {
        /// The VIP.
        vip: IpAddr,
        /// The name of the node that announces it.
        from: String,
        /// And of the one that would.
        to: String,
    },
    /// Services of earlier files have connections still, and their tables are needed.
    #[error(
        "too many services of earlier files still have connections: {}\n  \
         help: try again when fewer are listed by `baton status`",
        .0.join(", ")
    )]
    Crowded(Vec<String>),
}

impl Succession {
    /// The most services at once, those that end included.
    pub const SERVICES_MAX: usize = 2 * ServiceId::MAX_SERVICES;

    /// The file that a node starts with.
    pub fn new(cluster: Cluster) -> Self {
        let next = cluster.services.iter().map(|service| service.id.0 + 1).max().unwrap_or(0);
        Self { cluster, ending: Vec::new(), next }
    }

    /// What follows when the node is given another file.
    ///
    /// # Errors
    /// [`ReloadError`]; then all stays as it is.
    pub fn reload(&self, file: Cluster) -> Result<(Self, Changes), ReloadError> {
        self.check(&file)?;
        let mut after = Self { cluster: file, ending: Vec::new(), next: self.next };
        let changes = after.number(self)?;
        let strict = |id| self.cluster.service(id).is_some_and(|service| service.is_strict(&self.cluster));
        let current = self.cluster.services.iter().map(|service| Ending {
            announcers: service.vips.iter().map(|vip| self.cluster.announcers(*vip)).collect(),
            pools: self.cluster.pools_of(service.id).cloned().collect(),
            strict: strict(service.id),
            service: service.clone(),
        });
        let left = current.chain(self.ending.iter().cloned()).filter_map(|was| after.left_of(was));
        after.ending = left.collect();
        // Both versions of a service are known for a moment.
        if after.service_ids().union(&self.service_ids()).count() > Self::SERVICES_MAX {
            return Err(after.crowded());
        }
        Ok((after, changes))
    }

    /// What follows when an ending address has no connection any more.
    pub fn without(&self, vip: IpAddr, port: u16) -> Self {
        let ending = self.ending.iter().filter_map(|ending| {
            let gone = |at: IpAddr| (at, ending.service.port) == (vip, port);
            ending.clone().keep(|at| !gone(at))
        });
        Self { ending: ending.collect(), ..self.clone() }
    }

    /// The addresses that end.
    pub fn ending_addresses(&self) -> impl Iterator<Item = (IpAddr, u16)> {
        self.ending.iter().flat_map(|e| e.service.vips.iter().map(|vip| (*vip, e.service.port)))
    }

    /// Every address, those that end included.
    pub fn addresses(&self) -> BTreeSet<(IpAddr, u16)> {
        let open = self.cluster.services.iter().flat_map(|s| s.vips.iter().map(|vip| (*vip, s.port)));
        open.chain(self.ending_addresses()).collect()
    }

    /// The services by their numbers, those that end included.
    pub fn service_ids(&self) -> BTreeSet<ServiceId> {
        let ending = self.ending.iter().map(|ending| ending.service.id);
        self.cluster.services.iter().map(|service| service.id).chain(ending).collect()
    }

    /// Every pool once, as it now is; those of services that end included.
    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        let mut seen = BTreeSet::new();
        let ending = self.ending.iter().flat_map(|ending| &ending.pools);
        self.cluster.pools.iter().chain(ending).filter(move |pool| seen.insert(pool.id))
    }

    /// The VIPs of addresses that end, where no service of the file has them: each with its announcers.
    pub fn ending_vips(&self) -> impl Iterator<Item = (IpAddr, &[NodeId])> {
        let file = self.cluster.vips();
        let mut seen = BTreeSet::new();
        let ending = self.ending.iter().flat_map(|e| e.service.vips.iter().copied().zip(&e.announcers));
        ending
            .filter(move |(vip, _)| !file.contains(vip) && seen.insert(*vip))
            .map(|(vip, announcers)| (vip, announcers.as_slice()))
    }

    /// Refuses what cannot change.
    fn check(&self, file: &Cluster) -> Result<(), ReloadError> {
        if self.cluster.lasting_digest() != file.lasting_digest() {
            return Err(ReloadError::Lasting(differences(&self.cluster, file)));
        }
        let known = self.cluster.vips().into_iter().map(|vip| (vip, self.cluster.announcers(vip)));
        let ending = self.ending_vips().map(|(vip, announcers)| (vip, announcers.to_vec()));
        let vips = file.vips();
        for (vip, from) in known.chain(ending).filter(|(vip, _)| vips.contains(vip)) {
            let to = file.announcers(vip);
            if from != to {
                let names = |ids: &[NodeId]| {
                    let names: Vec<_> =
                        ids.iter().filter_map(|id| file.node(*id)).map(|node| node.name.as_str()).collect();
                    names.join(", ")
                };
                return Err(ReloadError::Dealt { vip, from: names(&from), to: names(&to) });
            }
        }
        Ok(())
    }

    /// Gives this file's services and pools the numbers that they had, where they had any and are what
    /// they were; others get fresh ones.
    fn number(&mut self, before: &Self) -> Result<Changes, ReloadError> {
        let known: BTreeMap<PoolHash, PoolId> = before.pools().map(|pool| (pool.hash, pool.id)).collect();
        let mut taken: BTreeSet<PoolId> = known.values().copied().collect();
        for pool in &mut self.cluster.pools {
            let free = || (0..).map(PoolId).find(|id| !taken.contains(id)).unwrap_or(PoolId(u16::MAX));
            pool.id = known.get(&pool.hash).copied().unwrap_or_else(free);
            if usize::from(pool.id.0) >= PoolId::NUMBERS {
                return Err(before.crowded());
            }
            taken.insert(pool.id);
        }
        for service in &mut self.cluster.services {
            let pools = self.cluster.pools.iter().filter(|pool| pool.service == service.id);
            service.pools = pools.map(|pool| pool.id).collect();
        }
        let named = |cluster: &Cluster, name: &str| cluster.services.iter().any(|other| other.name == name);
        let gone = before.cluster.services.iter().filter(|service| !named(&self.cluster, &service.name));
        let mut changes =
            Changes { removed: gone.map(|service| service.name.clone()).collect(), ..Changes::default() };
        let (mut numbers, mut next, used) = (BTreeMap::new(), self.next, before.service_ids());
        for service in &self.cluster.services {
            let known = before.cluster.services.iter().find(|known| self.is_same(service, known, before));
            let number = known.map_or_else(|| fresh(&mut next, &used), |known| known.id);
            numbers.insert(service.id, number);
            match known {
                Some(_) => {}
                None if named(&before.cluster, &service.name) => changes.changed.push(service.name.clone()),
                None => changes.added.push(service.name.clone()),
            }
        }
        self.next = next;
        let number = |id: &mut ServiceId| *id = numbers.get(id).copied().unwrap_or(*id);
        self.cluster.services.iter_mut().for_each(|service| number(&mut service.id));
        self.cluster.pools.iter_mut().for_each(|pool| number(&mut pool.service));
        Ok(changes)
    }

    /// Whether nothing of a service differs but its number.
    fn is_same(&self, service: &Service, known: &Service, before: &Self) -> bool {
        let pools = self.cluster.pools_of(service.id).map(|p| Pool { service: known.id, ..p.clone() });
        Service { id: known.id, ..service.clone() } == *known
            && pools.eq(before.cluster.pools_of(known.id).cloned())
    }

    /// What ends of a service of before, if anything does.
    fn left_of(&self, was: Ending) -> Option<Ending> {
        let port = was.service.port;
        let open =
            |vip: IpAddr| self.cluster.services.iter().any(|s| s.port == port && s.vips.contains(&vip));
        was.keep(|vip| !open(vip))
    }

    fn crowded(&self) -> ReloadError {
        ReloadError::Crowded(self.ending.iter().map(|ending| ending.service.name.clone()).collect())
    }
}

impl Ending {
    /// With some of its VIPs; `None` without any.
    fn keep(mut self, which: impl Fn(IpAddr) -> bool) -> Option<Self> {
        let kept = self.service.vips.iter().copied().zip(self.announcers).filter(|(vip, _)| which(*vip));
        (self.service.vips, self.announcers) = kept.unzip();
        (!self.service.vips.is_empty()).then_some(self)
    }
}

/// A number that no service has now; after 65,536 versions of services they come again.
fn fresh(next: &mut u16, used: &BTreeSet<ServiceId>) -> ServiceId {
    loop {
        let number = ServiceId(*next);
        *next = next.wrapping_add(1);
        if !used.contains(&number) {
            return number;
        }
    }
}

/// What differs, in the words of the file, where nothing may.
fn differences(a: &Cluster, b: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |same: bool, what: &str| {
        if !same {
            found.push(what.to_owned());
        }
    };
    compare(a.name == b.name, "the cluster's name");
    compare(a.keys() == b.keys() || a.name != b.name, "the secret");
    compare(a.failure_timeout == b.failure_timeout, "failure_timeout_ms");
    compare(a.control_port == b.control_port, "control_port");
    compare(a.handoff_port == b.handoff_port, "handoff_port");
    compare(a.forwarding == b.forwarding, "forwarding");
    compare(a.limits == b.limits, "[limits]");
    let order = |cluster: &Cluster| -> Vec<String> { cluster.nodes.iter().map(|n| n.name.clone()).collect() };
    if order(a) == order(b) {
        let differ = a.nodes.iter().zip(&b.nodes).filter(|(one, other)| !same_node(one, other));
        found.extend(differ.map(|(node, _)| format!("node {}", node.name)));
    } else {
        found.push("the nodes or their order".to_owned());
    }
    found
}

/// The order of interfaces means nothing.
fn same_node(one: &Node, other: &Node) -> bool {
    let sorted = |node: &Node| {
        let mut node = node.clone();
        node.interfaces.sort_unstable();
        node
    };
    sorted(one) == sorted(other)
}
