//! What good files mean: defaults, every value given, the examples, who announces a VIP, warnings,
//! the fresh file, digest and keys.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use baton_cluster::{Cluster, Consult, Limits, NodeId, PHttp, PolicyKind, PoolId, Roles, ServiceId};
use baton_http::Key;

const SECRET: &str = "k3YvT9qLw0ZsB7nXfR2mJc8HdPu5GaE1";
const PLACEHOLDER: &str = "replace me: baton init prints a fresh one";

/// Every key there is, none at its default.
const FULL: &str = r#"
[cluster]
name = "golden"
secret = "k3YvT9qLw0ZsB7nXfR2mJc8HdPu5GaE1"
failure_timeout_ms = 500
control_port = 7000
handoff_port = 7001
pressure_low = 30

[[node]]
name = "front"
address = "10.1.0.10"
interfaces = ["eth0", "eth1"]
roles = ["switch", "distributor", "dispatcher"]
announce = false

[[node]]
name = "s1"
address = "10.1.0.11"
roles = ["server"]
weight = 3
pressure_file = "/run/busy"

[[service]]
name = "www"
vips = ["10.99.0.1", "10.99.0.2"]
port = 80
policy = "lard/r"
consult = "always"
key = "path+query"
p_http = "extended-lard"
pressure_low = 20
mechanism = "handoff"
[service.lard]
t_low = 10
t_high = 20
k_s = 5

[[service]]
name = "alt"
vips = ["10.99.0.2", "10.99.0.3"]
port = 8080
policy = "wrr"

[limits]
bindings = 2048
decisions = 4096
held_packets = 64
reader_connections = 16
head_bytes = 1024
head_timeout_ms = 2500
"#;

fn example(name: &str) -> String {
    let path = format!("{}/../../examples/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).expect(name)
}

#[track_caller]
fn parsed(text: &str) -> Cluster {
    Cluster::parse(text).unwrap_or_else(|errors| panic!("{errors}\nin {text}"))
}

fn vip(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 99, 0, last).into()
}

#[test]
fn every_value_arrives() {
    let cluster = parsed(FULL);
    assert_eq!(cluster.name, "golden");
    assert_eq!(cluster.failure_timeout, Duration::from_millis(500));
    assert_eq!((cluster.control_port, cluster.handoff_port), (7000, 7001));
    let front = cluster.node_named("front").unwrap();
    assert_eq!((front.id, front.address), (NodeId(0), Ipv4Addr::new(10, 1, 0, 10).into()));
    assert_eq!(front.interfaces, ["eth0", "eth1"]);
    assert_eq!(front.roles, Roles { switch: true, distributor: true, dispatcher: true, server: false });
    assert_eq!(front.roles.to_string(), "switch, distributor, dispatcher");
    assert!(!front.announce);
    let s1 = cluster.node(NodeId(1)).unwrap();
    assert_eq!((s1.name.as_str(), s1.weight, s1.announce), ("s1", 3, true));
    assert_eq!((cluster.node(NodeId(2)), cluster.node_named("s2")), (None, None));
    assert_eq!(cluster.dispatchers().collect::<Vec<_>>(), [front]);
    assert_eq!(cluster.with_role(|roles| roles.server).collect::<Vec<_>>(), [s1]);
    let www = cluster.service(ServiceId(0)).unwrap();
    assert_eq!((www.name.as_str(), www.port), ("www", 80));
    assert_eq!(www.vips, [vip(1), vip(2)]);
    let pool = cluster.pool(PoolId(0)).unwrap();
    assert_eq!((pool.name.as_str(), pool.service, &*pool.servers), ("www", ServiceId(0), &[NodeId(1)][..]));
    assert_eq!(pool.policy.kind, PolicyKind::LardReplicated);
    assert_eq!((pool.policy.t_low, pool.policy.t_high, pool.policy.k), (10, 20, Duration::from_secs(5)));
    assert_eq!((pool.consult, &pool.key), (Consult::Always, &Key::PathQuery));
    assert_eq!((pool.p_http, pool.pressure_low), (PHttp::ExtendedLard, 20));
    let alt = cluster.pool(PoolId(1)).unwrap();
    assert_eq!((alt.name.as_str(), alt.service, alt.pressure_low), ("alt", ServiceId(1), 30));
    assert_eq!(cluster.vips(), [vip(1), vip(2), vip(3)]);
    assert_eq!(
        cluster.limits,
        Limits {
            bindings: 2048,
            decisions: 4096,
            held_packets: 64,
            reader_connections: 16,
            head_bytes: 1024,
            head_timeout: Duration::from_millis(2500),
        }
    );
    assert_eq!(s1.pressure_file.as_deref(), Some(Path::new("/run/busy")));
}

#[test]
fn what_is_left_out_has_its_default() {
    let cluster = parsed(&example("all-on-one").replace(PLACEHOLDER, SECRET));
    assert_eq!(cluster.failure_timeout, Duration::from_secs(1));
    assert_eq!((cluster.control_port, cluster.handoff_port), (7654, 6081));
    assert_eq!(
        cluster.limits,
        Limits {
            bindings: 262_144,
            decisions: 262_144,
            held_packets: 1024,
            reader_connections: 1024,
            head_bytes: 65_536,
            head_timeout: Duration::from_secs(10),
        }
    );
    let node = &cluster.nodes[0];
    assert_eq!((node.interfaces.len(), node.weight, node.announce), (0, 1, true));
    let (service, pool) = (&cluster.services[0], &cluster.pools[0]);
    assert_eq!((service.pools.as_slice(), service.routes.len()), (&[PoolId(0)][..], 0));
    assert_eq!((pool.consult, &pool.key), (Consult::Cached, &Key::Path));
    assert_eq!((pool.p_http, pool.pressure_low), (PHttp::Stay, 10));
    assert_eq!(node.pressure_file, None);
    let policy = pool.policy;
    assert_eq!((policy.t_low, policy.t_high, policy.k), (25, 65, Duration::from_secs(20)));
}

#[test]
fn names_in_the_file_and_in_serde_are_the_same() {
    for kind in PolicyKind::ALL {
        let text = FULL.replace("\"lard/r\"", &format!("\"{kind}\""));
        let text = text.replace("p_http = \"extended-lard\"", "");
        assert_eq!(parsed(&text).pools[0].policy.kind, kind);
        assert_eq!(toml::Value::try_from(kind).unwrap().as_str(), Some(kind.name()));
    }
    for consult in Consult::ALL {
        assert_eq!(toml::Value::try_from(consult).unwrap().as_str(), Some(consult.name()));
    }
    for p_http in PHttp::ALL {
        let text = FULL.replace("\"extended-lard\"", &format!("\"{}\"", p_http.name()));
        assert_eq!(parsed(&text).pools[0].p_http, p_http);
        assert_eq!(toml::Value::try_from(p_http).unwrap().as_str(), Some(p_http.name()));
    }
}

#[test]
fn examples_are_good_but_for_their_secret() {
    let announcing: [(&str, &[(u8, &str)]); 7] = [
        ("figure5", &[(1, "front")]),
        ("figure6", &[(1, "d1"), (2, "d2")]),
        ("figure7", &[(1, "switch")]),
        ("no-switch", &[(1, "n1"), (2, "n2"), (3, "n3")]),
        ("all-on-one", &[(1, "one")]),
        ("pools", &[(1, "front")]),
        ("tls", &[(1, "front")]),
    ];
    for (name, vips) in announcing {
        let text = example(name);
        let errors = Cluster::parse(&text).expect_err(name).0;
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_eq!(errors[0].what, "the secret is a placeholder");
        assert!(errors[0].help.contains("`baton init -o -`"));
        assert!(text.lines().nth(errors[0].line.unwrap() - 1).unwrap().starts_with("secret"));

        let cluster = parsed(&text.replace(PLACEHOLDER, SECRET));
        assert_eq!(cluster.name, name);
        assert_eq!(cluster.warnings(), []);
        assert_eq!(cluster.vips(), vips.iter().map(|(last, _)| vip(*last)).collect::<Vec<_>>());
        for (last, announcer) in vips {
            assert_eq!(cluster.announcers(vip(*last)), [cluster.node_named(announcer).unwrap().id]);
        }
    }
}

#[test]
fn a_fresh_file_is_good() {
    let text = Cluster::fresh("web-1", SECRET);
    let cluster = parsed(&text);
    assert_eq!((cluster.name.as_str(), cluster.warnings()), ("web-1", vec![]));
    // What is commented out is good too, and says the defaults.
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.starts_with('[') || setting.contains(" = ") => setting,
            _ => line,
        })
        .filter(|line| !line.starts_with("interfaces"))
        .fold(String::new(), |all, line| all + line + "\n");
    assert_ne!(uncommented, text);
    assert_eq!(parsed(&uncommented).digest(), cluster.digest());
    // A name that would break out of its quotes is refused as a name.
    let errors = Cluster::parse(&Cluster::fresh("a\"\nsecret = \"b", SECRET)).expect_err("no name").0;
    assert!(errors[0].what.contains("is not a name"), "{errors:?}");
}

#[test]
fn vips_are_dealt_over_announcing_distributors() {
    let text = example("no-switch").replace(PLACEHOLDER, SECRET);
    let names = |text: &str, last: u8| -> Vec<String> {
        let cluster = parsed(text);
        cluster.announcers(vip(last)).iter().map(|id| cluster.node(*id).unwrap().name.clone()).collect()
    };
    let quiet = text.replace("name = \"n2\"", "name = \"n2\"\nannounce = false");
    assert_eq!([names(&quiet, 1), names(&quiet, 2), names(&quiet, 3)], [["n1"], ["n3"], ["n1"]]);
    assert_eq!(names(&text, 9), [""; 0]);
    let none = text.replace("address =", "announce = false\naddress =");
    assert_eq!(names(&none, 1), [""; 0]);
    // Shared by two services: the first one's list counts.
    let shared =
        format!("{text}\n[[service]]\nname = \"alt\"\nvips = [\"10.99.0.3\"]\nport = 81\npolicy = \"wrr\"\n");
    assert_eq!(names(&shared, 3), ["n3"]);
}

#[test]
fn warnings() {
    #[track_caller]
    fn warned(text: &str, what: &str) {
        let warnings = parsed(text).warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(warnings[0].what, what);
        assert!(!warnings[0].help.is_empty());
    }
    let figure5 = example("figure5").replace(PLACEHOLDER, SECRET);
    let figure7 = example("figure7").replace(PLACEHOLDER, SECRET);
    let no_switch = example("no-switch").replace(PLACEHOLDER, SECRET);
    let second_switch = "[[node]]\nname = \"b\"\naddress = \"10.1.0.2\"\nroles = [\"switch\"]\n";
    warned(
        &format!("{figure7}{second_switch}"),
        "switch, b all announce every VIP: on one link, which gets a client's packets is left to chance",
    );
    let quiet = format!("{figure7}{second_switch}announce = false\n");
    assert_eq!(parsed(&quiet).warnings(), []);
    warned(
        &no_switch.replace(", \"10.99.0.3\"", ""),
        "no VIP is left for n3: without a switch, a distributor gets clients only by a VIP of its own",
    );
    warned(
        &figure5.replace("name = \"front\"", "name = \"front\"\nweight = 2"),
        "front has weight 2, but is no server",
    );
    warned(
        &figure5.replace("name = \"s1\"", "name = \"s1\"\nannounce = false"),
        "s1 has announce = false, but would announce nothing anyway: only distributors do, as there is no switch",
    );
    warned(
        &figure7.replace("name = \"n1\"", "name = \"n1\"\nannounce = false"),
        "n1 has announce = false, but would announce nothing anyway: only switches do, as there is one",
    );
    warned(
        &figure5.replace("port = 80", "port = 443"),
        "service www is on port 443, and requests inside TLS cannot be read",
    );
    warned(
        &figure5.replace("\"lard\"", "\"wrr\"\nlard = { t_low = 24 }"),
        "service www has constants of LARD, but its policy is wrr",
    );
    let all_on_one = example("all-on-one").replace(PLACEHOLDER, SECRET);
    warned(
        &all_on_one.replace("\"wrr\"", "\"lard/r\""),
        "service www has the policy lard/r, but there is one server only",
    );
}

#[test]
fn digest_is_blind_to_writing() {
    let digest = parsed(FULL).digest();
    let same = |text: &str| assert_eq!(parsed(text).digest(), digest, "{text}");
    same(&FULL.replace('\n', "  # a remark\r\n").replace("=", "   ="));
    same(&FULL.replace("[\"eth0\", \"eth1\"]", "[\"eth1\",\n\"eth0\"]"));
    same(&FULL.replace("\"switch\", \"distributor\"", "\"distributor\", \"switch\""));
    same(&FULL.replace(
        "port = 8080",
        "port = 8_080\npressure_low = 30\np_http = \"stay\"\nconsult = \"cached\"\nkey = \"path\"",
    ));
    // Sections and keys the other way round.
    let mut sections: Vec<_> = FULL.trim().split("\n\n").collect();
    sections.swap(0, 1);
    sections.swap(1, 2);
    sections.rotate_right(1);
    same(&sections.join("\n\n"));
    let reversed = |section: &&str| match section.split_once("\n[service.lard]") {
        None => {
            let mut lines: Vec<_> = section.lines().collect();
            lines[1..].reverse();
            lines.join("\n")
        }
        Some(_) => (*section).to_owned(),
    };
    same(&sections.iter().map(reversed).collect::<Vec<_>>().join("\n\n"));
}

#[test]
fn digest_sees_every_value() {
    let changes = [
        ("\"golden\"", "\"silver\""),
        (SECRET, "l3YvT9qLw0ZsB7nXfR2mJc8HdPu5GaE1"),
        ("failure_timeout_ms = 500", "failure_timeout_ms = 501"),
        ("control_port = 7000", "control_port = 7002"),
        ("handoff_port = 7001", "handoff_port = 7002"),
        ("handoff_port = 7001", "handoff_port = 7001\nforwarding = \"geneve\""),
        ("\"front\"", "\"fronts\""),
        ("10.1.0.10", "10.1.0.12"),
        ("[\"eth0\", \"eth1\"]", "[\"eth0\"]"),
        ("[\"eth0\", \"eth1\"]", "[\"eth0eth1\"]"),
        ("\"switch\", ", ""),
        ("\"dispatcher\"]", "\"dispatcher\", \"server\"]"),
        ("announce = false", ""),
        ("weight = 3", "weight = 4"),
        ("\"www\"", "\"web\""),
        ("[\"10.99.0.1\", \"10.99.0.2\"]", "[\"10.99.0.2\", \"10.99.0.1\"]"),
        ("[\"10.99.0.1\", \"10.99.0.2\"]", "[\"10.99.0.1\"]"),
        ("port = 80\n", "port = 81\n"),
        ("lard/r", "lard"),
        ("always", "cached"),
        ("path+query", "path"),
        ("t_low = 10", "t_low = 11"),
        ("t_high = 20", "t_high = 21"),
        ("k_s = 5", "k_s = 6"),
        ("bindings = 2048", "bindings = 2049"),
        ("decisions = 4096", "decisions = 4097"),
        ("held_packets = 64", "held_packets = 65"),
        ("reader_connections = 16", "reader_connections = 17"),
        ("head_bytes = 1024", "head_bytes = 1025"),
        ("head_timeout_ms = 2500", "head_timeout_ms = 2501"),
        ("pressure_low = 30", "pressure_low = 31"),
        ("pressure_low = 20", "pressure_low = 21"),
        ("extended-lard", "move"),
        ("/run/busy", "/run/idle"),
        ("path+query", "query:path"),
    ];
    let mut digests = HashSet::from([parsed(FULL).digest()]);
    for (from, to) in changes {
        assert!(FULL.contains(from), "{from}");
        let fresh = digests.insert(parsed(&FULL.replacen(from, to, 1)).digest());
        assert!(fresh, "{from} -> {to} leaves the digest as it was, or makes it another's");
    }
    // The order of nodes gives their ids.
    let mut sections: Vec<_> = FULL.trim().split("\n\n").collect();
    sections.swap(1, 2);
    assert!(digests.insert(parsed(&sections.join("\n\n")).digest()));
}

/// What nodes compare when they meet: files may differ in the rest while daemons are started again one by one.
#[test]
fn nodes_agree_on_what_they_have_in_common() {
    let agree = |one: &Cluster, other: &Cluster| {
        let nodes = one.node_digests();
        let common = nodes.iter().zip(&other.node_digests()).take_while(|(a, b)| a == b).count();
        (one.common_digest() == other.common_digest(), common)
    };
    let full = parsed(FULL);
    let number = full.nodes.len();
    let changed = |from: &str, to: &str| {
        assert!(FULL.contains(from), "{from}");
        agree(&full, &parsed(&FULL.replacen(from, to, 1)))
    };
    let more = "[[node]]\nname = \"late\"\naddress = \"10.1.0.99\"\nroles = [\"server\"]\n\n[[service]]";
    for (from, to) in [
        ("[[service]]", more),
        ("bindings = 2048", "bindings = 2049"),
        ("weight = 3", "weight = 4"),
        ("[\"eth0\", \"eth1\"]", "[\"eth0\"]"),
        ("/run/busy", "/run/idle"),
        ("port = 80\n", "port = 81\n"),
    ] {
        assert_eq!(changed(from, to), (true, number), "{from} -> {to}");
    }
    for (from, to) in [
        ("\"golden\"", "\"silver\""),
        (SECRET, "l3YvT9qLw0ZsB7nXfR2mJc8HdPu5GaE1"),
        ("failure_timeout_ms = 500", "failure_timeout_ms = 501"),
        ("control_port = 7000", "control_port = 7002"),
        ("handoff_port = 7001", "handoff_port = 7002"),
        ("handoff_port = 7001", "handoff_port = 7001\nforwarding = \"geneve\""),
        // The last switch goes.
        ("\"switch\", ", ""),
    ] {
        assert!(!changed(from, to).0, "{from} -> {to}");
    }
    let place = |name: &str| full.nodes.iter().position(|node| node.name == name);
    for (from, to) in [("\"front\"", "\"fronts\""), ("10.1.0.10", "10.1.0.12")] {
        let same = changed(from, to);
        assert_eq!(same, (true, place("front").expect("it is there")), "{from} -> {to}");
    }
}

/// The values were computed once with Python's `hmac` and `hashlib` after RFC 5869, and the last one
/// also with the HKDF of its `cryptography` package.
#[test]
fn keys_are_those_of_rfc_5869() {
    let keys = parsed(FULL).keys();
    assert_eq!(keys.cookie, [0x1598_1cd4_8061_61a5, 0xa40b_c5e3_5d2b_4f96]);
    assert_eq!(keys.clock, [0x367b_865c_3884_f8ad, 0xc9ea_75b1_c99f_5c1c]);
    assert_eq!(keys.handoff, [0xe3bd_1c60_0e22_600f, 0x72f3_692c_7722_1cc3]);
    assert_eq!(keys.target, 0xa7e6_8ab5_0500_16bc);
    let psk: String = keys.control_psk.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(psk, "6915f6b75ddf5a4d2774deb705057a8c74da70afc8058c9e78e9c8b09e3a2e52");
}

#[test]
fn keys_differ_by_name_and_secret() {
    let keys = parsed(FULL).keys();
    for (from, to) in [("\"golden\"", "\"silver\""), (SECRET, "K3YvT9qLw0ZsB7nXfR2mJc8HdPu5GaE1")] {
        let other = parsed(&FULL.replacen(from, to, 1)).keys();
        assert_ne!(keys.cookie, other.cookie);
        assert_ne!(keys.clock, other.clock);
        assert_ne!(keys.handoff, other.handoff);
        assert_ne!(keys.target, other.target);
        assert_ne!(keys.control_psk, other.control_psk);
    }
}

#[test]
fn nothing_prints_secret_or_keys() {
    let cluster = parsed(FULL);
    let printed = format!("{cluster:?} {:?}", cluster.keys());
    assert!(!printed.contains(SECRET));
    assert!(printed.contains("secret: …") && printed.ends_with("Keys(…)"), "{printed}");
}
