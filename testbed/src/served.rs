//! Who served what: read from the access logs of a cluster's web servers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use crate::figure::Cluster;
use crate::tools::wait_until;

/// For servers to write their logs; lighttpd does it every few seconds.
const LOGGED: Duration = Duration::from_secs(15);

impl Cluster<'_> {
    /// For each path (with its query), the nodes whose web servers have logged a request for it so far,
    /// one entry for each request; those with one of `statuses` alone, unless it is empty.
    ///
    /// # Panics
    /// When a log cannot be read.
    #[track_caller]
    pub fn served(&self, statuses: &[u16]) -> BTreeMap<String, Vec<String>> {
        let mut by_path: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for server in &self.servers {
            let lines = server.logged().into_iter();
            for line in lines.filter(|line| statuses.is_empty() || statuses.contains(&line.status)) {
                by_path.entry(line.path).or_default().push(server.on_node().to_owned());
            }
        }
        by_path
    }

    /// For each connection, by the client's end, the nodes whose web servers have logged a request on it
    /// so far, in no order, each once. (A port that is used again counts as the same connection.)
    ///
    /// # Panics
    /// When a log cannot be read.
    #[track_caller]
    pub fn nodes_by_connection(&self) -> BTreeMap<SocketAddr, BTreeSet<String>> {
        let mut nodes: BTreeMap<SocketAddr, BTreeSet<String>> = BTreeMap::new();
        for server in &self.servers {
            for line in server.logged() {
                nodes.entry(line.client).or_default().insert(server.on_node().to_owned());
            }
        }
        nodes
    }

    /// The nodes that served a path, one entry for each request; once so many have been logged (servers
    /// log after they have answered).
    ///
    /// # Panics
    /// When they are not logged in 15 seconds.
    #[track_caller]
    pub fn who_served(&self, path: &str, requests: usize) -> Vec<String> {
        let served = || self.served(&[]).remove(path).unwrap_or_default();
        wait_until(LOGGED, &format!("{requests} log lines for {path}"), || served().len() >= requests);
        served()
    }

    /// [`Cluster::served`], once every one of these paths has been logged that often.
    ///
    /// # Panics
    /// When they are not in 15 seconds.
    #[track_caller]
    pub fn all_served<'p>(
        &self,
        paths: impl IntoIterator<Item = &'p str>,
        requests: usize,
    ) -> BTreeMap<String, Vec<String>> {
        let paths: Vec<&str> = paths.into_iter().collect();
        let all = |served: &BTreeMap<String, Vec<String>>| {
            paths.iter().all(|path| served.get(*path).is_some_and(|nodes| nodes.len() >= requests))
        };
        wait_until(LOGGED, "log lines for every path", || all(&self.served(&[])));
        self.served(&[])
    }
}
