//! A request is placed for sure only where all web servers take it for a request of that pool. The servers'
//! readings are written here anew, each as the server makes it, and share nothing with the crate's.

use baton_http::{HostMatch, Parsed, PathMatch, Request, Route, Rules, is_normal, is_plain, parse_request};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

const PUBLIC: usize = 0;
const PRIVATE: usize = 1;
const TENANT: usize = 2;

fn rules() -> Rules {
    let to = |host: &str, path: Option<&str>, methods: &[&str], pool| Route {
        host: if host.is_empty() { HostMatch::Any } else { HostMatch::named(host) },
        path: path.map_or(PathMatch::Any, |p| PathMatch::Prefix(p.into())),
        methods: methods.iter().map(ToString::to_string).collect(),
        pool,
    };
    let routes = vec![
        to("", Some("/private/"), &[], PRIVATE),
        to("private.example.com", None, &[], PRIVATE),
        to("*.public.example.com", None, &[], TENANT),
        to("", Some("/m/"), &["PURGE", "VERSION-CONTROL"], PRIVATE),
    ];
    Rules::new(routes, PUBLIC, vec![])
}

fn read(head: &str) -> Request<'_> {
    match parse_request(head.as_bytes()) {
        Parsed::Complete(request, _) => request,
        other => panic!("{head:?}: {other:?}"),
    }
}

/// `None`: servers differ.
fn pool(line: &str, host: &str) -> Option<usize> {
    let head = format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    rules().choose_surely(&read(&head))
}

#[test]
fn spellings_are_placed_as_the_table_says() {
    for (line, expected) in [
        ("GET /private/x", Some(PRIVATE)),
        ("GET /%70rivate/x", Some(PRIVATE)),
        ("GET /private/a%2fb", Some(PRIVATE)),
        ("GET /private/a%5Cb;c//d", Some(PRIVATE)),
        ("GET /private/x/../y", Some(PRIVATE)),
        ("GET /private/x?y=/../..", Some(PRIVATE)),
        ("GET /public?/../private/", Some(PUBLIC)),
        ("GET /public/b\u{fc}cher/../x", Some(PUBLIC)),
        ("GET /api/group%2Fproject//x/..", Some(PUBLIC)),
        ("GET /PRIVATE/x", None),
        ("GET /%50rivate/x", None),
        ("GET /private/X", Some(PRIVATE)),
        ("GET /PUBLIC/x", Some(PUBLIC)),
        ("GET /private%2fx", None),
        ("GET /%2fprivate/x", None),
        ("GET /public/..%2fprivate/x", None),
        ("GET /public%2f..%2fprivate/x", None),
        ("GET /private/..%2fpublic/x", None),
        ("GET /private%2f%2e%2e%2fpublic/", None),
        ("GET //private/x", None),
        ("GET /./private/x", None),
        ("GET /public/../private/x", None),
        ("GET /public/%2e%2e/private/x", None),
        ("GET /public//../private/x", None),
        ("GET /private//../public/x", None),
        ("GET /public/..;/private/x", None),
        ("GET /private;v=1/x", None),
        ("GET /public/..\\private/x", None),
        ("GET /public/..%5cprivate/x", None),
        ("GET /private\\x", None),
        ("GET /private/%00/../../public/x", None),
        ("GET /private/x%3f/../../public/y", None),
        ("GET /public/x%23/../../private/y", None),
        ("GET /private/%2500/x", Some(PRIVATE)),
        ("PURGE /m/x", Some(PRIVATE)),
        ("VERSION-CONTROL /m/x", Some(PRIVATE)),
        // A 32-bit FNV-1a of this is that of PURGE.
        ("AEFRGZNQCSFI /m/x", Some(PUBLIC)),
        ("GET /m/x", Some(PUBLIC)),
        ("OPTIONS *", Some(PUBLIC)),
        ("GET http://a/private/x", Some(PRIVATE)),
        ("GET http://a/private%2fx", None),
        ("GET http://a", Some(PUBLIC)),
        ("OPTIONS http://a", Some(PUBLIC)),
    ] {
        assert_eq!(pool(line, "a"), expected, "{line}");
    }
}

/// Whoever sends it chooses how much work it is.
#[test]
fn what_is_long_and_odd_is_not_read_in_every_way() {
    let of = |odd: &str, length: usize| pool(&format!("GET /public/{odd}{}", "x".repeat(length)), "a");
    assert_eq!(of("", 16_000), Some(PUBLIC), "plain");
    assert_eq!(of("a//b", 32_000), Some(PUBLIC));
    assert_eq!(of("a//b", 33_000), None);
    assert_eq!(of("%2f%5c%00;", 1900), Some(PUBLIC));
    assert_eq!(of("%2f%5c%00;", 2100), None);
}

#[test]
fn hosts_are_placed_as_the_table_says() {
    for (line, host, expected) in [
        ("GET /", "private.example.com", Some(PRIVATE)),
        ("GET /", "PRIVATE.Example.COM:8080", Some(PRIVATE)),
        ("GET /", "private.example.com:", Some(PRIVATE)),
        ("GET /", "a.public.example.com", Some(TENANT)),
        ("GET /", "other.example.com.", Some(PUBLIC)),
        ("GET /", "private.example.com.", None),
        ("GET /", "private.example.com.:80", None),
        ("GET /", "a.public.example.com.", None),
        ("OPTIONS *", "private.example.com", Some(PRIVATE)),
        ("GET http://private.example.com/", "private.example.com", Some(PRIVATE)),
        ("GET HTTPS://Private.example.com:443/", "private.example.com", Some(PRIVATE)),
        ("GET http://b/", "a", Some(PUBLIC)),
        ("GET http://private.example.com/", "a", None),
        ("GET http://a/", "private.example.com", None),
        ("GET http://a/", "a.public.example.com", None),
        ("GET http://a.public.example.com", "b.public.example.com", Some(TENANT)),
        ("GET http://private.example.com/", "", None),
    ] {
        assert_eq!(pool(line, host), expected, "{line} {host}");
    }
    let alone = |path| format!("GET http://private.example.com/{path} HTTP/1.0\r\n\r\n");
    assert_eq!(rules().choose_surely(&read(&alone(""))), None, "some look at the missing header");
    assert_eq!(rules().choose_surely(&read(&alone("private/x"))), Some(PRIVATE));
}

/// Servers that compare paths in any case are thought of, unless the routes themselves tell cases apart.
#[test]
fn capital_letters_in_routes() {
    let to = |path: &str, pool| Route { path: PathMatch::Prefix(path.into()), pool, ..Route::default() };
    let sure =
        |rules: &Rules, path: &str| rules.choose_surely(&read(&format!("GET {path} HTTP/1.1\r\n\r\n")));
    let loud = Rules::new(vec![to("/Private/", 1), to("/m/", 2)], 0, vec![]);
    for (path, pool) in [
        ("/Private/x", Some(1)),
        ("/private/x", None),
        ("/PRIVATE/x", None),
        ("/Public/", Some(0)),
        ("/M/", None),
        ("/m/X", Some(2)),
    ] {
        assert_eq!(sure(&loud, path), pool, "{path}");
    }
    assert_eq!((loud.loud_within(), loud.folded_routes().collect::<Vec<_>>()), (9, vec![to("/private/", 1)]));
    let both = Rules::new(vec![to("/Private/", 1), to("/private/", 2)], 0, vec![]);
    for (path, pool) in [("/Private/x", Some(1)), ("/private/x", Some(2)), ("/PRIVATE/x", Some(0))] {
        assert_eq!(sure(&both, path), pool, "{path}");
    }
    assert_eq!((both.loud_within(), both.folded_routes().count()), (0, 0));
}

/// Removes dot segments; `joined`: of slashes in a row one counts.
fn resolved(path: &str, joined: bool) -> String {
    let mut kept: Vec<&str> = vec![];
    let segments: Vec<&str> = path[1..].split('/').collect();
    for (i, segment) in segments.iter().enumerate() {
        let last = i + 1 == segments.len();
        match *segment {
            "." | ".." => {
                if *segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            "" if joined && !last => {}
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

/// What escapes say, once; of the path's bytes none is beyond ASCII.
fn unescaped(path: &str, keep: &str) -> String {
    let mut out = String::new();
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, escape) = rest.split_at(at);
        let meant = char::from(u8::from_str_radix(&escape[1..3], 16).expect("two digits"));
        out.push_str(before);
        match keep.contains(meant) {
            true => out.push_str(&escape[..3].to_ascii_uppercase()),
            false => out.push(meant),
        }
        rest = &escape[3..];
    }
    out + rest
}

/// A server, by what it does to a path before it looks where that belongs.
type Server = (&'static str, fn(&str) -> String);

fn servers() -> Vec<Server> {
    vec![
        ("nginx", |p| resolved(&unescaped(p, ""), true)),
        ("nginx, merge_slashes off", |p| resolved(&unescaped(p, ""), false)),
        ("Apache", |p| resolved(&unescaped(p, "/"), true)),
        ("Apache, AllowEncodedSlashes On", |p| resolved(&unescaped(p, ""), true)),
        ("Go", |p| unescaped(p, "")),
        ("Go, cleaned", |p| resolved(&unescaped(p, ""), true)),
        ("Node", |p| unescaped(p, "/\\;?#\0 \"<>|[]")),
        ("Node's URL", |p| resolved(&unescaped(&p.replace('\\', "/"), "/\\;?#\0"), false)),
        ("Tomcat", |p| {
            let bare: Vec<&str> = p.split('/').map(|s| s.split(';').next().unwrap_or_default()).collect();
            resolved(&unescaped(&bare.join("/"), "/"), true)
        }),
        ("IIS", |p| resolved(&unescaped(p, "").replace('\\', "/"), true).to_ascii_lowercase()),
        ("Caddy", |p| resolved(&unescaped(p, ""), true).to_ascii_lowercase()),
        ("as a C string", |p| {
            let path = unescaped(p, "");
            resolved(path.split('\0').next().unwrap_or_default(), true)
        }),
    ]
}

fn path() -> impl Strategy<Value = String> {
    let piece = select(vec![
        "/",
        "/",
        "/",
        "..",
        "..",
        ".",
        "private",
        "private",
        "public",
        "x",
        "%2f",
        "%2F",
        "%5c",
        "\\",
        ";",
        ";a=b",
        "%2e",
        "%2E%2e",
        "%70rivate",
        "Private",
        "%00",
        "%3f",
        "%23",
        "%25",
        "%252f",
        "/private/",
        "/../",
    ]);
    vec(piece, 0..9).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn no_server_takes_a_request_for_one_of_another_pool(path in path()) {
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let request = read(&head);
        let Some(sure) = rules().choose_surely(&request) else { return Ok(()) };
        prop_assert_eq!(sure, rules().choose(&request));
        for (name, takes) in servers() {
            let taken = takes(&path);
            let theirs = if taken.starts_with("/private/") { PRIVATE } else { PUBLIC };
            prop_assert_eq!(theirs, sure, "{} takes {} for {}", name, path, taken);
        }
    }

    #[test]
    fn a_plain_path_is_read_alike_and_is_always_placed(path in path()) {
        let plain = is_plain(&path);
        prop_assert!(!plain || is_normal(&path));
        if plain {
            let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            let loud = path.bytes().any(|c| c.is_ascii_uppercase());
            let sure = rules().choose_surely(&read(&head));
            prop_assert!(loud || sure == Some(rules().choose(&read(&head))));
            for (name, takes) in servers() {
                prop_assert!(takes(&path).eq_ignore_ascii_case(&unescaped(&path, "")), "{}", name);
            }
        }
    }
}
