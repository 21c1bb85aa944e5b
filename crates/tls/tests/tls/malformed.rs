//! Hellos that contradict themselves or say what they must not, with the alert for each.

use baton_tls::{Alert, Reading, Reason, alert, read_client_hello};

use crate::made::{
    alpn, body, extension, long, message, opening, records, sent, server_name, server_names, short,
};

#[track_caller]
fn refused(body: &[u8], reason: Reason) {
    assert_eq!(read_client_hello(&records(&message(1, body), 1 << 14)), Reading::Malformed(reason));
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
            refused(&whole[..end], Reason::Short);
        }
    }
}

#[test]
fn bytes_that_belong_to_nothing_are_left_over() {
    refused(&[body(&[]), vec![0]].concat(), Reason::LeftOver);
    let name = long(&[&[0][..], &long(b"a.example")].concat());
    refused(&body(&[extension(0, &[&name[..], &[0]].concat())]), Reason::LeftOver);
    refused(&body(&[extension(16, &[&long(&short(b"h2"))[..], &[0]].concat())]), Reason::LeftOver);
}

#[test]
fn fields_have_the_lengths_that_their_types_allow() {
    let (id, suites, compression) = (short(&[1; 32]), long(&[0x13, 1]), short(&[0]));
    refused(&opened(&short(&[1; 33]), &suites, &compression), Reason::Length);
    refused(&opened(&id, &long(&[]), &compression), Reason::Length);
    refused(&opened(&id, &long(&[0x13, 1, 0]), &compression), Reason::Length);
    refused(&opened(&id, &[0xff, 0xff], &compression), Reason::Length);
    refused(&opened(&id, &suites, &short(&[])), Reason::Length);
    refused(&body(&[server_names(&[])]), Reason::Length);
    refused(&body(&[server_names(&[(0, b"")])]), Reason::Length);
    refused(&body(&[alpn(&[])]), Reason::Length);
    refused(&body(&[alpn(&[b"h2", b""])]), Reason::Length);
    refused(&body(&[extension(16, &long(&[0]))]), Reason::Length);
}

#[test]
fn lengths_within_extensions_stay_within() {
    refused(&body(&[extension(0, &[])]), Reason::Short);
    refused(&body(&[extension(0, &[0, 9, 0, 0, 6, b'a'])]), Reason::Short);
    refused(&body(&[extension(0, &long(&[0, 0, 9, b'a']))]), Reason::Short);
    refused(&body(&[extension(16, &[])]), Reason::Short);
    refused(&body(&[extension(16, &long(&[9, b'h', b'2']))]), Reason::Short);
    refused(&[opening(), long(&[0, 0, 0])].concat(), Reason::Short);
    refused(&[opening(), long(&[0, 5, 0, 9, 1])].concat(), Reason::Short);
}

#[test]
fn nothing_is_said_twice() {
    let name = server_name("a.example");
    refused(&body(&[name.clone(), extension(5, &[]), name.clone()]), Reason::ExtensionTwice);
    refused(&body(&[extension(51, &[1]), name, extension(51, &[1])]), Reason::ExtensionTwice);
    refused(&body(&[alpn(&[b"h2"]), alpn(&[b"h2"])]), Reason::ExtensionTwice);
    refused(&body(&[server_names(&[(0, b"a.example"), (0, b"b.example")])]), Reason::NameTwice);
    refused(&body(&[server_names(&[(7, b""), (0, b"b.example"), (7, b"")])]), Reason::NameTwice);
}

#[test]
fn names_of_unknown_types_are_passed_over() {
    let both = sent(&[server_names(&[(7, b"\x00"), (0, b"a.example"), (8, b"")])]);
    let Reading::Whole(hello) = read_client_hello(&both) else { panic!("whole") };
    assert_eq!(hello.name.as_deref(), Some("a.example"));
    let Reading::Whole(hello) = read_client_hello(&sent(&[server_names(&[(7, b"x")])])) else {
        panic!("whole")
    };
    assert_eq!(hello.name, None);
}

#[test]
fn a_name_that_is_none_is_refused() {
    for name in
        ["192.0.2.1", "::1", "[::1]", "a..b", ".", "a b", "a/b", "a:443", "*.example.com", "b\u{fc}cher"]
    {
        refused(&body(&[server_name(name)]), Reason::Name);
    }
    refused(&body(&[server_names(&[(0, b"a\0b.example")])]), Reason::Name);
}

#[test]
fn what_cannot_be_read_and_what_must_not_be_said_have_their_own_alerts() {
    let alerts: Vec<(Reason, Alert)> = Reason::ALL.iter().map(|reason| (*reason, reason.alert())).collect();
    assert_eq!(
        alerts,
        [
            (Reason::Interleaved, Alert::UnexpectedMessage),
            (Reason::EmptyRecord, Alert::DecodeError),
            (Reason::RecordLength, Alert::RecordOverflow),
            (Reason::NotHello, Alert::UnexpectedMessage),
            (Reason::Behind, Alert::UnexpectedMessage),
            (Reason::TooLong, Alert::InternalError),
            (Reason::Short, Alert::DecodeError),
            (Reason::Length, Alert::DecodeError),
            (Reason::LeftOver, Alert::DecodeError),
            (Reason::ExtensionTwice, Alert::IllegalParameter),
            (Reason::NameTwice, Alert::IllegalParameter),
            (Reason::Name, Alert::IllegalParameter),
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
