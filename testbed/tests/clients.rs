//! Real clients through a cluster: what each of them gets is compared byte by byte, and what servers
//! logged is where it belongs.

use std::collections::BTreeSet;
use std::process::Output;

use baton_testbed::{Cluster, Content, DocRoot, Figure, Host, Scratch, StartServer, Testbed, WebServer};

/// More of the service's table. Connections stay where they were bound, and so spread by weight.
const SERVICE: &str = "policy = \"wrr\"";

/// The nodes that one connection's requests may be served by. Today: one, whichever it is.
fn is_right(nodes: &BTreeSet<String>) -> bool {
    nodes.len() == 1
}

/// A hundred assets of all sizes.
fn assets(files: &DocRoot) -> Vec<Content> {
    let sizes = [0, 1, 100, 1000, 1448, 5000, 20_000, 65_536, 100_000, 300_000];
    let all: Vec<Content> =
        (0..100).map(|i| Content::new(&format!("asset-{i}"), sizes[i % 10] + i as u64 / 10)).collect();
    all.iter().for_each(|asset| drop(files.add(asset)));
    all
}

/// Runs a client program on a client machine to its end, which it must come to.
#[track_caller]
fn run(client: &Host, seconds: u32, program: &str, args: &[String]) -> Output {
    // Looks it up, and says what to install.
    drop(client.command(program));
    // A directory set here would not outlive the way into the client's namespaces.
    let mut command = client.command("sh");
    command.args(["-c", "cd \"$HOME\" && exec timeout -k 1 \"$@\"", "sh", &seconds.to_string(), program]);
    command.args(args).env("HOME", client.scratch().path());
    let output = command.output().expect("a shell can be started");
    let said = || String::from_utf8_lossy(&output.stderr).chars().take(4000).collect::<String>();
    assert!(
        output.status.success(),
        "{program} ended with {}:\n{}\n{}",
        output.status,
        text(&output),
        said()
    );
    output
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn strings<const N: usize>(args: [&str; N]) -> Vec<String> {
    args.map(str::to_owned).into()
}

/// A cluster of figure 7 with the assets; `work` gets it, its client and a URL for each asset.
fn with_cluster(server: StartServer, work: impl FnOnce(&Cluster<'_>, &Host, &[Content], &[String])) {
    let bed = Testbed::builder().figure(Figure::Seven).build();
    let files = DocRoot::shared();
    let assets = assets(&files);
    let cluster = Figure::Seven.start(&bed, server, &files, SERVICE);
    let host = cluster.host_in_url();
    let urls: Vec<String> = assets.iter().map(|asset| format!("http://{host}{}", asset.path())).collect();
    work(&cluster, bed.client(0), &assets, &urls);
    let nodes = cluster.nodes_by_connection();
    assert!(nodes.values().all(is_right), "{nodes:?}");
    cluster.stop();
}

/// Every asset was requested so often, and no asset was requested otherwise.
#[track_caller]
fn all_logged(cluster: &Cluster<'_>, assets: &[Content], requests: usize) {
    let served = cluster.all_served(assets.iter().map(Content::path), requests);
    for asset in assets {
        assert_eq!(served[asset.path()].len(), requests, "{}: {served:?}", asset.path());
    }
}

#[test]
fn curl_keeps_one_connection_for_many_urls() {
    with_cluster(WebServer::nginx, |cluster, client, assets, urls| {
        let mut args = strings(["-sS", "-f", "-w", "%{num_connects}\n"]);
        for (i, url) in urls.iter().enumerate() {
            args.extend(["-o".to_owned(), format!("curl.{i}"), url.clone()]);
        }
        let connects = text(&run(client, 60, "curl", &args));
        assert_eq!(connects.lines().filter(|line| *line == "1").count(), 1, "{connects}");
        assert_eq!(connects.lines().filter(|line| *line == "0").count(), 99, "{connects}");
        for (i, asset) in assets.iter().enumerate() {
            let got = std::fs::read(client.scratch().path().join(format!("curl.{i}"))).unwrap_or_default();
            assert!(asset.is(&got), "{}", asset.path());
        }
        all_logged(cluster, assets, 1);
    });
}

/// With HTTP/2, a connection is bound once: its requests are never told apart.
#[test]
fn curl_upgrades_to_http_2() {
    with_cluster(WebServer::caddy, |cluster, client, assets, urls| {
        let mut args = strings(["-sS", "-f", "--http2", "-w", "%{num_connects} %{http_version}\n"]);
        for (i, url) in urls.iter().enumerate() {
            args.extend(["-o".to_owned(), format!("curl.{i}"), url.clone()]);
        }
        let said = text(&run(client, 60, "curl", &args));
        assert_eq!(said.lines().filter(|line| *line == "1 2").count(), 1, "{said}");
        assert_eq!(said.lines().filter(|line| *line == "0 2").count(), 99, "{said}");
        for (i, asset) in assets.iter().enumerate() {
            let got = std::fs::read(client.scratch().path().join(format!("curl.{i}"))).unwrap_or_default();
            assert!(asset.is(&got), "{}", asset.path());
        }
        all_logged(cluster, assets, 1);
    });
}

/// One URL each: curl 7.88 fails to use such a connection again, with a bare server too.
#[test]
fn curl_speaks_http_2_at_once() {
    with_cluster(WebServer::caddy, |_, client, assets, urls| {
        for i in [0, 3, 9] {
            let args = strings(["-sS", "-f", "--http2-prior-knowledge", "-o", "got", &urls[i]]);
            run(client, 60, "curl", &args);
            let got = std::fs::read(client.scratch().path().join("got")).unwrap_or_default();
            assert!(assets[i].is(&got), "{}", assets[i].path());
        }
    });
}

/// Ten requests at once on each connection, interleaved.
#[test]
fn h2load_speaks_http_2() {
    with_cluster(WebServer::caddy, |_, client, assets, urls| {
        let mut args = strings(["-n", "2000", "-c", "10", "-m", "10", "-t", "1"]);
        args.extend([3, 8].map(|i| urls[i].clone()));
        let report = text(&run(client, 60, "h2load", &args));
        assert!(report.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{report}");
        assert!(report.contains("status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{report}");
        let bytes = (assets[3].size() + assets[8].size()) * 1000;
        assert!(report.contains(&format!("({bytes}) data")), "{bytes} in:\n{report}");
    });
}

#[test]
fn wget_fetches_a_list() {
    with_cluster(WebServer::nginx, |cluster, client, assets, urls| {
        client.scratch().write("list", urls.join("\n"));
        run(client, 60, "wget", &strings(["-nv", "-t", "1", "-P", "wget", "-i", "list"]));
        for asset in assets {
            let got = std::fs::read(client.scratch().path().join("wget").join(&asset.path()[1..]));
            assert!(asset.is(&got.expect("wget has written it")), "{}", asset.path());
        }
        all_logged(cluster, assets, 1);
        let connections = cluster.nodes_by_connection().len();
        assert!(connections < 10, "{connections} connections for 100 assets");
    });
}

/// The value behind a label in a program's report.
#[track_caller]
fn value(report: &str, label: &str) -> u64 {
    let rest = report.split(label).nth(1).unwrap_or_else(|| panic!("no {label:?} in:\n{report}"));
    let number: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    number.parse().unwrap_or_else(|_| panic!("no number behind {label:?} in:\n{report}"))
}

#[test]
fn ab_keeps_connections() {
    with_cluster(WebServer::nginx, |cluster, client, assets, urls| {
        for i in [3, 6] {
            let args = strings(["-q", "-k", "-n", "2000", "-c", "20", "-s", "20", &urls[i]]);
            let report = text(&run(client, 60, "ab", &args));
            assert_eq!(value(&report, "Complete requests:"), 2000, "{report}");
            assert_eq!(value(&report, "Failed requests:"), 0, "{report}");
            assert_eq!(value(&report, "Keep-Alive requests:"), 2000, "{report}");
            assert!(!report.contains("Non-2xx"), "{report}");
            assert_eq!(value(&report, "HTML transferred:"), 2000 * assets[i].size(), "{report}");
            assert_eq!(cluster.who_served(assets[i].path(), 2000).len(), 2000);
        }
    });
}

/// wrk runs a script that compares every body with the file.
#[test]
fn wrk_compares_every_body() {
    const SCRIPT: &str = r#"
        local threads = {}
        function setup(thread) table.insert(threads, thread) end
        function init(args)
            right, wrong, next_path = 0, 0, 0
            bodies = {}
            for path in io.lines("paths") do
                local file = io.open("BODIES" .. path, "rb")
                table.insert(bodies, { path = path, body = file:read("*a") })
                file:close()
            end
        end
        function request()
            next_path = next_path % #bodies + 1
            return wrk.format("GET", bodies[next_path].path)
        end
        function response(status, headers, body)
            for _, one in ipairs(bodies) do
                if status == 200 and one.body == body then right = right + 1 return end
            end
            wrong = wrong + 1
        end
        function done(summary, latency, requests)
            local r, w = 0, 0
            for _, thread in ipairs(threads) do
                r, w = r + thread:get("right"), w + thread:get("wrong")
            end
            local e = summary.errors
            io.write(string.format("\nright: %d\nwrong: %d\nerrors: %d\n", r, w,
                e.connect + e.read + e.write + e.status + e.timeout))
        end"#;
    with_cluster(WebServer::nginx, |_, client, assets, urls| {
        let paths: Vec<&str> = assets[..9].iter().map(Content::path).collect();
        client.scratch().write("paths", paths.join("\n") + "\n");
        let files = DocRoot::shared();
        let script = SCRIPT.replace("BODIES", &files.path().display().to_string());
        client.scratch().write("script.lua", script);
        let args =
            strings(["-t", "2", "-c", "20", "-d", "3s", "--timeout", "20s", "-s", "script.lua", &urls[0]]);
        let report = text(&run(client, 60, "wrk", &args));
        assert!(value(&report, "right:") > 100, "{report}");
        assert_eq!((value(&report, "wrong:"), value(&report, "errors:")), (0, 0), "{report}");
    });
}

#[test]
fn h2load_speaks_http_1() {
    with_cluster(WebServer::nginx, |_, client, assets, urls| {
        let chosen = [1, 3, 5, 7];
        let mut args = strings(["--h1", "-n", "4000", "-c", "20", "-t", "1"]);
        args.extend(chosen.map(|i| urls[i].clone()));
        let report = text(&run(client, 60, "h2load", &args));
        assert!(report.contains("4000 succeeded, 0 failed, 0 errored, 0 timeout"), "{report}");
        assert!(report.contains("status codes: 4000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{report}");
        let bytes: u64 = chosen.map(|i| assets[i].size()).iter().sum::<u64>() * 1000;
        assert!(report.contains(&format!("({bytes}) data")), "{bytes} in:\n{report}");
    });
}

/// The lines `PATH SHA256` that a client program has printed, for every asset `times`.
#[track_caller]
fn all_hashed(said: &str, assets: &[Content], times: usize) {
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), assets.len() * times, "{said}");
    for asset in assets {
        let right = format!("{} {}", asset.path(), asset.sha256());
        let found = lines.iter().filter(|line| **line == right).count();
        assert_eq!(found, times, "{}", asset.path());
    }
}

/// Node's fetch keeps its connections for its next requests.
#[test]
fn nodes_fetch() {
    const SCRIPT: &str = r#"
        const { createHash } = require('crypto');
        const urls = require('fs').readFileSync('urls', 'utf8').split('\n').filter(Boolean);
        async function worker(mine) {
            for (const url of mine) {
                const response = await fetch(url);
                if (response.status !== 200) throw new Error(url + ': ' + response.status);
                const body = Buffer.from(await response.arrayBuffer());
                console.log(new URL(url).pathname, createHash('sha256').update(body).digest('hex'));
            }
        }
        Promise.all([0, 1, 2, 3].map((i) => worker(urls.filter((_, j) => j % 4 === i))));"#;
    with_cluster(WebServer::nginx, |cluster, client, assets, urls| {
        client.scratch().write("urls", urls.join("\n"));
        client.scratch().write("fetch.js", SCRIPT);
        all_hashed(&text(&run(client, 60, "node", &strings(["fetch.js"]))), assets, 1);
        all_logged(cluster, assets, 1);
        let connections = cluster.nodes_by_connection().len();
        assert!(connections < 20, "{connections} connections for 100 assets");
    });
}

#[test]
fn pythons_requests_sessions() {
    const SCRIPT: &str = r#"
import hashlib, requests, threading
urls = open("urls").read().split()
def session(mine):
    with requests.Session() as s:
        for url in mine:
            response = s.get(url, timeout=20)
            response.raise_for_status()
            print(response.request.path_url + " " + hashlib.sha256(response.content).hexdigest() + "\n", end="", flush=True)
threads = [threading.Thread(target=session, args=(urls[i::4],)) for i in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
"#;
    with_cluster(WebServer::apache, |cluster, client, assets, urls| {
        client.scratch().write("urls", urls.join("\n"));
        client.scratch().write("session.py", SCRIPT);
        // Debian's own, which has Debian's packages.
        all_hashed(&text(&run(client, 60, "/usr/bin/python3", &strings(["session.py"]))), assets, 1);
        all_logged(cluster, assets, 1);
        assert_eq!(cluster.nodes_by_connection().len(), 4);
    });
}

/// A browser loads a page whose script fetches a hundred assets and writes what it got of each into the
/// page: its length and its 32-bit FNV-1a.
///
/// It does so `times`; `service` is more of the service's table, and `is_right` looks at the logs.
fn browse(service: &str, times: usize, is_right: fn(&Cluster<'_>, &[Content])) {
    const PAGE: &str = r#"<!doctype html><title>assets</title><body><script>
        const fnv = (bytes) => bytes.reduce((h, b) => Math.imul(h ^ b, 0x01000193), 0x811c9dc5 | 0) >>> 0;
        const one = (path) => fetch(path, { cache: 'no-store' })
            .then((response) => response.ok ? response.arrayBuffer() : Promise.reject(response.status))
            .then((body) => `${path} ${body.byteLength} ${fnv(new Uint8Array(body))}`, (e) => `${path} ${e}`);
        Promise.all(ASSETS.map(one)).then((lines) => {
            document.body.innerHTML = '<pre>' + lines.join('\n') + '\nall there\n</pre>';
        });
    </script>"#;
    let bed = Testbed::builder().figure(Figure::Seven).build();
    let (files, client) = (DocRoot::private(), bed.client(0));
    let assets = assets(&files);
    let paths: Vec<String> = assets.iter().map(|asset| format!("{:?}", asset.path())).collect();
    files.write("page.html", PAGE.replace("ASSETS", &format!("[{}]", paths.join(","))));
    let cluster = Figure::Seven.start(&bed, WebServer::nginx, &files, service);

    let profile = Scratch::new("profile");
    let mut args = strings([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--virtual-time-budget=60000",
        "--dump-dom",
    ]);
    args.push(format!("--user-data-dir={}", profile.path().display()));
    args.push(format!("http://{}/page.html", cluster.host_in_url()));
    let pages: Vec<String> = (0..times).map(|_| text(&run(client, 90, "chromium", &args))).collect();
    assert!(pages.iter().all(|page| page.contains("all there")), "{pages:?}");
    for asset in &assets {
        let body = std::fs::read(files.path().join(&asset.path()[1..])).expect("an own file");
        let fnv = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        let right = format!("{} {} {}\n", asset.path(), asset.size(), body.iter().fold(0x811c_9dc5, fnv));
        assert!(pages.iter().all(|page| page.contains(&right)), "no {right} in:\n{pages:?}");
    }

    all_logged(&cluster, &assets, times);
    is_right(&cluster, &assets);
    let served = cluster.served(&[200]);
    let used: BTreeSet<&String> = assets.iter().flat_map(|asset| &served[asset.path()]).collect();
    // Of a browser's six connections each goes where its distributor's turn is: not surely everywhere.
    assert!(used.len() >= 2, "assets came from {used:?} alone");
    cluster.stop();
}

#[test]
fn a_browser_loads_a_page_with_a_hundred_assets() {
    browse(SERVICE, 1, |cluster, _| {
        let nodes = cluster.nodes_by_connection();
        assert!(nodes.values().all(is_right), "{nodes:?}");
    });
}

/// Each asset is always served by the same node, whichever connection it is asked for on.
#[test]
fn a_browser_gets_each_asset_from_where_it_belongs() {
    browse("policy = \"lard\"\np_http = \"move\"", 3, |cluster, assets| {
        let served = cluster.served(&[200]);
        let used: BTreeSet<&String> = assets.iter().flat_map(|asset| &served[asset.path()]).collect();
        assert_eq!(used.len(), cluster.servers.len(), "assets came from {used:?} alone");
        for asset in assets {
            let nodes: BTreeSet<&String> = served[asset.path()].iter().collect();
            assert_eq!(nodes.len(), 1, "{}: {nodes:?}", asset.path());
        }
    });
}
