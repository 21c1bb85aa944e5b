//! What the pools and routes of a cluster file mean together: pools of one name, servers that are none,
//! routes that lead nowhere or take each other's requests. Called by `check`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use baton_http::{HostMatch, PathMatch};

use crate::draft::{Draft, NodeDraft, ServiceDraft};
use crate::pool_draft::{PoolDraft, Takes};
use crate::read::{Located, Problems};
use crate::unique::{Seen, unique_names};
use crate::value::quoted;
use crate::{PoolHash, PoolId, Protocol, Service, similar};

/// Reports everything that is wrong between pools, routes and nodes.
pub(crate) fn together(draft: &Draft, problems: &mut Problems) {
    let pools = || draft.services.iter().flat_map(|service| &service.pools);
    if let Some(pool) = pools().nth(PoolId::MAX_POOLS) {
        let what = format!("there are {} pools, {} are the most", pools().count(), PoolId::MAX_POOLS);
        problems.add(pool.line, what, "let services share fewer pools, or make it several clusters");
    }
    hashes(&draft.services, problems);
    for service in &draft.services {
        unique_names("pool of the service", service.pools.iter().map(|pool| &pool.name), problems);
        service.pools.iter().for_each(|pool| servers(pool, &draft.nodes, problems));
        routes(service, problems);
        alone(service, problems);
    }
}

/// Two pools that other nodes could not tell apart, whatever their names: that is so in about one of two
/// million files with as many pools as may be.
fn hashes(services: &[ServiceDraft], problems: &mut Problems) {
    let mut seen: HashMap<PoolHash, (&str, &str, usize)> = HashMap::new();
    for service in services {
        let Some(of) = &service.name else { continue };
        for Located { value, line } in service.pools.iter().filter_map(|pool| pool.name.as_ref()) {
            let names = (of.value.as_str(), value.as_str());
            match seen.entry(PoolHash::of(names.0, names.1)) {
                Entry::Vacant(place) => {
                    place.insert((names.0, names.1, *line));
                }
                Entry::Occupied(first) => {
                    let (service, pool, first) = *first.get();
                    if (service, pool) != names {
                        let what = format!("nodes could not tell this pool from the one on line {first}");
                        problems.add(*line, what, "by chance their names have the same hash: rename one");
                    }
                }
            }
        }
    }
}

fn servers(pool: &PoolDraft, nodes: &[NodeDraft], problems: &mut Problems) {
    let Some(list) = &pool.servers else { return };
    if list.value.is_empty() {
        let help = "name nodes that have the role \"server\", or leave `servers` out for all of them";
        problems.add(list.line, "the pool has no server", help);
    }
    // A node whose name could not be read may be the one that is missed below.
    let all_named = nodes.iter().all(|node| node.name.is_some());
    let mut seen = Seen::new();
    for Located { value, line } in &list.value {
        let node = nodes.iter().find(|node| node.name.as_ref().is_some_and(|at| at.value == *value));
        match node {
            None if all_named => {
                let names: Vec<_> = nodes.iter().flat_map(|node| &node.name).map(|at| &*at.value).collect();
                let what = format!("there is no node {}", quoted(value));
                let offer = similar::offer(value, names.iter().copied());
                problems.add(*line, what, format_args!("{offer}the nodes are {}", names.join(", ")));
            }
            Some(node) if node.roles.is_some_and(|roles| !roles.value.server) => {
                let what = format!("node \"{value}\" is no server");
                problems.add(*line, what, "add \"server\" to its roles, or take it out of the pool");
            }
            _ if seen.before(value, *line).is_some() => {
                problems.add(*line, format_args!("server \"{value}\" is named twice"), "name it once");
            }
            _ => {}
        }
    }
}

fn routes(service: &ServiceDraft, problems: &mut Problems) {
    if let Some(route) = service.routes.get(Service::MAX_ROUTES) {
        let (count, max) = (service.routes.len(), Service::MAX_ROUTES);
        let what = format!("the service has {count} routes, {max} are the most");
        problems.add(route.line, what, "let one route of a shorter path stand for several");
    }
    if service.protocol == Protocol::Http {
        hosts(service, problems);
    }
    let named: Option<Vec<_>> = service.pools.iter().map(|pool| Some(&*pool.name.as_ref()?.value)).collect();
    let mut seen = Seen::new();
    let led_to = service.routes.iter().filter_map(|route| route.pool.as_ref());
    for at in led_to.chain(&service.default_pool) {
        // A pool whose name could not be read may be the one that is missed here.
        if let Some(pools) = &named
            && !pools.contains(&&*at.value)
        {
            let what = format!("the service has no pool {}", quoted(&at.value));
            let offer = similar::offer(&at.value, pools.iter().copied());
            problems.add(at.line, what, format_args!("{offer}its pools are {}", pools.join(", ")));
        }
    }
    let tls = service.protocol == Protocol::Tls;
    for route in &service.routes {
        let Some(takes) = &route.takes else { continue };
        if takes.everything() {
            let (what, help) = if tls {
                (
                    "a route that takes every connection",
                    "give it a `host` or `alpn`; the service's `default_pool` has all others",
                )
            } else {
                (
                    "a route that takes every request",
                    "give it a `host`, `path`, `path_exact` or `methods`; the first pool has all other requests",
                )
            };
            problems.add(route.line, what, help);
            continue;
        }
        let first = takes.each_method().filter_map(|one| seen.before(one, route.line)).min();
        if let Some(first) = first {
            let (taken, help) = if tls {
                ("connections", "remove one of them, or let them differ in host or alpn")
            } else {
                ("requests", "remove one of them, or let them differ in host, path or methods")
            };
            problems.add(route.line, format_args!("the route on line {first} takes the same {taken}"), help);
        }
    }
}

/// Nothing tells TCP connections apart.
fn alone(service: &ServiceDraft, problems: &mut Problems) {
    if service.protocol != Protocol::Tcp {
        return;
    }
    if let Some(pool) = service.pools.get(1) {
        let help = "keep one, and make the others services with ports of their own";
        problems.add(pool.line, "a second pool of a service with protocol = \"tcp\"", help);
    }
    if let Some(route) = service.routes.first() {
        let help = "remove it: the service's only pool has all connections";
        problems.add(route.line, "a route of a service with protocol = \"tcp\"", help);
    }
}

/// The packet path remembers of each host which patterns match it, and has room for a few.
fn hosts(service: &ServiceDraft, problems: &mut Problems) {
    let mut patterns: Vec<(&HostMatch, usize)> = Vec::new();
    for route in &service.routes {
        let Some(Takes { host, .. }) = &route.takes else { continue };
        if *host != HostMatch::Any && !patterns.iter().any(|(known, _)| *known == host) {
            patterns.push((host, route.line));
        }
    }
    for (host, line) in &patterns {
        let together = patterns.iter().filter(|(other, _)| other.covers(host)).count();
        if together > HostMatch::TOGETHER_MAX {
            let max = HostMatch::TOGETHER_MAX;
            let what = format!("{together} hosts of the service's routes match {host}, {max} are the most");
            problems.add(*line, what, "remove some that begin with \"*.\", or make it several services");
        }
    }
}

impl Takes {
    fn everything(&self) -> bool {
        self.host == HostMatch::Any
            && self.path == PathMatch::Any
            && self.methods.is_empty()
            && self.alpn.is_none()
    }

    /// What it takes, one method at a time: two routes of which neither wins have one of these alike.
    fn each_method(&self) -> impl Iterator<Item = (&HostMatch, &PathMatch, Option<&str>, Option<&str>)> {
        let any = self.methods.is_empty().then_some(None);
        let methods = self.methods.iter().map(|method| Some(method.as_str()));
        any.into_iter().chain(methods).map(|method| (&self.host, &self.path, method, self.alpn.as_deref()))
    }
}
