//! Reads the TCP segments out of a capture file (classic pcap, as tcpdump writes it). Pure.

use std::net::{SocketAddr, SocketAddrV4};

use etherparse::{LaxNetSlice, LaxSlicedPacket, TcpOptionElement, TcpSlice, TransportSlice};

use crate::flows::{Segment, SynOptions};

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
    let Some(LaxNetSlice::Ipv4(ip)) = &packet.net else { return None };
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { return None };
    let header = ip.header();
    // Not the slice's length: the frame was cut when captured.
    let heads = usize::from(header.ihl()) * 4 + usize::from(tcp.data_offset()) * 4;
    let payload = usize::from(header.total_len()).checked_sub(heads)?;
    let address = |ip, port| SocketAddr::V4(SocketAddrV4::new(ip, port));
    let timestamp = tcp.options_iterator().flatten().find_map(|option| match option {
        TcpOptionElement::Timestamp(value, _) => Some(value),
        _ => None,
    });
    Some(Segment {
        from: address(header.source_addr(), tcp.source_port()),
        to: address(header.destination_addr(), tcp.destination_port()),
        sequence: tcp.sequence_number(),
        payload: payload as u32,
        syn: tcp.syn(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        timestamp,
        options: tcp.syn().then(|| syn_options(tcp)),
    })
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
