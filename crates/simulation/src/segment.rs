//! TCP segments as frames on the wire, and back. Bytes are etherparse's business, so that no arithmetic is shared with
//! the packet model.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use baton_cluster::Flow;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};

/// TCP's flags (RFC 9293 3.1).
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;

/// An address and a port.
type At = (IpAddr, u16);

/// A segment of one connection.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    /// TSval and TSecr.
    pub(crate) timestamps: Option<(u32, u32)>,
    /// A SYN's.
    pub(crate) mss: Option<u16>,
    pub(crate) payload: Vec<u8>,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(SYN, "SYN "), (FIN, "FIN "), (RST, "RST "), (ACK, "")];
        let flags: String = names.iter().filter(|(flag, _)| self.has(*flag)).map(|(_, name)| *name).collect();
        write!(f, "{flags}{}+{} ack {}", self.seq, self.payload.len(), self.ack)?;
        self.timestamps.map_or(Ok(()), |(value, echo)| write!(f, " time {value}/{echo}"))
    }
}

impl Segment {
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// As a frame between these stations; `back`: from the VIP to the client.
    pub(crate) fn frame(&self, flow: &Flow, back: bool, macs: ([u8; 6], [u8; 6])) -> Vec<u8> {
        let (mut from, mut to) = ((flow.client, flow.client_port), (flow.vip, flow.vip_port));
        if back {
            (from, to) = (to, from);
        }
        let mut options = Vec::new();
        if let Some(mss) = self.mss {
            options.push(TcpOptionElement::MaximumSegmentSize(mss));
        }
        if let Some((value, echo)) = self.timestamps {
            options.extend([TcpOptionElement::Noop, TcpOptionElement::Noop]);
            options.push(TcpOptionElement::Timestamp(value, echo));
        }
        let builder = PacketBuilder::ethernet2(macs.0, macs.1)
            .ipv4(octets(from.0), octets(to.0), 61)
            .tcp(from.1, to.1, self.seq, self.window)
            .options(&options)
            .expect("they fit");
        let builder = if self.has(ACK) { builder.ack(self.ack) } else { builder };
        let builder = if self.has(SYN) { builder.syn() } else { builder };
        let builder = if self.has(FIN) { builder.fin() } else { builder };
        let builder = if self.has(RST) { builder.rst() } else { builder };
        let builder = if self.has(PSH) { builder.psh() } else { builder };
        let mut frame = Vec::with_capacity(builder.size(self.payload.len()));
        builder.write(&mut frame, &self.payload).expect("it fits");
        frame
    }

    /// From a frame; its source and destination. `None` for anything but TCP over IPv4.
    pub(crate) fn parse(frame: &[u8]) -> Option<(At, At, Self)> {
        let sliced = SlicedPacket::from_ethernet(frame).ok()?;
        let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (&sliced.net, &sliced.transport)
        else {
            return None;
        };
        let bits = [(tcp.fin(), FIN), (tcp.syn(), SYN), (tcp.rst(), RST), (tcp.psh(), PSH), (tcp.ack(), ACK)];
        let mut segment = Self {
            seq: tcp.sequence_number(),
            ack: tcp.acknowledgment_number(),
            flags: bits.iter().filter(|(is_set, _)| *is_set).map(|(_, bit)| bit).sum(),
            window: tcp.window_size(),
            timestamps: None,
            mss: None,
            payload: tcp.payload().to_vec(),
        };
        for option in tcp.options_iterator().flatten() {
            match option {
                TcpOptionElement::MaximumSegmentSize(mss) => segment.mss = Some(mss),
                TcpOptionElement::Timestamp(value, echo) => segment.timestamps = Some((value, echo)),
                _ => {}
            }
        }
        let (from, to) = (ip.header().source_addr(), ip.header().destination_addr());
        Some(((from.into(), tcp.source_port()), (to.into(), tcp.destination_port()), segment))
    }
}

fn octets(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED.octets(),
    }
}
