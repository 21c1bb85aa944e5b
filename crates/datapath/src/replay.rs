//! The client's packets once more: what this node's reader has acknowledged, cut and sealed as the client
//! might have sent it, for the server that is to have the connection. Pure: bytes in, frames out; the
//! reader gives them to the programs through the hold device.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use baton_cluster::Flow;

use crate::connection::Reading;
use crate::constants::{WRAPPING_V4, WRAPPING_V6};
use crate::headers::{ETHERTYPE_V4, ETHERTYPE_V6, finish};

const FIN: u8 = 1;
const PSH: u8 = 8;
const ACK: u8 = 16;
/// What a server is to be given.
#[derive(Clone, Copy, Debug)]
pub struct Replay<'a> {
    /// Of which connection.
    pub flow: Flow,
    /// How its first packet was. Its timestamps are repeated as they are given here: the second must be
    /// what this node's clock for the client reads now, or more.
    pub reading: Reading,
    /// The client's bytes from [`Reading::start_seq`] on.
    pub bytes: &'a [u8],
    /// Whether the client has ended its direction behind them.
    pub fin: bool,
}

impl Replay<'_> {
    /// The sequence number that the client itself goes on with.
    pub fn end(&self) -> u32 {
        let end = self.reading.start_seq.wrapping_add(self.bytes.len() as u32);
        end.wrapping_add(u32::from(self.fin))
    }

    /// Ethernet frames to `mac`, the interface that the client's packets arrive by, which carries IP packets
    /// of `mtu` bytes; wrapped, between nodes with IPv6 addresses or not, they fit it too.
    pub fn frames(&self, mac: [u8; 6], mtu: usize, ipv6_nodes: bool) -> Vec<Vec<u8>> {
        let options = self.options(true).len();
        let wrapping = if ipv6_nodes { WRAPPING_V6 } else { WRAPPING_V4 } as usize;
        let ip = if self.flow.vip.is_ipv6() { 40 } else { 20 };
        let headers = wrapping + ip + 20 + options;
        let most = mtu.saturating_sub(headers).max(1);
        let count = self.bytes.len().div_ceil(most);
        let frame = |(i, payload): (usize, &[u8])| {
            let last = if i + 1 == count { PSH | if self.fin { FIN } else { 0 } } else { 0 };
            let seq = self.reading.start_seq.wrapping_add((i * most) as u32);
            self.frame(mac, seq, ACK | last, payload, &self.options(i == 0))
        };
        self.bytes.chunks(most).enumerate().filter_map(frame).collect()
    }

    /// The socket is made of the first frame. To the others it may come, before they do or are repeated, that the client
    /// says a later time: it would drop them for theirs (RFC 7323 5.3). Linux takes them without.
    fn options(&self, is_first: bool) -> Vec<u8> {
        let timestamps = self.reading.timestamps.map(timestamps_option).unwrap_or_default();
        if is_first { timestamps } else { vec![1; timestamps.len()] }
    }

    fn frame(&self, mac: [u8; 6], seq: u32, flags: u8, payload: &[u8], options: &[u8]) -> Option<Vec<u8>> {
        let Flow { client, client_port, vip, vip_port } = self.flow;
        let (from, to) = (SocketAddr::new(client, client_port), SocketAddr::new(vip, vip_port));
        let header =
            Header { from, to, seq, ack: self.reading.start_ack, window: self.reading.window, flags };
        let mut frame = header.frame(mac, options);
        frame.extend_from_slice(payload);
        finish(&mut frame)?;
        Some(frame)
    }
}

/// A connection has both addresses of one family.
fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    }
}

/// NOP, NOP, kind 8, length 10, TSval, TSecr (RFC 7323, appendix A).
pub(crate) fn timestamps_option((value, echo): (u32, u32)) -> Vec<u8> {
    [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat()
}

pub(crate) struct Header {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
    pub(crate) flags: u8,
}

impl Header {
    /// Ethernet, IP and TCP; lengths and checksums are yet to be set. The options fill whole words.
    pub(crate) fn frame(&self, mac: [u8; 6], options: &[u8]) -> Vec<u8> {
        let mut f = Vec::with_capacity(2048);
        f.extend_from_slice(&mac);
        f.extend_from_slice(&[0; 6]);
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                f.extend_from_slice(&ETHERTYPE_V6);
                // Version; TCP; 64 hops to live.
                f.extend_from_slice(&[0x60, 0, 0, 0, 0, 0, 6, 64]);
                f.extend_from_slice(&from.octets());
                f.extend_from_slice(&to.octets());
            }
            (from, to) => {
                f.extend_from_slice(&ETHERTYPE_V4);
                // Version and header length; don't fragment; 64 hops to live; TCP.
                f.extend_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0]);
                f.extend([from, to].into_iter().filter_map(v4).flat_map(|v4| v4.octets()));
            }
        }
        f.extend_from_slice(&self.from.port().to_be_bytes());
        f.extend_from_slice(&self.to.port().to_be_bytes());
        f.extend_from_slice(&self.seq.to_be_bytes());
        f.extend_from_slice(&self.ack.to_be_bytes());
        f.extend_from_slice(&[((20 + options.len()) as u8 / 4) << 4, self.flags]);
        f.extend_from_slice(&self.window.to_be_bytes());
        f.extend_from_slice(&[0; 4]);
        f.extend_from_slice(options);
        f
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    use etherparse::{NetSlice, SlicedPacket, TcpHeaderSlice, TransportSlice};
    use proptest::prelude::*;

    use super::*;
    use crate::Frame;
    use crate::headers::L3;

    fn reading(start_seq: u32, timestamps: Option<(u32, u32)>) -> Reading {
        Reading { start_seq, start_ack: 77, window: 502, timestamps, since: Duration::ZERO }
    }

    pub(crate) fn flow(v6: bool) -> Flow {
        let address = |last| match v6 {
            true => Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, last).into(),
            false => Ipv4Addr::new(10, 2, 0, last as u8).into(),
        };
        Flow { client: address(2), client_port: 40_000, vip: address(1), vip_port: 80 }
    }

    pub(crate) fn right_checksums(packet: &[u8]) -> bool {
        let sliced = SlicedPacket::from_ip(packet).expect("an IP packet");
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("TCP") };
        match &sliced.net {
            Some(NetSlice::Ipv4(ip)) => {
                let ip = ip.header().to_header();
                let again = tcp.to_header().calc_checksum_ipv4(&ip, tcp.payload());
                ip.calc_header_checksum() == ip.header_checksum && again == Ok(tcp.checksum())
            }
            Some(NetSlice::Ipv6(ip)) => {
                let ip = ip.header().to_header();
                tcp.to_header().calc_checksum_ipv6(&ip, tcp.payload()) == Ok(tcp.checksum())
            }
            other => panic!("neither IPv4 nor IPv6: {other:?}"),
        }
    }

    proptest! {
        /// Together the frames are the bytes; each fits the link in its wrapping.
        #[test]
        fn frames_carry_the_bytes_and_fit(
            bytes in prop::collection::vec(any::<u8>(), 1..9000),
            start_seq in any::<u32>(),
            timestamps in any::<Option<(u32, u32)>>(),
            fin in any::<bool>(),
            mtu in 1280_usize..9000,
            v6 in any::<bool>(),
            ipv6_nodes in any::<bool>(),
        ) {
            let flow = flow(v6);
            let l4 = if v6 { 54 } else { 34 };
            let wrapping = if ipv6_nodes { WRAPPING_V6 } else { WRAPPING_V4 } as usize;
            let replay = Replay { flow, reading: reading(start_seq, timestamps), bytes: &bytes, fin };
            let frames = replay.frames([2, 0, 0, 0, 0, 9], mtu, ipv6_nodes);
            let mut seq = start_seq;
            let mut together = Vec::new();
            for (i, bytes) in frames.iter().enumerate() {
                prop_assert!(bytes.len() - L3 + wrapping <= mtu);
                prop_assert!(right_checksums(&bytes[L3..]));
                let frame = Frame::parse(bytes).expect("a frame of a client");
                prop_assert_eq!((frame.flow, frame.seq), (flow, seq));
                let tcp = TcpHeaderSlice::from_slice(&bytes[l4..]).expect("a header");
                let last = i + 1 == frames.len();
                prop_assert_eq!((tcp.psh(), tcp.fin(), tcp.ack()), (last, last && fin, true));
                prop_assert_eq!((tcp.acknowledgment_number(), tcp.window_size()), (77, 502));
                let options: Vec<_> = tcp.options_iterator().filter_map(Result::ok).collect();
                let expected = match timestamps {
                    None => 0,
                    Some(_) => if i == 0 { 3 } else { 12 },
                };
                prop_assert_eq!(options.len(), expected);
                prop_assert_eq!(frame.timestamps(), timestamps.filter(|_| i == 0));
                seq = seq.wrapping_add(frame.payload().len() as u32);
                together.extend_from_slice(frame.payload());
            }
            prop_assert!(together == bytes);
            prop_assert_eq!(replay.end(), seq.wrapping_add(u32::from(fin)));
        }
    }
}
