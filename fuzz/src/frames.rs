//! Frames that the packet path gives to user space, and those that user space gives back, read once more by
//! etherparse.

use std::time::Duration;

use baton_datapath::replay::Replay;
use baton_datapath::{Frame, Heard, Reading};
use etherparse::checksum::Sum16BitWords;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// Two bytes each: where the packet is cut, where a second copy of it begins; then what the client has said since
/// (14 bytes); then a frame. What is cut off and what is left are the packet; whatever is made of it is
/// a packet with right lengths and checksums that carries the same bytes.
pub fn held_frame(bytes: &[u8]) -> bool {
    let Some((cuts, rest)) = bytes.split_first_chunk::<4>() else { return false };
    let Some((heard, rest)) = rest.split_first_chunk::<15>() else { return false };
    let Some(frame) = Frame::parse(rest) else { return false };
    let payload = frame.payload().to_vec();
    let place = |high: u8, low: u8| u32::from(u16::from_be_bytes([high, low]));
    let (cut, again) = (place(cuts[0], cuts[1]), place(cuts[2], cuts[3]));
    let (first, second) = (frame.cut(frame.seq.wrapping_add(cut)), frame.after(frame.seq.wrapping_add(cut)));
    assert_eq!(first.is_some(), second.is_some());
    assert_eq!(first.is_some(), cut > 0 && (cut as usize) < payload.len());
    if let (Some(first), Some(second)) = (&first, &second) {
        assert_eq!([first.payload(), second.payload()].concat(), payload);
        assert_eq!(second.seq, frame.seq.wrapping_add(cut));
        is_right(first);
        is_right(second);
        // The client's end is behind its last byte.
        assert!(!ends(first) && ends(second) == ends(&frame));
    }
    let frames: Vec<Frame> =
        [first, frame.after(frame.seq.wrapping_add(again)), second].into_iter().flatten().collect();
    let frames = if frames.is_empty() { vec![frame.clone()] } else { frames };
    renew(&frames, &heard_of(heard));
    true
}

/// Whether it carries a FIN.
fn ends(frame: &Frame) -> bool {
    let sliced = SlicedPacket::from_ethernet(&frame.bytes);
    sliced.is_ok_and(|s| matches!(s.transport, Some(TransportSlice::Tcp(tcp)) if tcp.fin()))
}

fn heard_of(bytes: &[u8; 15]) -> Heard {
    let word = |at: usize| bytes.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    Heard {
        ack: word(0),
        window: u16::from_be_bytes([bytes[4], bytes[5]]),
        timestamps: (bytes[14] % 2 == 1).then(|| (word(6), word(10))),
    }
}

/// Frames in order, made anew: every byte that they carry and no other, each where it belongs.
fn renew(frames: &[Frame], heard: &Heard) {
    let mut frames = frames.to_vec();
    let start =
        frames.iter().map(|frame| frame.seq).min_by_key(|seq| seq.wrapping_sub(frames[0].seq).cast_signed());
    let start = start.expect("there is one");
    frames.sort_by_key(|frame| frame.seq.wrapping_sub(start));
    let bytes = Frame::joined(&frames, start);
    let most = frames.iter().map(|frame| frame.payload().len()).max().unwrap_or(0);
    let renewed = frames[0].renewed(start, &bytes, &[bytes.len() / 3], most, heard);
    // Without room for the new timestamps nothing can be made.
    if renewed.is_empty() {
        return;
    }
    let whole = carried(&frames, start);
    assert_eq!(carried(&renewed, start)[..], whole[..bytes.len()]);
    assert!(whole.get(bytes.len()).is_none_or(Option::is_none), "up to the first gap");
    assert!(!renewed.iter().any(ends));
    for frame in &renewed {
        is_right(frame);
        let again = Frame::parse(&frame.bytes).expect("a frame");
        assert_eq!((again.flow, again.seq, again.payload()), (frame.flow, frame.seq, frame.payload()));
    }
}

/// Each byte by its place in the stream.
fn carried(frames: &[Frame], start: u32) -> Vec<Option<u8>> {
    let mut bytes = Vec::new();
    for frame in frames {
        let at = frame.seq.wrapping_sub(start) as usize;
        bytes.resize(bytes.len().max(at + frame.payload().len()), None);
        for (to, from) in bytes.iter_mut().skip(at).zip(frame.payload()) {
            assert!(to.is_none_or(|there| there == *from));
            *to = Some(*from);
        }
    }
    bytes
}

/// Lengths and checksums, by etherparse. A frame that it cannot read has options of IP or TCP that are none;
/// Baton repeats them as they came.
fn is_right(frame: &Frame) {
    let Ok(sliced) = SlicedPacket::from_ethernet(&frame.bytes) else { return };
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { return };
    assert_eq!(tcp.payload(), frame.payload());
    let segment = tcp.slice();
    let length = u16::try_from(segment.len()).expect("a packet").to_be_bytes();
    let protocol_and_length = Sum16BitWords::new().add_2bytes([0, 6]).add_2bytes(length);
    let addresses = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            assert_eq!(Sum16BitWords::new().add_slice(ip.header().slice()).ones_complement(), 0);
            [&ip.header().source()[..], &ip.header().destination()].concat()
        }
        Some(NetSlice::Ipv6(ip)) => [ip.header().source(), ip.header().destination()].concat(),
        _ => return,
    };
    assert_eq!(protocol_and_length.add_slice(&addresses).add_slice(segment).ones_complement(), 0);
}

/// A frame of a client, for the connection that it belongs to.
pub(crate) const CLIENTS_FRAME: &[u8] = &[
    2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, // Ethernet
    0x45, 0, 0, 41, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 2, 0, 2, 10, 99, 0, 1, // IPv4
    0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 77, 0x50, 0x18, 1, 0xf6, 0, 0, 0, 0, // TCP
    b'x',
];

/// The same by IPv6.
const CLIENTS_FRAME_V6: &[u8] = &[
    2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, // Ethernet
    0x60, 0, 0, 0, 0, 21, 6, 64, // IPv6
    0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0xfd, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    1, //
    0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 77, 0x50, 0x18, 1, 0xf6, 0, 0, 0, 0, // TCP
    b'x',
];

/// Sequence number, acknowledgement, window, timestamps, MTU (20 bytes with the flags): what a reader has taken,
/// then its bytes. Together the frames are the bytes, right and no longer than the link allows.
pub fn replay(bytes: &[u8]) -> bool {
    let Some((head, bytes)) = bytes.split_first_chunk::<21>() else { return false };
    let word = |at: usize| head.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let [stamped, fin, v6, v6_nodes] = [1, 2, 4, 8].map(|bit| head[20] & bit != 0);
    let flow = Frame::parse(if v6 { CLIENTS_FRAME_V6 } else { CLIENTS_FRAME }).expect("a frame").flow;
    let reading = Reading {
        start_seq: word(0),
        start_ack: word(4),
        window: u16::from_be_bytes([head[8], head[9]]),
        timestamps: stamped.then(|| (word(10), word(14))),
        since: Duration::ZERO,
    };
    // From IPv6's least (RFC 8200 5) up.
    let mtu = 1280 + usize::from(u16::from_be_bytes([head[18], head[19]]));
    let replay = Replay { flow, reading, bytes, fin };
    let mut seq = reading.start_seq;
    let mut together = Vec::new();
    for frame in replay.frames([2, 0, 0, 0, 0, 9], mtu, v6_nodes) {
        let frame = Frame::parse(&frame).expect("a frame of a client");
        assert_eq!((frame.flow, frame.seq), (flow, seq));
        assert!(frame.bytes.len() <= mtu + 14);
        is_right(&frame);
        seq = seq.wrapping_add(frame.payload().len() as u32);
        together.extend_from_slice(frame.payload());
    }
    assert_eq!(together, bytes);
    assert_eq!(replay.end(), seq.wrapping_add(u32::from(fin)));
    !bytes.is_empty()
}
