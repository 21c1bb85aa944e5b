//! The machine of raw clients: an address that no kernel holds, and a packet socket on the interface of
//! the testbed's client that it is a neighbour of.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::time::TimeSpec;

use super::script::RawTcp;
use super::segment::{Segment, in_frame};
use crate::line::packet_socket;
use crate::netns::Namespace;
use crate::network::neighbour;
use crate::topology::Testbed;

/// The last part of raw clients' addresses.
const LAST: u8 = 200;
/// The longest frame without offloads.
const FRAME_MAX: usize = 1514;

/// A neighbour of one of the testbed's clients, without a kernel.
#[derive(Debug)]
pub struct RawClient {
    address: IpAddr,
    socket: OwnedFd,
    /// Ethernet addresses to and from, and the type.
    ethernet: Vec<u8>,
    /// What came for connections that nobody has asked about yet, and the port that it came to.
    waiting: RefCell<VecDeque<(u16, SocketAddr, Segment)>>,
}

impl Testbed {
    /// A raw client beside a client, counted from 0. The testbed must have been made without offloads:
    /// packets are to be on the wire as they were sent, with their checksums in them.
    #[track_caller]
    pub fn raw_client(&self, client: usize) -> RawClient {
        let (host, port) = (self.client(client), self.client_port(client));
        let address = neighbour(host.address(), LAST);
        let (mine, routers) = (ethernet_address(host, "eth0"), ethernet_address(self.router(), &port));
        // Nobody would answer the router's question who has the address. (The kernel that gets its
        // packets is no router, and drops them without a word.)
        self.router().ip(&format!("neigh replace {address} lladdr {} dev {port} nud permanent", mine.0));
        let ethertype = if address.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
        let ethernet = [&routers.1[..], &mine.1, &ethertype].concat();
        let socket = packet_socket(host, "eth0");
        RawClient { address, socket, ethernet, waiting: RefCell::default() }
    }
}

impl RawClient {
    /// Its address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// A connection from `port` to be scripted; nothing is sent yet.
    pub fn tcp(&self, port: u16, to: SocketAddr) -> RawTcp<'_> {
        RawTcp::new(self, SocketAddr::new(self.address, port), to)
    }

    /// Sends a segment as it is.
    #[track_caller]
    pub(crate) fn send(&self, from: SocketAddr, to: SocketAddr, segment: &Segment) {
        let frame = [&self.ethernet[..], &segment.packet(from, to)].concat();
        assert!(frame.len() <= FRAME_MAX, "a frame of {} bytes", frame.len());
        let sent = send(self.socket.as_raw_fd(), &frame, MsgFlags::empty());
        sent.unwrap_or_else(|error| panic!("cannot send a frame: {error}"));
    }

    /// The next segment of a connection, if one comes in time.
    #[track_caller]
    pub(crate) fn receive(&self, me: SocketAddr, peer: SocketAddr, until: Instant) -> Option<Segment> {
        let is_mine = |(port, from, _): &(u16, SocketAddr, Segment)| *port == me.port() && *from == peer;
        let mut waiting = self.waiting.borrow_mut();
        if let Some(place) = waiting.iter().position(is_mine) {
            return waiting.remove(place).map(|(_, _, segment)| segment);
        }
        loop {
            let (from, to, segment) = self.read(until)?;
            let read = (to.port(), from, segment);
            if is_mine(&read) {
                return Some(read.2);
            }
            waiting.push_back(read);
        }
    }

    /// The next segment for this address.
    #[track_caller]
    fn read(&self, until: Instant) -> Option<(SocketAddr, SocketAddr, Segment)> {
        let mut buffer = [0; 1 << 16];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => match in_frame(&buffer[..length]) {
                    Some(Ok((from, to, segment))) if to.ip() == self.address => {
                        return Some((from, to, segment));
                    }
                    Some(Err(why)) if self.is_for_me(&buffer[..length]) => {
                        panic!("a bad segment came: {why}: {:02x?}", &buffer[..length.min(120)])
                    }
                    _ => {}
                },
                Err(Errno::EAGAIN | Errno::EINTR) => {
                    let left = until.checked_duration_since(Instant::now())?;
                    let mut sockets = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
                    let _ = ppoll(&mut sockets, Some(TimeSpec::from_duration(left)), None);
                }
                Err(error) => panic!("cannot receive frames: {error}"),
            }
        }
    }

    fn is_for_me(&self, frame: &[u8]) -> bool {
        let address = match self.address {
            IpAddr::V4(address) => frame.get(30..34) == Some(&address.octets()[..]),
            IpAddr::V6(address) => frame.get(38..54) == Some(&address.octets()[..]),
        };
        address && frame.get(12..14) == self.ethernet.get(12..14)
    }
}

/// The Ethernet address of an interface, as text and as bytes.
#[track_caller]
fn ethernet_address(place: &Namespace, interface: &str) -> (String, Vec<u8>) {
    let text = place.ip(&format!("-o link show dev {interface}"));
    let word = text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
    let word = word.unwrap_or_else(|| panic!("no Ethernet address in {text}"));
    let bytes = word.split(':').map(|byte| u8::from_str_radix(byte, 16));
    (word.to_owned(), bytes.collect::<Result<_, _>>().expect("an Ethernet address is hexadecimal"))
}
