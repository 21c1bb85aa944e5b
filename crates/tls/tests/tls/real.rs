//! What real clients sent (`testdata/README.md`), each as it is and cut into small packets.

use baton_tls::{HelloError, HelloReader, ParsedHello, read_client_hello};

/// File, name, protocols, whether `encrypted_client_hello` is there.
type Said = (&'static [u8], Option<&'static str>, &'static [&'static [u8]], bool);

const WWW: Option<&str> = Some("www.example.com");
const WEB: &[&[u8]] = &[b"h2", b"http/1.1"];

const SAID: [Said; 12] = [
    (include_bytes!("../../testdata/chromium.bin"), WWW, WEB, true),
    (include_bytes!("../../testdata/curl.bin"), WWW, WEB, false),
    (include_bytes!("../../testdata/go.bin"), WWW, WEB, false),
    (include_bytes!("../../testdata/node.bin"), WWW, &[], false),
    (include_bytes!("../../testdata/openssl-default.bin"), WWW, WEB, false),
    (include_bytes!("../../testdata/openssl-no-name.bin"), None, &[], false),
    (include_bytes!("../../testdata/openssl-tls10.bin"), Some("old.example.com"), &[], false),
    (include_bytes!("../../testdata/openssl-tls12.bin"), Some("img.example.com"), &[], false),
    (include_bytes!("../../testdata/openssl-tls13.bin"), WWW, &[], false),
    (include_bytes!("../../testdata/python.bin"), WWW, &[b"http/1.1"], false),
    (include_bytes!("../../testdata/rustls-x25519mlkem768.bin"), WWW, WEB, false),
    (include_bytes!("../../testdata/wget.bin"), Some("localhost"), &[], false),
];

#[test]
fn real_clients_are_understood() {
    for (sent, name, protocols, encrypted) in SAID {
        let ParsedHello::Whole(hello) = read_client_hello(sent) else { panic!("{name:?} is whole") };
        assert_eq!((hello.name.as_deref(), hello.encrypted), (name, encrypted));
        assert!(hello.alpn.iter().eq(protocols.iter().copied()), "{:?}", hello.alpn);
        let mut reader = HelloReader::default();
        for end in 0..sent.len() {
            assert_eq!(reader.read(&sent[..end]), ParsedHello::More);
            assert_eq!(read_client_hello(&sent[..end]), ParsedHello::More);
        }
        assert_eq!(reader.read(sent), ParsedHello::Whole(hello));
    }
}

#[test]
fn three_records_of_openssl_are_one_hello() {
    let sent = include_bytes!("../../testdata/openssl-three-records.bin");
    let first = 5 + usize::from(u16::from_be_bytes([sent[3], sent[4]]));
    assert!(first < sent.len() && sent[first] == 22, "there is a second record");
    let ParsedHello::Whole(hello) = read_client_hello(sent) else { panic!("whole") };
    assert_eq!((hello.name.as_deref(), hello.alpn.iter().count()), (WWW, 62));
    assert!(hello.alpn.contains(b"protocol-60") && !hello.alpn.contains(b"protocol-61"));
}

#[test]
fn the_address_that_openssl_can_be_made_to_send_is_no_name() {
    let sent = include_bytes!("../../testdata/openssl-address.bin");
    assert_eq!(read_client_hello(sent), ParsedHello::Malformed(HelloError::Name));
}

#[test]
fn the_two_post_quantum_hellos_fill_more_than_a_packet() {
    assert!(SAID[0].0.len() > 1460 && SAID[10].0.len() > 1460);
}
