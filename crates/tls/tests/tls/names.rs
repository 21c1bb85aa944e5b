//! Names are normalised as the Host headers of HTTP are, so that routes read alike for both.

use baton_http::{HostMatch, Parsed, parse_request};
use baton_tls::Name;
use proptest::prelude::*;

#[test]
fn names_are_host_names_in_lower_case_without_final_dot() {
    for (sent, name) in [
        ("example.com", "example.com"),
        ("WWW.Example.COM", "www.example.com"),
        ("example.com.", "example.com"),
        ("localhost", "localhost"),
        ("_srv.a-b.example", "_srv.a-b.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("3com.example", "3com.example"),
        ("1.2.3.4.example", "1.2.3.4.example"),
    ] {
        assert_eq!(Name::read(sent.as_bytes()).as_deref(), Some(name), "{sent}");
    }
}

#[test]
fn lengths_are_bounded() {
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    assert_eq!(longest.len(), 253);
    assert!(Name::read(longest.as_bytes()).is_some());
    assert!(Name::read(format!("{longest}.").as_bytes()).is_some());
    assert!(Name::read(format!("{longest}a").as_bytes()).is_none());
    assert!(Name::read(format!("{label}a.example").as_bytes()).is_none());
}

#[test]
fn what_is_no_name_has_none() {
    for sent in
        ["", ".", "..", "a..", ".a", "a..b", "1", "1.2.3.4", "1.2.3.4.", "a.7", "a b", "a,b", "a\n", "\u{e9}"]
    {
        assert_eq!(Name::read(sent.as_bytes()), None, "{sent:?}");
    }
}

proptest! {
    #[test]
    fn a_host_header_means_the_same_host(sent in "[a-zA-Z0-9_.-]{1,30}") {
        let Some(name) = Name::read(sent.as_bytes()) else { return Ok(()) };
        prop_assert_eq!(Name::read(name.as_bytes()), Some(name.clone()));
        let request = format!("GET / HTTP/1.1\r\nHost: {sent}\r\n\r\n");
        let Parsed::Complete(request, _) = parse_request(request.as_bytes()) else {
            return Err(TestCaseError::fail("a clear request"));
        };
        prop_assert_eq!(request.host.as_deref(), Some(name.as_str()));
        prop_assert!(HostMatch::named(sent.to_uppercase().trim_end_matches('.')).matches(Some(&name)));
        let wildcard = HostMatch::named(&format!("*.{name}"));
        let below = format!("www.{name}");
        prop_assert!(wildcard.matches(Some(&below)) && !wildcard.matches(Some(&name)));
    }
}
