//! Loading and attaching: open, set the read-only settings, load, attach; dropping detaches.
#![allow(unsafe_code, reason = "libbpf-rs has no call for tcx links yet")]

use std::cell::{Cell, RefCell};
use std::fmt;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;

use baton_cluster::Roles;
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{AsRawLibbpf, Link, OpenObject, ProgramMut, libbpf_sys};

use crate::attached::Attached;
use crate::constants::{ROLE_DISTRIBUTOR, ROLE_SERVER, ROLE_SWITCH};
use crate::error::DatapathError;
use crate::events::Events;
use crate::lease::Lease;
use crate::said;
use crate::shared::addr_of;
use crate::skel::{BatonSkel, BatonSkelBuilder};
use crate::written::Written;

/// What the programs know of their node; fixed once loaded.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// This node.
    pub node: baton_cluster::NodeId,
    /// Its roles.
    pub roles: Roles,
    /// Its address in the cluster.
    pub address: IpAddr,
    /// UDP port of handoff packets.
    pub handoff_port: u16,
    /// MTU of the cluster interface, bytes, until [`crate::LiveValues`] says another.
    pub mtu: u16,
    /// The interface towards the other nodes, until [`crate::LiveValues`] says another.
    pub cluster_ifindex: u32,
    /// The hold device.
    pub hold_ifindex: u32,
    /// Whether the cluster has a switch: without one nobody is told of bindings and ends.
    pub has_switch: bool,
    /// Whether some other node may own connections: then it is asked about those that nobody here knows.
    pub others: bool,
}

/// Sizes of the bounded tables, in entries.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Connections known at once.
    pub bindings: u32,
    /// Decisions cached at once.
    pub decisions: u32,
}

/// Roles as the programs have them. The dispatcher's is none of theirs.
pub(crate) fn role_bits(roles: Roles) -> u32 {
    u32::from(roles.switch) * ROLE_SWITCH
        + u32::from(roles.distributor) * ROLE_DISTRIBUTOR
        + u32::from(roles.server) * ROLE_SERVER
}

/// The loaded programs with their maps. Dropping it detaches them.
pub struct Datapath {
    pub(crate) skel: BatonSkel<'static>,
    pub(crate) attached: Attached,
    pub(crate) speaks: bool,
    pub(crate) target_secret: Cell<u64>,
    pub(crate) written: RefCell<Written>,
}

impl Datapath {
    /// Loads the programs; nothing is attached yet.
    ///
    /// # Errors
    /// When the kernel refuses them: too old, or not enough privileges.
    pub fn load(settings: Settings, sizes: Sizes) -> Result<Self, DatapathError> {
        // One small allocation for the life of the process: the skeleton wants to borrow it.
        let storage: &'static mut MaybeUninit<OpenObject> = Box::leak(Box::new(MaybeUninit::uninit()));
        said::listen();
        let failed = |source| DatapathError::Load { log: said::taken().join("\n  "), source };
        let mut open = BatonSkelBuilder::default().open(storage).map_err(failed)?;
        if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
            let s = &mut rodata.settings;
            s.slf = settings.node.0;
            s.roles = role_bits(settings.roles);
            s.address = addr_of(settings.address);
            s.address_v6 = u32::from(settings.address.is_ipv6());
            s.handoff_port = settings.handoff_port.to_be();
            s.mtu = settings.mtu;
            s.cluster_ifindex = settings.cluster_ifindex;
            s.hold_ifindex = settings.hold_ifindex;
            s.has_switch = u32::from(settings.has_switch);
            s.others = u32::from(settings.others);
        }
        open.maps.bindings.set_max_entries(sizes.bindings).map_err(failed)?;
        // Those that have no owner yet, or have ended: each for a short time.
        open.maps.aside.set_max_entries(sizes.bindings.div_ceil(2)).map_err(failed)?;
        // The server's own packets, or the reader's.
        let speaks = settings.roles.server || settings.roles.distributor;
        // Servers follow what they serve, distributors what their readers read: if not now, after a reload.
        let exchanges = if speaks { sizes.bindings } else { 1 };
        open.maps.exchanges.set_max_entries(exchanges).map_err(failed)?;
        open.maps.decisions.set_max_entries(sizes.decisions).map_err(failed)?;
        if !settings.roles.switch {
            open.maps.maglev.set_max_entries(1).map_err(failed)?;
            open.maps.makers.set_max_entries(1).map_err(failed)?;
            open.maps.latest_syns.set_max_entries(1).map_err(failed)?;
        }
        let skel = open.load().map_err(failed)?;
        let datapath = Self {
            skel,
            attached: Attached::default(),
            speaks,
            target_secret: Cell::new(0),
            written: RefCell::default(),
        };
        datapath.set_leases(&[Lease::direct(0)])?;
        Ok(datapath)
    }

    /// Attaches to the hold device, so that what user space writes to it comes back.
    ///
    /// # Errors
    /// As for [`Datapath::attach`].
    pub fn attach_hold(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.attached.hold = Some((ifindex, attach_tcx(&self.skel.progs.release, "release", ifindex, None)?));
        Ok(())
    }

    /// Attaches what gives a moved connection the congestion window that it had: for all sockets of the
    /// machine, at the root of its control groups.
    ///
    /// # Errors
    /// When there is no cgroup2, or its root may not be used.
    pub fn attach_sockets(&mut self) -> Result<(), DatapathError> {
        let failed = |source| DatapathError::Sockets { source };
        let mounts = std::fs::read_to_string("/proc/self/mounts").map_err(failed)?;
        let root = cgroup2(&mounts).ok_or_else(|| failed(std::io::Error::other("no cgroup2 is mounted")))?;
        let root = std::fs::File::open(root).map_err(failed)?;
        let link = self.skel.progs.carry_cwnd.attach_cgroup(root.as_raw_fd());
        self.attached.sockets = Some(link.map_err(|e| failed(std::io::Error::other(e.to_string())))?);
        Ok(())
    }

    /// The stream of events. Ask once.
    ///
    /// # Errors
    /// When the ring buffer cannot be mapped.
    pub fn events(&self) -> Result<Events, DatapathError> {
        Events::open(&self.skel.maps.events)
    }
}

impl fmt::Debug for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datapath").field("interfaces", &self.attached.len()).finish_non_exhaustive()
    }
}

/// Where the control groups of version 2 are mounted.
fn cgroup2(mounts: &str) -> Option<&str> {
    let mut fields = mounts.lines().map(|line| line.split(' '));
    fields.find_map(|mut line| {
        let place = line.nth(1)?;
        (line.next() == Some("cgroup2")).then_some(place)
    })
}

/// The numbers of the programs on an interface's way in, in the order in which they see a packet; none where the kernel does
/// not say.
pub(crate) fn chain(ifindex: u32) -> Vec<u32> {
    let mut ids = [0_u32; CHAIN_MAX];
    let mut asked = libbpf_sys::bpf_prog_query_opts {
        sz: size_of::<libbpf_sys::bpf_prog_query_opts>() as libbpf_sys::size_t,
        prog_ids: ids.as_mut_ptr(),
        ..Default::default()
    };
    asked.__bindgen_anon_1.count = CHAIN_MAX as u32;
    let Ok(index) = i32::try_from(ifindex) else { return Vec::new() };
    // SAFETY: the options name an array of as many numbers as they say, both alive for the call, which writes no more.
    let failed =
        unsafe { libbpf_sys::bpf_prog_query_opts(index, libbpf_sys::BPF_TCX_INGRESS, &raw mut asked) };
    // SAFETY: both fields of the union are the same number.
    let count = unsafe { asked.__bindgen_anon_1.count };
    if failed != 0 { Vec::new() } else { ids.into_iter().take(count as usize).collect() }
}

/// The kernel allows no more (BPF_MPROG_MAX).
const CHAIN_MAX: usize = 64;

/// `before`: another link of the same interface and direction, which comes after this one; else it comes last.
pub(crate) fn attach_tcx(
    program: &ProgramMut<'_>,
    name: &'static str,
    ifindex: u32,
    before: Option<RawFd>,
) -> Result<Link, DatapathError> {
    let failed = |source| DatapathError::Attach { program: name, ifindex, source };
    let index = i32::try_from(ifindex).map_err(|e| failed(std::io::Error::other(e)))?;
    let place = before.and_then(|fd| u32::try_from(fd).ok()).map(|fd| libbpf_sys::bpf_tcx_opts {
        sz: size_of::<libbpf_sys::bpf_tcx_opts>() as libbpf_sys::size_t,
        flags: libbpf_sys::BPF_F_BEFORE | libbpf_sys::BPF_F_LINK,
        relative_fd: fd,
        ..Default::default()
    });
    // SAFETY: the program is loaded and alive for the call, and so are the options; null ones mean defaults. The link
    // that comes back, if any, is ours alone, and Link takes over freeing it.
    let link = unsafe {
        NonNull::new(libbpf_sys::bpf_program__attach_tcx(
            program.as_libbpf_object().as_ptr(),
            index,
            place.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
        ))
        .map(|pointer| Link::from_ptr(pointer))
    };
    link.ok_or_else(|| failed(std::io::Error::last_os_error()))
}
