//! h1spec (github.com/uNetworking/h1spec), an HTTP/1.1 conformance suite: each server's results behind
//! Baton are those that it has alone.
//!
//! Its one file is in no package registry, and nothing of others is kept here; so this test runs when it
//! is asked for, with the file's path in `BATON_H1SPEC`. The suite runs on Deno, of which npm has a
//! package; it is put into the target directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use baton_testbed::{DocRoot, Figure, Host, StartServer, Testbed, WebServer};

const SERVERS: [(&str, StartServer); 5] = [
    ("nginx", WebServer::nginx),
    ("apache", WebServer::apache),
    ("lighttpd", WebServer::lighttpd),
    ("caddy", WebServer::caddy),
    ("node", WebServer::node),
];
const DENO: &str = "node_modules/@deno/linux-x64-glibc/deno";

/// Deno, installed when it is not there.
fn deno() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deno");
    let deno = dir.join(DENO);
    if !deno.is_file() {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--no-save", "--prefix"]).arg(&dir).arg("deno@2");
        let status = npm.status().expect("npm is not installed: install npm (apt install npm)");
        assert!(status.success(), "npm install deno ended with {status}");
    }
    deno
}

/// A line for each check, in the order of their names, and one with how many passed.
fn results(client: &Host, deno: &Path, suite: &Path, to: &Host, address: &str) -> Vec<String> {
    let mut command = client.command("timeout");
    command.arg("60").arg(deno).args(["run", "--no-check", "--allow-net"]).arg(suite).args([address, "80"]);
    command.env("DENO_DIR", to.scratch().path()).env("NO_COLOR", "1").env("DENO_NO_UPDATE_CHECK", "1");
    let output = command.output().expect("timeout can be started");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<String> = text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    lines.sort();
    assert!(lines.iter().any(|line| line.contains("tests passed")), "{text}");
    lines
}

#[test]
#[ignore = "needs h1spec's http_test.ts: set BATON_H1SPEC to its path"]
fn results_are_those_of_the_server_alone() {
    let suite = std::env::var_os("BATON_H1SPEC").expect("BATON_H1SPEC is the path of http_test.ts");
    let (suite, deno) = (PathBuf::from(suite), deno());
    for (name, server) in SERVERS {
        let bed = Testbed::builder().figure(Figure::Five).build();
        let files = DocRoot::private();
        files.write("index.html", "<title>h1spec</title>\n");
        let cluster = Figure::Five.start(&bed, server, &files, "policy = \"wrr\"");
        let (client, node) = (bed.client(0), bed.node(1));
        let alone = results(client, &deno, &suite, node, &node.address().to_string());
        let behind = results(client, &deno, &suite, node, &cluster.vips[0].to_string());
        println!("{name}: {}", alone.iter().find(|line| line.contains("passed")).expect("a last line"));
        assert_eq!(alone, behind, "{name}");
        cluster.stop();
    }
}
