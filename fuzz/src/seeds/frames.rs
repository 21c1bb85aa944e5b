//! Frames of clients, right and spoilt, and replays of them.

use super::{Seed, seed};

struct Tcp<'a> {
    seq: u32,
    flags: u8,
    options: &'a [u8],
    payload: &'a [u8],
}

const ACK: u8 = 16;
const PUSH: u8 = 8;
const FIN: u8 = 1;
const STAMPS: &[u8] = &[1, 1, 8, 10, 0, 0, 1, 0, 0, 0, 2, 0];
const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: www.example.com\r\n\r\n";

pub(super) fn seeds() -> Vec<Seed> {
    let plain = Tcp { seq: 1000, flags: ACK | PUSH, options: &[], payload: GET };
    let stamped = Tcp { options: STAMPS, ..plain };
    let right = frame(&stamped);
    let spoilt = |at: usize, byte: u8| {
        let mut frame = right.clone();
        frame[at] = byte;
        frame
    };
    let big = vec![b'x'; 1400];
    let mut seeds = Vec::new();
    let frames = [
        ("plain", frame(&plain)),
        ("stamped", right.clone()),
        ("stamped-fin", frame(&Tcp { flags: ACK | FIN, ..stamped })),
        ("sequence-wraps", frame(&Tcp { seq: u32::MAX - 10, ..stamped })),
        ("full", frame(&Tcp { payload: &big, ..stamped })),
        ("one-byte", frame(&Tcp { payload: b"G", ..plain })),
        ("no-payload", frame(&Tcp { payload: b"", ..plain })),
        ("padded", [&frame(&Tcp { payload: b"G", ..plain })[..], &[0; 5]].concat()),
        ("options-without-stamps", frame(&Tcp { options: &[2, 4, 5, 180], ..plain })),
        ("options-of-length-zero", frame(&Tcp { options: &[8, 0, 0, 0], ..plain })),
        ("options-beyond", frame(&Tcp { options: &[1, 1, 8, 10], ..plain })),
        ("options-end-first", frame(&Tcp { options: &[0, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], ..plain })),
        ("options-forty", frame(&Tcp { options: &[1; 40], ..plain })),
        ("ip-with-options", spoilt(14, 0x46)),
        ("ip-length-short", spoilt(17, 30)),
        ("ip-length-long", spoilt(16, 9)),
        ("tcp-header-short", spoilt(46, 0x40)),
        ("tcp-header-beyond", spoilt(46, 0xf0)),
        ("ipv6", frame_v6(&stamped)),
        ("ipv6-plain", frame_v6(&plain)),
        ("ipv6-fin", frame_v6(&Tcp { flags: ACK | FIN, ..stamped })),
        ("ipv6-padded", [&frame_v6(&Tcp { payload: b"G", ..plain })[..], &[0; 5]].concat()),
        ("ipv6-cut", frame_v6(&stamped)[..50].to_vec()),
        ("udp", spoilt(23, 17)),
        ("arp", spoilt(13, 6)),
        ("ip-fragment", spoilt(20, 0x20)),
        ("cut", right[..40].to_vec()),
        ("nothing", vec![]),
    ];
    // What the client has said since: acknowledgement, window, TSval, TSecr, whether these.
    let heard = |stamps: u8| [0, 0, 3, 9, 0, 99, 0, 0, 9, 0, 0, 0, 9, 9, stamps];
    for (name, bytes) in frames {
        for (cuts, cut) in [([0, 0, 0, 0], "whole"), ([0, 20, 0, 4], "cut-at-20")] {
            let stamps = u8::from(!name.starts_with("plain"));
            let bytes = [&cuts[..], &heard(stamps), &bytes].concat();
            seeds.push(seed("held_frame", format!("{name}-{cut}"), bytes));
        }
    }
    let large = vec![b'y'; 4000];
    for (name, seq, mtu, flags, bytes) in [
        ("plain", 5_u32, 220_u16, 0_u8, GET),
        ("stamped", 5, 220, 1, GET),
        ("fin", 5, 220, 3, GET),
        ("several", 5, 220, 1, &large),
        ("several-fin", 5, 220, 3, &large),
        ("sequence-wraps", u32::MAX - 1500, 220, 1, &large),
        ("least-mtu", 5, 0, 1, &large),
        ("great-mtu", 5, 7720, 1, &large),
        ("greatest-mtu", 5, u16::MAX, 0, &large),
        ("one-byte", 5, 220, 3, b"G"),
        ("nothing", 5, 220, 2, b""),
        ("ipv6", 5, 220, 5, &large),
        ("ipv6-fin", 5, 220, 7, &large),
        ("ipv6-nodes", 5, 0, 13, &large),
        ("ipv6-nodes-alone", 5, 0, 9, &large),
    ] {
        let mtu = mtu.to_be_bytes();
        let head =
            [&seq.to_be_bytes()[..], &[0, 0, 0, 77, 1, 246, 0, 0, 1, 0, 0, 0, 2, 0], &mtu, &[flags]].concat();
        seeds.push(seed("replay", name, [&head[..], bytes].concat()));
    }
    seeds.push(seed("replay", "short", [0; 20]));
    seeds
}

fn frame_v6(tcp: &Tcp<'_>) -> Vec<u8> {
    let v4 = frame(tcp);
    let length = u16::try_from(v4.len() - 34).expect("a packet").to_be_bytes();
    let host = |net: u8, last: u8| [0xfd, net, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    let ip = [&[0x60, 0, 0, 0, length[0], length[1], 6, 64][..], &host(2, 2), &host(0x99, 1)].concat();
    [&v4[..12], &[0x86, 0xdd], &ip, &v4[34..]].concat()
}

/// Checksums are left at zero: the packet path checks them, user space makes them anew.
fn frame(tcp: &Tcp<'_>) -> Vec<u8> {
    let header = u8::try_from(20 + tcp.options.len()).expect("a header");
    let length = u16::try_from(20 + usize::from(header) + tcp.payload.len()).expect("a packet").to_be_bytes();
    [
        &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0][..],
        &[0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 2, 0, 2, 10, 99, 0, 1],
        &[0x9c, 0x40, 0, 80],
        &tcp.seq.to_be_bytes(),
        &[0, 0, 0, 77, (header / 4) << 4, tcp.flags, 1, 246, 0, 0, 0, 0],
        tcp.options,
        tcp.payload,
    ]
    .concat()
}
