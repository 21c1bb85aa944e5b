//! The hellos of real clients from `crates/tls`, whole and cut; small ones with one thing wrong.

use super::{Seed, files, seed};

pub(super) fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let mut add = |name: &str, size: u8, bytes: &[u8]| {
        seeds.push(seed("client_hello", name, [&[size], bytes].concat()));
    };
    for (name, bytes) in files("crates/tls/testdata", ".bin") {
        add(&format!("real-{name}"), 0xff, &bytes);
        add(&format!("real-{name}-cut"), 100, &bytes[..bytes.len() / 2]);
    }
    let name = extension(0, &long(&host("a.example")));
    let alpn = extension(16, &long(b"\x02h2\x08http/1.1"));
    let right = hello(&[name.clone(), alpn.clone(), extension(0xfe0d, &[0; 9])].concat());
    add("right", 1, &record(&right));
    let in_records: Vec<u8> = right.chunks(10).flat_map(record).collect();
    add("right-in-records-of-ten", 7, &in_records);
    add("right-then-early-data", 50, &[&record(&right)[..], b"\x17\x03\x03\x00\x01x"].concat());
    add("twice-in-a-record", 50, &record(&right.repeat(2)));
    add("alert-within", 50, &[&record(&right[..20])[..], &[21, 3, 3, 0, 2, 2, 40]].concat());
    add("empty-record-within", 50, &[&record(&right[..20])[..], &record(&[])].concat());
    add("server-hello", 50, &record(&[&[2], &right[1..]].concat()));
    add("endless", 50, &record(&[1, 0xff, 0xff, 0xff, 3, 3]));
    add("record-too-long", 50, &[22, 3, 1, 0xff, 0xff, 1]);
    for (name, bytes) in [
        ("http", &b"GET / HTTP/1.1\r\n\r\n"[..]),
        ("ssl2", &[0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10]),
        ("alert", &[21, 3, 3, 0, 2, 2, 40]),
        ("nothing", &[]),
        ("one-byte", &[22]),
    ] {
        add(name, 1, bytes);
    }
    let both = |second: &[u8]| extension(0, &long(&[&host("a.example")[..], second].concat()));
    for (what, extensions) in [
        ("no-extensions", vec![]),
        ("name-twice", both(&host("b.example"))),
        ("name-of-another-type-behind", both(&[7, 0, 1, 0])),
        ("name-of-another-type-cut", both(&[7, 9, 9, 0])),
        ("name-of-another-type-alone", extension(0, &long(&[7, 0, 0]))),
        ("extension-twice", [&name[..], &name].concat()),
        ("unknown-extension-twice", [extension(0x4a4a, &[]), extension(0x4a4a, &[])].concat()),
        ("name-empty", extension(0, &long(&host("")))),
        ("names-none", extension(0, &long(&[]))),
        ("name-with-dot-and-capitals", extension(0, &long(&host("A.Example.")))),
        ("name-an-address", extension(0, &long(&host("192.0.2.1")))),
        ("name-an-address-of-six", extension(0, &long(&host("2001:db8::1")))),
        ("name-with-nul", extension(0, &long(&host("a\0.example")))),
        ("name-too-long", extension(0, &long(&host(&"a.".repeat(140))))),
        ("name-left-over", extension(0, &[&long(&host("a.example"))[..], &[0]].concat())),
        ("alpn-empty", extension(16, &long(&[]))),
        ("alpn-with-an-empty-name", extension(16, &long(&[2, b'h', b'2', 0]))),
        ("alpn-short", extension(16, &long(&[9, b'h', b'2']))),
        ("alpn-any-bytes", extension(16, &long(&[3, 0, 0xff, 0x0a]))),
        ("extension-short", vec![0, 0, 0, 9, 1]),
        ("other-extensions-first", [extension(51, &[0; 100]), alpn, name].concat()),
    ] {
        add(what, 30, &record(&hello(&extensions)));
    }
    add("without-list-of-extensions", 30, &record(&message(&opening())));
    add("left-over", 30, &record(&message(&[&opening()[..], &long(&[]), &[0]].concat())));
    seeds
}

fn host(name: &str) -> Vec<u8> {
    [&[0][..], &long(name.as_bytes())].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).expect("a short list").to_be_bytes(), bytes].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &long(data)].concat()
}

/// Version, random, session id, two cipher suites, no compression.
fn opening() -> Vec<u8> {
    [&[3, 3][..], &[7; 32], &[0, 0, 4, 0x13, 1, 0x13, 2, 1, 0]].concat()
}

/// With the signature schemes that rustls's server insists on.
fn hello(extensions: &[u8]) -> Vec<u8> {
    let schemes = extension(13, &long(&[4, 3, 8, 4]));
    message(&[&opening()[..], &long(&[extensions, &schemes].concat())].concat())
}

fn message(body: &[u8]) -> Vec<u8> {
    [&[1, 0][..], &long(body)].concat()
}

fn record(fragment: &[u8]) -> Vec<u8> {
    [&[22, 3, 1][..], &long(fragment)].concat()
}
