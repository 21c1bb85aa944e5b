//! TCP segments in IP packets: written with right checksums, read with all checksums checked. Pure.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IpEcn, IpNumber, Ipv4Header, Ipv6Header, NetSlice, SlicedPacket, TcpHeader, TransportSlice,
};

/// No more data.
pub const FIN: u16 = 1;
/// Begins a connection.
pub const SYN: u16 = 2;
/// Ends one at once.
pub const RST: u16 = 4;
/// To be given to the application now.
pub const PSH: u16 = 8;
/// The acknowledgement number counts.
pub const ACK: u16 = 16;
/// The urgent pointer counts.
pub const URG: u16 = 32;
/// ECN echo (RFC 3168).
pub const ECE: u16 = 64;
/// Congestion window reduced (RFC 3168).
pub const CWR: u16 = 128;
/// Accurate ECN (RFC 9768).
pub const AE: u16 = 256;

/// A TCP option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opt {
    /// Maximum segment size, bytes.
    Mss(u16),
    /// Window scale.
    Scale(u8),
    /// Selective acknowledgements permitted.
    SackOk,
    /// Selective acknowledgements: the first byte of each block, and the one behind it.
    Sack(Vec<(u32, u32)>),
    /// TSval and TSecr.
    Timestamps(u32, u32),
    /// Any other: its kind, and what follows its length.
    Other(u8, Vec<u8>),
}

/// A segment, but for its ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segment {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// [`SYN`], [`ACK`] and so on.
    pub flags: u16,
    /// The window field, as it is.
    pub window: u16,
    /// The urgent pointer.
    pub urgent: u16,
    /// The options, padding left out.
    pub options: Vec<Opt>,
    /// What it carries.
    pub payload: Vec<u8>,
    /// The two ECN bits of its IP header.
    pub ecn: u8,
}

impl Segment {
    /// Whether of FIN, SYN, RST and ACK it has exactly these.
    pub fn is(&self, flags: u16) -> bool {
        self.flags & (FIN | SYN | RST | ACK) == flags
    }

    /// Whether it has all of these flags.
    pub fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }

    /// How much of the sequence it takes.
    pub fn length(&self) -> u32 {
        self.payload.len() as u32 + u32::from(self.has(SYN)) + u32::from(self.has(FIN))
    }

    /// The sequence number behind it.
    pub fn end(&self) -> u32 {
        self.seq.wrapping_add(self.length())
    }

    /// TSval and TSecr, if it has them.
    pub fn timestamps(&self) -> Option<(u32, u32)> {
        self.options.iter().find_map(|option| match option {
            Opt::Timestamps(value, echo) => Some((*value, *echo)),
            _ => None,
        })
    }

    /// The MSS, if it says one.
    pub fn mss(&self) -> Option<u16> {
        self.options.iter().find_map(|option| match option {
            Opt::Mss(mss) => Some(*mss),
            _ => None,
        })
    }

    /// The window scale, if it says one.
    pub fn scale(&self) -> Option<u8> {
        self.options.iter().find_map(|option| match option {
            Opt::Scale(scale) => Some(*scale),
            _ => None,
        })
    }

    /// The blocks it acknowledges selectively.
    pub fn sack(&self) -> &[(u32, u32)] {
        let blocks = self.options.iter().find_map(|option| match option {
            Opt::Sack(blocks) => Some(&blocks[..]),
            _ => None,
        });
        blocks.unwrap_or_default()
    }

    /// The IP packet that brings it.
    pub(crate) fn packet(&self, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let mut tcp = TcpHeader::new(from.port(), to.port(), self.seq, self.window);
        tcp.acknowledgment_number = self.ack;
        tcp.urgent_pointer = self.urgent;
        let flag = |flag| self.has(flag);
        (tcp.fin, tcp.syn, tcp.rst, tcp.psh) = (flag(FIN), flag(SYN), flag(RST), flag(PSH));
        (tcp.ack, tcp.urg, tcp.ece, tcp.cwr) = (flag(ACK), flag(URG), flag(ECE), flag(CWR));
        tcp.ns = flag(AE);
        tcp.set_options_raw(&raw_options(&self.options)).expect("options fit into 40 bytes");
        let length = tcp.header_len() + self.payload.len();
        let ecn = IpEcn::try_new(self.ecn).expect("two bits");
        let mut bytes = match (from.ip(), to.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut ip =
                    Ipv4Header::new(length as u16, 64, IpNumber::TCP, source.octets(), destination.octets())
                        .expect("a segment that fits");
                ip.ecn = ecn;
                ip.dont_fragment = true;
                ip.header_checksum = ip.calc_header_checksum();
                tcp.checksum = tcp.calc_checksum_ipv4(&ip, &self.payload).expect("a segment that fits");
                ip.to_bytes().to_vec()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut ip = Ipv6Header {
                    payload_length: length as u16,
                    next_header: IpNumber::TCP,
                    hop_limit: 64,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                ip.set_ecn(ecn);
                tcp.checksum = tcp.calc_checksum_ipv6(&ip, &self.payload).expect("a segment that fits");
                ip.to_bytes().to_vec()
            }
            _ => panic!("{from} and {to} are not of one family"),
        };
        bytes.extend_from_slice(&tcp.to_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

/// Who sends what to whom: the TCP segment in an Ethernet frame. `None` when there is none; an error
/// says what is wrong with it.
pub(crate) fn in_frame(frame: &[u8]) -> Option<Result<(SocketAddr, SocketAddr, Segment), String>> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { return None };
    let payload = tcp.payload();
    let header = tcp.to_header();
    let (from, to, ecn, checksum, ip_is_right) = match packet.net.as_ref()? {
        NetSlice::Ipv4(slice) => {
            let ip = slice.header().to_header();
            let right = header.calc_checksum_ipv4(&ip, payload).ok()?;
            let ip_is_right = ip.header_checksum == ip.calc_header_checksum();
            (IpAddr::from(ip.source), IpAddr::from(ip.destination), ip.ecn, right, ip_is_right)
        }
        NetSlice::Ipv6(slice) => {
            let ip = slice.header().to_header();
            let right = header.calc_checksum_ipv6(&ip, payload).ok()?;
            (IpAddr::from(ip.source), IpAddr::from(ip.destination), ip.ecn(), right, true)
        }
        NetSlice::Arp(_) => return None,
    };
    if !ip_is_right {
        return Some(Err("its IP header's checksum is wrong".into()));
    }
    // In ones' complement 0xffff is 0 too, and a sum over zeros may be either.
    if header.checksum % 0xffff != checksum % 0xffff {
        return Some(Err(format!("its checksum is {:#06x}, not {checksum:#06x}", header.checksum)));
    }
    let flags = [
        (header.fin, FIN),
        (header.syn, SYN),
        (header.rst, RST),
        (header.psh, PSH),
        (header.ack, ACK),
        (header.urg, URG),
        (header.ece, ECE),
        (header.cwr, CWR),
        (header.ns, AE),
    ];
    let Some(options) = read_options(header.options.as_slice()) else {
        return Some(Err(format!("its options cannot be read: {:?}", header.options.as_slice())));
    };
    let segment = Segment {
        seq: header.sequence_number,
        ack: header.acknowledgment_number,
        flags: flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum(),
        window: header.window_size,
        urgent: header.urgent_pointer,
        options,
        payload: payload.to_vec(),
        ecn: ecn.value(),
    };
    let ends = (SocketAddr::new(from, header.source_port), SocketAddr::new(to, header.destination_port));
    Some(Ok((ends.0, ends.1, segment)))
}

/// Options as they are on the wire, padded to whole words.
fn raw_options(options: &[Opt]) -> Vec<u8> {
    let mut raw = Vec::new();
    for option in options {
        let (kind, body) = match option {
            Opt::Mss(mss) => (2, mss.to_be_bytes().to_vec()),
            Opt::Scale(scale) => (3, vec![*scale]),
            Opt::SackOk => (4, Vec::new()),
            Opt::Sack(blocks) => (
                5,
                blocks
                    .iter()
                    .flat_map(|(from, to)| [from.to_be_bytes(), to.to_be_bytes()].concat())
                    .collect(),
            ),
            Opt::Timestamps(value, echo) => (8, [value.to_be_bytes(), echo.to_be_bytes()].concat()),
            Opt::Other(kind, body) => (*kind, body.clone()),
        };
        raw.extend([kind, body.len() as u8 + 2]);
        raw.extend(body);
    }
    // NOPs at the end: Linux stops at an end-of-list, others do not care.
    raw.resize(raw.len().next_multiple_of(4), 1);
    raw
}

/// `None` when a length cannot be.
fn read_options(mut raw: &[u8]) -> Option<Vec<Opt>> {
    let word = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.try_into().ok()?));
    let mut options = Vec::new();
    while let Some((kind, rest)) = raw.split_first() {
        match kind {
            0 => break,
            1 => raw = rest,
            _ => {
                let length = usize::from(*raw.get(1)?);
                let body = raw.get(2..length)?;
                raw = &raw[length..];
                options.push(match (kind, body.len()) {
                    (2, 2) => Opt::Mss(u16::from_be_bytes(body.try_into().ok()?)),
                    (3, 1) => Opt::Scale(body[0]),
                    (4, 0) => Opt::SackOk,
                    (5, n) if n % 8 == 0 => {
                        let block = |b: &[u8]| Some((word(&b[..4])?, word(&b[4..])?));
                        Opt::Sack(body.chunks(8).map(block).collect::<Option<_>>()?)
                    }
                    (8, 8) => Opt::Timestamps(word(&body[..4])?, word(&body[4..])?),
                    (2..=5 | 8, _) => return None,
                    _ => Opt::Other(*kind, body.to_vec()),
                });
            }
        }
    }
    Some(options)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::{ACK, AE, CWR, ECE, Opt, PSH, SYN, Segment, URG, in_frame};

    fn frame(packet: &[u8], ethertype: [u8; 2]) -> Vec<u8> {
        [&[2; 12][..], &ethertype, packet].concat()
    }

    #[test]
    fn segments_are_read_as_they_were_written() {
        let ends = [("10.2.0.3:5", "10.99.0.1:80", [8, 0]), ("[fd02::3]:5", "[fd99::1]:80", [0x86, 0xdd])];
        for (from, to, ethertype) in ends {
            let [from, to]: [SocketAddr; 2] = [from, to].map(|end| end.parse().expect("an address"));
            let options = [
                vec![Opt::Mss(88), Opt::Scale(14), Opt::SackOk, Opt::Timestamps(1, u32::MAX)],
                vec![Opt::Sack(vec![(1, 2), (3, 4)]), Opt::Other(30, vec![1, 0])],
                vec![],
            ];
            for (i, options) in options.into_iter().enumerate() {
                let segment = Segment {
                    seq: u32::MAX,
                    ack: 7,
                    flags: [SYN | ECE | CWR | AE, ACK | URG | PSH, ACK][i],
                    window: 9,
                    urgent: 3,
                    options,
                    payload: vec![b'x'; i],
                    ecn: i as u8,
                };
                let mut frame = frame(&segment.packet(from, to), ethertype);
                assert_eq!(in_frame(&frame), Some(Ok((from, to, segment))));
                // One bit of the destination port.
                let port = if from.is_ipv4() { 14 + 20 + 3 } else { 14 + 40 + 3 };
                frame[port] ^= 1;
                assert!(matches!(in_frame(&frame), Some(Err(_))));
            }
        }
    }
}
