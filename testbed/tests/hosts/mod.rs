//! What the suites about hosts share: a cluster with a page, requests that must all be answered, and looks at a host.

use std::net::SocketAddr;
use std::time::Duration;

use baton_testbed::{Cluster, Connection, Content, Dial, DocRoot, Figure, Host, Testbed, WebServer};

pub const SOON: Duration = Duration::from_secs(15);
const WRR: &str = "policy = \"wrr\"";

/// New connections, one after the other, each with one request.
#[track_caller]
pub fn all_answered(bed: &Testbed, to: SocketAddr, page: &Content, how_many: usize) {
    for n in 0..how_many {
        let asked = Dial::new(to).patience(SOON).open(bed.client(0)).and_then(|c| c.fetch_last(page));
        asked.unwrap_or_else(|fault| panic!("request {n} of {how_many}: {fault:?}"));
    }
}

/// A cluster, a page, and where to ask for it.
#[track_caller]
pub fn running<'a>(figure: Figure, bed: &'a Testbed, files: &DocRoot) -> (Cluster<'a>, Content) {
    let page = Content::new("page", 3000);
    files.add(&page);
    let cluster = figure.start(bed, WebServer::nginx, files, WRR);
    all_answered(bed, cluster.service(), &page, 6);
    (cluster, page)
}

pub fn holds(host: &Host, interface: &str, vip: std::net::IpAddr) -> bool {
    host.ip(&format!("-o addr show dev {interface}")).contains(&format!(" {vip}/"))
}

pub fn pinned(host: &Host) -> String {
    host.run("find", ["/sys/fs/bpf", "-name", "guard-*"])
}

/// A client that goes on asking on one connection.
pub fn kept(bed: &Testbed, to: SocketAddr, page: &Content) -> Vec<Connection> {
    let open = || {
        let mut connection = Dial::new(to).patience(SOON).open(bed.client(0)).expect("answered");
        connection.fetch(page).expect("the page");
        connection
    };
    (0..8).map(|_| open()).collect()
}
