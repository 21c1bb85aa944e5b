//! A bad line between a client and everything else: frames lost, sent twice, and overtaken by later
//! ones. The kernel's own tool for this, netem, is not in every kernel; so the frames go through a
//! relay of two threads, between packet sockets on the two ends of the wire. What happens to the nth
//! frame of a direction follows from the seed alone.

use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::netns::Namespace;
use crate::topology::Testbed;

/// A frame that is held back lets at most so many others go first...
const OVERTAKEN_BY: u64 = 6;
/// ...and does not wait for longer than this.
const HELD: Duration = Duration::from_millis(4);
/// How many frames are held at once; more are not.
const HELD_MAX: usize = 32;
/// Longer frames were made by an offload, and would not fit a wire.
const FRAME_MAX: usize = 1514;
/// Kernel memory for frames that wait for the relay.
const WAITING: usize = 16 << 20;

/// How bad a line is: chances in percent, for each frame with IPv4 in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Disturb {
    seed: u64,
    lost: f64,
    reordered: f64,
    doubled: f64,
}

impl Disturb {
    /// A good line; then say how bad.
    pub fn new(seed: u64) -> Self {
        Self { seed, lost: 0.0, reordered: 0.0, doubled: 0.0 }
    }

    /// So many percent are lost.
    pub fn lose(self, lost: f64) -> Self {
        Self { lost, ..self }
    }

    /// So many percent are overtaken by up to six later ones.
    pub fn reorder(self, reordered: f64) -> Self {
        Self { reordered, ..self }
    }

    /// So many percent come twice.
    pub fn double(self, doubled: f64) -> Self {
        Self { doubled, ..self }
    }
}

/// What a line has done so far, both directions together.
#[derive(Debug, Default)]
struct Counts {
    frames: AtomicU64,
    lost: AtomicU64,
    reordered: AtomicU64,
    doubled: AtomicU64,
}

/// A bad line in force; it is good again when dropped.
#[derive(Debug)]
pub struct Disturbance<'a> {
    wire: &'a Namespace,
    client: usize,
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Testbed {
    /// Makes the line of a client, counted from 0, a bad one. What is on its way now may be lost.
    ///
    /// # Panics
    /// When the testbed was made without a wire. It must have been made without offloads too.
    #[track_caller]
    pub fn disturb(&self, client: usize, how: Disturb) -> Disturbance<'_> {
        let wire = self.wire();
        let ends = [format!("client{client}"), format!("router{client}")];
        ends.iter().for_each(|end| drop(wire.ip(&format!("link set {end} nomaster"))));
        let [near, far] = ends.map(|end| Arc::new(packet_socket(wire, &end)));
        let (counts, stop) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
        let relay = |from: &Arc<OwnedFd>, to: &Arc<OwnedFd>, seed| {
            let (from, to) = (Arc::clone(from), Arc::clone(to));
            let (counts, stop) = (Arc::clone(&counts), Arc::clone(&stop));
            std::thread::spawn(move || relay(&from, &to, Line::new(how, seed), &counts, &stop))
        };
        let threads = vec![relay(&near, &far, how.seed), relay(&far, &near, !how.seed)];
        Disturbance { wire, client, counts, stop, threads }
    }
}

impl Disturbance<'_> {
    /// Frames that came by.
    pub fn frames(&self) -> u64 {
        self.counts.frames.load(Ordering::Relaxed)
    }

    /// Frames lost, overtaken, and sent twice.
    pub fn disturbed(&self) -> [u64; 3] {
        let counts = &self.counts;
        [&counts.lost, &counts.reordered, &counts.doubled].map(|count| count.load(Ordering::Relaxed))
    }
}

impl Drop for Disturbance<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
        let k = self.client;
        for end in [format!("client{k}"), format!("router{k}")] {
            let _ = self.wire.try_run("ip", ["link", "set", &end, "master", &format!("wire{k}")]);
        }
    }
}

/// A socket for all frames of one interface.
#[track_caller]
fn packet_socket(place: &Namespace, interface: &str) -> OwnedFd {
    let made = place.inside(|| -> nix::Result<OwnedFd> {
        let address = link_address(interface)?;
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
        setsockopt(&socket, sockopt::RcvBufForce, &WAITING)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 1000))?;
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

fn relay(from: &OwnedFd, to: &OwnedFd, mut line: Line, counts: &Counts, stop: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        match recv(from.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) if length <= FRAME_MAX => line.take(&buffer[..length], Instant::now(), counts),
            Ok(length) => panic!("a frame of {length} bytes: build the testbed without offloads"),
            Err(errno) if std::io::Error::from(errno).kind() == ErrorKind::WouldBlock => {}
            Err(Errno::EINTR) => {}
            // The interface is going: so is the testbed.
            Err(_) => return,
        }
        for frame in line.due(Instant::now()) {
            // A full queue loses it, as a line would.
            let _ = send(to.as_fd().as_raw_fd(), &frame, MsgFlags::empty());
        }
    }
}

/// One direction of a line.
#[derive(Debug)]
struct Line {
    how: Disturb,
    state: u64,
    /// Frames taken.
    taken: u64,
    /// What goes out now.
    out: Vec<Vec<u8>>,
    held: Vec<Held>,
}

#[derive(Debug)]
struct Held {
    frame: Vec<u8>,
    /// Goes out when so many frames have been taken, or then.
    after: u64,
    until: Instant,
}

impl Line {
    fn new(how: Disturb, seed: u64) -> Self {
        Self { how, state: seed, taken: 0, out: Vec::new(), held: Vec::new() }
    }

    /// Draws the same number of times for each frame.
    fn take(&mut self, frame: &[u8], now: Instant, counts: &Counts) {
        let [lost, reordered, doubled] =
            [self.how.lost, self.how.reordered, self.how.doubled].map(|percent| self.chance(percent));
        let distance = 1 + self.draw() % OVERTAKEN_BY;
        self.taken += 1;
        counts.frames.fetch_add(1, Ordering::Relaxed);
        let ipv4 = frame.get(12..14) == Some(&[8, 0]);
        if ipv4 && lost {
            counts.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if ipv4 && doubled {
            counts.doubled.fetch_add(1, Ordering::Relaxed);
            self.out.push(frame.to_vec());
        }
        if ipv4 && reordered && self.held.len() < HELD_MAX {
            counts.reordered.fetch_add(1, Ordering::Relaxed);
            let held = Held { frame: frame.to_vec(), after: self.taken + distance, until: now + HELD };
            self.held.push(held);
        } else {
            self.out.push(frame.to_vec());
        }
    }

    fn due(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut out = std::mem::take(&mut self.out);
        let taken = self.taken;
        let due = self.held.extract_if(.., |held| held.after <= taken || held.until <= now);
        out.extend(due.map(|held| held.frame));
        out
    }

    fn chance(&mut self, percent: f64) -> bool {
        (self.draw() % 1_000_000) as f64 <= percent * 10_000.0 - 1.0
    }

    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        crate::content::splitmix(&mut self.state)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{Counts, Disturb, HELD, Line};

    fn frame(number: u16) -> Vec<u8> {
        [&[0; 12][..], &[8, 0], &number.to_be_bytes()].concat()
    }

    /// What comes out for the numbers 0 to 999, the last ones once they have waited long enough.
    fn through(how: Disturb) -> Vec<u16> {
        let (mut line, counts, now) = (Line::new(how, how.seed), Counts::default(), Instant::now());
        let mut out = Vec::new();
        for number in 0..1000 {
            line.take(&frame(number), now, &counts);
            out.append(&mut line.due(now));
        }
        out.append(&mut line.due(now + HELD));
        out.iter().map(|frame| u16::from_be_bytes([frame[14], frame[15]])).collect()
    }

    #[test]
    fn a_good_line_changes_nothing_and_a_dead_one_loses_all() {
        assert_eq!(through(Disturb::new(1)), (0..1000).collect::<Vec<_>>());
        assert!(through(Disturb::new(1).lose(100.0)).is_empty());
    }

    #[test]
    fn frames_are_lost_overtaken_and_doubled_as_the_seed_says() {
        let all: Vec<u16> = (0..1000).collect();
        let sorted = |mut out: Vec<u16>| {
            out.sort_unstable();
            out
        };
        let reordered = through(Disturb::new(7).reorder(10.0));
        assert!(reordered != all && sorted(reordered.clone()) == all);
        assert!(reordered.iter().enumerate().all(|(at, number)| at.abs_diff(usize::from(*number)) <= 40));
        let doubled = through(Disturb::new(7).double(10.0));
        assert!((1050..1150).contains(&doubled.len()), "{}", doubled.len());
        assert!((850..950).contains(&through(Disturb::new(7).lose(10.0)).len()));
        let bad = Disturb::new(7).lose(3.0).reorder(3.0).double(3.0);
        assert_eq!(through(bad), through(bad));
        assert_ne!(through(bad), through(Disturb { seed: 8, ..bad }));
    }
}
