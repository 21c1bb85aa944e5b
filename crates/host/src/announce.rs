//! Tells the neighbours where a VIP is, by gratuitous ARP (RFC 5227 3: a request whose sender and
//! target are both the address announced). Called by `setup`, and by whoever takes a VIP over.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, send};
use smoltcp::phy::{Medium, RawSocket};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
};

use crate::HostError;
use crate::facts::Interface;

/// Sends one gratuitous ARP for `vip` on `interface`. An interface without a hardware address, such as
/// `lo`, has no neighbours: nothing is sent.
///
/// # Errors
/// [`HostError::Announce`] without CAP_NET_RAW, or when the interface is down.
pub fn announce(interface: &Interface, vip: Ipv4Addr) -> Result<(), HostError> {
    if interface.mac == [0; 6] {
        return Ok(());
    }
    let failed = |source: io::Error| HostError::Announce { vip, interface: interface.name.clone(), source };
    let socket = RawSocket::new(&interface.name, Medium::Ethernet).map_err(failed)?;
    send(socket.as_raw_fd(), &gratuitous_arp(interface.mac, vip), MsgFlags::empty())
        .map(drop)
        .map_err(|errno| failed(errno.into()))
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
}
