//! Normalisation against a table, against RFC 3986's own procedure, and against its own promises.

use std::borrow::Cow;

use baton_http::{is_normal, normalise};
use proptest::prelude::*;
use proptest::sample::select;

#[test]
fn paths_mean_what_the_table_says() {
    for (path, normal) in [
        ("/", "/"),
        ("//", "/"),
        ("///a", "/a"),
        ("/a//b//", "/a/b/"),
        ("/.", "/"),
        ("/..", "/"),
        ("/./a", "/a"),
        ("/../../a", "/a"),
        ("/a/.", "/a/"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/b/../c", "/a/c"),
        ("/a//../b", "/b"),
        ("/a/.../b", "/a/.../b"),
        ("/.a/b.", "/.a/b."),
        ("/%61%7E%2d", "/a~-"),
        ("/%2e%2E/%2e/a", "/a"),
        ("/a%2fb", "/a%2Fb"),
        ("/a%2Fb", "/a%2Fb"),
        ("/%2541", "/%2541"),
        ("/%00%ff%20", "/%00%FF%20"),
        ("/%3f", "/%3F"),
        ("/\u{e9}/\u{4f60}", "/%C3%A9/%E4%BD%A0"),
        ("/%c3\u{80}", "/%C3%C2%80"),
    ] {
        assert_eq!(normalise(path).as_deref(), Some(normal), "{path}");
        assert_eq!(is_normal(path), path == normal, "{path}");
    }
}

#[test]
fn what_is_no_path_has_no_normal_form() {
    for text in ["", "a", "*", "/%", "/%4", "/%zz", "/%4g", "/a b", "/a?b", "/a#b", "/\0", "/a/../%zz"] {
        assert_eq!(normalise(text), None, "{text:?}");
        assert!(!is_normal(text), "{text:?}");
    }
}

/// Decode, merge slashes, then RFC 3986 5.2.4 as it is written.
fn by_the_book(path: &str) -> String {
    let mut decoded = String::new();
    let mut rest = path;
    while let Some(c) = rest.chars().next() {
        let escape = rest.get(..3).filter(|_| c == '%').map(str::to_ascii_uppercase);
        let meant = escape.as_deref().and_then(|e| u8::from_str_radix(&e[1..], 16).ok()).map(char::from);
        match (meant, escape) {
            (Some(m @ ('a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.' | '_' | '~')), _) => decoded.push(m),
            (_, Some(escape)) => decoded.push_str(&escape),
            _ if c.is_ascii() => decoded.push(c),
            _ => decoded.extend(c.to_string().bytes().map(|byte| format!("%{byte:02X}"))),
        }
        rest = &rest[if c == '%' { 3 } else { c.len_utf8() }..];
    }
    while decoded.contains("//") {
        decoded = decoded.replace("//", "/");
    }
    let (mut input, mut output) = (decoded, String::new());
    while !input.is_empty() {
        if let Some(rest) = input.strip_prefix("/./") {
            input = format!("/{rest}");
        } else if input == "/." {
            input = "/".into();
        } else if let Some(rest) = input.strip_prefix("/../") {
            output.truncate(output.rfind('/').unwrap_or(0));
            input = format!("/{rest}");
        } else if input == "/.." {
            output.truncate(output.rfind('/').unwrap_or(0));
            input = "/".into();
        } else {
            let end = input[1..].find('/').map_or(input.len(), |at| at + 1);
            output.push_str(&input[..end]);
            input.drain(..end);
        }
    }
    output
}

fn path() -> impl Strategy<Value = String> {
    let piece = select(vec![
        "/", "/", "/", ".", ".", "..", "a", "B", "%2e", "%2E", "%2f", "%2F", "%41", "%c3", "%C3", "%25", "~",
        "-", "%zz", "%", "#", "\u{e9}", "?",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn normal_is_what_normalising_leaves_alone(path in path()) {
        let normal = normalise(&path);
        prop_assert_eq!(is_normal(&path), normal.as_deref() == Some(&*path));
        prop_assert_eq!(is_normal(&path), matches!(normal, Some(Cow::Borrowed(_))));
        if let Some(normal) = normal {
            prop_assert!(is_normal(&*normal));
            prop_assert!(normalise(&*normal).is_some_and(|again| again == normal));
            prop_assert_eq!(by_the_book(&path), normal);
        }
    }
}
