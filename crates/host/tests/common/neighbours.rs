//! Neighbour Discovery on a wire whose far end the test plays: questions and answers as frames.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use smoltcp::phy::{ChecksumCapabilities, Device, RawSocket, RxToken, TxToken};
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv6Packet, Icmpv6Repr, IpProtocol,
    Ipv6Packet, Ipv6Repr, NdiscRepr,
};

/// Every node of the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Who asks, at the far end of the wire.
pub const ASKER: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1);
/// The hardware address of the far end.
pub const ASKER_MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
/// That of the near end, `cluster`.
pub const CLUSTER_MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 0xb]);

/// A message of Neighbour Discovery, and between whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// The Ethernet address that it was sent to.
    pub to: EthernetAddress,
    /// The address that it was sent from.
    pub source: Ipv6Addr,
    /// The address that it was sent to.
    pub destination: Ipv6Addr,
    /// What it says.
    pub ndisc: NdiscRepr<'static>,
}

/// Whose address the message tells, if it tells one.
pub fn advertised(message: &Heard) -> Option<Ipv6Addr> {
    match message.ndisc {
        NdiscRepr::NeighborAdvert { target_addr, .. } => Some(target_addr),
        _ => None,
    }
}

/// The group that those who hold `address` have joined (RFC 4291 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (a & 0xff), b)
}

/// Asks on the wire for the neighbour `about`, by a packet to `asked`.
pub fn ask(wire: &mut RawSocket, asked: Ipv6Addr, about: Ipv6Addr) {
    send(
        wire,
        ASKER,
        asked,
        NdiscRepr::NeighborSolicit { target_addr: about, lladdr: Some(ASKER_MAC.into()) },
    );
}

pub fn send(wire: &mut RawSocket, source: Ipv6Addr, destination: Ipv6Addr, message: NdiscRepr<'_>) {
    send_icmp(wire, source, destination, Icmpv6Repr::Ndisc(message));
}

pub fn send_icmp(wire: &mut RawSocket, source: Ipv6Addr, destination: Ipv6Addr, message: Icmpv6Repr<'_>) {
    let [.., a, b, c, d] = destination.octets();
    let to = if destination.is_multicast() { EthernetAddress([0x33, 0x33, a, b, c, d]) } else { CLUSTER_MAC };
    let ethernet = EthernetRepr { src_addr: ASKER_MAC, dst_addr: to, ethertype: EthernetProtocol::Ipv6 };
    let ip = Ipv6Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.buffer_len(),
        hop_limit: 255,
    };
    let token = wire.transmit(smoltcp::time::Instant::ZERO).expect("a token");
    token.consume(ethernet.buffer_len() + ip.buffer_len() + message.buffer_len(), |bytes| {
        let mut frame = EthernetFrame::new_unchecked(bytes);
        ethernet.emit(&mut frame);
        let mut packet = Ipv6Packet::new_unchecked(frame.payload_mut());
        ip.emit(&mut packet);
        let mut icmp = Icmpv6Packet::new_unchecked(packet.payload_mut());
        message.emit(&source, &destination, &mut icmp, &ChecksumCapabilities::default());
    });
}

/// The next frame that says something to `what`; nothing when none is there now.
pub fn receive<T>(wire: &mut RawSocket, what: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
    let Some((frame, _)) = wire.receive(smoltcp::time::Instant::ZERO) else {
        std::thread::yield_now();
        return None;
    };
    frame.consume(what)
}

/// The frame's headers and message, if it is a right one of ICMPv6 that we did not send ourselves.
pub fn opened(bytes: &[u8]) -> Option<(EthernetAddress, Ipv6Repr, Icmpv6Repr<'_>)> {
    let frame = EthernetFrame::new_checked(bytes).ok()?;
    if frame.ethertype() != EthernetProtocol::Ipv6 || frame.src_addr() == ASKER_MAC {
        return None;
    }
    let packet = Ipv6Packet::new_checked(frame.payload()).ok()?;
    let ip = Ipv6Repr::parse(&packet).ok()?;
    let message = Icmpv6Packet::new_checked(packet.payload()).ok()?;
    let message =
        Icmpv6Repr::parse(&ip.src_addr, &ip.dst_addr, &message, &ChecksumCapabilities::default()).ok()?;
    (ip.hop_limit == 255 || !matches!(message, Icmpv6Repr::Ndisc(_))).then_some((
        frame.dst_addr(),
        ip,
        message,
    ))
}

/// What is heard of Neighbour Discovery on the wire, up to and with the first that `is_it`.
#[track_caller]
pub fn next(wire: &mut RawSocket, is_it: impl Fn(&Heard) -> bool) -> Vec<Heard> {
    let heard_in = |bytes: &[u8]| {
        let (to, ip, Icmpv6Repr::Ndisc(ndisc)) = opened(bytes)? else { return None };
        let ndisc = match ndisc {
            NdiscRepr::NeighborAdvert { flags, target_addr, lladdr } => {
                NdiscRepr::NeighborAdvert { flags, target_addr, lladdr }
            }
            NdiscRepr::NeighborSolicit { target_addr, lladdr } => {
                NdiscRepr::NeighborSolicit { target_addr, lladdr }
            }
            _ => return None,
        };
        Some(Heard { to, source: ip.src_addr, destination: ip.dst_addr, ndisc })
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut heard = Vec::new();
    while Instant::now() < deadline {
        heard.extend(receive(wire, heard_in));
        if heard.last().is_some_and(&is_it) {
            return heard;
        }
    }
    panic!("no such message within 5 s, but {heard:?}");
}
