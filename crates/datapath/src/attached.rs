//! Which program is where: `ingress` and `egress` on the interfaces of the cluster, the guard behind them and on all
//! others. A guard's link has a name in the BPF file system, so it stays when the daemon is killed; the next daemon
//! takes it over, and a clean end removes it (docs/decisions/0022). Without that file system a filter stays in its place.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};

use libbpf_rs::Link;
use libbpf_rs::query::{LinkTypeInfo, ProgInfoIter};

use crate::error::DatapathError;
use crate::filter;
use crate::programs::{Datapath, attach_tcx, chain};

/// The links of one interface.
#[derive(Debug, Default)]
pub(crate) struct OnInterface {
    guard: Option<Link>,
    /// A filter stands for the guard when the daemon is gone.
    filter: bool,
    inward: Option<Link>,
    outward: Option<Link>,
}

/// The links of all interfaces, and where guards have names.
#[derive(Debug, Default)]
pub(crate) struct Attached {
    interfaces: BTreeMap<u32, OnInterface>,
    /// The hold device's number, and what lets packets come back from there.
    pub(crate) hold: Option<(u32, Link)>,
    /// At the root of the control groups.
    pub(crate) sockets: Option<Link>,
    names: Option<PathBuf>,
    nameless: Option<String>,
}

/// What has been attached by one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Newly {
    /// Interfaces, by number, that have the programs now and had them not, or not any more.
    pub programs: Vec<u32>,
    /// The same of the guard.
    pub guards: Vec<u32>,
    /// The program on the hold device is there again.
    pub hold: bool,
    /// The program for new sockets is there again.
    pub sockets: bool,
}

impl Datapath {
    /// Gives guards names in this folder of a BPF file system, so that they outlive this process. Call it before anything
    /// is attached.
    pub fn name_guards(&mut self, folder: &Path) {
        self.attached.names = Some(folder.to_owned());
    }

    /// Whether filters outlive this process, and not guards: there is no BPF file system.
    pub fn has_filters(&self) -> bool {
        self.attached.interfaces.values().any(|on| on.filter)
    }

    /// Why guards will not outlive this process, if they will not.
    pub fn nameless_guards(&self) -> Option<&str> {
        self.attached.nameless.as_deref()
    }

    /// Attaches to one of the node's interfaces, both directions.
    ///
    /// # Errors
    /// When the interface is gone, or the kernel has no tcx.
    pub fn attach(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.keep_attached(&[ifindex], &[], &[ifindex]).map(drop)
    }

    /// Whether something that was attached is not any more: detached by others, or gone with its interface.
    pub fn is_detached(&self) -> bool {
        let guard = &self.skel.progs.guard;
        let links = |(index, on): (&u32, &OnInterface)| {
            let filter = !on.filter || filter::is_there(guard, *index);
            filter && [&on.guard, &on.inward, &on.outward].into_iter().flatten().all(is_there)
        };
        let hold = self.attached.hold.as_ref().map(|(_, link)| link);
        let mut others = hold.into_iter().chain(&self.attached.sockets);
        !self.attached.interfaces.iter().all(links) || !others.all(is_there)
    }

    /// Programs of others that see an interface's packets before `ingress`, by interface: what these keep to themselves,
    /// or give to the node's own stack, Baton never sees.
    pub fn in_front(&self) -> BTreeMap<u32, Vec<u32>> {
        let before = |(index, on): (&u32, &OnInterface)| {
            let own = on.inward.as_ref()?.info().ok()?.prog_id;
            let chain = chain(*index);
            let place = chain.iter().position(|id| *id == own)?;
            (place > 0).then(|| (*index, chain.into_iter().take(place).collect()))
        };
        self.attached.interfaces.iter().filter_map(before).collect()
    }

    /// Attaches the programs to the interfaces `watched`, and the guard to those and to `others`, as far as they are not
    /// there. What is attached elsewhere stays, but for interfaces that are not `present` any more.
    ///
    /// # Errors
    /// The first failure; the rest is done all the same.
    pub fn keep_attached(
        &mut self,
        watched: &[u32],
        others: &[u32],
        present: &[u32],
    ) -> Result<Newly, DatapathError> {
        let gone: Vec<u32> =
            self.attached.interfaces.keys().filter(|i| !present.contains(i)).copied().collect();
        for index in gone {
            self.attached.interfaces.remove(&index);
            self.attached.forget_name(index);
        }
        let (mut newly, mut first) = (Newly::default(), Ok(()));
        for index in watched.iter().chain(others) {
            match self.keep_guard(*index) {
                Ok(true) => newly.guards.push(*index),
                Ok(false) => {}
                Err(error) => first = first.and(Err(error)),
            }
        }
        for index in watched {
            match self.keep_programs(*index) {
                Ok(true) => newly.programs.push(*index),
                Ok(false) => {}
                Err(error) => first = first.and(Err(error)),
            }
        }
        if let Some((index, _)) = self.attached.hold.take_if(|(_, link)| !is_there(link)) {
            newly.hold = true;
            first = first.and(self.attach_hold(index));
        }
        if self.attached.sockets.take_if(|link| !is_there(link)).is_some() {
            newly.sockets = true;
            first = first.and(self.attach_sockets());
        }
        self.attached.forget_strangers();
        first.map(|()| newly)
    }

    /// The guard comes before the programs, which are put before it in the chain: so nothing gets past both.
    fn keep_guard(&mut self, ifindex: u32) -> Result<bool, DatapathError> {
        let on = self.attached.interfaces.entry(ifindex).or_default();
        let guard = &self.skel.progs.guard;
        let refilter = on.filter && !filter::is_there(guard, ifindex);
        if refilter {
            self.attached.nameless = filter::put(guard, ifindex).err().map(|error| error.to_string());
        }
        if on.guard.as_ref().is_some_and(is_there) {
            return Ok(refilter);
        }
        on.guard = None;
        let name = self.attached.names.as_ref().map(|folder| folder.join(format!("guard-{ifindex}")));
        if let Some(name) = &name {
            // Left by a daemon that was killed: it has been dropping since, and goes on without a gap.
            if name.exists()
                && let Ok(mut left) = Link::open(name)
                && is_there(&left)
                && left.update_prog(guard).is_ok()
            {
                on.guard = Some(left);
                return Ok(true);
            }
            drop(fs::remove_file(name));
        }
        let mut link = attach_tcx(guard, "guard", ifindex, None)?;
        if let Some(name) = &name {
            let named = name.parent().map_or(Ok(()), fs::create_dir_all);
            let named = named.and_then(|()| link.pin(name).map_err(io::Error::other));
            if let Err(error) = named {
                let filtered = filter::put(guard, ifindex);
                on.filter = filtered.is_ok();
                let why = |also| format!("{}: {error}; a filter: {also}", name.display());
                self.attached.nameless = filtered.err().map(why);
            }
        }
        on.guard = Some(link);
        Ok(true)
    }

    fn keep_programs(&mut self, ifindex: u32) -> Result<bool, DatapathError> {
        let on = self.attached.interfaces.entry(ifindex).or_default();
        let before = on.guard.as_ref().map(|guard| guard.as_fd().as_raw_fd());
        let mut made = false;
        if !on.inward.as_ref().is_some_and(is_there) {
            on.inward = None;
            on.inward = Some(attach_tcx(&self.skel.progs.ingress, "ingress", ifindex, before)?);
            made = true;
        }
        // What leaves any other node is nothing that egress would look at.
        if self.speaks && !on.outward.as_ref().is_some_and(is_there) {
            on.outward = None;
            on.outward = Some(attach_tcx(&self.skel.progs.egress, "egress", ifindex, None)?);
            made = true;
        }
        Ok(made)
    }
}

impl Attached {
    /// On how many interfaces.
    pub(crate) fn len(&self) -> usize {
        self.interfaces.len()
    }

    /// Guards that an earlier daemon has left where this one wants none.
    fn forget_strangers(&self) {
        let Some(names) = self.names.as_ref().and_then(|folder| fs::read_dir(folder).ok()) else { return };
        let of = |name: &str| name.strip_prefix("guard-")?.parse::<u32>().ok();
        for entry in names.flatten() {
            let index = entry.file_name().to_str().and_then(of);
            if index.is_none_or(|index| !self.interfaces.contains_key(&index)) {
                drop(fs::remove_file(entry.path()));
            }
        }
    }

    fn forget_name(&self, ifindex: u32) {
        if let Some(folder) = &self.names {
            drop(fs::remove_file(folder.join(format!("guard-{ifindex}"))));
        }
    }
}

/// A program's name, as its owner has given it; empty, if nobody says.
pub fn program_name(id: u32) -> String {
    let found = ProgInfoIter::default().find(|info| info.id == id);
    found.map(|info| info.name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Removes the names of guards: those that no process holds are detached by that.
///
/// # Errors
/// When the file system refuses; a folder that is not there is no error.
pub fn remove_guards(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a link is attached to an interface still.
fn is_there(link: &Link) -> bool {
    match link.info().map(|info| info.info) {
        Ok(LinkTypeInfo::Tcx(tcx)) => tcx.ifindex != 0,
        Ok(LinkTypeInfo::Cgroup(group)) => group.cgroup_id != 0,
        // What cannot be asked is not attached a second time.
        Ok(_) | Err(_) => true,
    }
}
