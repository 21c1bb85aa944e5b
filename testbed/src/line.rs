//! A line between a client and everything else that is as [`Disturb`] says. The kernel's own tool for
//! this, netem, is not in every kernel; so the frames go through a relay of two threads, between packet
//! sockets on the two ends of the wire.

use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeSpec;
use nix::unistd::gettid;

use crate::disturb::{Counts, Disturb, Way};
use crate::netns::Namespace;
use crate::process::{allowed_cpus, pin_to};
use crate::tools::{complete, tool};
use crate::topology::Testbed;

/// Longer frames were made by an offload, and would not fit a wire.
const FRAME_MAX: usize = 1514;
/// Kernel memory for frames that wait for the relay.
const WAITING: usize = 32 << 20;
/// So many frames are taken in before what has arrived goes out.
const BATCH: usize = 64;
/// How long an idle relay takes to notice that it shall stop.
const IDLE: Duration = Duration::from_millis(5);

/// A line in force.
#[derive(Debug)]
pub struct Line {
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// A line in force for a while; its wire is good again when this is dropped.
#[derive(Debug)]
pub struct Disturbance<'a> {
    line: Line,
    wire: &'a Namespace,
    client: usize,
}

impl Testbed {
    /// Makes the line of a client, counted from 0, one like this for a while. What is on its way now may
    /// be lost. (For as long as the testbed is there: [`crate::Builder::line`].)
    ///
    /// # Panics
    /// When the testbed was made without a wire. It must have been made without offloads too.
    #[track_caller]
    pub fn disturb(&self, client: usize, how: Disturb) -> Disturbance<'_> {
        let wire = self.wire();
        ends(client).iter().for_each(|end| drop(wire.ip(&format!("link set {end} nomaster"))));
        Disturbance { line: Line::start(wire, client, how), wire, client }
    }
}

impl Line {
    /// Joins the two ends of a client's wire.
    #[track_caller]
    pub(crate) fn start(wire: &Namespace, client: usize, how: Disturb) -> Self {
        let [near, far] = ends(client).map(|end| Arc::new(packet_socket(wire, &end)));
        let (counts, stop) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
        let cpus = allowed_cpus();
        let relay = |from: &Arc<OwnedFd>, to: &Arc<OwnedFd>, how, cpu: usize| {
            let (from, to) = (Arc::clone(from), Arc::clone(to));
            let (counts, stop) = (Arc::clone(&counts), Arc::clone(&stop));
            std::thread::spawn(move || {
                hurry(cpu);
                relay(&from, &to, Way::new(how), &counts, &stop);
            })
        };
        let [one, other] = [0, 1].map(|way| cpus[(client + way) % cpus.len()]);
        let threads = vec![relay(&near, &far, how, one), relay(&far, &near, how.backwards(), other)];
        Self { counts, stop, threads }
    }

    /// Frames that came by.
    pub fn frames(&self) -> u64 {
        self.counts.frames.load(Ordering::Relaxed)
    }

    /// Frames lost by chance, overtaken, and sent twice.
    pub fn disturbed(&self) -> [u64; 3] {
        let counts = &self.counts;
        [&counts.lost, &counts.reordered, &counts.doubled].map(|count| count.load(Ordering::Relaxed))
    }

    /// Frames lost because more were waiting or on the way than the line has room for.
    pub fn overflowed(&self) -> u64 {
        self.counts.overflowed.load(Ordering::Relaxed)
    }
}

impl Line {
    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.end();
    }
}

impl Deref for Disturbance<'_> {
    type Target = Line;

    fn deref(&self) -> &Line {
        &self.line
    }
}

impl Drop for Disturbance<'_> {
    fn drop(&mut self) {
        // First the relay, or both would pass frames on.
        self.line.end();
        for end in ends(self.client) {
            let _ = self.wire.try_run("ip", ["link", "set", &end, "master", &format!("wire{}", self.client)]);
        }
    }
}

/// The ends of a client's wire: the client's, and the router's.
fn ends(client: usize) -> [String; 2] {
    [format!("client{client}"), format!("router{client}")]
}

/// A socket for all frames of one interface.
#[track_caller]
pub(crate) fn packet_socket(place: &Namespace, interface: &str) -> OwnedFd {
    let made = place.inside(|| -> nix::Result<OwnedFd> {
        let address = link_address(interface)?;
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
        setsockopt(&socket, sockopt::RcvBufForce, &WAITING)?;
        bind(socket.as_raw_fd(), &address)?;
        Ok(socket)
    });
    made.unwrap_or_else(|error| panic!("no packet socket on {interface}: {error}"))
}

fn link_address(interface: &str) -> nix::Result<LinkAddr> {
    let all = nix::ifaddrs::getifaddrs()?.filter(|address| address.interface_name == interface);
    let link = all.filter_map(|address| address.address?.as_link_addr().copied()).next();
    link.ok_or(Errno::ENODEV)
}

/// Makes the calling thread one that relays as a line would. On one CPU, because a veth device hands
/// packets over on the CPU that sends them: one that changed would bring them out of order. And before
/// whatever else wants that CPU: a sender takes a round trip that has grown for a queue that grows, and
/// slows down. Where either is not allowed, a line still works.
fn hurry(cpu: usize) {
    let _ = pin_to(cpu);
    let thread = gettid().to_string();
    let _ = complete(Command::new(tool("chrt")).args(["--fifo", "--pid", "1", &thread]));
}

fn relay(from: &OwnedFd, to: &OwnedFd, mut way: Way, counts: &Counts, stop: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        wait(from, way.next());
        for _ in 0..BATCH {
            match recv(from.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) if length <= FRAME_MAX => way.take(&buffer[..length], Instant::now(), counts),
                Ok(length) => panic!("a frame of {length} bytes: build the testbed without offloads"),
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                // The interface is going: so is the testbed.
                Err(_) => return,
            }
        }
        while let Some(frame) = way.arrived(Instant::now(), counts) {
            // A full queue loses it, as a line would.
            let _ = send(to.as_raw_fd(), &frame, MsgFlags::empty());
        }
    }
}

/// Until a frame is there, or that time has come.
fn wait(socket: &OwnedFd, until: Option<Instant>) {
    let left = until.map_or(IDLE, |until| until.saturating_duration_since(Instant::now()).min(IDLE));
    let mut sockets = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    // Woken for nothing, it looks and waits again.
    let _ = ppoll(&mut sockets, Some(TimeSpec::from_duration(left)), None);
}
