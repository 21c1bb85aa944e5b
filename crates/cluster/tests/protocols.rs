//! Services whose requests cannot be read: what their sections mean, every refusal with its line, warnings,
//! and that the digest sees them. In refusals `#!` marks the line that must be named.

use std::collections::HashSet;

use baton_cluster::{Cluster, ConfigError, NameRoute, NameRules, PoolId, Protocol, ServiceId, Unrouted};
use baton_http::{HostMatch, Key};

const EXAMPLE: &str = include_str!("../../../examples/tls.toml");

const GOOD: &str = r#"
[cluster]
name = "web"
secret = "k3YvT9qLw0ZsB7nXfR2mJc8HdPu5GaE1"
[[node]]
name = "front"
address = "10.1.0.10"
roles = ["distributor", "dispatcher"]
[[node]]
name = "s1"
address = "10.1.0.11"
roles = ["server"]
[[node]]
name = "s2"
address = "10.1.0.12"
roles = ["server"]
[[service]]
name = "plain"
vips = ["10.99.0.1"]
port = 7000
protocol = "tcp"
policy = "wrr"
[[service]]
name = "secure"
vips = ["10.99.0.1"]
port = 443
protocol = "tls"
default_pool = "site"
[[service.pool]]
name = "api"
servers = ["s1", "s2"]
policy = "lard"
[[service.pool]]
name = "site"
servers = ["s1"]
policy = "wrr"
[[service.route]]
pool = "api"
host = "*.Api.example.org"
[[service.route]]
pool = "site"
host = "*.api.example.org"
alpn = "h2"
"#;

#[track_caller]
fn parsed(text: &str) -> Cluster {
    Cluster::parse(text).unwrap_or_else(|errors| panic!("{errors}\nin {text}"))
}

/// The good file with `from` made `to` is refused for one reason, on the line marked `#!`.
#[track_caller]
fn refused(from: &str, to: &str, what: &str, help: &str) {
    assert!(GOOD.contains(from), "the good file lacks {from:?}");
    let text = GOOD.replacen(from, to, 1);
    let line = text.lines().position(|line| line.contains("#!")).map(|at| at + 1);
    let expected = ConfigError { line, what: what.to_owned(), help: help.to_owned() };
    assert_eq!(Cluster::parse(&text).expect_err(&text).0, [expected], "in {text}");
}

fn tls(text: &str) -> NameRules {
    parsed(text).services[1].names.clone()
}

#[test]
fn sections_mean_what_they_say() {
    let cluster = parsed(GOOD);
    let [plain, secure] = &*cluster.services else { panic!("two services") };
    assert_eq!((plain.protocol, secure.protocol), (Protocol::Tcp, Protocol::Tls));
    assert_eq!(secure.pools, [PoolId(1), PoolId(2)]);
    assert!(secure.routes.is_empty() && plain.names == NameRules::default());
    assert_eq!(secure.names.default_pool(), Some(1));
    let host = HostMatch::Suffix(".api.example.org".to_owned());
    let expected = [
        NameRoute { host: host.clone(), alpn: Some("h2".to_owned()), pool: 1 },
        NameRoute { host, alpn: None, pool: 0 },
    ];
    assert_eq!(secure.names.routes(), expected, "by precedence");
    assert!(!secure.is_strict(&cluster), "their requests never move");
    assert!(cluster.rules(ServiceId(1)).expect("a service").routes().is_empty());
    assert_eq!(cluster.pools[1].key, Key::Name);
    assert_eq!(parsed(&GOOD.replace("\"tcp\"", "\"http\"")).services[0].protocol, Protocol::default());
    parsed(&GOOD.replace("\"tcp\"", "\"tcp\"\nspeaks_first = \"client\""));
    for protocol in Protocol::ALL {
        assert_eq!(toml::Value::try_from(protocol).expect("a word").as_str(), Some(protocol.name()));
    }
}

#[test]
fn names_and_protocols_choose() {
    let rules = tls(GOOD);
    let http = |offered: &str| offered == "http/1.1";
    let h2 = |offered: &str| offered == "h2" || offered == "http/1.1";
    assert_eq!(rules.choose(Some("a.api.example.org"), http), Ok(0));
    assert_eq!(rules.choose(Some("a.api.example.org"), h2), Ok(1));
    for other in [Some("api.example.org"), Some("example.org"), None] {
        assert_eq!(rules.choose(other, h2), Ok(1), "the default");
    }
    let rules = tls(&GOOD.replace("default_pool = \"site\"\n", ""));
    assert_eq!(rules.choose(Some("example.org"), h2), Err(Unrouted::Name));
    assert_eq!(rules.choose(None, h2), Err(Unrouted::Name));
    assert_eq!(rules.choose(Some("a.api.example.org"), http), Ok(0));

    let h2_only = GOOD.replace("default_pool = \"site\"\n", "");
    let h2_only = h2_only.replace("\"*.Api.example.org\"", "\"b.org\"");
    assert_eq!(tls(&h2_only).choose(Some("a.api.example.org"), http), Err(Unrouted::Protocol));
    let exact = h2_only.replace("\"b.org\"", "\"a.api.example.org\"");
    assert_eq!(tls(&exact).choose(Some("a.api.example.org"), h2), Ok(0), "a name before a wildcard");
    let any = h2_only.replace("host = \"b.org\"", "alpn = \"http/1.1\"");
    assert_eq!(tls(&any).choose(None, http), Ok(0), "whatever the name");

    let end = GOOD.find("[[service.route]]").expect("routes");
    let alone = GOOD[..end].replace("default_pool = \"site\"\n", "");
    assert_eq!(tls(&alone).choose(None, http), Ok(0), "without routes the first pool has everything");
}

#[test]
fn the_example_says_what_it_means() {
    let cluster = parsed(
        &EXAMPLE.replace("replace me: baton init prints a fresh one", "k3YvT9qLw0ZsB7nXfR2mJc8HdPu5GaE1"),
    );
    let protocols: Vec<_> = cluster.services.iter().map(|s| (s.port, s.protocol.name())).collect();
    assert_eq!(protocols, [(443, "tls"), (80, "http"), (6379, "tcp")]);
    let names = &cluster.services[0].names;
    assert_eq!(names.choose(Some("x.api.example.org"), |_| false), Ok(1));
    assert_eq!(names.choose(Some("www.example.org"), |_| false), Ok(0));
}

#[test]
fn bad_services() {
    let (tcp, tls) = ("protocol = \"tcp\"", "protocol = \"tls\"");
    refused(
        tcp,
        "protocol = \"udp\" #!",
        "\"udp\" is not a value of `protocol`",
        "it takes \"http\", \"tls\", \"tcp\"",
    );
    let (why, help) = (
        "a protocol in which the server speaks first cannot be handed off: a connection goes to its server with the first bytes of the client, which would wait for the server for ever",
        "offer it without Baton, by an address of the server's own",
    );
    refused(tcp, "protocol = \"tcp\"\nspeaks_first = \"server\" #!", why, help);
    let what = "\"both\" is not a value of `speaks_first`";
    refused(tcp, "protocol = \"tcp\"\nspeaks_first = \"both\" #!", what, "it takes \"client\"");
    let what = "`speaks_first` is given for a service with protocol = \"tls\", in which the client does";
    refused(tls, "protocol = \"tls\"\nspeaks_first = \"client\" #!", what, "remove it");
    let what = "`default_pool` is given for a service with protocol = \"tcp\"";
    let help = "remove it: the first pool is the default";
    refused(tcp, "protocol = \"tcp\"\ndefault_pool = \"plain\" #!", what, help);
    let what = "the service has no pool \"sit\"";
    refused(
        "default_pool = \"site\"",
        "default_pool = \"sit\" #!",
        what,
        "did you mean site? its pools are api, site",
    );
}

#[test]
fn bad_pools() {
    let what = "a pool of protocol = \"tcp\" has no targets, and so no key";
    refused("\"wrr\"", "\"wrr\"\nkey = \"name\" #!", what, "remove it");
    let what = "the policy \"lard\" places targets, and nothing is known of a TCP connection";
    refused("\"wrr\"", "\"lard\" #!", what, "choose \"least-loaded\" or \"wrr\"");
    let what = "requests inside TLS cannot be read: the server name alone can be the key";
    let help = "write key = \"name\", or leave it out";
    refused("\"lard\"", "\"lard\"\nkey = \"path\" #!", what, help);
    let what = "p_http = \"move\" in a service with protocol = \"tls\", whose later requests cannot be read";
    let help = "remove it: such a connection stays with its server";
    refused("\"lard\"", "\"lard\"\np_http = \"move\" #!", what, help);
    parsed(&GOOD.replace("\"lard\"", "\"lard\"\np_http = \"stay\"\nkey = \"name\""));
    let pools = "[[service.pool]]\nname = \"a\"\npolicy = \"wrr\"\n[[service.pool]] #!\nname = \"b\"\npolicy = \"wrr\"";
    let help = "keep one, and make the others services with ports of their own";
    refused("policy = \"wrr\"", pools, "a second pool of a service with protocol = \"tcp\"", help);
    let http = GOOD.replace("\"tcp\"", "\"http\"").replacen("\"wrr\"", "\"wrr\"\nkey = \"name\"", 1);
    let errors = Cluster::parse(&http).expect_err("a key of TLS").0;
    assert_eq!(errors[0].what, "the key \"name\" is that of TLS connections");
}

#[test]
fn bad_routes() {
    let path = "`path` in a route of TLS, within which requests cannot be read";
    let help = "tell connections apart by `host` and `alpn`";
    refused("alpn = \"h2\"", "path = \"/a\" #!", path, help);
    refused("alpn = \"h2\"", "alpn = \"h2\"\nmethods = [\"GET\"] #!", &path.replace("path", "methods"), help);
    let help = "write its ALPN name, such as \"h2\" or \"http/1.1\"";
    refused("alpn = \"h2\"", "alpn = \"\" #!", "\"\" is not a protocol", help);
    let what = "the route on line 37 takes the same connections";
    let help = "remove one of them, or let them differ in host or alpn";
    refused(
        "[[service.route]]\npool = \"site\"\nhost = \"*.api.example.org\"\nalpn = \"h2\"",
        "[[service.route]] #!\npool = \"site\"\nhost = \"*.api.example.org\"",
        what,
        help,
    );
    let help = "give it a `host` or `alpn`; the service's `default_pool` has all others";
    refused(
        "[[service.route]]\npool = \"api\"\nhost = \"*.Api.example.org\"",
        "[[service.route]] #!\npool = \"api\"",
        "a route that takes every connection",
        help,
    );
    let route = "policy = \"wrr\"\n[[service.route]] #!\npool = \"plain\"\nhost = \"a\"";
    let help = "remove it: the service's only pool has all connections";
    refused("policy = \"wrr\"", route, "a route of a service with protocol = \"tcp\"", help);
    let http = GOOD.replace("\"tls\"", "\"http\"").replace("default_pool = \"site\"\n", "");
    let errors = Cluster::parse(&http).expect_err("alpn").0;
    assert_eq!(errors[0].what, "`alpn` in a route of HTTP in the clear");
}

#[test]
fn warnings() {
    assert_eq!(parsed(GOOD).warnings(), []);
    for port in [21, 22, 23, 25, 110, 143, 587, 3306, 5900] {
        let found = parsed(&GOOD.replace("7000", &port.to_string())).warnings();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].what.ends_with("in which the server speaks first"), "{found:?}");
        assert_eq!(
            parsed(&GOOD.replace("443", &port.to_string())).warnings(),
            [],
            "TLS begins with the client"
        );
    }
    let found = parsed(
        &GOOD
            .replace("default_pool = \"site\"", "default_pool = \"api\"")
            .replace("pool = \"site\"", "pool = \"api\""),
    )
    .warnings();
    assert_eq!(found[0].what, "no route leads to pool site of service secure");
}

#[test]
fn digest_sees_protocols_and_names() {
    let changes = [
        ("\"tcp\"", "\"http\""),
        ("\"tcp\"", "\"tls\""),
        ("default_pool = \"site\"", "default_pool = \"api\""),
        ("default_pool = \"site\"\n", ""),
        ("alpn = \"h2\"", "alpn = \"h3\""),
        ("\"*.Api.example.org\"", "\"api.example.org\""),
        ("pool = \"api\"", "pool = \"site\""),
    ];
    let mut digests = HashSet::from([parsed(GOOD).digest()]);
    for (from, to) in changes {
        assert!(digests.insert(parsed(&GOOD.replacen(from, to, 1)).digest()), "{from} -> {to}");
    }
    let same = GOOD
        .replace("\"lard\"", "\"lard\"\nkey = \"name\"")
        .replace("\"tcp\"", "\"tcp\"\nspeaks_first = \"client\"");
    assert_eq!(parsed(&same).digest(), parsed(GOOD).digest());
}
