//! A TLS client's first bytes, read by Baton and by rustls.

use baton_tls::{HelloError, HelloReader, Name, ParsedHello, read_client_hello};
use rustls::server::Acceptor;

use crate::with_size;

/// Any bytes after the first as the beginning of a connection: the same in pieces of as many bytes as the first
/// says; an answer that stays with more bytes; and what rustls reads, read alike.
pub fn client_hello(bytes: &[u8]) -> bool {
    let (size, sent) = with_size(bytes);
    let whole = read_client_hello(sent);
    let mut reader = HelloReader::default();
    let mut answer = ParsedHello::More;
    for end in (0..sent.len()).step_by(size).chain([sent.len()]) {
        let next = reader.read(sent.get(..end).unwrap_or_default());
        assert!(answer == ParsedHello::More || answer == next, "{answer:?}, then {next:?}");
        answer = next;
    }
    assert_eq!(answer, whole);
    if let Some((name, protocols)) = read_by_rustls(sent) {
        agree(sent, &whole, name.as_deref(), &protocols);
    }
    match whole {
        ParsedHello::Whole(hello) => {
            let name = hello.name.as_ref();
            assert!(name.is_none_or(|name| Name::read(name.as_bytes()).as_ref() == Some(name)));
            true
        }
        _ => false,
    }
}

fn agree(sent: &[u8], ours: &ParsedHello, name: Option<&str>, protocols: &[Vec<u8>]) {
    match ours {
        ParsedHello::Whole(hello) => {
            assert!(hello.alpn.iter().eq(protocols.iter().map(Vec::as_slice)));
            let name = name.and_then(|name| Name::read(name.as_bytes()));
            assert!(hello.name == name || another_type(sent), "{:?} and {name:?}", hello.name);
        }
        // rustls takes an address for no name, and ends its reading of names at one of a type that does
        // not exist, where Baton looks at its length (RFC 6066 3).
        ParsedHello::Malformed(HelloError::Name) => assert!(name.is_none() || another_type(sent)),
        ParsedHello::Malformed(HelloError::Short | HelloError::NameTwice) => assert!(another_type(sent)),
        other => panic!("rustls reads {name:?}, Baton {other:?}"),
    }
}

/// What rustls's server reads: the name and the protocols; nothing when it refuses or waits.
fn read_by_rustls(sent: &[u8]) -> Option<(Option<String>, Vec<Vec<u8>>)> {
    let mut acceptor = Acceptor::default();
    let mut rest = sent;
    while !rest.is_empty() {
        acceptor.read_tls(&mut rest).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            let protocols = hello.alpn().map(|alpn| alpn.map(<[u8]>::to_vec).collect());
            return Some((hello.server_name().map(str::to_owned), protocols.unwrap_or_default()));
        }
    }
    None
}

/// Whether `server_name` has a name of a type other than the one that exists. Read from the message put together
/// from its records, all of which rustls has found right.
fn another_type(sent: &[u8]) -> bool {
    has_another_type(sent).unwrap_or(false)
}

fn has_another_type(mut records: &[u8]) -> Option<bool> {
    let mut message = Vec::new();
    while let Some((header, rest)) = records.split_first_chunk::<5>() {
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        // What follows the hello need not be whole.
        let Some((fragment, rest)) = rest.split_at_checked(length) else { break };
        message.extend_from_slice(fragment);
        records = rest;
    }
    let mut rest = message.get(4 + 2 + 32..)?;
    rest = rest.get(1 + usize::from(*rest.first()?)..)?;
    rest = after_long(rest)?;
    rest = rest.get(1 + usize::from(*rest.first()?)..)?;
    rest = rest.get(2..)?;
    while rest.get(..2)? != [0, 0] {
        rest = after_long(rest.get(2..)?)?;
    }
    // Type, length and length of the list are behind: the first name.
    rest = rest.get(2 + 2 + 2..)?;
    if *rest.first()? != 0 {
        return Some(true);
    }
    let list_end = after_long(rest.get(1..)?)?;
    Some(list_end.first().is_some_and(|kind| *kind != 0))
}

fn after_long(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.get(usize::from(u16::from_be_bytes(*length))..)
}
