//! The machines, the web servers on them, and starting each side before them.
//!
//! ```text
//! client --- router ---+--- a  front: figure 5's distributor and dispatcher, HAProxy, nginx as a proxy
//!                      +--- b  web server; in figure 7 also distributor and dispatcher
//!                      +--- c  web server; in figure 7 also distributor
//! ```
//! Every packet of every side crosses the router, which is figure 7's switch. Proxies stay up all the
//! time, because an idle one costs nothing; Baton's daemons, which tell each other of their loads, run
//! only while they are measured.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use baton_testbed::{
    Baton, Content, Dial, DocRoot, Host, Namespace, Network, Process, Testbed, node_status, wait_until,
};

use crate::plan::{Load, Side};

/// For a process to listen, and for a cluster to be whole.
const PATIENCE: Duration = Duration::from_secs(15);
/// The ports that proxies listen on.
const HAPROXY_HTTP: u16 = 8080;
const HAPROXY_TCP: u16 = 8081;
const NGINX_PROXY: u16 = 8082;
const HAPROXY_PATHS: u16 = 8083;
/// The address that clients see.
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1));
/// Where the crossover's staying service is: as the other one, but that nothing moves.
const VIP_STAYING: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 2));

/// Everything that is there all the time.
#[derive(Debug)]
pub struct Sides {
    // Processes first: what is dropped first ends first.
    _processes: Vec<Process>,
    files: DocRoot,
    figure5: PathBuf,
    figure7: PathBuf,
    pools: PathBuf,
    bed: Testbed,
}

/// A side that can be measured now; dropped, it is over.
#[derive(Debug)]
pub struct Running<'a> {
    /// Where the client connects to.
    pub to: SocketAddr,
    batons: Vec<Baton<'a>>,
}

impl Sides {
    /// Builds the machines and starts web servers and proxies.
    ///
    /// # Panics
    /// When not root, or something is not installed or does not start.
    pub fn build() -> Self {
        let bed = Testbed::builder().unobserved("it measures").nodes(3).network(Network::IPV4).build();
        let files = DocRoot::shared();
        Load::ALL.iter().flat_map(|load| load.files()).for_each(|file| drop(files.add(&file)));
        // Tens of thousands of connections a second from one address: as many ports as there are.
        bed.client(0).sysctl("net.ipv4.ip_local_port_range", "1024 65535");
        bed.client(0).sysctl("net.ipv4.tcp_tw_reuse", "1");
        // Figure 5's front answers ARP for the VIP on the nodes' link.
        [VIP, VIP_STAYING].into_iter().for_each(|vip| bed.vip_on_link(vip));
        let (a, b, c) = (bed.node(0), bed.node(1), bed.node(2));
        let site = format!("root {};", files.path().display());
        let servers = [b, c].map(|node| nginx(node, 80, "", &site));
        let processes = servers.into_iter().chain([haproxy(a), nginx_proxy(a)]).collect();
        let figure5 = a.scratch().write("figure5.toml", FIGURE_5);
        let figure7 = a.scratch().write("figure7.toml", FIGURE_7);
        let pools = a.scratch().write("pools.toml", POOLS);
        Self { _processes: processes, files, figure5, figure7, pools, bed }
    }

    /// The machine that the client runs on.
    pub fn client(&self) -> &Host {
        self.bed.client(0)
    }

    /// The machine that stands between router and web servers.
    pub fn front(&self) -> &Host {
        self.bed.node(0)
    }

    /// Every machine.
    pub fn machines(&self) -> impl Iterator<Item = &Host> {
        self.bed.clients().iter().chain([self.bed.router()]).chain(self.bed.nodes())
    }

    /// The processes of all machines, this one with the client included.
    pub fn processes(&self) -> Vec<u32> {
        let text: String = self
            .machines()
            .map(|machine| machine.run("ip", ["netns", "pids", Namespace::name(machine)]))
            .collect();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).chain([std::process::id()]).collect()
    }

    /// Starts a side, and has it serve each file of the load once, with every byte checked.
    ///
    /// # Panics
    /// When it does not start or serves something else.
    pub fn start(&self, side: Side, load: Load) -> Running<'_> {
        let (a, b, c) = (self.bed.node(0), self.bed.node(1), self.bed.node(2));
        let vip = SocketAddr::new(VIP, 80);
        let (to, batons) = match side {
            Side::Nginx => (b.at(80), Vec::new()),
            Side::BatonFigure5 => (vip, cluster(&self.figure5, [a, b, c])),
            Side::BatonFigure7 => (vip, cluster(&self.figure7, [self.bed.router(), b, c])),
            Side::HaproxyHttp => (a.at(HAPROXY_HTTP), Vec::new()),
            Side::HaproxyTcp => (a.at(HAPROXY_TCP), Vec::new()),
            Side::NginxProxy => (a.at(NGINX_PROXY), Vec::new()),
        };
        let running = Running { to, batons };
        for file in load.files() {
            let answer = Dial::new(to).open(self.client()).and_then(|c| c.fetch_last(&file));
            answer.unwrap_or_else(|fault| panic!("{} does not serve {}: {fault}", side.name(), file.path()));
        }
        running
    }

    /// Starts figure 7 with a service whose requests move between b and c, and one whose requests stay.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_pools(&self) -> Running<'_> {
        let batons = cluster(&self.pools, [self.bed.router(), self.bed.node(1), self.bed.node(2)]);
        Running { to: SocketAddr::new(VIP, 80), batons }
    }

    /// Where everything under `/c/` is served by c, all else by b: with [`Sides::start_pools`], or by
    /// HAProxy; and where requests stay with the server that has their connection.
    pub fn routed(&self) -> [SocketAddr; 3] {
        [SocketAddr::new(VIP, 80), self.front().at(HAPROXY_PATHS), SocketAddr::new(VIP_STAYING, 80)]
    }

    /// Writes the files of these contents, unless they are there.
    ///
    /// # Panics
    /// When one cannot be written.
    pub fn add(&self, files: &[Content]) {
        files.iter().for_each(|file| drop(self.files.add(file)));
    }
}

impl Running<'_> {
    /// Counters of the packet path, summed over all nodes.
    pub fn counted<const N: usize>(&self, counters: [&str; N]) -> [u64; N] {
        let mut sums = [0; N];
        for baton in &self.batons {
            let status = baton.status();
            let counted = node_status(&status, baton.host().name())["counters"].as_array().cloned();
            let counted = counted.unwrap_or_default();
            for (sum, name) in sums.iter_mut().zip(counters) {
                let counter = counted.iter().find(|counter| counter["name"] == name);
                *sum += counter.and_then(|counter| counter["count"].as_u64()).unwrap_or(0);
            }
        }
        sums
    }

    /// The process ids of Baton's daemons.
    pub fn daemons(&self) -> Vec<u32> {
        self.batons.iter().map(|baton| baton.process().id()).collect()
    }

    /// Ends it in order.
    ///
    /// # Panics
    /// When a daemon does not end well.
    pub fn stop(self) {
        self.batons.into_iter().for_each(Baton::stop);
    }
}

/// Starts a daemon on each machine and waits until they know each other.
fn cluster<'a>(config: &std::path::Path, hosts: [&'a Host; 3]) -> Vec<Baton<'a>> {
    let batons = hosts.map(|host| Baton::start(host, config));
    wait_until(PATIENCE, "whole cluster", || {
        batons.iter().all(|baton| {
            let status = baton.status();
            let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
            nodes.len() == hosts.len() && nodes.iter().all(|node| node["reachable"] == true)
        })
    });
    batons.into()
}

fn nginx(node: &Host, port: u16, http: &str, site: &str) -> Process {
    let dir = node.scratch().path().display().to_string();
    let text = NGINX.replace("@HTTP@", http).replace("@SITE@", site);
    let text = text.replace("@PORT@", &port.to_string()).replace("@DIR@", &dir);
    let mut command = node.command("nginx");
    command.arg("-c").arg(node.scratch().write("nginx.conf", text));
    listening(node, "nginx", command, port)
}

fn nginx_proxy(node: &Host) -> Process {
    let upstream = "upstream web { server 10.1.0.11; server 10.1.0.12; keepalive 64; }";
    let site = "location / { proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
                proxy_max_temp_file_size 0; }";
    nginx(node, NGINX_PROXY, upstream, site)
}

fn haproxy(node: &Host) -> Process {
    let text = HAPROXY.replace("@HTTP@", &HAPROXY_HTTP.to_string());
    let text = text.replace("@TCP@", &HAPROXY_TCP.to_string());
    let text = text.replace("@PATHS@", &HAPROXY_PATHS.to_string());
    let mut command = node.command("haproxy");
    command.arg("-db").arg("-f").arg(node.scratch().write("haproxy.cfg", text));
    listening(node, "haproxy", command, HAPROXY_HTTP)
}

fn listening(node: &Host, name: &str, command: std::process::Command, port: u16) -> Process {
    let mut process = node.start(name, command);
    process.wait_ready(PATIENCE, || node.listens(port));
    process
}

/// Debian's defaults, but for: no access log, and connections that are kept are kept for good.
const NGINX: &str = r"
daemon off;
user www-data;
worker_processes auto;
pid @DIR@/nginx.pid;
error_log @DIR@/error.log;
events { worker_connections 4096; }
http {
    access_log off;
    client_body_temp_path @DIR@/body;
    proxy_temp_path @DIR@/proxy;
    fastcgi_temp_path @DIR@/fastcgi;
    uwsgi_temp_path @DIR@/uwsgi;
    scgi_temp_path @DIR@/scgi;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000000;
    @HTTP@
    server {
        listen @PORT@;
        @SITE@
    }
}
";

const HAPROXY: &str = r"
global
    nbthread 2
    maxconn 4000
defaults
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    balance roundrobin
listen http
    bind :@HTTP@
    mode http
    http-reuse always
    server b 10.1.0.11:80
    server c 10.1.0.12:80
listen tcp
    bind :@TCP@
    mode tcp
    server b 10.1.0.11:80
    server c 10.1.0.12:80
frontend paths
    bind :@PATHS@
    mode http
    use_backend c if { path_beg /c/ }
    default_backend b
backend b
    mode http
    http-reuse always
    server b 10.1.0.11:80
backend c
    mode http
    http-reuse always
    server c 10.1.0.12:80
";

const FIGURE_5: &str = r#"
[cluster]
name = "figure5"
secret = "only for a benchmark between namespaces"

[[node]]
name = "a"
address = "10.1.0.10"
roles = ["distributor", "dispatcher"]

[[node]]
name = "b"
address = "10.1.0.11"
roles = ["server"]

[[node]]
name = "c"
address = "10.1.0.12"
roles = ["server"]

[[service]]
name = "www"
vips = ["10.99.0.1"]
port = 80
policy = "lard"
"#;

const FIGURE_7: &str = r#"
[cluster]
name = "figure7"
secret = "only for a benchmark between namespaces"

[[node]]
name = "router"
address = "10.1.0.1"
roles = ["switch"]
interfaces = ["to-client0", "br0"]
announce = false

[[node]]
name = "b"
address = "10.1.0.11"
roles = ["distributor", "server", "dispatcher"]

[[node]]
name = "c"
address = "10.1.0.12"
roles = ["distributor", "server"]

[[service]]
name = "www"
vips = ["10.99.0.1"]
port = 80
policy = "lard"
"#;

/// Figure 7 once more: two servers of different content, and beside it a service that never moves. All
/// connections together are no load worth asking about: what is measured is moving, not deciding.
const POOLS: &str = r#"
[cluster]
name = "pools"
secret = "only for a benchmark between namespaces"

[[node]]
name = "router"
address = "10.1.0.1"
roles = ["switch"]
interfaces = ["to-client0", "br0"]
announce = false

[[node]]
name = "b"
address = "10.1.0.11"
roles = ["distributor", "server", "dispatcher"]

[[node]]
name = "c"
address = "10.1.0.12"
roles = ["distributor", "server"]

[[service]]
name = "www"
vips = ["10.99.0.1"]
port = 80

[[service.pool]]
name = "b"
servers = ["b"]
policy = "lard"
lard = { t_low = 100, t_high = 200 }
p_http = "move"

[[service.pool]]
name = "c"
servers = ["c"]
policy = "lard"
lard = { t_low = 100, t_high = 200 }
p_http = "move"

[[service.route]]
pool = "c"
path = "/c/"

[[service]]
name = "staying"
vips = ["10.99.0.2"]
port = 80
policy = "lard"
p_http = "stay"
"#;
