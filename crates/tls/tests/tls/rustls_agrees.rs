//! rustls on both sides: its clients' hellos are understood, and what its server reads, Baton reads alike.

use std::sync::Arc;

use baton_tls::{Alert, ParsedHello, alert, read_client_hello};
use proptest::prelude::*;
use rustls::crypto::{ActiveKeyExchange, CryptoProvider, SharedSecret, SupportedKxGroup, ring};
use rustls::server::Acceptor;
use rustls::{AlertDescription, ClientConfig, ClientConnection, NamedGroup, RootCertStore};

use crate::made::{hellos, records};

/// A key share as long as that of X25519MLKEM768, with nothing behind it.
#[derive(Debug)]
struct AsLongAsMlKem;

impl SupportedKxGroup for AsLongAsMlKem {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, rustls::Error> {
        Ok(Box::new(Self))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }
}

impl ActiveKeyExchange for AsLongAsMlKem {
    fn complete(self: Box<Self>, _: &[u8]) -> Result<SharedSecret, rustls::Error> {
        Err(rustls::Error::General("no handshake of these tests gets so far".into()))
    }

    fn pub_key(&self) -> &[u8] {
        &[0x5a; 1216]
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }
}

/// What a client of rustls sends first.
fn client(name: &str, alpn: &[Vec<u8>], post_quantum: bool, fragment: Option<usize>) -> Vec<u8> {
    let mut connection = connection(name, alpn, post_quantum, fragment);
    let mut sent = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut sent).expect("writing to memory");
    }
    sent
}

fn connection(name: &str, alpn: &[Vec<u8>], post_quantum: bool, fragment: Option<usize>) -> ClientConnection {
    let mut provider = ring::default_provider();
    if post_quantum {
        provider.kx_groups.insert(0, &AsLongAsMlKem);
    }
    let builder = ClientConfig::builder_with_provider(Arc::<CryptoProvider>::new(provider));
    let mut config = builder
        .with_safe_default_protocol_versions()
        .expect("ring has suites for both versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.to_vec();
    config.max_fragment_size = fragment;
    let name = name.to_owned().try_into().expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a client")
}

/// What rustls's server reads: the name and the protocols; nothing when it refuses or waits.
fn server(sent: &[u8]) -> Option<(Option<String>, Vec<Vec<u8>>)> {
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

/// Whether another name follows this one, of a type that does not exist. There rustls ends its reading of
/// names, whereas Baton looks at the length that each must begin with (RFC 6066 3).
fn another_follows(sent: &[u8], name: &str) -> bool {
    sent.windows(name.len() + 1).any(|part| part.starts_with(name.as_bytes()) && !part.ends_with(&[0]))
}

fn ours(sent: &[u8]) -> Option<(Option<String>, Vec<Vec<u8>>)> {
    let ParsedHello::Whole(hello) = read_client_hello(sent) else { return None };
    Some((hello.name.map(|name| name.to_string()), hello.alpn.iter().map(<[u8]>::to_vec).collect()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn its_clients_are_understood(
        name in "[a-z0-9]{1,20}(\\.[a-z0-9]{1,10}){0,3}\\.[a-z]{2,6}",
        alpn in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..30), 0..5),
        post_quantum in any::<bool>(),
        fragment in prop::option::of(32_usize..600),
    ) {
        let sent = client(&name, &alpn, post_quantum, fragment);
        prop_assert!(!post_quantum || sent.len() > 1400);
        prop_assert_eq!(ours(&sent), Some((Some(name), alpn)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// A hello of a client of rustls or of this test's own making, with some bytes changed: when rustls's
    /// server reads it, so does Baton, and they read the same.
    #[test]
    fn what_its_server_reads_is_read_alike(
        (made, ..) in hellos(),
        real in any::<bool>(),
        most in 32_usize..1000,
        spoil in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let mut sent = if real {
            client("www.example.com", &[b"h2".to_vec(), b"http/1.1".to_vec()], false, Some(most))
        } else {
            records(&made, most)
        };
        for (at, byte) in spoil {
            let at = at.index(sent.len());
            sent[at] = byte;
        }
        if let Some((name, protocols)) = server(&sent) {
            prop_assume!(!name.as_deref().is_some_and(|name| another_follows(&sent, name)));
            let read = ours(&sent);
            prop_assert!(read.is_some(), "{:?}", read_client_hello(&sent));
            let name = name.map(|name| name.to_ascii_lowercase().trim_end_matches('.').to_owned());
            prop_assert_eq!(read, Some((name, protocols)));
        }
    }
}

#[test]
fn an_unspoilt_hello_is_read_by_both() {
    let sent = client("www.example.com", &[b"h2".to_vec()], true, None);
    assert!(server(&sent).is_some());
    assert_eq!(server(&sent), ours(&sent));
}

#[test]
fn its_clients_understand_our_alerts() {
    for (ours, theirs) in [
        (Alert::UnexpectedMessage, AlertDescription::UnexpectedMessage),
        (Alert::RecordOverflow, AlertDescription::RecordOverflow),
        (Alert::IllegalParameter, AlertDescription::IllegalParameter),
        (Alert::DecodeError, AlertDescription::DecodeError),
        (Alert::InternalError, AlertDescription::InternalError),
        (Alert::UnrecognizedName, AlertDescription::UnrecognisedName),
        (Alert::NoApplicationProtocol, AlertDescription::NoApplicationProtocol),
    ] {
        let mut connection = connection("www.example.com", &[], false, None);
        connection.write_tls(&mut Vec::new()).expect("writing to memory");
        connection.read_tls(&mut &alert(ours)[..]).expect("reading from memory");
        assert_eq!(connection.process_new_packets(), Err(rustls::Error::AlertReceived(theirs)));
    }
}
