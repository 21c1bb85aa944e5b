//! Frames by hand: any bytes onto an interface, and whatever comes by on it. And the packets to put into
//! them that no socket would send. For tests of what hostile or odd machines do; nothing else uses it.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};

use crate::line::packet_socket;
use crate::netns::Namespace;
use crate::tools::patient;

/// Ethernet's addresses and type.
const HEADER: usize = 14;
/// A wait is cut into pieces of so long, to look at the time.
const PIECE_MS: u8 = 50;

/// All frames of one interface, those that it sends included, from when this was made.
#[derive(Debug)]
pub struct Frames {
    socket: OwnedFd,
    mac: [u8; 6],
}

impl Frames {
    /// Those of an interface.
    ///
    /// # Panics
    /// When there is no such interface.
    #[track_caller]
    pub fn on(place: &Namespace, interface: &str) -> Self {
        let socket = packet_socket(place, interface);
        let shown = place.ip(&format!("link show {interface}"));
        let mac = shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
        let mac = mac.and_then(read_mac).unwrap_or_else(|| panic!("{interface} has no Ethernet address"));
        Self { socket, mac }
    }

    /// The interface's own address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Sends a frame as it is.
    ///
    /// # Panics
    /// When the interface does not take it.
    #[track_caller]
    pub fn send(&self, frame: &[u8]) {
        let sent = loop {
            match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
                Err(Errno::ENOBUFS | Errno::EINTR) => std::thread::yield_now(),
                other => break other,
            }
        };
        assert!(sent.is_ok(), "a frame of {} bytes: {sent:?}", frame.len());
    }

    /// Sends an IP packet to a machine on the link.
    ///
    /// # Panics
    /// As [`Frames::send`].
    #[track_caller]
    pub fn send_packet(&self, to: [u8; 6], packet: &[u8]) {
        self.send(&self.framed(self.mac, to, packet));
    }

    /// A frame from one machine on the link to another.
    pub fn framed(&self, from: [u8; 6], to: [u8; 6], packet: &[u8]) -> Vec<u8> {
        let v6 = packet.first().is_some_and(|first| first >> 4 == 6);
        let ethertype = if v6 { [0x86, 0xdd] } else { [8, 0] };
        [&to[..], &from, &ethertype, packet].concat()
    }

    /// The next frame of which `pick` makes something.
    ///
    /// # Panics
    /// When none has come after `patience`; `what` then says what was waited for.
    #[track_caller]
    pub fn find<T>(&self, patience: Duration, what: &str, pick: impl FnMut(&[u8]) -> Option<T>) -> T {
        self.look_for(patience, pick).unwrap_or_else(|| panic!("after {patience:?} no frame with {what}"))
    }

    /// As above; `None` when none has come.
    pub fn look_for<T>(&self, patience: Duration, mut pick: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + patient(patience);
        loop {
            if let Some(found) = self.next().as_deref().and_then(&mut pick) {
                return Some(found);
            }
            if Instant::now() >= deadline {
                return None;
            }
        }
    }

    /// What has come by and was not looked at yet.
    pub fn waiting(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.receive()).collect()
    }

    fn next(&self) -> Option<Vec<u8>> {
        let _ = poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], PollTimeout::from(PIECE_MS));
        self.receive()
    }

    fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 1 << 16];
        let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).ok()?;
        buffer.truncate(length);
        Some(buffer)
    }
}

fn read_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

/// A TCP segment to be made: its numbers and flags, and what it carries.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs, reason = "the fields of RFC 9293 3.1")]
pub struct Tcp<'p> {
    pub seq: u32,
    pub ack: Option<u32>,
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    pub payload: &'p [u8],
}

/// An IP packet with this segment; a SYN offers an MSS of 1460 and nothing else. It must not be fragmented.
///
/// # Panics
/// When the two addresses are not of one family.
#[track_caller]
pub fn tcp_packet(from: SocketAddr, to: SocketAddr, tcp: Tcp<'_>) -> Vec<u8> {
    let mut packet = ip(from.ip(), to.ip()).tcp(from.port(), to.port(), tcp.seq, 64_000);
    if let Some(ack) = tcp.ack {
        packet = packet.ack(ack);
    }
    if tcp.syn {
        packet = packet.syn().options_raw(&[2, 4, 5, 0xb4]).expect("short options");
    }
    if tcp.fin {
        packet = packet.fin();
    }
    if tcp.rst {
        packet = packet.rst();
    }
    if !tcp.payload.is_empty() {
        packet = packet.psh();
    }
    let mut bytes = Vec::new();
    packet.write(&mut bytes, tcp.payload).expect("a vector takes all");
    bytes.split_off(HEADER)
}

/// An IP packet with this datagram.
///
/// # Panics
/// When the two addresses are not of one family.
#[track_caller]
pub fn udp_packet(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let packet = ip(from.ip(), to.ip()).udp(from.port(), to.port());
    packet.write(&mut bytes, payload).expect("a vector takes all");
    bytes.split_off(HEADER)
}

fn ip(from: IpAddr, to: IpAddr) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    let ethernet = PacketBuilder::ethernet2([0; 6], [0; 6]);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("{from} and {to} are of two families"),
    }
}

/// An IP packet with this ICMP message: its type and code, and the packet that it is about.
///
/// # Panics
/// When the two addresses are not of one family.
#[track_caller]
pub fn icmp_packet(from: IpAddr, to: IpAddr, [kind, code]: [u8; 2], about: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let written = match from {
        IpAddr::V4(_) => ip(from, to).icmpv4_raw(kind, code, [0; 4]).write(&mut bytes, about),
        IpAddr::V6(_) => ip(from, to).icmpv6_raw(kind, code, [0; 4]).write(&mut bytes, about),
    };
    written.expect("a vector takes all");
    bytes.split_off(HEADER)
}

/// The length of a packet's IP header, if it has neither options nor extension headers.
///
/// # Panics
/// When there is no packet.
#[track_caller]
pub fn ip_header(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 6 { 40 } else { 20 }
}

/// Puts the right checksum into an IPv4 header that was changed.
///
/// # Panics
/// When it is not whole.
#[track_caller]
pub fn set_header_checksum(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let header = usize::from(packet[0] & 15) * 4;
    let words = packet[..header].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    packet[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}
