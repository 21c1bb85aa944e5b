//! Frames: built and checked by the etherparse crate, so that no arithmetic is shared with the model.

use std::net::Ipv4Addr;

use baton_cluster::Flow;
use etherparse::{IpNumber, Ipv4Header, NetSlice, SlicedPacket, TcpHeader, TransportSlice};

pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
pub const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
/// Where the handoff packet's parts stand in a frame.
pub const GENEVE: usize = 14 + 20 + 8;
pub const OPTION: usize = GENEVE + 8;
pub const INNER: usize = OPTION + 48;

pub const MSS: &[u8] = &[2, 4, 5, 180]; // 1460
pub const SACK: &[u8] = &[4, 2];
pub const WSCALE: &[u8] = &[3, 3, 9];

/// The timestamps option.
pub fn timestamps(tsval: u32, tsecr: u32) -> Vec<u8> {
    [&[8, 10][..], &tsval.to_be_bytes(), &tsecr.to_be_bytes()].concat()
}

/// A TCP packet to be.
#[derive(Clone, Debug)]
pub struct Tcp {
    pub mac: [u8; 6],
    pub flow: Flow,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
    pub ttl: u8,
    /// From the server to the client.
    pub back: bool,
}

/// A flow of the test's client to the service.
pub fn flow(client_port: u16) -> Flow {
    Flow { client: CLIENT, client_port, vip: VIP, vip_port: 80 }
}

impl Tcp {
    /// A packet of the client, through the router.
    pub fn new(flow: Flow, flags: u8, seq: u32, ack: u32) -> Self {
        let (options, payload) = (Vec::new(), Vec::new());
        Self { mac: ROUTER_MAC, flow, seq, ack, flags, options, payload, ttl: 61, back: false }
    }

    pub fn options(mut self, parts: &[&[u8]]) -> Self {
        self.options = parts.concat();
        self
    }

    pub fn data(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// As the frame's sender: a member's MAC address.
    pub fn by(mut self, mac: [u8; 6]) -> Self {
        self.mac = mac;
        self
    }

    pub fn frame(&self) -> Vec<u8> {
        let f = &self.flow;
        let mut tcp = TcpHeader::new(f.client_port, f.vip_port, self.seq, 502);
        let (mut from, mut to) = (f.client, f.vip);
        if self.back {
            (tcp.source_port, tcp.destination_port) = (f.vip_port, f.client_port);
            (from, to) = (to, from);
        }
        tcp.acknowledgment_number = self.ack;
        tcp.set_options_raw(&self.options).expect("at most 40 bytes of options");
        let ip_payload = u16::try_from(tcp.header_len() + self.payload.len()).expect("fits");
        let mut ip =
            Ipv4Header::new(ip_payload, self.ttl, IpNumber::TCP, from.octets(), to.octets()).expect("fits");
        ip.identification = 0x1234;
        ip.header_checksum = ip.calc_header_checksum();
        let mut segment = tcp.to_bytes().to_vec();
        segment[13] = self.flags;
        segment.extend(&self.payload);
        let header = TcpHeader::from_slice(&segment).expect("just made").0;
        tcp.checksum =
            header.calc_checksum_ipv4_raw(from.octets(), to.octets(), &self.payload).expect("fits");
        segment[16..18].copy_from_slice(&tcp.checksum.to_be_bytes());
        [&OUR_MAC[..], &self.mac, &[8, 0], &ip.to_bytes(), &segment].concat()
    }
}

/// Rights the IP and TCP checksums of a frame that a test has changed.
pub fn fix_checksums(frame: &mut [u8]) {
    let Ok((mut ip, rest)) = Ipv4Header::from_slice(&frame[14..]) else { return };
    let (ip_len, ip_check) = (ip.header_len(), ip.calc_header_checksum());
    ip.header_checksum = ip_check;
    let tcp_check = TcpHeader::from_slice(rest).ok().and_then(|(tcp, payload)| {
        let payload = payload.get(..usize::from(ip.total_len).checked_sub(ip_len + tcp.header_len())?)?;
        tcp.calc_checksum_ipv4_raw(ip.source, ip.destination, payload).ok()
    });
    frame[14 + 10..14 + 12].copy_from_slice(&ip_check.to_be_bytes());
    if let Some(check) = tcp_check {
        frame[14 + ip_len + 16..14 + ip_len + 18].copy_from_slice(&check.to_be_bytes());
    }
}

/// Whether the IPv4 header's checksum, and that of the TCP segment in it, are right. A handoff packet
/// is judged by its own header and by what it carries. `None` for what is neither.
pub fn checksums_are_right(frame: &[u8]) -> Option<bool> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(NetSlice::Ipv4(ip)) = sliced.net else { return None };
    let header = ip.header();
    let own = header.header_checksum() == header.to_header().calc_header_checksum();
    match sliced.transport? {
        TransportSlice::Tcp(tcp) => {
            let right = tcp.calc_checksum_ipv4(header.source(), header.destination()).ok()?;
            Some(own && same_sum(tcp.checksum(), right))
        }
        TransportSlice::Udp(udp) => {
            let inner = [&frame[..14], frame.get(INNER..)?].concat();
            Some(own && udp.checksum() == 0 && checksums_are_right(&inner)?)
        }
        _ => None,
    }
}

/// Ones' complement has two zeroes.
fn same_sum(a: u16, b: u16) -> bool {
    a == b || (a.min(b) == 0 && a.max(b) == 0xffff)
}

/// Whether two frames are equal, but for the two zeroes of ones' complement.
pub fn same_frame(a: &[u8], b: &[u8]) -> bool {
    let word = |pair: &[u8]| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
    a.len() == b.len() && a.chunks(2).zip(b.chunks(2)).all(|(a, b)| same_sum(word(a), word(b)))
}

/// Reads the TCP packet of a frame that goes to the client.
pub fn read(frame: &[u8]) -> TcpHeader {
    let sliced = SlicedPacket::from_ethernet(frame).expect("a whole frame");
    match sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => tcp.to_header(),
        other => panic!("not TCP: {other:?}"),
    }
}
