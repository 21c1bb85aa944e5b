//! The example files, and a small one with one thing changed.

use super::{Seed, files, seed};

/// What stands for the secret in the example files, and what makes them valid.
const PLACEHOLDER: &str = "replace me: baton init prints a fresh one";
const SECRET: &str = "7d1f0c3a9b5e4826d0f7c1a3e5b79d2468ace013579bdf02468ace13579bdf02";

const SMALL: &str = r#"[cluster]
name = "small"
secret = "7d1f0c3a9b5e4826d0f7c1a3e5b79d2468ace013579bdf02468ace13579bdf02"

[[node]]
name = "n1"
address = "10.1.0.10"
roles = ["distributor", "dispatcher", "server"]

[[service]]
name = "www"
vips = ["10.99.0.1"]
port = 80

[[service.pool]]
name = "all"
policy = "lard"

[[service.pool]]
name = "images"
policy = "wrr"
servers = ["n1"]
key = "path+query"

[[service.route]]
host = "*.example.com"
path = "/img/"
methods = ["GET"]
pool = "images"
"#;

/// Name, a part of the small file, and what takes its place.
const CHANGES: [(&str, &str, &str); 24] = [
    ("no-secret", "secret = ", "other = "),
    ("secret-short", "7d1f0c3a9b5e4826d0f7c1a3e5b79d24", ""),
    ("name-with-capitals", "\"small\"", "\"Small\""),
    ("address-of-six", "10.1.0.10", "2001:db8::1"),
    ("vip-of-six", "10.99.0.1", "2001:db8::2"),
    ("address-is-the-vip", "10.1.0.10", "10.99.0.1"),
    ("no-dispatcher", "\"dispatcher\", ", ""),
    ("role-unknown", "\"dispatcher\"", "\"dispatchr\""),
    ("roles-no-list", "[\"distributor\", \"dispatcher\", \"server\"]", "7"),
    ("port-zero", "port = 80", "port = 0"),
    ("port-too-high", "port = 80", "port = 65536"),
    ("port-negative", "port = 80", "port = -1"),
    ("port-a-float", "port = 80", "port = 8e1"),
    ("policy-wrr", "\"lard\"", "\"wrr\""),
    ("policy-unknown", "\"lard\"", "\"lord\""),
    ("pool-of-no-server", "servers = [\"n1\"]", "servers = []"),
    ("pool-of-a-stranger", "servers = [\"n1\"]", "servers = [\"n2\"]"),
    ("key-cookie", "path+query", "cookie:session"),
    ("key-unknown", "path+query", "body"),
    ("host-with-port", "*.example.com", "example.com:80"),
    ("path-not-normal", "/img/", "/img//"),
    ("route-to-no-pool", "pool = \"images\"", "pool = \"image\""),
    ("line-cut", "key = \"path", "key = \"pa\nth"),
    ("table-twice", "[[node]]", "[cluster]"),
];

pub(super) fn seeds() -> Vec<Seed> {
    let mut seeds: Vec<Seed> = files("examples", ".toml")
        .into_iter()
        .map(|(name, text)| {
            let text = String::from_utf8(text).expect("text").replace(PLACEHOLDER, SECRET);
            seed("cluster_file", format!("example-{name}"), text)
        })
        .collect();
    seeds.push(seed("cluster_file", "small", SMALL));
    for (name, part, instead) in CHANGES {
        assert!(SMALL.contains(part), "{name}");
        seeds.push(seed("cluster_file", name, SMALL.replacen(part, instead, 1)));
    }
    for (name, text) in
        [("empty", ""), ("no-toml", "= ["), ("nul", "name = \"\0\""), ("deep", "a.b.c.d.e.f = [[[[{}]]]]")]
    {
        seeds.push(seed("cluster_file", name, text));
    }
    seeds.push(seed("cluster_file", "not-utf8", [b'[', 0xff, b']']));
    seeds
}
