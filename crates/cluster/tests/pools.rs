//! Pools and routes of a cluster file: what good ones mean, every refusal with its line, warnings,
//! and that the digest sees them. In refusals `#!` marks the line that must be named.

use std::collections::{HashMap, HashSet};

use baton_cluster::{Cluster, ConfigError, NodeId, PHttp, PolicyKind, PoolHash, PoolId, ServiceId};
use baton_http::{HostMatch, Key, PathMatch, Route};

const EXAMPLE: &str = include_str!("../../../examples/pools.toml");

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
name = "old"
vips = ["10.99.0.1"]
port = 81
policy = "wrr"
[[service]]
name = "www"
vips = ["10.99.0.1"]
port = 80
[[service.pool]]
name = "site"
policy = "lard"
[[service.pool]]
name = "img"
servers = ["s2", "s1"]
policy = "lard/r"
p_http = "extended-lard"
[service.pool.lard]
t_low = 10
[[service.route]]
pool = "img"
host = "Img.example.com"
[[service.route]]
pool = "img"
path = "/img/"
methods = ["GET", "HEAD"]
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

#[test]
fn pools_are_numbered_over_all_services() {
    let cluster = parsed(GOOD);
    let numbered: Vec<_> =
        cluster.pools.iter().map(|pool| (pool.id.0, &*pool.name, pool.service.0)).collect();
    assert_eq!(numbered, [(0, "old", 0), (1, "site", 1), (2, "img", 1)]);
    let www = cluster.service(ServiceId(1)).expect("the second service");
    assert_eq!(www.pools, [PoolId(1), PoolId(2)]);
    let names: Vec<_> = cluster.pools_of(www.id).map(|pool| &*pool.name).collect();
    assert_eq!(names, ["site", "img"]);
    assert_eq!((cluster.pool(PoolId(3)), cluster.pools_of(ServiceId(2)).count()), (None, 0));

    let img = cluster.pool(PoolId(2)).expect("the third pool");
    assert_eq!(img.servers, [NodeId(1), NodeId(2)], "in ascending order");
    assert!(img.has(NodeId(2)) && !img.has(NodeId(0)));
    assert_eq!((img.policy.kind, img.policy.t_low, img.policy.t_high), (PolicyKind::LardReplicated, 10, 65));
    assert_eq!((img.p_http, img.pressure_low), (PHttp::ExtendedLard, 10));
    assert_eq!(cluster.pools[1].servers, [NodeId(1), NodeId(2)], "every server");
}

#[test]
fn routes_name_a_pool_of_their_service() {
    let cluster = parsed(GOOD);
    let expected = [
        Route { host: HostMatch::Exact("img.example.com".to_owned()), pool: 1, ..Route::default() },
        Route {
            path: PathMatch::Prefix("/img/".to_owned()),
            methods: vec!["GET".to_owned(), "HEAD".to_owned()],
            pool: 1,
            ..Route::default()
        },
    ];
    assert_eq!(cluster.services[1].routes, expected);
    let rules = cluster.rules(ServiceId(1)).expect("the second service");
    assert_eq!((rules.default_pool(), rules.routes().len(), rules.key(1)), (0, 2, &Key::Path));
    assert!(cluster.rules(ServiceId(0)).expect("the first service").routes().is_empty());
    assert!(cluster.rules(ServiceId(2)).is_none());
    let route =
        |text: &str| parsed(&GOOD.replace("host = \"Img.example.com\"", text)).services[1].routes[0].clone();
    assert_eq!(route("host = \"*.a.b\"").host, HostMatch::Suffix(".a.b".to_owned()));
    assert_eq!(route("path_exact = \"/\"").path, PathMatch::Exact("/".to_owned()));
    assert_eq!(route("path = \"/%C3%A9/\"").path, PathMatch::Prefix("/%C3%A9/".to_owned()));
    assert_eq!(route("path = \"/\"\nhost = \"a\"").path, PathMatch::Any);
}

#[test]
fn pools_of_different_servers_make_a_service_strict() {
    let strict = |text: &str| {
        let cluster = parsed(text);
        cluster.services.iter().map(|service| service.is_strict(&cluster)).collect::<Vec<_>>()
    };
    assert_eq!(strict(GOOD), [false, false], "every server, and both of them by name");
    assert_eq!(strict(&GOOD.replace("[\"s2\", \"s1\"]", "[\"s2\"]")), [false, true]);
}

#[test]
fn the_example_says_what_it_means() {
    let text =
        EXAMPLE.replace("replace me: baton init prints a fresh one", "k3YvT9qLw0ZsB7nXfR2mJc8HdPu5GaE1");
    let cluster = parsed(&text);
    let www = &cluster.services[0];
    assert!(www.is_strict(&cluster));
    let pools: Vec<_> = cluster.pools.iter().map(|pool| (&*pool.name, pool.servers.len())).collect();
    assert_eq!(pools, [("site", 2), ("images", 2), ("search", 4)]);
    assert_eq!(cluster.pools[0].key, Key::Cookie("session".to_owned()));
    assert_eq!(www.routes.len(), 5);
    // What is commented out is good too, and says the defaults (but for the file).
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.starts_with("[limits") || setting.contains(" = ") => setting,
            _ => line,
        })
        .filter(|line| !line.starts_with("pressure_file") && !line.contains("p_http = \"extended-lard\":"))
        .fold(String::new(), |all, line| all + line + "\n");
    assert_ne!(uncommented, text);
    assert_eq!(parsed(&uncommented).digest(), cluster.digest());
}

#[test]
fn a_route_has_few_methods() {
    let methods = |count: u8| {
        (0..count).map(|i| format!("\"M{}\"", char::from(b'A' + i))).collect::<Vec<_>>().join(", ")
    };
    parsed(&GOOD.replacen("\"GET\", \"HEAD\"", &methods(16), 1));
    refused(
        "\"GET\", \"HEAD\"]",
        &format!("{}] #!", methods(17)),
        "the route names 17 methods, 16 are the most",
        "make it several routes",
    );
}

/// Nodes name pools to each other by hashes. By the birthday paradox some 80,000 names have two alike.
#[test]
fn pools_that_nodes_could_not_tell_apart() {
    let mut seen = HashMap::new();
    let names = (0u32..).map(|n| format!("p{n}"));
    let mut alike =
        names.filter_map(|name| Some((seen.insert(PoolHash::of("www", &name), name.clone())?, name)));
    let (one, other) = alike.next().expect("two alike");
    assert_ne!(PoolHash::of("ab", "c"), PoolHash::of("a", "bc"));
    let to = format!("name = \"{one}\"\npolicy = \"lard\"\n[[service.pool]]\nname = \"{other}\" #!");
    refused(
        "name = \"site\"",
        &to,
        "nodes could not tell this pool from the one on line 27",
        "by chance their names have the same hash: rename one",
    );
}

#[test]
fn bad_pools() {
    refused(
        "[[service.route]]",
        "[[service.pool]]\npolicy = \"wrr\"\nname = \"site\" #!\n[[service.route]]",
        "a second pool of the service is named \"site\"; the first is on line 27",
        "give each pool of the service a name of its own",
    );
    refused(
        "name = \"img\"",
        "name = \"Img\" #!",
        "the pool's name \"Img\" is not a name",
        "use 1 to 32 lower-case letters, digits and '-'",
    );
    refused(
        "[\"s2\", \"s1\"]",
        "[] #!",
        "the pool has no server",
        "name nodes that have the role \"server\", or leave `servers` out for all of them",
    );
    refused(
        "[\"s2\", \"s1\"]",
        "[\"s2\",\n\"s1\",\n\"s2\"] #!",
        "server \"s2\" is named twice",
        "name it once",
    );
    refused(
        "[\"s2\", \"s1\"]",
        "[\"s2\",\n\"s3\"] #!",
        "there is no node \"s3\"",
        "the nodes are front, s1, s2",
    );
    refused(
        "[\"s2\", \"s1\"]",
        "[\"s2\",\n\"front\"] #!",
        "node \"front\" is no server",
        "add \"server\" to its roles, or take it out of the pool",
    );
    refused(
        "policy = \"lard/r\"\np_http = \"extended-lard\"",
        "policy = \"wrr\"\np_http = \"extended-lard\" #!",
        "p_http = \"extended-lard\" with the policy \"wrr\", which knows no targets",
        "choose the policy \"lard\" or \"lard/r\", or p_http = \"stay\"",
    );
}

#[test]
fn bad_settings() {
    refused(
        "servers = [\"s2\", \"s1\"]\npolicy = \"lard/r\"",
        "\npolicy = \"lard/r\"\npolicies = 1 #!",
        "unknown key `policies` in [[service.pool]]",
        "did you mean policy? [[service.pool]] takes name, servers, policy, consult, key, p_http, pressure_low, mechanism, lard; remove or correct this one",
    );
    for key in [
        "policy = \"lard\"",
        "consult = \"always\"",
        "key = \"path\"",
        "p_http = \"stay\"",
        "pressure_low = 5",
        "mechanism = \"handoff\"",
        "lard = { t_low = 9 }",
    ] {
        let name = key.split(' ').next().expect("a key");
        let what = format!("`{name}` is given for a service that has pools");
        let help = "move it to each [[service.pool]] that it is meant for";
        refused("port = 80\n", &format!("port = 80\n{key} #!\n"), &what, help);
    }
    let setting = |line: &str, what: &str, help: &str| {
        refused("name = \"img\"", &format!("name = \"img\"\n{line} #!"), what, help);
    };
    setting(
        "mechanism = \"relay\"",
        "the mechanism \"relay\" is not built yet: this version only hands connections off",
        "write mechanism = \"handoff\", or leave it out",
    );
    setting("mechanism = \"nat\"", "\"nat\" is not a value of `mechanism`", "it takes \"handoff\"");
    setting(
        "pressure_low = 0",
        "`pressure_low` is 0, which is not within 1 to 100",
        "choose a value from 1 to 100",
    );
    let name_help = "after the colon write the name alone, as in \"query:id\"";
    for key in ["query:", "header:a b", "cookie:a=b", "query:a&b"] {
        let what = format!("\"{key}\" names nothing that a request can carry");
        setting(&format!("key = \"{key}\""), &what, name_help);
    }
    refused(
        "p_http = \"extended-lard\"",
        "p_http = \"go\" #!",
        "\"go\" is not a value of `p_http`",
        "it takes \"stay\", \"move\", \"extended-lard\"",
    );
    refused(
        "t_low = 10",
        "t_low = 65 #!",
        "t_low (65) is not below t_high (65)",
        "lower t_low or raise t_high; the papers' values are 25 and 65",
    );
    refused(
        "name = \"s1\"",
        "name = \"s1\"\npressure_file = \"busy\" #!",
        "\"busy\" is not the whole path of a file",
        "begin with a slash, such as \"/run/pressure\"",
    );
}

#[test]
fn bad_routes() {
    let route = |lines: &str, what: &str, help: &str| {
        refused("host = \"Img.example.com\"", lines, what, help);
    };
    refused(
        "[[service.route]]\npool = \"img\"\nhost",
        "[[service.route]]\npool = \"imgs\" #!\nhost",
        "the service has no pool \"imgs\"",
        "did you mean img? its pools are site, img",
    );
    refused(
        "[[service.route]]\npool = \"img\"\nhost",
        "[[service.route]]\npool = \"old\" #!\nhost",
        "the service has no pool \"old\"",
        "its pools are site, img",
    );
    refused(
        "[[service.route]]\npool = \"img\"\nhost",
        "[[service.route]] #!\nhost",
        "[[service.route]] lacks `pool`",
        "add `pool = \"images\"`",
    );
    for all in ["", "path = \"/\""] {
        let to = format!("[[service.route]] #!\npool = \"img\"\n{all}");
        let help =
            "give it a `host`, `path`, `path_exact` or `methods`; the first pool has all other requests";
        refused(
            "[[service.route]]\npool = \"img\"\nhost = \"Img.example.com\"",
            &to,
            "a route that takes every request",
            help,
        );
    }
    let host_help = "write a name without port, such as \"img.example.com\", or \"*.example.com\" for all names below one";
    for host in ["", "a:80", "*", "a.*.b", "a..b", ".a", "a b", "é", "*.", "http://a"] {
        route(&format!("host = \"{host}\" #!"), &format!("\"{host}\" is not a host"), host_help);
    }
    let path = |key: &str, path: &str, what: &str, help: &str| {
        route(&format!("{key} = \"{path}\" #!"), &format!("the path \"{path}\" {what}"), help);
    };
    path("path", "img", "does not begin with a slash", "write the path alone, such as \"/img/\"");
    for more in ["/a b", "/a?b", "/a#b", "/é"] {
        path(
            "path_exact",
            more,
            "is more than a path",
            "write printable ASCII without '?' and '#', other characters as %-escapes",
        );
    }
    let normal = "write no \"//\", \"/./\" and \"/../\"; escapes in capitals (%C3), and none of letters, digits and -._~";
    for other in [
        "//a", "/a//b", "/a//", "/a/./b", "/a/..", "/.", "/../a", "/%c3%a9", "/%41", "/%2", "/%", "/%zz",
        "/%7E",
    ] {
        path("path", other, "is not normal, so that no request would match it", normal);
    }
    let (longest, longer) = (format!("/{}", "a".repeat(126)), format!("/{}", "a".repeat(127)));
    for key in ["path", "path_exact"] {
        parsed(&GOOD.replace("host = \"Img.example.com\"", &format!("{key} = \"{longest}\"")));
        let what = format!("the path \"{}...\" is too long", &longer[..48]);
        route(&format!("{key} = \"{longer}\" #!"), &what, "a route's path has at most 127 characters");
    }
    for fine in ["/a/", "/.a", "/a..", "/...", "/%2F", "/%25"] {
        parsed(&GOOD.replace("host = \"Img.example.com\"", &format!("path = \"{fine}\"")));
    }
    let both = "path = \"/a\"\npath_exact = \"/b\" #!";
    route(both, "a route with both `path` and `path_exact`", "give one of them, or write two routes");
    for method in ["M-SEARCH", "VERSION-CONTROL", "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDE", "PURGE2"] {
        let named = format!("path = \"/a\"\nmethods = [\"{method}\"]");
        parsed(&GOOD.replace("host = \"Img.example.com\"", &named));
    }
    for method in ["get", "", "GET ", "Get", "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF", "GE(T"] {
        let what = format!("\"{method}\" is not a method");
        route(
            &format!("methods = [\"{method}\"] #!"),
            &what,
            "write 1 to 31 capital letters, such as \"GET\", or what else a method may have but small ones",
        );
    }
    route("methods = [] #!", "the route takes no method", "name one, or leave `methods` out for all of them");
    route("methods = [\"PUT\",\n\"PUT\"] #!", "method \"PUT\" is named twice", "name it once");
    route(
        "methods = [\"CONNECT\"] #!",
        "no route takes CONNECT: such a connection stays with the service's first pool",
        "take it out of the list",
    );
}

#[test]
fn routes_that_take_the_same_requests() {
    let help = "remove one of them, or let them differ in host, path or methods";
    let again = |lines: &str, first: usize| {
        let to = format!("\"GET\", \"HEAD\"]\n[[service.route]] #!\npool = \"site\"\n{lines}");
        refused(
            "\"GET\", \"HEAD\"]",
            &to,
            &format!("the route on line {first} takes the same requests"),
            help,
        );
    };
    again("host = \"IMG.example.com\"", 36);
    again("host = \"img.example.com\"\npath = \"/\"", 36);
    again("path = \"/img/\"\nmethods = [\"POST\", \"HEAD\"]", 39);
    for other in [
        "path = \"/img/\"",
        "path = \"/img/\"\nmethods = [\"POST\"]",
        "path_exact = \"/img/\"",
        "host = \"*.example.com\"",
    ] {
        parsed(&format!("{GOOD}[[service.route]]\npool = \"site\"\n{other}\n"));
    }
}

#[test]
fn too_many() {
    let pools = |n: usize| {
        let pool = |i: usize| format!("[[service.pool]]\nname = \"p{i}\"\npolicy = \"wrr\"\n");
        format!("{GOOD}{}", (3..n).map(pool).collect::<String>())
    };
    assert_eq!(parsed(&pools(64)).pools.len(), 64);
    let errors = Cluster::parse(&pools(65)).expect_err("one too many").0;
    assert_eq!((errors.len(), errors[0].line), (1, Some(43 + 61 * 3)));
    assert_eq!(errors[0].what, "there are 65 pools, 64 are the most");
    let routes = |n: usize| {
        let route = |i: usize| format!("[[service.route]]\npool = \"img\"\npath = \"/p{i}/\"\n");
        format!("{GOOD}{}", (2..n).map(route).collect::<String>())
    };
    assert_eq!(parsed(&routes(256)).services[1].routes.len(), 256);
    let errors = Cluster::parse(&routes(257)).expect_err("one too many").0;
    assert_eq!((errors.len(), errors[0].line), (1, Some(43 + 254 * 3)));
    assert_eq!(errors[0].what, "the service has 257 routes, 256 are the most");
}

#[test]
fn warnings() {
    let warned = |from: &str, to: &str| {
        let warnings = parsed(&GOOD.replacen(from, to, 1)).warnings();
        warnings.into_iter().map(|warning| warning.what).collect::<Vec<_>>()
    };
    assert_eq!(warned("", ""), [""; 0]);
    assert_eq!(
        warned("policy = \"wrr\"", "policy = \"wrr\"\np_http = \"move\""),
        [
            "service old moves connections for each request, but its policy wrr is blind to content: they will stay"
        ]
    );
    assert_eq!(
        warned("policy = \"lard\"", "policy = \"least-loaded\"\np_http = \"move\""),
        [
            "pool site of service www moves connections for each request, but its policy least-loaded is blind to content: they will stay"
        ]
    );
    assert_eq!(
        warned(
            "[[service.pool]]\nname = \"img\"",
            "[[service.pool]]\nname = \"lost\"\npolicy = \"wrr\"\n[[service.pool]]\nname = \"img\""
        ),
        ["no route leads to pool lost of service www"]
    );
    assert_eq!(
        warned("[\"s2\", \"s1\"]", "[\"s2\"]"),
        ["pool img of service www has the policy lard/r, but there is one server only"]
    );
    assert_eq!(
        warned("name = \"front\"", "name = \"front\"\npressure_file = \"/run/busy\""),
        ["front has a pressure_file, but is no server"]
    );
}

#[test]
fn digest_sees_pools_and_routes() {
    let digest = |text: &str| parsed(text).digest();
    // The order of routes, of a pool's servers and of methods means nothing.
    let same = |from: &str, to: &str| assert_eq!(digest(&GOOD.replacen(from, to, 1)), digest(GOOD), "{to}");
    same("[\"s2\", \"s1\"]", "[\"s1\", \"s2\"]");
    same("servers = [\"s2\", \"s1\"]\n", "");
    same("\"GET\", \"HEAD\"", "\"HEAD\", \"GET\"");
    same("Img.example.com", "img.EXAMPLE.com");
    let (head, routes) = GOOD.split_at(GOOD.find("[[service.route]]").expect("routes"));
    let (first, second) = routes.split_at(routes.rfind("[[service.route]]").expect("two"));
    assert_eq!(digest(&format!("{head}{second}{first}")), digest(GOOD));

    let changes = [
        ("name = \"site\"", "name = \"home\""),
        ("[\"s2\", \"s1\"]", "[\"s2\"]"),
        ("policy = \"lard/r\"", "policy = \"lard\""),
        ("extended-lard", "move"),
        ("extended-lard\"", "extended-lard\"\nkey = \"header:path\""),
        ("extended-lard\"", "extended-lard\"\nkey = \"cookie:path\""),
        ("t_low = 10", "t_low = 11"),
        ("pool = \"img\"", "pool = \"site\""),
        ("Img.example.com", "*.example.com"),
        ("Img.example.com", "Img.example.org"),
        ("path = \"/img/\"", "path_exact = \"/img/\""),
        ("path = \"/img/\"", "path = \"/images/\""),
        ("\"GET\", \"HEAD\"", "\"GET\""),
    ];
    let mut digests = HashSet::from([digest(GOOD)]);
    for (from, to) in changes {
        assert!(GOOD.contains(from), "{from}");
        assert!(digests.insert(digest(&GOOD.replacen(from, to, 1))), "{from} -> {to}");
    }
}

#[test]
fn a_host_matches_few_patterns() {
    let routes = |hosts: &[&str]| {
        let route = |host: &&str| format!("[[service.route]]\npool = \"img\"\nhost = \"{host}\"\n");
        format!("{}[[service.route]]\npool = \"img\"\npath", hosts.iter().map(route).collect::<String>())
    };
    let place = "[[service.route]]\npool = \"img\"\npath";
    let four = ["*.com", "*.b.com", "*.a.b.com", "w.a.b.com"];
    // Beside each other, and named again with another path, they do no harm.
    let fine = [&four[..], &["v.a.b.com", "b.com", "*.c.com", "*.x.b.com", "a.com"]].concat();
    parsed(&GOOD.replace(place, &routes(&fine)));
    let help = "remove some that begin with \"*.\", or make it several services";
    let refuses = |hosts: &[&str], names: &[&str]| {
        let errors = Cluster::parse(&GOOD.replace(place, &routes(hosts))).expect_err("too many");
        let told: Vec<_> = errors.0.iter().map(|error| (error.what.clone(), &*error.help)).collect();
        let what = |name: &&str| format!("5 hosts of the service's routes match {name}, 4 are the most");
        assert_eq!(told, names.iter().map(|name| (what(name), help)).collect::<Vec<_>>());
    };
    refuses(&["*.com", "*.b.com", "*.a.b.com", "*.w.a.b.com", "v.w.a.b.com"], &["v.w.a.b.com"]);
    refuses(&["*.z.w.a.b.com", "*.com", "*.b.com", "*.a.b.com", "*.w.a.b.com"], &["*.z.w.a.b.com"]);
    refuses(
        &["*.com", "*.b.com", "*.a.b.com", "*.w.a.b.com", "x.w.a.b.com", "y.w.a.b.com"],
        &["x.w.a.b.com", "y.w.a.b.com"],
    );
}
