//! Hellos that contradict themselves or say what they must not, with the alert for each.

use baton_tls::{Alert, HelloError, ParsedHello, alert, read_client_hello};

use crate::made::{
    alpn, body, extension, long, message, opening, records, sent, server_name, server_names, short,
};

#[track_caller]
fn refused(body: &[u8], reason: HelloError) {
    assert_eq!(read_client_hello(&records(&message(1, body), 1 << 14)), ParsedHello::Malformed(reason));
}

/// The opening with another session id, cipher suites or compression methods.
fn opened(session_id: &[u8], suites: &[u8], compression: &[u8]) -> Vec<u8> {
    [&[3, 3][..], &[7; 32], session_id, suites, compression].concat()
}

#[test]
fn a_body_that_ends_early_is_short() {
    let whole = body(&[server_name("www.example.com"), alpn(&[b"h2"])]);
    for end in 0..whole.len() {
        // Without extensions, and with none of them: the two places where it may end.
        if end != opening().len() {
            refused(&whole[..end], HelloError::Short);
        }
    }
}

#[test]
fn bytes_that_belong_to_nothing_are_left_over() {
    refused(&[body(&[]), vec![0]].concat(), HelloError::LeftOver);
    let name = long(&[&[0][..], &long(b"a.example")].concat());
    refused(&body(&[extension(0, &[&name[..], &[0]].concat())]), HelloError::LeftOver);
    refused(&body(&[extension(16, &[&long(&short(b"h2"))[..], &[0]].concat())]), HelloError::LeftOver);
}

#[test]
fn fields_have_the_lengths_that_their_types_allow() {
    let (id, suites, compression) = (short(&[1; 32]), long(&[0x13, 1]), short(&[0]));
    refused(&opened(&short(&[1; 33]), &suites, &compression), HelloError::Length);
    refused(&opened(&id, &long(&[]), &compression), HelloError::Length);
    refused(&opened(&id, &long(&[0x13, 1, 0]), &compression), HelloError::Length);
    refused(&opened(&id, &[0xff, 0xff], &compression), HelloError::Length);
    refused(&opened(&id, &suites, &short(&[])), HelloError::Length);
    refused(&body(&[server_names(&[])]), HelloError::Length);
    refused(&body(&[server_names(&[(0, b"")])]), HelloError::Length);
    refused(&body(&[alpn(&[])]), HelloError::Length);
    refused(&body(&[alpn(&[b"h2", b""])]), HelloError::Length);
    refused(&body(&[extension(16, &long(&[0]))]), HelloError::Length);
}

#[test]
fn lengths_within_extensions_stay_within() {
    refused(&body(&[extension(0, &[])]), HelloError::Short);
    refused(&body(&[extension(0, &[0, 9, 0, 0, 6, b'a'])]), HelloError::Short);
    refused(&body(&[extension(0, &long(&[0, 0, 9, b'a']))]), HelloError::Short);
    refused(&body(&[extension(16, &[])]), HelloError::Short);
    refused(&body(&[extension(16, &long(&[9, b'h', b'2']))]), HelloError::Short);
    refused(&[opening(), long(&[0, 0, 0])].concat(), HelloError::Short);
    refused(&[opening(), long(&[0, 5, 0, 9, 1])].concat(), HelloError::Short);
}

#[test]
fn nothing_is_said_twice() {
    let name = server_name("a.example");
    refused(&body(&[name.clone(), extension(5, &[]), name.clone()]), HelloError::ExtensionTwice);
    refused(&body(&[extension(51, &[1]), name, extension(51, &[1])]), HelloError::ExtensionTwice);
    refused(&body(&[alpn(&[b"h2"]), alpn(&[b"h2"])]), HelloError::ExtensionTwice);
    refused(&body(&[server_names(&[(0, b"a.example"), (0, b"b.example")])]), HelloError::NameTwice);
    refused(&body(&[server_names(&[(7, b""), (0, b"b.example"), (7, b"")])]), HelloError::NameTwice);
}

#[test]
fn names_of_unknown_types_are_passed_over() {
    let both = sent(&[server_names(&[(7, b"\x00"), (0, b"a.example"), (8, b"")])]);
    let ParsedHello::Whole(hello) = read_client_hello(&both) else { panic!("whole") };
    assert_eq!(hello.name.as_deref(), Some("a.example"));
    let ParsedHello::Whole(hello) = read_client_hello(&sent(&[server_names(&[(7, b"x")])])) else {
        panic!("whole")
    };
    assert_eq!(hello.name, None);
}

#[test]
fn a_name_that_is_none_is_refused() {
    for name in
        ["192.0.2.1", "::1", "[::1]", "a..b", ".", "a b", "a/b", "a:443", "*.example.com", "b\u{fc}cher"]
    {
        refused(&body(&[server_name(name)]), HelloError::Name);
    }
    refused(&body(&[server_names(&[(0, b"a\0b.example")])]), HelloError::Name);
}

#[test]
fn what_cannot_be_read_and_what_must_not_be_said_have_their_own_alerts() {
    let alerts: Vec<(HelloError, Alert)> =
        HelloError::ALL.iter().map(|reason| (*reason, reason.alert())).collect();
    assert_eq!(
        alerts,
        [
            (HelloError::Interleaved, Alert::UnexpectedMessage),
            (HelloError::EmptyRecord, Alert::DecodeError),
            (HelloError::RecordLength, Alert::RecordOverflow),
            (HelloError::NotHello, Alert::UnexpectedMessage),
            (HelloError::Behind, Alert::UnexpectedMessage),
            (HelloError::TooLong, Alert::InternalError),
            (HelloError::Short, Alert::DecodeError),
            (HelloError::Length, Alert::DecodeError),
            (HelloError::LeftOver, Alert::DecodeError),
            (HelloError::ExtensionTwice, Alert::IllegalParameter),
            (HelloError::NameTwice, Alert::IllegalParameter),
            (HelloError::Name, Alert::IllegalParameter),
        ]
    );
}

#[test]
fn alerts_are_fatal_plaintext_records() {
    assert_eq!(alert(Alert::UnrecognizedName), [21, 3, 3, 0, 2, 2, 112]);
    let numbers = [
        (Alert::UnexpectedMessage, 10),
        (Alert::RecordOverflow, 22),
        (Alert::IllegalParameter, 47),
        (Alert::DecodeError, 50),
        (Alert::InternalError, 80),
        (Alert::NoApplicationProtocol, 120),
    ];
    for (which, number) in numbers {
        assert_eq!(alert(which)[5..], [2, number]);
    }
}
