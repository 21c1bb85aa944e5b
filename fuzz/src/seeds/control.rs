//! The golden messages of `crates/control`, whole and spoilt; streams of frames; what strangers might say.

use baton_control::message::PROTOCOL_VERSION;

use super::{Seed, files, seed};

pub(super) fn seeds() -> Vec<Seed> {
    let messages = golden();
    let mut seeds = Vec::new();
    for (name, bytes) in &messages {
        seeds.push(seed("control_message", name, bytes.clone()));
        seeds.push(seed("control_message", format!("{name}-cut"), &bytes[..bytes.len() - 1]));
        seeds.push(seed("control_message", format!("{name}-left-over"), [bytes, &[0][..]].concat()));
        seeds.push(seed("control_message", format!("{name}-endless-list"), endless(bytes)));
    }
    seeds.push(seed("control_message", "of-version-255", [255, 0x18, 9]));
    seeds.push(seed("control_message", "of-no-kind", [messages[0].1[0], 0xee]));

    let framed: Vec<Vec<u8>> = messages.iter().map(|(_, bytes)| frame(bytes)).collect();
    for (name, stream) in [
        ("all-messages", framed.concat()),
        ("one", framed[0].clone()),
        ("three-and-a-half", [framed[..3].concat(), framed[3][..framed[3].len() / 2].to_vec()].concat()),
        ("one-then-an-empty-one", [&framed[0][..], &[0, 0]].concat()),
        ("one-then-too-long", [&framed[0][..], &[0xff, 0xff]].concat()),
        ("half-a-length", vec![0]),
        ("the-shortest", frame(&[7])),
        ("a-kilobyte", frame(&[7; 1000])),
    ] {
        for size in [1_u8, 2, 7, 255] {
            seeds.push(seed("control_frames", format!("{name}-by-{size}"), [&[size], &stream[..]].concat()));
        }
    }

    let greeting = |version: u8, key: &[u8]| [b"BATN", &[version][..], key].concat();
    for (name, bytes) in [
        ("nothing", vec![]),
        ("http", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("tls", vec![22, 3, 1, 0, 200, 1, 0, 0, 196]),
        ("half-a-greeting", frame(&greeting(PROTOCOL_VERSION, &[9; 48]))[..20].to_vec()),
        ("greeting", frame(&greeting(PROTOCOL_VERSION, &[9; 48]))),
        ("greeting-with-the-key-zero", frame(&greeting(PROTOCOL_VERSION, &[0; 48]))),
        ("greeting-of-version-200", frame(&greeting(200, &[9; 48]))),
        ("greeting-too-short", frame(&greeting(PROTOCOL_VERSION, &[9; 47]))),
        ("greeting-too-long", frame(&greeting(PROTOCOL_VERSION, &[9; 49]))),
        ("greeting-then-a-frame", [frame(&greeting(PROTOCOL_VERSION, &[9; 48])), frame(&[1; 40])].concat()),
        ("empty-frame", vec![0, 0]),
        ("longest-frame", vec![0xff, 0xff, b'B']),
        ("message-in-the-clear", framed[2].clone()),
    ] {
        for (first, to) in [(1, "dialling"), (2, "listening")] {
            seeds.push(seed(
                "control_session",
                format!("{name}-to-the-{to}"),
                [&[first], &bytes[..]].concat(),
            ));
        }
    }
    seeds
}

fn frame(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).expect("a frame").to_be_bytes(), bytes].concat()
}

/// Version and kind, then a list that says it has 2^35 items.
fn endless(bytes: &[u8]) -> Vec<u8> {
    [&bytes[..2], &[0xff, 0xff, 0xff, 0xff, 0x7f]].concat()
}

/// Name and bytes of each line of the golden files.
fn golden() -> Vec<(String, Vec<u8>)> {
    let mut messages = Vec::new();
    for (file, text) in files("crates/control/testdata", ".txt") {
        for line in String::from_utf8(text).expect("text").lines() {
            let Some((name, digits)) = line.split_once(' ') else { continue };
            let pairs = digits.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).expect("digits"));
            let bytes = pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal")).collect();
            messages.push((format!("{}-{name}", file.trim_start_matches("golden-")), bytes));
        }
    }
    messages
}
