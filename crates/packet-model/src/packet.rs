//! From bytes to headers. What is not for a service passes; what is, but cannot be read, is refused.

use std::net::IpAddr;

use baton_cluster::Flow;

use crate::Model;
use baton_datapath::Counter;

/// Where the IP header begins.
pub(super) const L3: usize = 14;
const TCP_MIN: usize = 20;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Extension headers (RFC 8200 4, RFC 4302, RFC 6275), without the fragment header.
const EXTENSIONS: [u8; 5] = [0, 43, 51, 60, 135];
const FRAGMENT: u8 = 44;

/// Where what IP carries begins (headers with options or extensions are never read further).
pub(super) fn l4(frame: &[u8]) -> usize {
    L3 + if is_v6(frame) { 40 } else { 20 }
}

pub(super) fn is_v6(frame: &[u8]) -> bool {
    be16(frame, 12) == Some(ETHERTYPE_IPV6)
}

/// TCP flags, RFC 9293 3.1.
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset the connection.
    pub const RST: u8 = 4;
    /// Push.
    pub const PSH: u8 = 8;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 16;
    /// The urgent pointer counts.
    pub const URG: u8 = 32;
}

/// TCP options that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Maximum segment size.
    pub mss: Option<u16>,
    /// Window scale, at most 14 (RFC 7323 2.3).
    pub wscale: Option<u8>,
    /// SACK permitted.
    pub sack: bool,
    /// TSval and TSecr.
    pub timestamps: Option<(u32, u32)>,
}

/// A TCP packet for a service.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Its connection.
    pub flow: Flow,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags.
    pub flags: u8,
    /// Receive window, as in the header.
    pub window: u16,
    /// Time to live.
    pub ttl: u8,
    /// Options.
    pub options: Options,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Packet {
    /// Whether all of these flags are set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// The sequence number behind its payload.
    pub(super) fn end_of_payload(&self) -> u32 {
        self.seq.wrapping_add(self.payload.len() as u32)
    }

    /// The sequence number behind it.
    pub(super) fn end(&self) -> u32 {
        self.end_of_payload().wrapping_add(u32::from(self.has(flag::FIN)))
    }
}

/// What a frame is.
#[derive(Clone, Debug)]
pub enum Parsed {
    /// Not ours.
    Other,
    /// UDP to this node's handoff port.
    Wrapped,
    /// An ICMP error about this connection of a service.
    Icmp(Flow),
    /// For a service, but it cannot be read.
    Refused(Counter),
    /// TCP for a service.
    Tcp(Box<Packet>),
}

pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn address(bytes: &[u8], at: usize, v6: bool) -> Option<IpAddr> {
    let length = if v6 { 16 } else { 4 };
    let bytes = bytes.get(at..at + length)?;
    if v6 {
        Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?))
    } else {
        Some(be32(bytes, 0)?.to_be_bytes().into())
    }
}

/// What counts of an IP header.
pub(super) struct Ip {
    /// Neither options nor extension headers.
    plain: bool,
    fragment: bool,
    pub(super) protocol: u8,
    total: usize,
    pub(super) ttl: u8,
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
}

impl Ip {
    /// Whether what it carries can be read.
    pub(super) fn is_whole(&self) -> bool {
        self.plain && !self.fragment
    }
}

pub(super) fn ip(frame: &[u8]) -> Option<Ip> {
    match be16(frame, 12)? {
        ETHERTYPE_IPV4 if frame.get(L3)? >> 4 == 4 => ipv4(frame),
        ETHERTYPE_IPV6 if frame.get(L3)? >> 4 == 6 => ipv6(frame),
        _ => None,
    }
}

fn ipv4(frame: &[u8]) -> Option<Ip> {
    Some(Ip {
        plain: frame.get(L3)? & 15 == 5,
        fragment: be16(frame, L3 + 6)? & 0x3fff != 0,
        protocol: *frame.get(L3 + 9)?,
        total: usize::from(be16(frame, L3 + 2)?),
        ttl: *frame.get(L3 + 8)?,
        from: address(frame, L3 + 12, false)?,
        to: address(frame, L3 + 16, false)?,
    })
}

fn ipv6(frame: &[u8]) -> Option<Ip> {
    let next = *frame.get(L3 + 6)?;
    let (plain, fragment) = (!EXTENSIONS.contains(&next), next == FRAGMENT);
    // One header is looked behind; whatever hides behind two counts as the worst.
    let behind = frame.get(L3 + 40..L3 + 48).and_then(|header| header.first().copied());
    let protocol = match behind {
        _ if plain && !fragment => next,
        Some(known @ (UDP | 58)) => known,
        _ => TCP,
    };
    Some(Ip {
        plain,
        fragment,
        protocol,
        total: 40 + usize::from(be16(frame, L3 + 4)?),
        ttl: *frame.get(L3 + 7)?,
        from: address(frame, L3 + 8, true)?,
        to: address(frame, L3 + 24, true)?,
    })
}

impl Model {
    /// What a frame is to this node.
    pub fn parse(&self, frame: &[u8]) -> Parsed {
        let Some(ip) = ip(frame) else { return Parsed::Other };
        match ip.protocol {
            UDP if self.is_wrapped(frame, &ip) => Parsed::Wrapped,
            TCP => self.parse_tcp(frame, &ip),
            1 if ip.to.is_ipv4() => self.parse_icmp(frame, &ip),
            58 if ip.to.is_ipv6() => self.parse_icmp(frame, &ip),
            _ => Parsed::Other,
        }
    }

    fn is_wrapped(&self, frame: &[u8], ip: &Ip) -> bool {
        let l4 = l4(frame);
        ip.is_whole()
            && ip.to == self.settings.address
            && frame.len() >= l4 + 8
            && be16(frame, l4 + 2) == Some(self.settings.handoff_port)
    }

    fn has_services(&self, address: IpAddr) -> bool {
        self.tables.services.keys().any(|(vip, _)| *vip == address)
    }

    /// Unreachable, time exceeded, parameter problem (RFC 792, RFC 4443 3): they quote what they are about.
    fn parse_icmp(&self, frame: &[u8], ip: &Ip) -> Parsed {
        let about = || {
            let (l4, v6) = (l4(frame), is_v6(frame));
            let kind = *frame.get(l4)?;
            let is_error = if v6 { (1..=4).contains(&kind) } else { [3, 11, 12].contains(&kind) };
            let (quoted, length) = (frame.get(l4 + 8..)?, if v6 { 40 } else { 20 });
            let (protocol, addresses) = if v6 { (6, 8) } else { (9, 12) };
            let plain = v6 || quoted.first()? & 15 == 5;
            let width = if v6 { 16 } else { 4 };
            let flow = Flow {
                vip: address(quoted, addresses, v6)?,
                client: address(quoted, addresses + width, v6)?,
                vip_port: be16(quoted, length)?,
                client_port: be16(quoted, length + 2)?,
            };
            let known = self.tables.services.contains_key(&(flow.vip, flow.vip_port));
            (is_error && plain && *quoted.get(protocol)? == TCP && known).then_some(flow)
        };
        let mine = ip.is_whole() && self.has_services(ip.to);
        mine.then(about).flatten().map_or(Parsed::Other, Parsed::Icmp)
    }

    fn parse_tcp(&self, frame: &[u8], ip: &Ip) -> Parsed {
        if !self.has_services(ip.to) {
            return Parsed::Other;
        }
        if !ip.plain {
            return Parsed::Refused(Counter::DropIpOptions);
        }
        if ip.fragment {
            return Parsed::Refused(Counter::DropFragment);
        }
        let Some(tcp) = frame.get(l4(frame)..).filter(|tcp| tcp.len() >= TCP_MIN) else {
            return Parsed::Refused(Counter::DropMalformed); // no port to ask for
        };
        let (Some(client_port), Some(vip_port)) = (be16(tcp, 0), be16(tcp, 2)) else { return Parsed::Other };
        if !self.tables.services.contains_key(&(ip.to, vip_port)) {
            return Parsed::Other;
        }
        let flow = Flow { client: ip.from, client_port, vip: ip.to, vip_port };
        match tcp_packet(frame, tcp, ip) {
            Some((seq, ack, flags, options, payload)) => Parsed::Tcp(Box::new(Packet {
                flow,
                seq,
                ack,
                flags,
                window: be16(tcp, 14).unwrap_or(0),
                ttl: ip.ttl,
                options: read_options(options),
                payload: payload.to_vec(),
            })),
            None => Parsed::Refused(Counter::DropMalformed),
        }
    }
}

type TcpParts<'f> = (u32, u32, u8, &'f [u8], &'f [u8]);

/// Lengths that contradict each other give `None`; what follows the IP packet is padding.
fn tcp_packet<'f>(frame: &'f [u8], tcp: &'f [u8], ip: &Ip) -> Option<TcpParts<'f>> {
    let header = usize::from(tcp.get(12)? >> 4) * 4;
    let segment = frame.get(l4(frame)..L3 + ip.total)?;
    let options = segment.get(TCP_MIN..header)?;
    Some((be32(tcp, 4)?, be32(tcp, 8)?, *tcp.get(13)?, options, segment.get(header..)?))
}

/// RFC 9293 3.1. A length that cannot be ends the reading; what was read before it stands.
pub(super) fn read_options(mut bytes: &[u8]) -> Options {
    let mut found = Options::default();
    loop {
        bytes = match bytes {
            [] | [0, ..] => return found,
            [1, rest @ ..] => rest,
            [kind, length, ..] if *length >= 2 && usize::from(*length) <= bytes.len() => {
                let (option, rest) = bytes.split_at(usize::from(*length));
                read_option(*kind, option.get(2..).unwrap_or(&[]), &mut found);
                rest
            }
            _ => return found,
        };
    }
}

fn read_option(kind: u8, value: &[u8], found: &mut Options) {
    match (kind, value) {
        (2, [high, low]) => found.mss = Some(u16::from_be_bytes([*high, *low])),
        (3, [wscale]) => found.wscale = Some((*wscale).min(14)),
        (4, []) => found.sack = true,
        (8, value) if value.len() == 8 => found.timestamps = be32(value, 0).zip(be32(value, 4)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_end_at_the_first_impossible_length() {
        let mss = [2, 4, 5, 180];
        assert_eq!(read_options(&mss).mss, Some(1460));
        for garbage in [&[3, 0][..], &[3, 1, 9], &[3, 9, 1], &[3], &[0, 3, 3, 7]] {
            let found = read_options(&[&mss, garbage].concat());
            assert_eq!((found.mss, found.wscale), (Some(1460), None), "{garbage:?}");
        }
        assert_eq!(read_options(&[3, 3, 200]).wscale, Some(14), "RFC 7323 2.3");
        assert_eq!(read_options(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]).timestamps, Some((1, 2)));
    }
}
