//! Every refusal of a cluster file: what it says, of which line, and what it tells the operator to
//! do. A case changes one thing in a good file; `#!` marks the line that the refusal must name.

use baton_cluster::{Cluster, ConfigError};

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

[[service]]
name = "www"
vips = ["10.99.0.1"]
port = 80
policy = "lard"
"#;

const NODE_KEYS: &str = "[[node]] takes name, address, interfaces, roles, weight, announce, pressure_file; remove or correct this one";
const SECRET_HELP: &str =
    "copy the secret of the file that `baton init -o -` prints; it is the same on every node";
const NAME_HELP: &str = "use 1 to 32 lower-case letters, digits and '-'";
const ROLES_HELP: &str = "the roles are switch, distributor, dispatcher, server";
const UNICAST_HELP: &str = "give the unicast address that other machines reach it by";

fn errors_of(text: &str) -> Vec<ConfigError> {
    Cluster::parse(text).expect_err(text).0
}

/// The good file with `from` made `to` is refused for one reason, on the line marked `#!`.
#[track_caller]
fn refused(from: &str, to: &str, what: &str, help: &str) {
    assert!(GOOD.contains(from), "the good file lacks {from:?}");
    let text = GOOD.replacen(from, to, 1);
    let line = text.lines().position(|line| line.contains("#!")).map(|at| at + 1);
    let expected = ConfigError { line, what: what.to_owned(), help: help.to_owned() };
    assert_eq!(errors_of(&text), [expected], "in {text}");
}

#[test]
fn the_unchanged_file_is_good() {
    Cluster::parse(GOOD).expect("good");
}

#[test]
fn unknown_keys() {
    refused(
        "roles = [\"server\"]",
        "roles = [\"server\"]\nwieght = 2 #!",
        "unknown key `wieght` in [[node]]",
        &format!("did you mean weight? {NODE_KEYS}"),
    );
    refused(
        "[[service]]",
        "[[servce]] #!\n[[service]]",
        "unknown key `servce` in a cluster file",
        "did you mean service? a cluster file takes cluster, node, service, limits; remove or correct this one",
    );
    refused(
        "name = \"web\"",
        "name = \"web\"\nport = 7 #!",
        "unknown key `port` in [cluster]",
        "[cluster] takes name, secret, failure_timeout_ms, control_port, handoff_port, forwarding, pressure_low; remove or correct this one",
    );
    refused(
        "port = 80",
        "port = 80\nvip = \"10.99.0.2\" #!",
        "unknown key `vip` in [[service]]",
        "did you mean vips? [[service]] takes name, vips, port, protocol, speaks_first, default_pool, policy, consult, key, p_http, pressure_low, mechanism, lard, pool, route; remove or correct this one",
    );
    refused(
        "policy = \"lard\"",
        "policy = \"lard\"\n[service.lard]\nk = 20 #!",
        "unknown key `k` in [service.lard]",
        "[service.lard] takes t_low, t_high, k_s; remove or correct this one",
    );
    refused(
        "[[service]]",
        "[limits]\npackets = 20 #!\n[[service]]",
        "unknown key `packets` in [limits]",
        "[limits] takes bindings, decisions, held_packets, reader_connections, head_bytes, head_timeout_ms; remove or correct this one",
    );
}

#[test]
fn missing_keys() {
    let missing = |section: &str, line: usize, key: &str, help: &str| {
        let given = GOOD.lines().skip(line).find(|text| text.starts_with(&format!("{key} = "))).unwrap();
        let errors = errors_of(&GOOD.replacen(given, "", 1));
        let what = format!("{section} lacks `{key}`");
        assert_eq!(errors, [ConfigError { line: Some(line), what, help: help.to_owned() }]);
    };
    missing("[cluster]", 2, "name", "add `name = \"web\"`");
    missing("[cluster]", 2, "secret", SECRET_HELP);
    missing("[[node]]", 11, "name", "add `name = \"n1\"`");
    missing("[[node]]", 11, "address", "add `address = \"10.1.0.11\"`");
    missing("[[node]]", 11, "roles", "add `roles = [\"distributor\", \"server\"]`");
    missing("[[service]]", 16, "name", "add `name = \"www\"`");
    missing("[[service]]", 16, "vips", "add `vips = [\"10.99.0.1\"]`");
    missing("[[service]]", 16, "port", "add `port = 80`");
    missing("[[service]]", 16, "policy", "add `policy = \"lard\"`");
}

#[test]
fn missing_sections() {
    let of = |text: &str| errors_of(text).into_iter().map(|e| (e.line, e.what, e.help)).collect::<Vec<_>>();
    let missing = |what: &str, help: &str| (None, what.to_owned(), help.to_owned());
    let no_cluster = missing("there is no [cluster]", "add one, or start from `baton init`");
    let no_node = missing("there is no node", "add a [[node]] for each machine");
    let no_service =
        missing("there is no service", "add a [[service]] with the VIP and port that clients connect to");
    assert_eq!(of(""), [no_cluster.clone(), no_node.clone(), no_service.clone()]);
    let (nodes, service) = GOOD.split_at(GOOD.find("[[service]]").unwrap());
    assert_eq!(of(nodes), [no_service]);
    let (cluster, nodes) = nodes.split_at(nodes.find("[[node]]").unwrap());
    assert_eq!(of(&format!("{cluster}{service}")), [no_node]);
    assert_eq!(of(&format!("{nodes}{service}")), [no_cluster]);
}

#[test]
fn wrong_types() {
    refused(
        "port = 80",
        "port = \"80\" #!",
        "`port` must be a whole number, not a string",
        "write it as `port = 80`",
    );
    refused(
        "name = \"front\"",
        "name = 7 #!",
        "`name` must be a string, not a whole number",
        "write it as `name = \"n1\"`",
    );
    refused(
        "roles = [\"server\"]",
        "roles = \"server\" #!",
        "`roles` must be a list of strings, not a string",
        "write it as `roles = [\"distributor\", \"server\"]`",
    );
    refused(
        "vips = [\"10.99.0.1\"]",
        "vips = [\"10.99.0.1\",\n 80.5] #!",
        "`vips` holds a fraction, not only strings",
        "write it as `vips = [\"10.99.0.1\"]`",
    );
    refused(
        "name = \"s1\"",
        "name = \"s1\"\nannounce = \"no\" #!",
        "`announce` must be true or false, not a string",
        "write it as `announce = true`",
    );
    refused(
        "policy = \"lard\"",
        "policy = \"lard\"\nlard = 25 #!",
        "`lard` must be a table, not a whole number",
        "write it as `lard = { t_low = 25, t_high = 65, k_s = 20 }`",
    );
    let service = &GOOD[GOOD.find("[[service]]").unwrap()..];
    let single = service.replacen("[[service]]", "[service] #!", 1);
    let text = GOOD.replace(service, &single);
    let errors = errors_of(&text);
    assert_eq!(errors[0].line, Some(16));
    assert_eq!(
        errors[0].what,
        "`service` must be a list of tables, [[service]] with double brackets, not a table"
    );
    assert_eq!(errors[0].help, "head each one with [[service]]");
    assert_eq!(errors.len(), 1);
}

/// What TOML calls duplicate keys, once for each key of the second one.
#[test]
fn single_brackets_of_several() {
    let text = GOOD.replace("[[node]]", " [ node ] # one").replace("[[service]]", "[service]");
    let of = |text: &str| errors_of(text).into_iter().map(|e| (e.line, e.what, e.help)).collect::<Vec<_>>();
    let single = |line, written: &str, meant: &str| {
        let help = format!("write {meant}, with double brackets, before each of them");
        (Some(line), format!("{written} is one table, and there may be several"), help)
    };
    let node = |line| single(line, "[node]", "[[node]]");
    assert_eq!(of(&text), [node(6), node(11), single(16, "[service]", "[[service]]")]);
    let pools = "[service.pool]\nname = \"a\"\n[service.pool]\nname = \"b\"\n";
    let pool = |line| single(line, "[service.pool]", "[[service.pool]]");
    assert_eq!(of(&format!("{GOOD}{pools}")), [pool(21), pool(23)]);
}

#[test]
fn numbers_out_of_range() {
    let cluster = |key: &str, value: &str, low: u64, high: u64| {
        let what = format!("`{key}` is {value}, which is not within {low} to {high}");
        let help = format!("choose a value from {low} to {high}");
        refused("[cluster]", &format!("[cluster]\n{key} = {value} #!"), &what, &help);
    };
    cluster("failure_timeout_ms", "199", 200, 60_000);
    cluster("failure_timeout_ms", "60001", 200, 60_000);
    cluster("control_port", "0", 1, 65_535);
    cluster("handoff_port", "65536", 1, 65_535);
    cluster("handoff_port", "-1", 1, 65_535);
    cluster("handoff_port", "99999999999999999999", 1, 65_535);
    let limit = |key: &str, value: u64, low: u64, high: u64| {
        let what = format!("`{key}` is {value}, which is not within {low} to {high}");
        let help = format!("choose a value from {low} to {high}");
        refused("[[service]]", &format!("[limits]\n{key} = {value} #!\n[[service]]"), &what, &help);
    };
    limit("bindings", 1023, 1024, 1 << 24);
    limit("decisions", (1 << 24) + 1, 1024, 1 << 24);
    limit("held_packets", 15, 16, 65_536);
    limit("reader_connections", 15, 16, 65_536);
    limit("head_bytes", 1023, 1024, 65_536);
    limit("head_timeout_ms", 99, 100, 600_000);
    let range = |key: &str, low: u64, high: u64| {
        let what = format!("`{key}` is 0, which is not within {low} to {high}");
        (what, format!("choose a value from {low} to {high}"))
    };
    let (what, help) = range("port", 1, 65_535);
    refused("port = 80", "port = 0 #!", &what, &help);
    let (what, help) = range("weight", 1, 100);
    refused("name = \"s1\"", "name = \"s1\"\nweight = 0 #!", &what, &help);
    let (what, help) = range("k_s", 1, 3600);
    refused("policy = \"lard\"", "policy = \"lard\"\n[service.lard]\nk_s = 0 #!", &what, &help);
}

#[test]
fn bad_names() {
    for name in ["", "Front", "a b", "n_1", "é", "n.example", "012345678901234567890123456789012"] {
        let what = format!("the node's name \"{name}\" is not a name");
        refused("name = \"front\"", &format!("name = \"{name}\" #!"), &what, NAME_HELP);
    }
    refused("name = \"web\"", "name = \"Web\" #!", "the cluster's name \"Web\" is not a name", NAME_HELP);
    refused("name = \"www\"", "name = \"w/w\" #!", "the service's name \"w/w\" is not a name", NAME_HELP);
}

#[test]
fn bad_addresses() {
    let address = |text: &str, what: &str, help: &str| {
        let what = format!("\"{text}\" {what}");
        refused("address = \"10.1.0.11\"", &format!("address = \"{text}\" #!"), &what, help);
        refused("vips = [\"10.99.0.1\"]", &format!("vips = [\"{text}\"] #!"), &what, help);
    };
    address("0.0.0.0", "is an unspecified address", UNICAST_HELP);
    address("127.0.0.1", "is a loopback address", UNICAST_HELP);
    address("224.0.0.18", "is a multicast address", UNICAST_HELP);
    address("255.255.255.255", "is a reserved or broadcast address", UNICAST_HELP);
    address("::", "is an unspecified address", UNICAST_HELP);
    address("0.1.2.3", "is an unspecified address", UNICAST_HELP);
    address("::1", "is a loopback address", UNICAST_HELP);
    address("ff02::1", "is a multicast address", UNICAST_HELP);
    address("fe80::11", "is a link-local address", UNICAST_HELP);
    let mapped = "is an IPv4 address written as an IPv6 one";
    address("::ffff:10.1.0.11", mapped, "write it as an IPv4 address");
    let such = "write no more than it, such as \"10.1.0.11\" or \"2001:db8::11\"";
    for text in ["10.1.0", "10.1.0.011", "", "fe80::1%eth0"] {
        address(text, "is not an IP address", such);
    }
    let prefix = "write the address alone, without the length of its network's prefix, such as \"10.1.0.11\"";
    for text in ["10.1.0.11/24", "2001:db8::/64"] {
        address(text, "is not an IP address", prefix);
    }
    let named = "write the address itself, such as \"10.1.0.11\": names are not looked up";
    address("front.example.org", "is not an IP address", named);
    let bare = "write it without brackets and port, such as \"2001:db8::1\"";
    address("[2001:db8::1]", "is not an IP address", bare);
    refused(
        "vips = [\"10.99.0.1\"]",
        "vips = [] #!",
        "the service has no VIP",
        "give it one: vips = [\"10.99.0.1\"]",
    );
}

#[test]
fn bad_roles() {
    let server = format!("did you mean server? {ROLES_HELP}");
    refused("roles = [\"server\"]", "roles = [\"servr\"] #!", "\"servr\" is not a role", &server);
    refused("roles = [\"server\"]", "roles = [\"cache\"] #!", "\"cache\" is not a role", ROLES_HELP);
    refused(
        "roles = [\"server\"]",
        "roles = [\"server\", \"server\"] #!",
        "role \"server\" is given twice",
        "give it once",
    );
    let help = format!("give it one; {ROLES_HELP}");
    refused("roles = [\"server\"]", "roles = [] #!", "the node has no role", &help);
}

#[test]
fn too_many_dispatchers() {
    let more = |count: usize| {
        let node =
            |n| format!("[[node]]\nname = \"p{n}\"\naddress = \"10.7.0.{n}\"\nroles = [\"dispatcher\"]\n");
        (1..=count).map(node).collect::<String>() + GOOD
    };
    let most = Cluster::parse(&more(Cluster::DISPATCHERS_MAX - 1)).expect("one is in it already");
    assert_eq!(most.dispatchers().count(), Cluster::DISPATCHERS_MAX);
    let errors = errors_of(&more(Cluster::DISPATCHERS_MAX));
    let whats: Vec<&str> = errors.iter().map(|error| error.what.as_str()).collect();
    assert_eq!(whats, ["9 nodes are dispatchers, 8 are the most"]);
}

#[test]
fn a_role_on_no_node() {
    let without = |role: &str, from: &str, to: &str| {
        let help = format!("add \"{role}\" to the roles of a node");
        let errors = errors_of(&GOOD.replacen(from, to, 1));
        let expected = ConfigError { line: Some(6), what: format!("no node is {role}"), help };
        assert_eq!(errors, [expected]);
    };
    without("dispatcher", "\"distributor\", \"dispatcher\"", "\"distributor\"");
    without("distributor", "\"distributor\", \"dispatcher\"", "\"dispatcher\"");
    without("server", "\"server\"", "\"switch\"");
}

#[test]
fn bad_interfaces() {
    let help = "`ip -br link` lists the node's interfaces";
    for name in ["", "sixteen-chars-ab", "eth 0", "a/b", ".."] {
        let what = format!("\"{name}\" is not the name of an interface");
        refused("name = \"s1\"", &format!("name = \"s1\"\ninterfaces = [\"{name}\"] #!"), &what, help);
    }
    let twice = "name = \"s1\"\ninterfaces = [\"eth0\",\n\"eth0\"] #!";
    refused("name = \"s1\"", twice, "interface \"eth0\" is named twice", "name it once");
    let many = (0..17).map(|i| format!("\"eth{i}\"")).collect::<Vec<_>>().join(", ");
    refused(
        "name = \"s1\"",
        &format!("name = \"s1\"\ninterfaces = [{many}] #!"),
        "the node has more than 16 interfaces",
        "name only those that clients' packets or other nodes are on",
    );
}

#[test]
fn duplicates() {
    refused(
        "name = \"s1\"",
        "name = \"front\" #!",
        "a second node is named \"front\"; the first is on line 7",
        "give each node a name of its own",
    );
    refused(
        "address = \"10.1.0.11\"",
        "address = \"10.1.0.10\" #!",
        "a second node has address 10.1.0.10; the first is on line 8",
        "give each node its own address",
    );
    refused(
        "address = \"10.1.0.11\"",
        "address = \"2001:db8::11\" #!",
        "2001:db8::11 is of another address family than that of the node on line 8",
        "give all nodes IPv4 addresses, or all IPv6 ones; VIPs may be of both",
    );
    let second = |name: &str, vip: &str| {
        format!("policy = \"lard\"\n[[service]]\n{name}\n{vip}\nport = 80\npolicy = \"wrr\"",)
    };
    refused(
        "policy = \"lard\"",
        &second("name = \"www\" #!", "vips = [\"10.99.0.2\"]"),
        "a second service is named \"www\"; the first is on line 17",
        "give each service a name of its own",
    );
    refused(
        "policy = \"lard\"",
        &second("name = \"two\"", "vips = [\"10.99.0.1\"] #!"),
        "10.99.0.1:80 is given twice, first in the [[service]] on line 16",
        "give each service its own VIP or its own port",
    );
    refused(
        "vips = [\"10.99.0.1\"]",
        "vips = [\"10.99.0.1\", \"10.99.0.1\"] #!",
        "10.99.0.1:80 is given twice, first in the [[service]] on line 16",
        "give each service its own VIP or its own port",
    );
    refused(
        "vips = [\"10.99.0.1\"]",
        "vips = [\"10.1.0.11\"] #!",
        "VIP 10.1.0.11 is the address of the node on line 13",
        "choose a VIP that no machine has as its own",
    );
    refused(
        "port = 80",
        "port = 7654 #!",
        "port 7654 is both a service's and that of control connections",
        "set another control_port in [cluster]: web servers listen on the nodes' addresses too",
    );
}

#[test]
fn duplicates_on_one_line() {
    let nodes = &GOOD[GOOD.find("[[node]]").unwrap()..GOOD.find("[[service]]").unwrap()];
    let inline = r#"node = [{ name = "a", address = "10.1.0.1", roles = ["distributor", "dispatcher"] },
        { name = "b", address = "10.1.0.2", roles = ["server"] }, { name = "b", address = "10.1.0.2", roles = ["server"] }]"#;
    let text = format!("{inline}\n{}", GOOD.replace(nodes, ""));
    let what: Vec<_> = errors_of(&text).into_iter().map(|e| (e.line, e.what)).collect();
    assert_eq!(
        what,
        [
            (Some(2), "a second node is named \"b\"; the first is on line 2".to_owned()),
            (Some(2), "a second node has address 10.1.0.2; the first is on line 2".to_owned()),
        ]
    );
}

#[test]
fn bad_forwarding() {
    refused(
        "[cluster]",
        "[cluster]\nforwarding = \"gre\" #!",
        "\"gre\" is not a value of `forwarding`",
        "it takes \"auto\", \"direct\", \"geneve\"",
    );
}

#[test]
fn bad_policies() {
    refused(
        "policy = \"lard\"",
        "policy = \"random\" #!",
        "\"random\" is not a value of `policy`",
        "it takes \"wrr\", \"least-loaded\", \"lard\", \"lard/r\"",
    );
    refused(
        "port = 80",
        "port = 80\nconsult = \"never\" #!",
        "\"never\" is not a value of `consult`",
        "it takes \"cached\", \"always\"",
    );
    refused(
        "port = 80",
        "port = 80\nkey = \"host\" #!",
        "\"host\" is not a value of `key`",
        "it takes \"path\", \"path+query\", \"query:NAME\", \"header:NAME\", \"cookie:NAME\"",
    );
    let help = "lower t_low or raise t_high; the papers' values are 25 and 65";
    let lard = |lines: &str, what: &str| {
        refused("policy = \"lard\"", &format!("policy = \"lard\"\n[service.lard]\n{lines}"), what, help);
    };
    lard("t_low = 65 #!", "t_low (65) is not below t_high (65)");
    lard("t_high = 20 #!", "t_low (25) is not below t_high (20)");
    lard("t_high = 9\nt_low = 10 #!", "t_low (10) is not below t_high (9)");
}

#[test]
fn bad_secrets() {
    let secret = |text: &str, what: &str| {
        let to = format!("\"{text}\" #!");
        refused("\"k3YvT9qLw0ZsB7nXfR2mJc8HdPu5GaE1\"", &to, what, SECRET_HELP);
    };
    secret("", "the secret is a placeholder");
    secret("--------------------------------", "the secret is a placeholder");
    secret("replace me: baton init prints a fresh one", "the secret is a placeholder");
    secret("Change-Me Change-Me 1234567890abcdefg", "the secret is a placeholder");
    secret("k3YvT9qLw0ZsB7nXfR2mJc8HdPu5GaE", "the secret has 31 characters, 32 are the least");
    secret(&"k3YvT9qLw0ZsB7nX".repeat(17), "the secret has 272 characters, 256 are the most");
    secret("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "the secret is too regular to be random");
    secret("0123456789abcdef0123456789abcdef", "the secret is too regular to be random");
    secret("ababcbabcabcbacbabcbabcacbabcabc", "the secret is too regular to be random");
}

#[test]
fn no_message_tells_a_secret() {
    let bad = [
        "secret = 12345678901234567890123456",
        "secret = [\"12345678901234567890123456\"]",
        "secret = \"12345678901234567890123456\"",
        "secret = \"12345678901234567890123456",
        "secret = 12345678901234567890123456\"",
        "secret = \"12345678901234567890123456\" x",
        "secret \"12345678901234567890123456\"",
    ];
    for line in bad {
        let text = GOOD.replacen("secret = \"k3YvT9qLw0ZsB7nXfR2mJc8HdPu5GaE1\"", line, 1);
        let errors = Cluster::parse(&text).expect_err(line);
        assert_eq!(errors.0[0].line, Some(4), "{errors}");
        assert!(!format!("{errors} {errors:?}").contains("345678"), "{errors}");
    }
}

#[test]
fn too_many() {
    let (nodes, services) = GOOD.split_at(GOOD.find("[[service]]").unwrap());
    let node = |i: usize| {
        let (high, low) = (i / 256, i % 256);
        format!("[[node]]\nname = \"m{i}\"\naddress = \"10.2.{high}.{low}\"\nroles = [\"server\"]\n")
    };
    let with_nodes = |n: usize| format!("{nodes}{}{services}", (2..n).map(node).collect::<String>());
    assert_eq!(Cluster::parse(&with_nodes(256)).expect("as many as may be").nodes.len(), 256);
    let errors = errors_of(&with_nodes(257));
    let line = 16 + 254 * 4;
    assert_eq!(
        errors[0].to_string(),
        format!("line {line}: there are 257 nodes, 256 are the most\n  help: make it several clusters")
    );
    assert_eq!(errors.len(), 1);

    let service = |i: usize| {
        format!("[[service]]\nname = \"w{i}\"\nvips = [\"10.99.1.{i}\"]\nport = 80\npolicy = \"wrr\"\n")
    };
    let with_services = |n: usize| format!("{GOOD}{}", (1..n).map(service).collect::<String>());
    assert_eq!(Cluster::parse(&with_services(16)).expect("as many as may be").services.len(), 16);
    let errors = errors_of(&with_services(17));
    let line = 21 + 15 * 5;
    assert_eq!(errors[0].line, Some(line));
    assert_eq!(errors[0].what, "there are 17 services, 16 are the most");
    assert_eq!(errors.len(), 1);

    let vips = |n: usize| {
        let list = (1..=n).map(|i| format!("\"10.99.0.{i}\"")).collect::<Vec<_>>().join(", ");
        GOOD.replacen("vips = [\"10.99.0.1\"]", &format!("vips = [{list}]"), 1)
    };
    Cluster::parse(&vips(64)).expect("as many as may be");
    assert_eq!(errors_of(&vips(65))[0].what, "the service has 65 VIPs, 64 are the most");

    let errors = errors_of(&format!("#{}", "x".repeat(1 << 20)));
    assert_eq!(errors[0].what, "the file is larger than 1 MiB");
}

#[test]
fn syntax_errors() {
    let help = "the file is TOML; see https://toml.io for its rules";
    let errors = errors_of("[cluster\nname = \"web\"\nport 80\n");
    assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [Some(1), Some(3)]);
    assert!(errors.iter().all(|error| error.help == help));
    refused("port = 80", "port = 80\nport = 81 #!", "duplicate key", help);
}

#[test]
fn all_problems_are_told_in_the_order_of_lines() {
    let text = GOOD
        .replace("address = \"10.1.0.11\"", "address = \"::1\"")
        .replace("name = \"web\"", "nam = \"web\"")
        .replace("port = 80", "port = 800000")
        .replace("\"server\"", "\"web\"");
    let told = Cluster::parse(&text).expect_err("much is wrong").to_string();
    let starts: Vec<_> = told.lines().filter(|line| !line.starts_with("  help: ")).collect();
    assert_eq!(
        starts,
        [
            "line 2: [cluster] lacks `name`",
            "line 3: unknown key `nam` in [cluster]",
            "line 13: \"::1\" is a loopback address",
            "line 14: \"web\" is not a role",
            "line 19: `port` is 800000, which is not within 1 to 65535",
        ]
    );
}
