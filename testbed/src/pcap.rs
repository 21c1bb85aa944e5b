//! Reads the TCP segments out of a capture file (classic pcap, as tcpdump writes it). Pure.

use std::net::{IpAddr, SocketAddr};

use etherparse::{LaxNetSlice, LaxSlicedPacket, TcpOptionElement, TcpSlice, TransportSlice};

use crate::flows::{Segment, SynOptions};
use crate::owners::Piece;

const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
/// Microsecond and nanosecond time stamps, in this machine's byte order.
const MAGICS: [u32; 2] = [0xa1b2_c3d4, 0xa1b2_3c4d];

/// The records of a capture; a record that is cut off at the end is left out.
///
/// # Panics
/// When it is no capture of this machine.
pub(crate) fn records(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    let magic = word(file, 0);
    assert!(magic.is_some_and(|magic| MAGICS.contains(&magic)), "not a pcap file of this machine");
    let mut rest = file.get(FILE_HEADER..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = word(rest, 8)? as usize;
        let record = rest.get(RECORD_HEADER..RECORD_HEADER + length)?;
        rest = &rest[RECORD_HEADER + length..];
        Some(record)
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The TCP segment in an Ethernet frame, of which only the head need be there.
pub(crate) fn segment(frame: &[u8]) -> Option<Segment> {
    let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { return None };
    let (from, to, carried) = carried(packet.net.as_ref()?)?;
    let payload = carried.checked_sub(usize::from(tcp.data_offset()) * 4)?;
    let timestamp = tcp.options_iterator().flatten().find_map(|option| match option {
        TcpOptionElement::Timestamp(value, _) => Some(value),
        _ => None,
    });
    Some(Segment {
        from: SocketAddr::new(from, tcp.source_port()),
        to: SocketAddr::new(to, tcp.destination_port()),
        sequence: tcp.sequence_number(),
        payload: payload as u32,
        syn: tcp.syn(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        timestamp,
        options: tcp.syn().then(|| syn_options(tcp)),
    })
}

/// The same segment with its payload, as far as it was captured.
pub(crate) fn piece(frame: &[u8]) -> Option<Piece<'_>> {
    let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { return None };
    let (from, to, carried) = carried(packet.net.as_ref()?)?;
    let sent = carried.checked_sub(usize::from(tcp.data_offset()) * 4)?;
    let captured = tcp.payload();
    Some(Piece {
        from: SocketAddr::new(from, tcp.source_port()),
        to: SocketAddr::new(to, tcp.destination_port()),
        sequence: tcp.sequence_number(),
        acknowledged: tcp.ack().then(|| tcp.acknowledgment_number()),
        syn: tcp.syn(),
        bytes: &captured[..captured.len().min(sent)],
    })
}

/// Who sends what to whom: the addresses of a packet, and how many bytes it carries behind its IP
/// headers. As the headers say: the frame was cut when captured.
fn carried(net: &LaxNetSlice<'_>) -> Option<(IpAddr, IpAddr, usize)> {
    match net {
        LaxNetSlice::Ipv4(ip) => {
            let header = ip.header();
            let carried = usize::from(header.total_len()).checked_sub(usize::from(header.ihl()) * 4)?;
            Some((header.source_addr().into(), header.destination_addr().into(), carried))
        }
        LaxNetSlice::Ipv6(ip) => {
            let header = ip.header();
            let extensions = ip.extensions().slice().len();
            let carried = usize::from(header.payload_length()).checked_sub(extensions)?;
            Some((header.source_addr().into(), header.destination_addr().into(), carried))
        }
        LaxNetSlice::Arp(_) => None,
    }
}

fn syn_options(tcp: &TcpSlice<'_>) -> SynOptions {
    let mut options = SynOptions { window: tcp.window_size(), ..SynOptions::default() };
    for option in tcp.options_iterator().flatten() {
        match option {
            TcpOptionElement::MaximumSegmentSize(mss) => options.mss = Some(mss),
            TcpOptionElement::WindowScale(shift) => options.window_scale = Some(shift),
            TcpOptionElement::SelectiveAcknowledgementPermitted => options.sack = true,
            TcpOptionElement::Timestamp(..) => options.timestamps = true,
            _ => {}
        }
    }
    options
}
