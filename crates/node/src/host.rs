//! This node's host while the node runs: who changes it is noticed within a second, and the change is put back or
//! followed. What can be neither makes the node leave: it would take connections and lose them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use baton_control::{Mac, Message};
use baton_core::for_all;
use baton_datapath::{DatapathError, program_name};
use baton_host::{HostSeen, HostWatch, Interface, Mended, Wanted};
use tokio::sync::{mpsc, watch};

use crate::daemon::{Daemon, largest};
use crate::host_work::Look;
use crate::mends::Mends;
use crate::path::{PathNews, Paths};
use crate::setup::{peer_entry, wanted_by};
use crate::status::HostStatus;
use crate::{NodeError, clock};

/// Several changes that belong together come within this.
const SETTLED: Duration = Duration::from_millis(100);
/// Between two looks at what the kernel does not tell of: settings, and what is attached.
const SWEEP: Duration = Duration::from_secs(1);
/// Between two looks at everything, whether or not something has been told.
const LOOK: Duration = Duration::from_secs(60);
/// For how long a host may be one that the node cannot be on: an interface is made anew, an address comes back.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) seen: HostSeen,
    pub(crate) mends: Mends,
    told: mpsc::Receiver<()>,
    /// Interfaces of which a new route is news.
    unused: watch::Sender<Vec<u32>>,
    /// Programs of others that see packets before Baton's, by interface.
    in_front: BTreeMap<u32, Vec<u32>>,
    /// A VIP that is where it must not be.
    misplaced: Option<String>,
    /// When to look next.
    look_at: Instant,
    sweep_at: Instant,
    /// Since when the node cannot be on this host, and why.
    lost: Option<(Instant, String)>,
}

impl Host {
    /// As it was `seen` at the start.
    pub(crate) fn new(seen: HostSeen, wanted: &Wanted) -> Result<Self, NodeError> {
        let mut changes = HostWatch::listen()?;
        let (tell, told) = mpsc::channel(1);
        let (unused, known) = watch::channel(seen.unused(wanted));
        tokio::spawn(async move {
            while changes.next(|interface| known.borrow().contains(&interface)).await {
                // One that nobody has looked at yet stands for all.
                if let Err(mpsc::error::TrySendError::Closed(())) = tell.try_send(()) {
                    return;
                }
            }
        });
        let now = Instant::now();
        // What has changed since the start is seen at once.
        Ok(Self {
            seen,
            mends: Mends::default(),
            told,
            unused,
            in_front: BTreeMap::new(),
            misplaced: None,
            look_at: now,
            sweep_at: now + SWEEP,
            lost: None,
        })
    }

    /// Why the node cannot be on this host, if it cannot.
    pub(crate) fn lost(&self) -> Option<&str> {
        self.lost.as_ref().map(|(_, why)| why.as_str())
    }

    /// For the status.
    pub(crate) fn status(&self) -> HostStatus {
        let name = |index: &u32| {
            let interface = self.seen.watched.iter().find(|interface| interface.index == *index)?;
            Some(interface.name.clone())
        };
        let mut status = self.mends.status(self.lost(), clock::monotonic());
        status.in_front = self.in_front.keys().filter_map(name).take(HostStatus::IN_FRONT_MAX).collect();
        status.misplaced.clone_from(&self.misplaced);
        status
    }

    /// Whether there are several ways for answers to clients.
    pub(crate) fn has_own_routes(&self) -> bool {
        self.seen.watched.len() > 1
    }

    /// The largest packet that the interface to the other nodes carries, bytes.
    pub(crate) fn mtu(&self) -> u16 {
        u16::try_from(self.seen.cluster.mtu).unwrap_or(u16::MAX)
    }
}

impl Daemon {
    /// Begins a look at the host, if it is time.
    pub(crate) fn watch_host(&mut self) {
        let now = Instant::now();
        self.host.mends.tick(clock::monotonic());
        if self.host.told.try_recv().is_ok() {
            self.host.look_at = self.host.look_at.min(now + SETTLED);
        }
        if now >= self.host.sweep_at {
            self.host.sweep_at = now + SWEEP;
            if self.outside.datapath.is_detached() || !self.settings_are_right() {
                self.host.look_at = now;
            }
            self.look_in_front();
        }
        if now < self.host.look_at || self.host_work.is_busy() {
            return;
        }
        self.host.look_at = now + LOOK;
        let known = self.core.services().known();
        let (cluster, me) = (known.cluster.clone(), self.core.me());
        let Some(wanted) = cluster.node(me).map(|node| wanted_by(known, node)) else { return };
        let run_dir = self.options.configure_host.then(|| self.options.run_dir.clone());
        let before = self.host.seen.clone();
        self.host_work.look(wanted, run_dir, before, cluster, me);
    }

    /// Settings that are the operator's affair are right, whatever they are.
    fn settings_are_right(&self) -> bool {
        let known = self.core.services().known();
        let node = known.cluster.node(self.core.me()).filter(|_| self.options.configure_host);
        // What cannot be read is looked at in full, and told then.
        node.is_none_or(|node| self.host.seen.settings_are_right(&wanted_by(known, node)).unwrap_or(false))
    }

    /// A look at the host has ended. An error: the node has to leave.
    pub(crate) fn looked(&mut self, looked: Result<Option<Box<Look>>, String>) -> Result<(), NodeError> {
        let now = Instant::now();
        match looked {
            Ok(Some(look)) => self.follow(*look),
            // Somebody else is changing the host.
            Ok(None) => self.host.look_at = now + SWEEP,
            Err(why) => {
                self.host.look_at = now + SWEEP;
                let (since, _) = *self.host.lost.get_or_insert_with(|| {
                    let seconds = PATIENCE.as_secs();
                    tracing::error!(
                        "this node cannot stay on this host, and leaves in {seconds} s if that lasts: {why}"
                    );
                    (now, why.clone())
                });
                if now.duration_since(since) >= PATIENCE {
                    return Err(NodeError::HostLost(why));
                }
            }
        }
        Ok(())
    }

    /// Goes by the host as it is now.
    fn follow(&mut self, Look { seen, mended, paths }: Look) {
        if self.host.lost.take().is_some() {
            self.host.mends.followed("the node can be on it again");
        }
        let now = clock::monotonic();
        mended.iter().for_each(|one| self.host.mends.mended(one, now));
        let before = std::mem::replace(&mut self.host.seen, seen);
        self.look_at_vips();
        for change in changes(&before.cluster, &self.host.seen.cluster) {
            self.host.mends.followed(&change);
        }
        self.link_changed(&before.cluster);
        let held = self.keep_hold_up();
        self.note("the hold device", held);
        let attached = self.keep_attached(&before);
        self.note("programs that were detached", attached);
        // How large packets may be is found by the task that probes.
        let paths = Paths { routed: paths.routed, interfaces: paths.interfaces, ..self.paths.clone() };
        if paths != self.paths {
            self.paths_changed(paths);
            self.tell_paths(PathNews::Host(self.host.mtu()));
        }
        let promised = self.promise();
        self.note("what changes while the programs run", promised);
    }

    /// VIPs that somebody has given to an interface where they must not be; and what the watch is to tell of.
    fn look_at_vips(&mut self) {
        let known = self.core.services().known();
        let Some(wanted) = known.cluster.node(self.core.me()).map(|node| wanted_by(known, node)) else {
            return;
        };
        let unused = self.host.seen.unused(&wanted);
        self.host.unused.send_if_modified(|before| std::mem::replace(before, unused.clone()) != unused);
        let misplaced = self.host.seen.misplaced(&wanted);
        if misplaced != self.host.misplaced {
            match &misplaced {
                Some(what) => {
                    tracing::error!("who finds a VIP there does not find Baton; take it away: {what}")
                }
                None => tracing::info!("VIPs are where they belong again"),
            }
            self.host.misplaced = misplaced;
        }
    }

    /// Says which programs of others have come before Baton's. They are the operator's, and stay.
    fn look_in_front(&mut self) {
        let in_front = self.outside.datapath.in_front();
        for (index, programs) in
            in_front.iter().filter(|(index, now)| self.host.in_front.get(index) != Some(now))
        {
            let interface = self.host.seen.watched.iter().find(|interface| interface.index == *index);
            let interface = interface.map_or("an interface", |interface| interface.name.as_str());
            let names: Vec<_> = programs.iter().map(|id| format!("{} ({id})", program_name(*id))).collect();
            let what = format!("on {interface} other programs come before Baton's: {}", names.join(", "));
            tracing::warn!("{what}; what these keep, or pass to the kernel, Baton does not see: bpftool net");
            self.host.mends.followed(&what);
        }
        if in_front.is_empty() && !self.host.in_front.is_empty() {
            self.host.mends.followed("Baton's programs are the first again");
        }
        self.host.in_front = in_front;
    }

    /// The interface to the other nodes may be another one, or carry other packets.
    fn link_changed(&mut self, before: &Interface) {
        let now = self.host.seen.cluster.clone();
        if now == *before {
            return;
        }
        self.core.link_changed(now.mac, largest(&self.paths, &self.host).into());
        self.tell_paths(PathNews::Host(self.host.mtu()));
        if now.mac != before.mac {
            let peers: Vec<_> = self.core.peers().others(self.cluster(), |_| true).collect();
            for peer in peers {
                self.core.post.send(peer, Message::Mac(Mac { mac: now.mac }));
            }
        }
        if now.index == before.index {
            return;
        }
        let told = for_all(&self.cluster().nodes, |peer| {
            let entry = peer_entry(peer, &self.paths, now.index);
            self.outside.datapath.set_node(peer.id, &entry)
        });
        self.note("the interface to other nodes", told);
    }

    /// A hold device that is down loses what is held.
    fn keep_hold_up(&mut self) -> Result<(), DatapathError> {
        let Some(hold) = &self.outside.hold else { return Ok(()) };
        let hold = hold.get();
        if self.host.seen.is_up(hold.index()) != Some(false) {
            return Ok(());
        }
        hold.set_up()?;
        let one =
            Mended { what: "the hold device".to_owned(), found: "down".to_owned(), now: "up".to_owned() };
        self.host.mends.mended(&one, clock::monotonic());
        Ok(())
    }

    /// Attaches what is missing.
    fn keep_attached(&mut self, before: &HostSeen) -> Result<(), DatapathError> {
        let numbers = |of: &[Interface]| of.iter().map(|interface| interface.index).collect::<Vec<_>>();
        let seen = &self.host.seen;
        let (watched, others) = (numbers(&seen.watched), numbers(&seen.others));
        let newly = self.outside.datapath.keep_attached(&watched, &others, &seen.present())?;
        let put_back = |what: &str| Mended {
            what: what.to_owned(),
            found: "detached".to_owned(),
            now: "attached".to_owned(),
        };
        if newly.hold {
            self.host.mends.mended(&put_back("the program on the hold device"), clock::monotonic());
        }
        if newly.sockets {
            self.host.mends.mended(&put_back("the program for new sockets"), clock::monotonic());
        }
        let was_watched = numbers(&before.watched);
        for interface in seen.watched.iter().filter(|interface| newly.programs.contains(&interface.index)) {
            let name = &interface.name;
            if was_watched.contains(&interface.index) {
                self.host.mends.mended(&put_back(&format!("the programs on {name}")), clock::monotonic());
            } else {
                self.host.mends.followed(&format!("attached to {name} too"));
            }
        }
        let was_other = numbers(&[&before.watched[..], &before.others].concat());
        for interface in seen.watched.iter().chain(&seen.others) {
            if newly.guards.contains(&interface.index) && was_other.contains(&interface.index) {
                let one = put_back(&format!("the guard on {}", interface.name));
                self.host.mends.mended(&one, clock::monotonic());
            }
        }
        Ok(())
    }
}

/// What is different of an interface, for people.
fn changes(before: &Interface, now: &Interface) -> Vec<String> {
    let mut changes = Vec::new();
    let name = &now.name;
    if before.name != now.name || before.index != now.index {
        changes.push(format!(
            "the node's address was on {} ({}), is on {name} ({})",
            before.name, before.index, now.index
        ));
    }
    if before.mtu != now.mtu {
        changes.push(format!("{name} carried packets of {} bytes, carries {}", before.mtu, now.mtu));
    }
    if before.up != now.up {
        changes.push(format!("{name} is {}", if now.up { "up" } else { "down" }));
    }
    if before.mac != now.mac {
        changes.push(format!("{name} has another MAC address"));
    }
    changes
}

/// What a look brings: the ways to other nodes go with the interfaces.
pub(crate) async fn look(
    wanted: &Wanted,
    run_dir: Option<&Path>,
    before: &HostSeen,
    cluster: &baton_cluster::Cluster,
    me: baton_cluster::NodeId,
) -> Result<Option<Box<Look>>, String> {
    match baton_host::keep(wanted, run_dir, before).await {
        Ok((seen, mended)) => {
            let paths = Paths::look(cluster, me).await;
            Ok(Some(Box::new(Look { seen, mended, paths })))
        }
        Err(baton_host::HostError::Busy { .. }) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}
