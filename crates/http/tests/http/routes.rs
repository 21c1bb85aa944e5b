//! The choice of pools against a quadratic matcher that compares every route with every other.

use std::cmp::Ordering;

use baton_http::{HostMatch, Key, Parsed, PathMatch, Request, Route, Rules, parse_request};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

fn read(head: &str) -> Request<'_> {
    match parse_request(head.as_bytes()) {
        Parsed::Complete(request, _) => request,
        other => panic!("{head:?}: {other:?}"),
    }
}

fn host() -> impl Strategy<Value = HostMatch> {
    let names = select(vec!["a", "img.a", "x.img.a", "*.a", "*.img.a", "*.b"]);
    prop_oneof![1 => Just(HostMatch::Any), 2 => names.prop_map(HostMatch::named)]
}

fn path() -> impl Strategy<Value = PathMatch> {
    let paths = || select(vec!["/", "/i", "/i/", "/i/j", "/i/j/", "/k"]).prop_map(String::from);
    prop_oneof![Just(PathMatch::Any), paths().prop_map(PathMatch::Prefix), paths().prop_map(PathMatch::Exact)]
}

fn route() -> impl Strategy<Value = Route> {
    let methods = select(vec![vec![], vec!["GET"], vec!["GET", "POST"]]);
    (host(), path(), methods).prop_map(|(host, path, methods)| Route {
        host,
        path,
        methods: methods.into_iter().map(String::from).collect(),
        pool: 0,
    })
}

/// A written route's two halves as words: how special it is, and whether it matches.
fn host_of(route: &Route, host: Option<&str>) -> (u8, usize, bool) {
    match &route.host {
        HostMatch::Any => (0, 0, true),
        HostMatch::Suffix(end) => (1, end.len(), host.is_some_and(|h| h.ends_with(end) && h != end)),
        HostMatch::Exact(name) => (2, 0, host == Some(name.as_str())),
    }
}

fn path_of(route: &Route, path: &str) -> (u8, usize, bool) {
    match &route.path {
        PathMatch::Any => (0, 0, true),
        PathMatch::Prefix(start) => (1, start.len(), path.starts_with(start)),
        PathMatch::Exact(whole) => (2, 0, path == whole),
    }
}

fn naive(routes: &[Route], host: Option<&str>, path: &str, method: &str) -> Option<usize> {
    let matches = |r: &&Route| {
        let named = r.methods.is_empty() || r.methods.iter().any(|m| m == method);
        host_of(r, host).2 && path_of(r, path).2 && named
    };
    let beats = |a: &Route, b: &Route| {
        let (a_host, b_host) = (host_of(a, host), host_of(b, host));
        let (a_path, b_path) = (path_of(a, path), path_of(b, path));
        match (a_host.cmp(&b_host), a_path.cmp(&b_path)) {
            (Ordering::Greater, _) | (Ordering::Equal, Ordering::Greater) => true,
            (Ordering::Equal, Ordering::Equal) => match (a.methods.is_empty(), b.methods.is_empty()) {
                (false, true) => true,
                (true, false) => false,
                _ => a.pool < b.pool, // pools are numbered in file order here
            },
            _ => false,
        }
    };
    let candidates: Vec<&Route> = routes.iter().filter(matches).collect();
    let unbeaten = |r: &&&Route| candidates.iter().all(|other| !beats(other, r));
    candidates.iter().find(unbeaten).map(|route| route.pool)
}

/// How many patterns match a host that a request names.
fn matching(patterns: &[HostMatch], host: &str) -> usize {
    let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let matches =
        |host: &&HostMatch| Route { host: (*host).clone(), ..Route::default() }.matches(&read(&head));
    patterns.iter().filter(matches).count()
}

/// What a host that matches this pattern looks like.
fn example(pattern: &HostMatch) -> String {
    pattern.to_string().replace('*', "zz")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// As many patterns match one host as cover one pattern, and no host matches more.
    #[test]
    fn covering_tells_how_many_patterns_match_one_host(
        patterns in vec(host(), 0..8),
        host in select(vec!["a", "img.a", "x.img.a", "y.x.img.a", "b", "c.b", "c"]),
    ) {
        let mut patterns: Vec<_> = patterns.into_iter().filter(|pattern| *pattern != HostMatch::Any).collect();
        patterns.sort_by_key(HostMatch::to_string);
        patterns.dedup();
        let covering = |pattern: &HostMatch| patterns.iter().filter(|other| other.covers(pattern)).count();
        for pattern in &patterns {
            prop_assert_eq!(matching(&patterns, &example(pattern)), covering(pattern), "{}", pattern);
            prop_assert_eq!(&HostMatch::named(&pattern.to_string()), pattern);
        }
        let most = patterns.iter().map(covering).max().unwrap_or(0);
        prop_assert!(matching(&patterns, host) <= most, "{}", host);
    }

    #[test]
    fn the_quadratic_matcher_agrees(
        mut routes in vec(route(), 0..12),
        host in select(vec!["", "z.b", "a", "IMG.A:80", "x.img.a", "y.a.", "b", "c.b"]),
        path in select(vec!["/", "/i", "/i/", "/i/j", "/i//j/x", "/k/../i", "/z"]),
        method in select(vec!["GET", "POST", "PUT"]),
    ) {
        for (i, route) in routes.iter_mut().enumerate() {
            route.pool = i;
        }
        let rules = Rules::new(routes.clone(), 99, vec![]);
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let request = read(&head);
        let expected = naive(&routes, request.host.as_deref(), &request.path, method);
        prop_assert_eq!(rules.choose(&request), expected.unwrap_or(99));
        // What tables are filled from is the same choice: the first that matches.
        let first = rules.routes().iter().find(|route| route.matches(&request)).map(|route| route.pool);
        prop_assert_eq!(first, expected);
    }
}

#[test]
fn precedence_is_host_then_path_then_method() {
    let route = |host: &str, path: PathMatch, methods: &[&str], pool| Route {
        host: if host.is_empty() { HostMatch::Any } else { HostMatch::named(host) },
        path,
        methods: methods.iter().map(ToString::to_string).collect(),
        pool,
    };
    let prefix = |p: &str| PathMatch::Prefix(p.into());
    let rules = Rules::new(
        vec![
            route("", PathMatch::Exact("/img/a".into()), &[], 1),
            route("", prefix("/img/"), &[], 2),
            route("", prefix("/img/big/"), &[], 3),
            route("", prefix("/img/"), &["POST"], 4),
            route("*.example.com", PathMatch::Any, &[], 5),
            route("*.img.example.com", PathMatch::Any, &["GET"], 6),
            route("Img.Example.COM", prefix("/x"), &[], 7),
        ],
        0,
        vec![],
    );
    for (method, path, host, pool) in [
        ("GET", "/", "a", 0),
        ("GET", "/img/a", "a", 1),
        ("GET", "/img/a/", "a", 2),
        ("GET", "/img/big/a", "a", 3),
        ("POST", "/img/b", "a", 4),
        ("POST", "/img/a", "a", 1),
        ("GET", "/img/a", "www.example.com", 5),
        ("GET", "/img/a", "example.com", 1),
        ("GET", "/img/a", "z.img.example.com", 6),
        ("PUT", "/img/a", "z.img.example.com", 5),
        ("GET", "/xyz", "img.example.com:8080", 7),
        ("GET", "/%78yz", "IMG.example.com.", 7),
        ("GET", "/y", "img.example.com", 5),
    ] {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(rules.choose(&read(&head)), pool, "{method} {path} {host}");
    }
    assert_eq!(rules.choose(&read("GET /q HTTP/1.0\r\n\r\n")), 0);
}

#[test]
fn rules_say_what_they_look_at() {
    let with = |route| Rules::new(vec![route], 0, vec![]);
    let host = with(Route { host: HostMatch::named("a"), ..Route::default() });
    assert!(host.look_at_hosts() && !host.look_at_wildcards());
    let wild = with(Route { host: HostMatch::named("*.a"), ..Route::default() });
    assert!(wild.look_at_hosts() && wild.look_at_wildcards());
    let path = with(Route { path: PathMatch::Prefix("/a".into()), ..Route::default() });
    assert!(!path.look_at_hosts() && !path.look_at_methods());
    let method = with(Route { methods: vec!["GET".into()], ..Route::default() });
    assert!(method.look_at_methods());
}

#[test]
fn targets_are_made_of_what_the_key_names() {
    let head = "GET /a%2e/../b?id=7&x&id=8 HTTP/1.1\r\nX-User:  me \r\nx-user: you\r\n\
                Cookie: a=1;b=2\r\ncookie: c=\"3\"; a=4\r\n\r\n";
    let request = read(head);
    for (key, target) in [
        ("path", Some("/b")),
        ("path+query", Some("/b?id=7&x&id=8")),
        ("query:id", Some("7")),
        ("query:x", Some("")),
        ("query:y", None),
        ("query:i", None),
        ("header:X-USER", Some("me")),
        ("header:x-use", None),
        ("cookie:a", Some("1")),
        ("cookie:b", Some("2")),
        ("cookie:c", Some("\"3\"")),
        ("cookie:A", None),
    ] {
        let key: Key = key.parse().expect(key);
        assert_eq!(key.of(&request).as_deref(), target.map(str::as_bytes), "{key}");
        let rules = Rules::new(vec![], 0, vec![Key::Path, key.clone()]);
        assert_eq!(rules.target_bytes(1, &request).as_deref(), target.map(str::as_bytes), "{key}");
    }
    let bare = read("GET /b HTTP/1.1\r\n\r\n");
    assert_eq!(Key::PathQuery.of(&bare).as_deref(), Some(&b"/b"[..]));
    assert_eq!(Key::Query("id".into()).of(&bare), None);
    assert_eq!(Key::PathQuery.of(&read("GET /b? HTTP/1.1\r\n\r\n")).as_deref(), Some(&b"/b?"[..]));
}

#[test]
fn keys_are_written_as_they_are_read() {
    for text in ["path", "path+query", "query:id", "header:x-user", "cookie:Session"] {
        let key: Key = text.parse().expect(text);
        assert_eq!(key.to_string(), text);
        let json = serde_json::to_string(&key).expect(text);
        assert_eq!(json, format!("{text:?}"));
        assert_eq!(serde_json::from_str::<Key>(&json).expect(text), key);
    }
    for text in ["", "Path", "query", "query:", "path:x", "header:a b", "cookie:a=b", "query:a&b", "host:a"] {
        assert!(text.parse::<Key>().is_err(), "{text}");
        assert!(serde_json::from_str::<Key>(&format!("{text:?}")).is_err(), "{text}");
    }
}
