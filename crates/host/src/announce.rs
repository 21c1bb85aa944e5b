//! Tells the neighbours where a VIP is: by gratuitous ARP (RFC 5227 3: a request whose sender and target
//! are both the address announced), or by an unsolicited Neighbour Advertisement (RFC 4861 7.2.6).
//! Called by `setup`, and by whoever takes a VIP over.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, send};
use smoltcp::phy::{ChecksumCapabilities, Medium, RawSocket};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr,
};

use crate::HostError;
use crate::facts::Interface;

/// Every node of the link (RFC 4291 2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Where Ethernet carries it (RFC 2464 7).
const ALL_NODES_MAC: EthernetAddress = EthernetAddress([0x33, 0x33, 0, 0, 0, 1]);
/// A receiver takes no other (RFC 4861 7.1.2): a router would have lowered it.
const HOP_LIMIT: u8 = 255;

/// Tells the neighbours once that `vip` is at `interface`. An interface without a hardware address, such
/// as `lo`, has no neighbours: nothing is sent.
///
/// # Errors
/// [`HostError::Announce`] without CAP_NET_RAW, or when the interface is down.
pub fn announce(interface: &Interface, vip: IpAddr) -> Result<(), HostError> {
    if interface.mac == [0; 6] {
        return Ok(());
    }
    let failed = |source: io::Error| HostError::Announce { vip, interface: interface.name.clone(), source };
    let frame = match vip {
        IpAddr::V4(vip) => gratuitous_arp(interface.mac, vip),
        IpAddr::V6(vip) => unsolicited_advertisement(interface.mac, vip),
    };
    let socket = RawSocket::new(&interface.name, Medium::Ethernet).map_err(failed)?;
    send(socket.as_raw_fd(), &frame, MsgFlags::empty()).map(drop).map_err(|errno| failed(errno.into()))
}

fn gratuitous_arp(mac: [u8; 6], vip: Ipv4Addr) -> Vec<u8> {
    let arp = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(mac),
        source_protocol_addr: vip,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: vip,
    };
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(mac),
        dst_addr: EthernetAddress::BROADCAST,
        ethertype: EthernetProtocol::Arp,
    };
    let mut bytes = vec![0; ethernet.buffer_len() + arp.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    ethernet.emit(&mut frame);
    arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    bytes
}

/// RFC 4861 4.4. It overrides what neighbours believed before; it comes from the VIP, the one address that
/// is sure to be the interface's; and it never says that the node is a router, whatever the node is: no
/// one is to route by the VIP.
fn unsolicited_advertisement(mac: [u8; 6], vip: Ipv6Addr) -> Vec<u8> {
    let advertisement = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::OVERRIDE,
        target_addr: vip,
        lladdr: Some(EthernetAddress(mac).into()),
    });
    let ip = Ipv6Repr {
        src_addr: vip,
        dst_addr: ALL_NODES,
        next_header: IpProtocol::Icmpv6,
        payload_len: advertisement.buffer_len(),
        hop_limit: HOP_LIMIT,
    };
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(mac),
        dst_addr: ALL_NODES_MAC,
        ethertype: EthernetProtocol::Ipv6,
    };
    let mut bytes = vec![0; ethernet.buffer_len() + ip.buffer_len() + advertisement.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    ethernet.emit(&mut frame);
    let mut packet = Ipv6Packet::new_unchecked(frame.payload_mut());
    ip.emit(&mut packet);
    let mut message = Icmpv6Packet::new_unchecked(packet.payload_mut());
    advertisement.emit(&vip, &ALL_NODES, &mut message, &ChecksumCapabilities::default());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 826 and RFC 5227 2.1.1, byte by byte.
    #[test]
    fn the_frame_is_an_arp_announcement() {
        let frame = gratuitous_arp([2, 0, 0, 0, 0, 7], Ipv4Addr::new(10, 99, 0, 1));
        let expected: [u8; 42] = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 7, 0x08, 0x06, // Ethernet
            0, 1, 0x08, 0, 6, 4, 0, 1, // hardware, protocol, lengths, request
            2, 0, 0, 0, 0, 7, 10, 99, 0, 1, // sender
            0, 0, 0, 0, 0, 0, 10, 99, 0, 1, // target
        ];
        assert_eq!(frame, expected);
    }

    /// RFC 2464, RFC 8200 3, RFC 4861 4.4 and 4.6.1, byte by byte. The checksum by hand (RFC 4443 2.3): the
    /// pseudo-header's words fd00+0099+0001 + ff02+0001 + 0020+003a, the message's 8800+2000 +
    /// fd00+0099+0001 + 0201+0200+0000+0007, in one's complement 0xa69c, inverted.
    #[test]
    fn the_frame_is_an_unsolicited_neighbour_advertisement() {
        let vip = "fd00:99::1".parse().expect("an address");
        let frame = unsolicited_advertisement([2, 0, 0, 0, 0, 7], vip);
        let expected: [u8; 86] = [
            0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 7, 0x86, 0xdd, // Ethernet
            0x60, 0, 0, 0, 0, 32, 58, 255, // version, length, ICMPv6, hop limit
            0xfd, 0, 0, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // source
            0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // all nodes
            136, 0, 0x59, 0x63, 0x20, 0, 0, 0, // advertisement, checksum, override
            0xfd, 0, 0, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // target
            2, 1, 2, 0, 0, 0, 0, 7, // target's link-layer address
        ];
        assert_eq!(frame, expected);
    }
}
