//! The cluster files of one run: the first, and those that an operator puts in its place while the nodes run. What a file
//! means is said here once more, by hand, so that nothing of the code that is tested judges itself.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use rand::Rng as _;
use rand::rngs::StdRng;

/// How later requests are handled.
pub(super) const P_HTTP: [&str; 3] = ["move", "stay", "extended-lard"];

/// One cluster file: what differs between those of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// Its services.
    pub services: Vec<ServicePlan>,
}

/// A service of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlan {
    /// Its name.
    pub name: &'static str,
    /// The last bytes of its VIPs.
    pub vips: Vec<u8>,
    /// Its port.
    pub port: u16,
    /// Nothing of it is read (`protocol = "tcp"`).
    pub opaque: bool,
    /// Its pools: the first has what no route takes, the second what is under `/p1/`.
    pub pools: Vec<PoolPlan>,
}

/// A pool of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolPlan {
    /// The nodes.
    pub servers: Vec<usize>,
    /// By name.
    pub policy: &'static str,
    /// By name; of a pool whose requests are read.
    pub p_http: &'static str,
    /// The dispatcher is asked about each request.
    pub consults: bool,
}

/// An operator gives a node another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// When, nanoseconds.
    pub at: u64,
    /// To which node.
    pub node: usize,
    /// Its place among the plan's files.
    pub file: usize,
}

/// A VIP by its last byte.
pub(crate) fn vip(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 99, 0, last).into()
}

/// Whether an address is a VIP of some service.
pub(crate) fn is_vip(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[..3] == [10, 99, 0])
}

impl File {
    /// The part of the file that says what its services are.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for service in &self.services {
            let vips: Vec<String> = service.vips.iter().map(|last| format!("\"{}\"", vip(*last))).collect();
            let (name, vips, port) = (service.name, vips.join(", "), service.port);
            let _ = writeln!(text, "[[service]]\nname = \"{name}\"\nvips = [{vips}]\nport = {port}");
            if service.opaque {
                text.push_str("protocol = \"tcp\"\n");
            }
            for (number, pool) in service.pools.iter().enumerate() {
                let servers: Vec<String> = pool.servers.iter().map(|node| format!("\"n{node}\"")).collect();
                let _ = writeln!(
                    text,
                    "[[service.pool]]\nname = \"p{number}\"\nservers = [{}]\npolicy = \"{}\"",
                    servers.join(", "),
                    pool.policy
                );
                if !service.opaque {
                    let _ = writeln!(text, "p_http = \"{}\"", pool.p_http);
                }
                if pool.consults {
                    text.push_str("consult = \"always\"\n");
                }
            }
            if service.pools.len() > 1 {
                text.push_str("[[service.route]]\npool = \"p1\"\npath = \"/p1/\"\n");
            }
        }
        text
    }

    /// The service at an address.
    pub fn service(&self, vip: u8, port: u16) -> Option<&ServicePlan> {
        self.services.iter().find(|service| service.port == port && service.vips.contains(&vip))
    }

    /// What the next file may have instead: one thing is another one.
    fn next(&self, rng: &mut StdRng, servers: &[usize]) -> Self {
        let mut next = self.clone();
        let some = |rng: &mut StdRng| -> Vec<usize> {
            let mut some: Vec<usize> = servers.iter().copied().filter(|_| rng.random_ratio(1, 2)).collect();
            if some.is_empty() {
                some.push(servers[rng.random_range(0..servers.len())]);
            }
            some
        };
        let www = &mut next.services[0];
        match rng.random_range(0..6) {
            0 | 1 => {
                let pool = rng.random_range(0..www.pools.len());
                www.pools[pool].servers = some(rng);
            }
            2 if www.pools.len() > 1 => {
                www.pools.pop();
            }
            2 => {
                let mut pool = www.pools[0].clone();
                pool.servers = some(rng);
                www.pools.push(pool);
            }
            3 => {
                let pool = rng.random_range(0..www.pools.len());
                let pool = &mut www.pools[pool];
                pool.policy = if pool.policy == "lard" { "wrr" } else { "lard" };
                pool.consults &= pool.policy == "lard";
                pool.p_http = P_HTTP[rng.random_range(0..if pool.policy == "lard" { 3 } else { 2 })];
            }
            _ if next.services.len() > 1 => {
                next.services.pop();
            }
            _ => next.services.push(ServicePlan::plug(some(rng))),
        }
        next
    }
}

impl ServicePlan {
    /// A second service, of which nothing is read.
    pub(super) fn plug(servers: Vec<usize>) -> Self {
        let pool = PoolPlan { servers, policy: "wrr", p_http: "stay", consults: false };
        Self { name: "plug", vips: vec![3], port: 81, opaque: true, pools: vec![pool] }
    }

    /// The nodes that may serve a request whose path begins with `/p0/` or `/p1/`.
    pub fn servers(&self, path: usize) -> &[usize] {
        let pool = if self.opaque { 0 } else { path.min(self.pools.len() - 1) };
        &self.pools[pool].servers
    }

    /// Whether it matters which server has a request.
    pub fn is_strict(&self) -> bool {
        self.pools.iter().any(|pool| pool.servers != self.pools[0].servers)
    }
}

/// The files that follow the first one, and when each node gets them: one node after the other, in any order.
pub(super) fn successors(
    rng: &mut StdRng,
    first: &File,
    servers: &[usize],
    nodes: usize,
    times: &[u64],
) -> (Vec<File>, Vec<Rollout>) {
    const MS: u64 = super::MS;
    let (mut files, mut rollouts) = (Vec::new(), Vec::new());
    let mut last = first.clone();
    let mut from = times[rng.random_range(0..times.len())].saturating_sub(100 * MS);
    for file in 1..=rng.random_range(1..=3) {
        last = last.next(rng, servers);
        files.push(last.clone());
        let takes = if rng.random_ratio(1, 4) { 3000 * MS } else { 200 * MS };
        for node in 0..nodes {
            rollouts.push(Rollout { at: from + rng.random_range(0..takes), node, file });
        }
        from += takes + rng.random_range(0..600 * MS);
    }
    (files, rollouts)
}
