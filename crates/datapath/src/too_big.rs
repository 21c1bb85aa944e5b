//! Word to a client that its packet was too large for the way between two nodes (RFC 1191 4, RFC 4443 3.2):
//! the packet that a router would send. Pure.

use std::net::IpAddr;

use baton_cluster::Flow;

use crate::headers::checksum;

/// The IP packet, from the service's address. `seq`: of the client's packet; `mtu`: how large its packets may
/// be, bytes. `None` when the flow's addresses are of two families.
pub fn too_big(flow: &Flow, seq: u32, mtu: u16) -> Option<Vec<u8>> {
    let ports = [flow.client_port.to_be_bytes(), flow.vip_port.to_be_bytes()].concat();
    // By these the client knows its connection.
    let tcp = [&ports[..], &seq.to_be_bytes()].concat();
    match (flow.client, flow.vip) {
        (IpAddr::V4(client), IpAddr::V4(vip)) => {
            let (client, vip) = (client.octets(), vip.octets());
            let header = |length: usize, protocol: u8, from: [u8; 4], to: [u8; 4]| {
                let [high, low] = (length as u16).to_be_bytes();
                let start = [0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0];
                let mut header = [&start[..], &from, &to].concat();
                let sum = checksum(&[&header]);
                set(&mut header, 10, sum);
                header
            };
            let quoted = [header(usize::from(mtu) + 1, 6, client, vip), tcp].concat();
            // Destination unreachable, fragmentation needed; the next hop's MTU in the last two bytes.
            let [high, low] = mtu.to_be_bytes();
            let mut icmp = [&[3, 4, 0, 0, 0, 0, high, low][..], &quoted].concat();
            let sum = checksum(&[&icmp]);
            set(&mut icmp, 2, sum);
            Some([header(20 + icmp.len(), 1, vip, client), icmp].concat())
        }
        (IpAddr::V6(client), IpAddr::V6(vip)) => {
            let (client, vip) = (client.octets(), vip.octets());
            let header = |length: usize, protocol: u8, from: [u8; 16], to: [u8; 16]| {
                let [high, low] = (length as u16).to_be_bytes();
                [&[0x60, 0, 0, 0, high, low, protocol, 64][..], &from, &to].concat()
            };
            let quoted = [header((usize::from(mtu) + 1).saturating_sub(40), 6, client, vip), tcp].concat();
            // Packet too big; the MTU is 32 bits.
            let mut icmp = [&[2, 0, 0, 0][..], &u32::from(mtu).to_be_bytes(), &quoted].concat();
            let length = (icmp.len() as u32).to_be_bytes();
            let sum = checksum(&[&vip, &client, &length, &[0, 0, 0, 58], &icmp]);
            set(&mut icmp, 2, sum);
            Some([header(icmp.len(), 58, vip, client), icmp].concat())
        }
        _ => None,
    }
}

fn set(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    #[test]
    fn a_client_can_read_what_it_is_told() {
        let v4 = (Ipv4Addr::new(10, 2, 0, 2).into(), Ipv4Addr::new(10, 99, 0, 1).into());
        let v6 = |last| IpAddr::from(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, last));
        for (client, vip) in [v4, (v6(2), v6(1))] {
            let flow = Flow { client, client_port: 40_000, vip, vip_port: 80 };
            let packet = too_big(&flow, 0x0102_0304, 1316).expect("one family");
            let sliced = SlicedPacket::from_ip(&packet).expect("whole");
            let quoted = match (&sliced.net, &sliced.transport) {
                (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Icmpv4(icmp))) => {
                    let header = ip.header().to_header();
                    assert_eq!(header.calc_header_checksum(), header.header_checksum);
                    let Icmpv4Type::DestinationUnreachable(why) = icmp.icmp_type() else {
                        panic!("{icmp:?}")
                    };
                    assert_eq!(why.code_u8(), 4);
                    assert_eq!(icmp.slice()[6..8], 1316_u16.to_be_bytes());
                    assert_eq!(icmp.icmp_type().calc_checksum(icmp.payload()), icmp.checksum());
                    icmp.payload()[20..].to_vec()
                }
                (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) => {
                    assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1316 });
                    let (from, to) = (ip.header().source(), ip.header().destination());
                    assert!(icmp.is_checksum_valid(from, to));
                    icmp.payload()[40..].to_vec()
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(quoted, [40_000_u16.to_be_bytes(), 80_u16.to_be_bytes(), [1, 2], [3, 4]].concat());
        }
    }
}
