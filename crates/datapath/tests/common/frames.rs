//! Frames: built and checked by the etherparse crate, so that no arithmetic is shared with the model.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use baton_cluster::Flow;
use etherparse::{
    IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, NetSlice, SlicedPacket, TcpHeader, TransportSlice,
};

pub const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1));
pub const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 2, 0, 2));
pub const VIP_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1));
pub const CLIENT_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, 2));
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
pub const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
/// Where the handoff packet's parts stand in a frame between nodes with IPv4 addresses.
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

/// The same by IPv6.
pub fn flow_v6(client_port: u16) -> Flow {
    Flow { client: CLIENT_V6, client_port, vip: VIP_V6, vip_port: 80 }
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
        let length = u16::try_from(tcp.header_len() + self.payload.len()).expect("fits");
        let mut segment = tcp.to_bytes().to_vec();
        segment[13] = self.flags;
        segment.extend(&self.payload);
        let header = TcpHeader::from_slice(&segment).expect("just made").0;
        let (ethertype, ip, check) = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let (from, to) = (from.octets(), to.octets());
                let mut ip = Ipv4Header::new(length, self.ttl, IpNumber::TCP, from, to).expect("fits");
                ip.identification = 0x1234;
                ip.header_checksum = ip.calc_header_checksum();
                ([8, 0], ip.to_bytes().to_vec(), header.calc_checksum_ipv4_raw(from, to, &self.payload))
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let ip = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::try_new(0x12345).expect("fits"),
                    payload_length: length,
                    next_header: IpNumber::TCP,
                    hop_limit: self.ttl,
                    source: from.octets(),
                    destination: to.octets(),
                };
                let check = header.calc_checksum_ipv6_raw(ip.source, ip.destination, &self.payload);
                ([0x86, 0xdd], ip.to_bytes().to_vec(), check)
            }
            both => panic!("addresses of two families: {both:?}"),
        };
        segment[16..18].copy_from_slice(&check.expect("fits").to_be_bytes());
        [&OUR_MAC[..], &self.mac, &ethertype, &ip, &segment].concat()
    }
}

/// An ICMP error of this type to the service, about a packet of its server to the client.
pub fn icmp_error(flow: &Flow, kind: u8, mac: [u8; 6]) -> Vec<u8> {
    let mut about = Tcp::new(*flow, 0x10, 1, 2).data(b"what was too much");
    about.back = true;
    let quoted = &about.frame()[14..];
    let message = [&[kind, 4, 0, 0, 0, 0, 5, 0], &quoted[..quoted.len().min(60)]].concat();
    let length = u16::try_from(message.len()).expect("fits");
    let (ethertype, ip) = match (flow.client, flow.vip) {
        (IpAddr::V4(_), IpAddr::V4(to)) => {
            let from = [10, 2, 0, 1];
            let mut ip = Ipv4Header::new(length, 61, IpNumber::ICMP, from, to.octets()).expect("fits");
            ip.header_checksum = ip.calc_header_checksum();
            ([8, 0], ip.to_bytes().to_vec())
        }
        (_, IpAddr::V6(to)) => {
            let ip = Ipv6Header {
                payload_length: length,
                next_header: IpNumber::IPV6_ICMP,
                hop_limit: 61,
                source: [0xfd; 16],
                destination: to.octets(),
                ..Ipv6Header::default()
            };
            ([0x86, 0xdd], ip.to_bytes().to_vec())
        }
        both => panic!("addresses of two families: {both:?}"),
    };
    [&OUR_MAC[..], &mac, &ethertype, &ip, &message].concat()
}

/// Where TCP begins in a frame without IP options.
pub fn l4(frame: &[u8]) -> usize {
    if frame[12..14] == [8, 0] { 14 + 20 } else { 14 + 40 }
}

/// Rights the IP and TCP checksums of a frame that a test has changed.
pub fn fix_checksums(frame: &mut [u8]) {
    let l4 = l4(frame);
    if let Ok((ip, _)) = Ipv4Header::from_slice(&frame[14..])
        && l4 == 34
    {
        frame[14 + 10..14 + 12].copy_from_slice(&ip.calc_header_checksum().to_be_bytes());
    }
    let Some((_, _, right)) = tcp_checksum(frame) else { return };
    let l4 = if l4 == 34 { 14 + usize::from(frame[14] & 15) * 4 } else { l4 };
    frame[l4 + 16..l4 + 18].copy_from_slice(&right.to_be_bytes());
}

/// Of a frame of TCP: its header, the checksum that it has, and the right one.
fn tcp_checksum(frame: &[u8]) -> Option<(TcpHeader, u16, u16)> {
    let rest = frame.get(14..)?;
    let (tcp, given, right) = if l4(frame) == 34 {
        let (ip, rest) = Ipv4Header::from_slice(rest).ok()?;
        let (tcp, payload) = TcpHeader::from_slice(rest).ok().filter(|_| ip.protocol == IpNumber::TCP)?;
        let length = usize::from(ip.total_len).checked_sub(ip.header_len() + tcp.header_len())?;
        let right = tcp.calc_checksum_ipv4_raw(ip.source, ip.destination, payload.get(..length)?).ok()?;
        (tcp.clone(), tcp.checksum, right)
    } else {
        let (ip, rest) = Ipv6Header::from_slice(rest).ok()?;
        let (tcp, payload) = TcpHeader::from_slice(rest).ok().filter(|_| ip.next_header == IpNumber::TCP)?;
        let length = usize::from(ip.payload_length).checked_sub(tcp.header_len())?;
        let right = tcp.calc_checksum_ipv6_raw(ip.source, ip.destination, payload.get(..length)?).ok()?;
        (tcp.clone(), tcp.checksum, right)
    };
    Some((tcp, given, right))
}

/// The frame in a wrapped one.
pub fn inner(frame: &[u8]) -> Option<Vec<u8>> {
    let geneve = l4(frame) + 8;
    let ethertype = frame.get(geneve + 2..geneve + 4)?;
    Some([frame.get(..12)?, ethertype, frame.get(geneve + 8 + 48..)?].concat())
}

/// Whether the IP header's checksum, and that of the TCP segment behind it, are right. A wrapped packet
/// is judged by its own header and by what it carries. `None` for what is neither.
pub fn checksums_are_right(frame: &[u8]) -> Option<bool> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let own = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            ip.header().header_checksum() == ip.header().to_header().calc_header_checksum()
        }
        Some(NetSlice::Ipv6(_)) => true,
        _ => return None,
    };
    match sliced.transport? {
        TransportSlice::Tcp(_) => {
            let (_, given, right) = tcp_checksum(frame)?;
            Some(own && same_sum(given, right))
        }
        TransportSlice::Udp(udp) => Some(own && udp.checksum() == 0 && checksums_are_right(&inner(frame)?)?),
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
