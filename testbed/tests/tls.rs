//! TLS through Baton, ended by stock nginx: each connection is served by a server of the pool that its
//! name belongs to, however its ClientHello comes; what belongs to no pool is told so at once.

mod hello;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Output;
use std::time::Duration;

use baton_testbed::{
    Builder, Certificate, Cluster, Content, Dial, DocRoot, Figure, Packets, Scratch, Testbed, WebServer,
    node_status, wait_until,
};
use hello::Hello;
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(60);
/// Both have the same roles on different nodes; servers are b, c and d.
const FIGURES: [Figure; 2] = [Figure::Five, Figure::Seven];
const FIRST: &str = "first.example.org";
const SECOND: &str = "second.example.org";
/// One of many.
const TENANT: &str = "t7.tenants.example.org";
const ANY_TENANT: &str = "*.tenants.example.org";

/// The cluster file's second service; the first one is HTTP.
fn service(bed: &Testbed, figure: Figure) -> String {
    let vips: Vec<String> = figure.vips(bed).iter().map(|vip| format!("\"{vip}\"")).collect();
    format!(
        r#"policy = "wrr"
[[service]]
name = "secure"
vips = [{}]
port = 443
protocol = "tls"
[[service.pool]]
name = "first"
servers = ["b"]
policy = "wrr"
[[service.pool]]
name = "second"
servers = ["c", "d"]
policy = "least-loaded"
[[service.pool]]
name = "tenants"
servers = ["b", "c", "d"]
policy = "lard"
[[service.route]]
pool = "first"
host = "{FIRST}"
[[service.route]]
pool = "second"
host = "{SECOND}"
[[service.route]]
pool = "first"
host = "{SECOND}"
alpn = "acme-tls/1"
[[service.route]]
pool = "tenants"
host = "{ANY_TENANT}"
[[service.route]]
pool = "second"
host = "h2only.example.org"
alpn = "h2"
[limits]
head_timeout_ms = 2000
"#,
        vips.join(", ")
    )
}

/// A cluster of a figure whose servers have certificates for every name, each its own.
fn with_cluster(figure: Figure, work: impl FnOnce(&Testbed, &Cluster<'_>, &Site)) {
    with_cluster_of(figure, Testbed::builder(), work);
}

fn with_cluster_of(figure: Figure, bed: Builder, work: impl FnOnce(&Testbed, &Cluster<'_>, &Site)) {
    let bed = bed.figure(figure).build();
    let site = Site { files: DocRoot::shared(), page: Content::new("page", 100_000) };
    site.files.add(&site.page);
    let servers = bed.nodes().iter().enumerate().filter(|(i, _)| figure.has_role(*i, "server"));
    let servers = servers.map(|(_, node)| {
        let names = [FIRST, SECOND, ANY_TENANT, "h2only.example.org"];
        let certificates = names.map(|name| Certificate::new(node, name));
        WebServer::secure_nginx(node, &site.files, &certificates, "")
    });
    let cluster = figure.start_without_servers(&bed, servers.collect(), &service(&bed, figure));
    work(&bed, &cluster, &site);
    cluster.stop();
}

struct Site {
    files: DocRoot,
    page: Content,
}

fn dial(cluster: &Cluster<'_>) -> Dial {
    Dial::new((cluster.vips[0], 443)).patience(SOON)
}

/// What curl got: which node said it was there, by which HTTP version, and the body.
fn curl(bed: &Testbed, cluster: &Cluster<'_>, site: &Site, name: &str, version: &str) -> (String, String) {
    let to = format!("{name}:443:{}", cluster.host_in_url());
    let url = format!("https://{name}{}", site.page.path());
    let body = Scratch::new("body");
    let file = body.path().join("page").display().to_string();
    let told = "%header{x-node} %{http_version}";
    let args = ["-sS", "-k", "--max-time", "10", version, "--resolve", &to, "-o", &file, "-w", told, &url];
    let output = bed.client(0).try_run("curl", args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name}: {text} {}", String::from_utf8_lossy(&output.stderr));
    let expected = std::fs::read(site.files.path().join(&site.page.path()[1..])).expect("an own file");
    assert!(std::fs::read(file).expect("a body") == expected, "{name}: another body");
    let (node, version) = text.split_once(' ').expect("both");
    (node.to_owned(), version.to_owned())
}

/// `openssl s_client`, which closes once the handshake is complete.
fn s_client(bed: &Testbed, cluster: &Cluster<'_>, more: &[&str]) -> Output {
    let to = format!("{}:443", cluster.host_in_url());
    let mut command = bed.client(0).command("openssl");
    command.args(["s_client", "-connect", &to]).args(more).stdin(std::process::Stdio::null());
    command.output().expect("installed")
}

/// Whose certificate a server of TLS 1.2 sent, in the clear.
fn organisation(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&seen).into_owned();
        if let Some(at) = text.find("node-") {
            return text[at + 5..].chars().take(1).collect();
        }
        let length = stream.read(&mut piece).expect("a server's answer");
        assert!(length > 0, "closed after {seen:?}");
        seen.extend_from_slice(&piece[..length]);
    }
}

/// All that comes until the connection is closed.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("an orderly close");
    all
}

fn reader(cluster: &Cluster<'_>, what: &str) -> u64 {
    let count = |baton: &baton_testbed::Baton<'_>| {
        node_status(&baton.status(), baton.host().name())["reader"][what].as_u64().unwrap_or(0)
    };
    cluster.batons.iter().map(count).sum()
}

#[test]
fn each_name_is_served_by_its_pool() {
    for figure in FIGURES {
        with_cluster(figure, |bed, cluster, site| {
            for version in ["--http1.1", "--http2"] {
                let spoken = if version == "--http2" { "2" } else { "1.1" };
                let first = curl(bed, cluster, site, FIRST, version);
                assert_eq!(first, ("b".to_owned(), spoken.to_owned()), "{figure:?}");
                for _ in 0..4 {
                    let (node, version) = curl(bed, cluster, site, SECOND, version);
                    assert!(
                        ["c", "d"].contains(&&*node) && version == spoken,
                        "{figure:?}: {node} {version}"
                    );
                }
                // The target is the name: LARD keeps to one server.
                let tenant = curl(bed, cluster, site, TENANT, version).0;
                for _ in 0..5 {
                    assert_eq!(curl(bed, cluster, site, TENANT, version).0, tenant, "{figure:?}");
                }
            }
            assert!(cluster.counted("held_hello") > 0 && cluster.counted("moved") == 0);
            // What was decided for a name need not be asked again.
            let known = |baton: &baton_testbed::Baton<'_>| {
                node_status(&baton.status(), baton.host().name())["decisions"]["known"].as_u64().unwrap_or(0)
            };
            assert!(cluster.batons.iter().map(known).sum::<u64>() >= 5, "{figure:?}");
            // The handshake's own view: the certificate is that of the name, and of the node.
            let seen = s_client(bed, cluster, &["-servername", FIRST]);
            let text = String::from_utf8_lossy(&seen.stdout).into_owned();
            assert!(text.contains(&format!("O = node-b, CN = {FIRST}")), "{text}");
            // A protocol may have a pool of its own.
            let acme = s_client(bed, cluster, &["-servername", SECOND, "-alpn", "acme-tls/1,h2"]);
            let text = String::from_utf8_lossy(&acme.stdout).into_owned();
            assert!(text.contains(&format!("O = node-b, CN = {SECOND}")), "{text}");
        });
    }
}

/// While no daemon can read names, first packets are dropped and repeated; connections that have a server go on.
#[test]
fn a_silent_daemon_delays_a_hello() {
    with_cluster(Figure::Seven, |bed, cluster, site| {
        curl(bed, cluster, site, FIRST, "--http1.1");
        let silent = || cluster.batons.iter().map(baton_testbed::Baton::process);
        silent().for_each(|process| process.signal(Signal::SIGSTOP));
        // Before the promise to answer runs out, packets would be held, and the daemons would find them.
        std::thread::sleep(Duration::from_secs(3));
        std::thread::scope(|scope| {
            let served = scope.spawn(|| curl(bed, cluster, site, FIRST, "--http1.1"));
            std::thread::sleep(Duration::from_secs(1));
            assert!(!served.is_finished(), "nobody has read the name");
            silent().for_each(|process| process.signal(Signal::SIGCONT));
            assert_eq!(served.join().expect("no panic").0, "b");
        });
        cluster.wait_formed();
        // Behind a switch nobody may decide, nor does anybody here know of a server.
        assert!(["drop_no_server", "drop_no_lease"].iter().any(|name| cluster.counted(name) > 0));
    });
}

#[test]
fn hellos_may_come_in_pieces() {
    for figure in FIGURES {
        with_cluster(figure, |bed, cluster, _| {
            let client = bed.client(0);
            // 5000 bytes of protocols: several packets, as with the key shares of the future.
            let names: Vec<String> = (0..25).map(|i| format!("{i}{}", "x".repeat(200))).collect();
            for (name, node) in [(FIRST, "b"), (SECOND, "cd")] {
                let alpn = format!("http/1.1,{}", names.join(","));
                let seen = s_client(bed, cluster, &["-servername", name, "-alpn", &alpn]);
                let text = String::from_utf8_lossy(&seen.stdout).into_owned();
                let whose = node.chars().any(|node| text.contains(&format!("O = node-{node}, CN = {name}")));
                assert!(whose && text.contains("Verify return code"), "{figure:?}: {text}");
            }
            let before = reader(cluster, "read");
            let short = Hello::new(FIRST).bytes();
            let long = Hello::new(FIRST).padded(1900).bytes();
            let huge = Hello::new(FIRST).padded(30_000).bytes();
            let records = Hello::new(FIRST).padded(3000).records(700);
            let every: Vec<usize> = (1..short.len()).collect();
            let cases: [(&[u8], Vec<usize>); 6] = [
                (&short, vec![]),
                (&short, every),
                (&long, vec![]),
                (&long, vec![1, 6, 1000]),
                (&huge, vec![]),
                (&records, vec![]),
            ];
            for (bytes, cuts) in cases {
                let mut stream = dial(cluster).stream(client).expect("connected");
                stream.set_nodelay(true).expect("a socket");
                let mut start = 0;
                for end in cuts.iter().copied().chain([bytes.len()]) {
                    stream.write_all(&bytes[start..end]).expect("sent");
                    start = end;
                    if cuts.len() < 10 {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
                assert_eq!(organisation(&mut stream), "b", "{figure:?}, {} bytes, {cuts:?}", bytes.len());
            }
            let read = || reader(cluster, "read") >= before + 5;
            wait_until(SOON, "hellos read by the reader", read);
            assert_eq!(reader(cluster, "alerted"), 0);
        });
    }
}

#[test]
fn what_has_no_pool_is_told_so() {
    for figure in FIGURES {
        with_cluster(figure, |bed, cluster, _| {
            let client = bed.client(0);
            let alert = |number: u8| [21, 3, 3, 0, 2, 2, number];
            let unknown = Hello::new("elsewhere.example.org");
            let mut two_hosts = Hello::new(FIRST).bytes();
            let at = two_hosts.windows(2).position(|two| two == b"fi").expect("the name");
            two_hosts[at] = b'/';
            let h2_only = Hello::new("h2only.example.org").alpn(&["http/1.1"]).bytes();
            let cases: [(&str, Vec<u8>, u8); 7] = [
                ("an unknown name", unknown.bytes(), 112),
                ("an unknown name in two packets", unknown.padded(2500).bytes(), 112),
                ("no name", Hello::nameless().bytes(), 112),
                ("a protocol of no route", h2_only, 120),
                ("no host name", two_hosts, 47),
                ("HTTP", b"GET / HTTP/1.1\r\nHost: first.example.org\r\n\r\n".to_vec(), 10),
                ("half a hello", Hello::new(FIRST).bytes()[..50].to_vec(), 80),
            ];
            for (what, bytes, number) in cases {
                let mut stream = dial(cluster).stream(client).expect("connected");
                stream.write_all(&bytes).expect("sent");
                assert_eq!(rest(&mut stream), alert(number), "{figure:?}: {what}");
            }
            assert_eq!(reader(cluster, "alerted"), 6);
            // Whoever leaves before the hello is whole gets nothing but a close.
            let mut stream = dial(cluster).stream(client).expect("connected");
            stream.write_all(&Hello::new(FIRST).bytes()[..50]).expect("sent");
            stream.shutdown(Shutdown::Write).expect("a socket");
            assert_eq!(rest(&mut stream), b"");
            let seen = s_client(bed, cluster, &["-servername", "elsewhere.example.org"]);
            let text = String::from_utf8_lossy(&seen.stderr).into_owned();
            assert!(text.contains("alert number 112"), "{text}");
        });
    }
}

/// A browser's hello has a post-quantum key share, so it takes two packets, and an extension that looks
/// like an encrypted hello; and it speaks HTTP/2.
#[test]
fn a_browser_gets_its_page() {
    with_cluster(Figure::Seven, |bed, cluster, site| {
        site.files.write("hello.html", "<!doctype html><title>page</title><body>all there</body>");
        let profile = Scratch::new("profile");
        let profile = format!("--user-data-dir={}", profile.path().display());
        let map = format!("--host-resolver-rules=MAP {SECOND} {}", cluster.host_in_url());
        let url = format!("https://{SECOND}/hello.html");
        let args = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--ignore-certificate-errors",
            "--virtual-time-budget=20000",
            "--dump-dom",
            &profile,
            &map,
            &url,
        ];
        let output = bed.client(0).try_run("chromium", args);
        let page = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(page.contains("all there"), "{page}{}", String::from_utf8_lossy(&output.stderr));
        assert!(reader(cluster, "read") > 0, "a hello of two packets");
    });
}

/// Hellos of two packets, of which each way loses some: every connection gets its answer, from the right
/// server, and none is reset.
#[test]
fn lost_packets_cost_time_alone() {
    with_cluster_of(Figure::Seven, Testbed::builder().wire(), |bed, cluster, _| {
        let losses = [bed.lose(4.0, Packets::FromClients), bed.lose(4.0, Packets::ToClients)];
        let names = [(FIRST, "b"), (SECOND, "cd"), (TENANT, "bcd")];
        std::thread::scope(|scope| {
            for thread in 0..4_usize {
                scope.spawn(move || {
                    for i in 0..15 {
                        let (name, nodes) = names[(thread + i) % 3];
                        let padding = [0, 1900, 6000][i % 3];
                        let hello = Hello::new(name).padded(padding).bytes();
                        let mut stream =
                            dial(cluster).patience(LONG).stream(bed.client(0)).expect("connected");
                        stream.write_all(&hello).expect("sent");
                        let node = organisation(&mut stream);
                        assert!(nodes.contains(&node), "{name} is served by {node}");
                    }
                });
            }
        });
        assert!(losses.iter().all(|loss| loss.lost() > 0));
        assert_eq!((reader(cluster, "alerted"), reader(cluster, "failed")), (0, 0));
    });
}
