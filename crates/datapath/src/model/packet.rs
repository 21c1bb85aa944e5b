//! From bytes to headers. What is not for a service passes; what is, but cannot be read, is refused.

use std::net::Ipv4Addr;

use baton_cluster::{Flow, ServiceId};

use super::Model;
use crate::counters::Counter;

/// Where the IPv4 header begins.
pub(super) const L3: usize = 14;
/// Where what IPv4 carries begins (headers with options are never read further).
pub(super) const L4: usize = L3 + 20;
const TCP_MIN: usize = 20;
const ETHERTYPE_IPV4: u16 = 0x0800;

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
    /// Which service.
    pub service: ServiceId,
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
}

/// What a frame is.
#[derive(Clone, Debug)]
pub enum Parsed {
    /// Not ours.
    Other,
    /// UDP to this node's handoff port.
    Handoff,
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

/// The fixed part of an IPv4 header.
struct Ip {
    plain: bool, // 20 bytes long
    fragment: bool,
    protocol: u8,
    total: usize,
    ttl: u8,
    from: Ipv4Addr,
    to: Ipv4Addr,
}

fn ip(frame: &[u8]) -> Option<Ip> {
    if be16(frame, 12)? != ETHERTYPE_IPV4 {
        return None;
    }
    Some(Ip {
        plain: frame.get(L3)? & 15 == 5,
        fragment: be16(frame, L3 + 6)? & 0x3fff != 0,
        protocol: *frame.get(L3 + 9)?,
        total: usize::from(be16(frame, L3 + 2)?),
        ttl: *frame.get(L3 + 8)?,
        from: be32(frame, L3 + 12)?.into(),
        to: be32(frame, L3 + 16)?.into(),
    })
}

impl Model {
    /// What a frame is to this node.
    pub fn parse(&self, frame: &[u8]) -> Parsed {
        let Some(ip) = ip(frame) else { return Parsed::Other };
        match ip.protocol {
            17 if self.is_handoff(frame, &ip) => Parsed::Handoff,
            6 => self.parse_tcp(frame, &ip),
            _ => Parsed::Other,
        }
    }

    fn is_handoff(&self, frame: &[u8], ip: &Ip) -> bool {
        // A datagram shorter than any TCP packet is the stack's, whatever its port.
        ip.plain
            && !ip.fragment
            && ip.to == self.settings.address
            && frame.len() >= L4 + TCP_MIN
            && be16(frame, L4 + 2) == Some(self.settings.handoff_port)
    }

    fn parse_tcp(&self, frame: &[u8], ip: &Ip) -> Parsed {
        let services = &self.tables.services;
        let address_has_services = services.keys().any(|(vip, _)| *vip == ip.to);
        if !address_has_services {
            return Parsed::Other;
        }
        if !ip.plain {
            return Parsed::Refused(Counter::DropIpOptions);
        }
        if ip.fragment {
            return Parsed::Refused(Counter::DropFragment);
        }
        let Some(tcp) = frame.get(L4..).filter(|tcp| tcp.len() >= TCP_MIN) else {
            return Parsed::Refused(Counter::DropMalformed); // no port to ask for
        };
        let (Some(client_port), Some(vip_port)) = (be16(tcp, 0), be16(tcp, 2)) else { return Parsed::Other };
        let Some(service) = services.get(&(ip.to, vip_port)) else {
            return Parsed::Other;
        };
        let flow = Flow { client: ip.from, client_port, vip: ip.to, vip_port };
        match tcp_packet(frame, tcp, ip) {
            Some((seq, ack, flags, options, payload)) => Parsed::Tcp(Box::new(Packet {
                flow,
                service: service.id,
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
    let segment = frame.get(L4..L3 + ip.total)?;
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
