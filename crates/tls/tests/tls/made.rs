//! ClientHellos made by hand: right ones, and through their raw parts wrong ones.

use baton_tls::{ClientHello, Name};
use proptest::prelude::*;

pub const HANDSHAKE: u8 = 22;

/// A length of one byte and the bytes.
pub fn short(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).expect("at most 255 bytes")], bytes].concat()
}

/// A length of two bytes and the bytes.
pub fn long(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).expect("at most 65535 bytes").to_be_bytes(), bytes].concat()
}

pub fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), long(data)].concat()
}

/// `server_name` with these names by type.
pub fn server_names(names: &[(u8, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> = names.iter().flat_map(|(kind, name)| [vec![*kind], long(name)].concat()).collect();
    extension(0, &long(&list))
}

pub fn server_name(name: &str) -> Vec<u8> {
    server_names(&[(0, name.as_bytes())])
}

pub fn alpn(protocols: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> = protocols.iter().flat_map(|p| short(p)).collect();
    extension(16, &long(&list))
}

/// What a hello's body has before its extensions.
pub fn opening() -> Vec<u8> {
    [&[3, 3][..], &[7; 32], &short(&[9; 32]), &long(&[0x13, 1, 0x13, 2]), &short(&[0])].concat()
}

/// A hello's body with these extensions.
pub fn body(extensions: &[Vec<u8>]) -> Vec<u8> {
    [opening(), long(&extensions.concat())].concat()
}

/// A handshake message.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a message").to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

pub fn record(content: u8, fragment: &[u8]) -> Vec<u8> {
    [vec![content, 3, 1], long(fragment)].concat()
}

/// These bytes of a handshake in records of at most `most` bytes.
pub fn records(handshake: &[u8], most: usize) -> Vec<u8> {
    handshake.chunks(most).flat_map(|part| record(HANDSHAKE, part)).collect()
}

/// A hello with these extensions, as a client sends it.
pub fn sent(extensions: &[Vec<u8>]) -> Vec<u8> {
    records(&message(1, &body(extensions)), 1 << 14)
}

/// Extensions that routes do not look at; those of X25519MLKEM768 key shares have 1,216 bytes.
fn others() -> impl Strategy<Value = Vec<u8>> {
    let kinds = prop_oneof![Just(51), Just(43), 1_u16..16, 17_u16..0xfe0d];
    let data = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), 1216..1300),
    ];
    (kinds, data).prop_map(|(kind, data)| extension(kind, &data))
}

/// A handshake message with a right hello in it, and what it says. No type of extension comes twice.
pub fn hellos() -> impl Strategy<Value = (Vec<u8>, ClientHello, Vec<Vec<u8>>)> {
    let name = prop::option::of("[a-zA-Z0-9_-]{1,20}(\\.[a-zA-Z0-9-]{1,10}){0,3}\\.[a-zA-Z]{2,6}\\.?");
    let protocol = prop_oneof![Just(b"h2".to_vec()), prop::collection::vec(any::<u8>(), 1..20)];
    let protocols = prop::collection::vec(protocol, 0..5);
    (name, protocols, any::<bool>(), prop::collection::vec(others(), 0..8), any::<prop::sample::Index>())
        .prop_map(|(name, protocols, encrypted, others, turn)| {
            let mut extensions = others;
            extensions.sort_by(|a, b| a[..2].cmp(&b[..2]));
            extensions.dedup_by(|a, b| a[..2] == b[..2]);
            extensions.extend(name.as_ref().map(|name| server_name(name)));
            let borrowed: Vec<&[u8]> = protocols.iter().map(Vec::as_slice).collect();
            extensions.extend((!protocols.is_empty()).then(|| alpn(&borrowed)));
            extensions.extend(encrypted.then(|| extension(0xfe0d, &[0; 20])));
            let turn = if extensions.is_empty() { 0 } else { turn.index(extensions.len()) };
            extensions.rotate_left(turn);
            let name = name.map(|name| Name::read(name.as_bytes()).expect("a host name"));
            let hello = ClientHello { name, encrypted, ..ClientHello::default() };
            (message(1, &body(&extensions)), hello, protocols)
        })
}
