//! IP packets of TCP that a node sends to a client in a server's name. Pure.

use std::net::SocketAddr;
use std::ops::Range;

use baton_cluster::Flow;

use crate::connection::Receipt;
use crate::headers::{L3, finish};
use crate::replay::{Header, timestamps_option};

const RST: u8 = 4;
const ACK: u8 = 16;
/// What TCP's header has room for.
const OPTIONS_MAX: usize = 40;

/// The packet that ends the client's connection: a RST with the sequence number that it expects.
pub fn reset(flow: &Flow, seq: u32, ack: u32) -> Vec<u8> {
    packet(flow, seq, ack, 0, RST | ACK, &[])
}

/// The packet that says which bytes are here while something before them is missing (RFC 5681 4.2, RFC 2018 4).
/// `kept`: the ranges, first the one that came last.
pub fn selective(flow: &Flow, receipt: &Receipt, kept: &[Range<u32>]) -> Vec<u8> {
    let mut options = receipt.timestamps.map(timestamps_option).unwrap_or_default();
    let kept = kept.get(..kept.len().min((OPTIONS_MAX - options.len() - 4) / 8)).unwrap_or(kept);
    if receipt.selective && !kept.is_empty() {
        // NOP, NOP, kind 5, length; the edges.
        options.extend([1, 1, 5, 2 + 8 * kept.len() as u8]);
        options.extend(kept.iter().flat_map(|range| [range.start, range.end]).flat_map(u32::to_be_bytes));
    }
    packet(flow, receipt.seq, receipt.ack, receipt.window, ACK, &options)
}

fn packet(flow: &Flow, seq: u32, ack: u32, window: u16, flags: u8, options: &[u8]) -> Vec<u8> {
    let from = SocketAddr::new(flow.vip, flow.vip_port);
    let to = SocketAddr::new(flow.client, flow.client_port);
    let mut frame = Header { from, to, seq, ack, window, flags }.frame([0; 6], options);
    // It has both headers, so it can be finished.
    let _ = finish(&mut frame);
    frame.split_off(L3)
}

#[cfg(test)]
mod tests {
    use etherparse::{TcpHeaderSlice, TcpOptionElement};
    use proptest::prelude::*;

    use super::*;
    use crate::replay::tests::{flow, right_checksums};

    #[test]
    fn a_reset_goes_to_the_client() {
        for (v6, l4) in [(false, 20), (true, 40)] {
            let packet = reset(&flow(v6), 5, 6);
            assert!(right_checksums(&packet));
            let tcp = TcpHeaderSlice::from_slice(&packet[l4..]).expect("a header");
            assert_eq!((tcp.source_port(), tcp.destination_port()), (80, 40_000));
            assert_eq!((tcp.sequence_number(), tcp.rst(), tcp.ack()), (5, true, true));
        }
    }

    proptest! {
        #[test]
        fn a_client_learns_as_many_ranges_as_the_header_has_room_for(
            timestamps in any::<Option<(u32, u32)>>(),
            selective in any::<bool>(),
            edges in proptest::collection::vec(any::<(u32, u32)>(), 0..6),
            (seq, ack, window) in any::<(u32, u32, u16)>(),
            v6 in any::<bool>(),
        ) {
            let kept: Vec<_> = edges.iter().map(|&(start, end)| start..end).collect();
            let receipt = Receipt { seq, ack, window, timestamps, selective };
            let packet = super::selective(&flow(v6), &receipt, &kept);
            prop_assert!(right_checksums(&packet));
            let tcp = TcpHeaderSlice::from_slice(&packet[if v6 { 40 } else { 20 }..]).expect("a header");
            prop_assert_eq!((tcp.sequence_number(), tcp.acknowledgment_number()), (seq, ack));
            prop_assert_eq!((tcp.window_size(), tcp.ack(), tcp.rst()), (window, true, false));
            let (mut clock, mut ranges) = (None, Vec::new());
            for option in tcp.options_iterator() {
                match option.expect("an option") {
                    TcpOptionElement::Timestamp(value, echo) => clock = Some((value, echo)),
                    TcpOptionElement::SelectiveAcknowledgement(first, more) => {
                        ranges.push(first);
                        ranges.extend(more.into_iter().flatten());
                    }
                    other => prop_assert_eq!(other, TcpOptionElement::Noop),
                }
            }
            let room = if timestamps.is_some() { 3 } else { 4 };
            prop_assert_eq!(clock, timestamps);
            prop_assert_eq!(ranges, edges.into_iter().take(if selective { room } else { 0 }).collect::<Vec<_>>());
        }
    }
}
