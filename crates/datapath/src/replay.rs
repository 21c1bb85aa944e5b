//! The client's packets once more: what this node's reader has acknowledged, cut and sealed as the client
//! might have sent it, for the server that is to have the connection. Pure: bytes in, frames out; the
//! reader gives them to the programs through the hold device.

use baton_cluster::Flow;

use crate::hold::{L3, L4, finish};
use crate::shared::types;
use crate::tables::Reading;

const FIN: u8 = 1;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;
/// NOP, NOP, kind 8, length 10, TSval, TSecr (RFC 7323, appendix A).
const TIMESTAMPS_LEN: usize = 12;

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
    /// of `mtu` bytes; wrapped as handoff packets they fit it too.
    pub fn frames(&self, mac: [u8; 6], mtu: usize) -> Vec<Vec<u8>> {
        let options = self.reading.timestamps.map_or(0, |_| TIMESTAMPS_LEN);
        let headers = size_of::<types::handoff_header>() + (L4 - L3) + 20 + options;
        let most = mtu.saturating_sub(headers).max(1);
        let count = self.bytes.len().div_ceil(most);
        let frame = |(i, payload): (usize, &[u8])| {
            let last = if i + 1 == count { PSH | if self.fin { FIN } else { 0 } } else { 0 };
            let seq = self.reading.start_seq.wrapping_add((i * most) as u32);
            self.frame(mac, seq, ACK | last, payload)
        };
        self.bytes.chunks(most).enumerate().filter_map(frame).collect()
    }

    fn frame(&self, mac: [u8; 6], seq: u32, flags: u8, payload: &[u8]) -> Option<Vec<u8>> {
        let Flow { client, client_port, vip, vip_port } = self.flow;
        let from = std::net::SocketAddrV4::new(client, client_port);
        let to = std::net::SocketAddrV4::new(vip, vip_port);
        let header =
            Header { from, to, seq, ack: self.reading.start_ack, window: self.reading.window, flags };
        let mut frame = header.frame(mac, self.reading.timestamps);
        frame.extend_from_slice(payload);
        finish(&mut frame)?;
        Some(frame)
    }
}

/// The IP packet that ends the client's connection: a RST with the sequence number that it expects.
pub fn reset(flow: &Flow, seq: u32, ack: u32) -> Vec<u8> {
    let from = std::net::SocketAddrV4::new(flow.vip, flow.vip_port);
    let to = std::net::SocketAddrV4::new(flow.client, flow.client_port);
    let mut frame = Header { from, to, seq, ack, window: 0, flags: RST | ACK }.frame([0; 6], None);
    // It has both headers, so it can be finished.
    let _ = finish(&mut frame);
    frame.split_off(L3)
}

struct Header {
    from: std::net::SocketAddrV4,
    to: std::net::SocketAddrV4,
    seq: u32,
    ack: u32,
    window: u16,
    flags: u8,
}

impl Header {
    /// Ethernet, IPv4 and TCP; lengths and checksums are yet to be set.
    fn frame(&self, mac: [u8; 6], timestamps: Option<(u32, u32)>) -> Vec<u8> {
        let options = timestamps.map_or(0, |_| TIMESTAMPS_LEN);
        let mut f = Vec::with_capacity(2048);
        f.extend_from_slice(&mac);
        f.extend_from_slice(&[0; 6]);
        f.extend_from_slice(&[0x08, 0x00]);
        // Version and header length; don't fragment; 64 hops to live; TCP.
        f.extend_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0]);
        f.extend_from_slice(&self.from.ip().octets());
        f.extend_from_slice(&self.to.ip().octets());
        f.extend_from_slice(&self.from.port().to_be_bytes());
        f.extend_from_slice(&self.to.port().to_be_bytes());
        f.extend_from_slice(&self.seq.to_be_bytes());
        f.extend_from_slice(&self.ack.to_be_bytes());
        f.extend_from_slice(&[((20 + options) as u8 / 4) << 4, self.flags]);
        f.extend_from_slice(&self.window.to_be_bytes());
        f.extend_from_slice(&[0; 4]);
        if let Some((val, ecr)) = timestamps {
            f.extend_from_slice(&[1, 1, 8, 10]);
            f.extend_from_slice(&val.to_be_bytes());
            f.extend_from_slice(&ecr.to_be_bytes());
        }
        f
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use etherparse::{SlicedPacket, TcpHeaderSlice, TransportSlice};
    use proptest::prelude::*;

    use super::*;
    use crate::Frame;

    fn reading(start_seq: u32, timestamps: Option<(u32, u32)>) -> Reading {
        Reading { start_seq, start_ack: 77, window: 502, timestamps, since: Duration::ZERO }
    }

    fn flow() -> Flow {
        Flow {
            client: Ipv4Addr::new(10, 2, 0, 2),
            client_port: 40_000,
            vip: Ipv4Addr::new(10, 99, 0, 1),
            vip_port: 80,
        }
    }

    fn right_checksums(packet: &[u8]) -> bool {
        let sliced = SlicedPacket::from_ip(packet).expect("an IP packet");
        let ip = sliced.net.as_ref().and_then(|n| n.ipv4_ref()).expect("of version 4").header();
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("TCP") };
        let again = tcp.to_header().calc_checksum_ipv4(&ip.to_header(), tcp.payload());
        ip.to_header().calc_header_checksum() == ip.header_checksum() && again == Ok(tcp.checksum())
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
        ) {
            let replay = Replay { flow: flow(), reading: reading(start_seq, timestamps), bytes: &bytes, fin };
            let frames = replay.frames([2, 0, 0, 0, 0, 9], mtu);
            let mut seq = start_seq;
            let mut together = Vec::new();
            for (i, bytes) in frames.iter().enumerate() {
                prop_assert!(bytes.len() - L3 + size_of::<types::handoff_header>() <= mtu);
                prop_assert!(right_checksums(&bytes[L3..]));
                let frame = Frame::parse(bytes).expect("a frame of a client");
                prop_assert_eq!((frame.flow, frame.seq), (flow(), seq));
                let tcp = TcpHeaderSlice::from_slice(&bytes[L4..]).expect("a header");
                let last = i + 1 == frames.len();
                prop_assert_eq!((tcp.psh(), tcp.fin(), tcp.ack()), (last, last && fin, true));
                prop_assert_eq!((tcp.acknowledgment_number(), tcp.window_size()), (77, 502));
                let options: Vec<_> = tcp.options_iterator().filter_map(Result::ok).collect();
                prop_assert_eq!(options.len(), if timestamps.is_some() { 3 } else { 0 });
                seq = seq.wrapping_add(frame.payload().len() as u32);
                together.extend_from_slice(frame.payload());
            }
            prop_assert!(together == bytes);
            prop_assert_eq!(replay.end(), seq.wrapping_add(u32::from(fin)));
        }
    }

    #[test]
    fn a_reset_goes_to_the_client() {
        let packet = reset(&flow(), 5, 6);
        assert!(right_checksums(&packet));
        let tcp = TcpHeaderSlice::from_slice(&packet[20..]).expect("a header");
        assert_eq!((tcp.source_port(), tcp.destination_port()), (80, 40_000));
        assert_eq!((tcp.sequence_number(), tcp.rst(), tcp.ack()), (5, true, true));
    }
}
