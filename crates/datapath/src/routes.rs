//! Services, their pools and their routes, as the programs' tables have them: made from the same rules
//! that user space asks for the requests it decides itself.

use std::mem::offset_of;
use std::net::IpAddr;

use baton_cluster::{NameRules, NodeId, PHttp, PoolId, Protocol, ServiceId};
use baton_http::{HostMatch, Key, PathMatch, Route, Rules};

use crate::constants::{
    HOSTS_MAX, KEY_OTHER, KEY_PATH, KEY_PATH_QUERY, P_HTTP_EXTENDED, P_HTTP_MOVE, P_HTTP_STAY, PATH_MAX,
    ROTA_SLOTS, SERVICE_ENDING, SERVICE_FOLLOWS, SERVICE_HOSTS, SERVICE_LOUD_SHIFT, SERVICE_ROUTES,
    SERVICE_STRICT, SERVICE_SUFFIXES, SERVICE_TCP, SERVICE_TLS,
};
use crate::error::DatapathError;
use crate::map::{forget, get, put, remove, remove_bytes};
use crate::programs::Datapath;
use crate::request::secret_hash;
use crate::shared::{addr_of, as_bytes, types};
use crate::written::ServiceKeys;

/// In a table of routes: the programs cannot tell.
const POOL_UNKNOWN: u16 = 0xffff;

/// A service as the programs see it.
#[derive(Clone, Debug)]
pub struct ServiceEntry {
    /// Which.
    pub id: ServiceId,
    /// Its addresses.
    pub vips: Vec<IpAddr>,
    /// Its port.
    pub port: u16,
    /// What is spoken on its connections.
    pub protocol: Protocol,
    /// HTTP: which pool a request belongs to, by index in `pools`.
    pub rules: Rules,
    /// TLS: which pool a connection belongs to. For user space alone.
    pub names: NameRules,
    /// Its pools.
    pub pools: Vec<PoolId>,
    /// Whether they have different servers.
    pub strict: bool,
    /// Whether later requests of a connection may have to move.
    pub follows: bool,
}

/// A pool as the programs see it.
#[derive(Clone, Debug)]
pub struct PoolEntry {
    /// Which.
    pub id: PoolId,
    /// Of which service.
    pub service: ServiceId,
    /// What its targets are made from.
    pub key: Key,
    /// Whether later requests move.
    pub p_http: PHttp,
    /// Its servers.
    pub servers: Vec<NodeId>,
}

impl ServiceEntry {
    fn flags(&self) -> u32 {
        let rules = &self.rules;
        let bit = |set: bool, flag: u32| if set { flag } else { 0 };
        bit(!rules.routes().is_empty(), SERVICE_ROUTES)
            | bit(rules.look_at_hosts(), SERVICE_HOSTS)
            | bit(rules.look_at_wildcards(), SERVICE_SUFFIXES)
            | bit(self.strict, SERVICE_STRICT)
            | bit(self.follows, SERVICE_FOLLOWS)
            | bit(self.protocol == Protocol::Tls, SERVICE_TLS)
            | bit(self.protocol == Protocol::Tcp, SERVICE_TCP)
            | if self.strict { (rules.loud_within() as u32) << SERVICE_LOUD_SHIFT } else { 0 }
    }

    /// The host patterns of the routes, each once, in order of precedence; their numbers begin at 1.
    fn patterns(&self) -> Vec<&HostMatch> {
        let mut patterns: Vec<&HostMatch> = Vec::new();
        for route in self.rules.routes() {
            if route.host != HostMatch::Any && !patterns.contains(&&route.host) {
                patterns.push(&route.host);
            }
        }
        patterns
    }
}

impl Datapath {
    /// Makes a service and its routes known, and its addresses open. Other services stay, and so do addresses
    /// that are not named here. A changed service comes under a number that no service had before: it takes
    /// its addresses over one by one, each at once, and no packet meets a part of its routes.
    ///
    /// # Errors
    /// When a table is full, a route's path is too long, or too many patterns match one host.
    pub fn set_service(&self, s: &ServiceEntry) -> Result<(), DatapathError> {
        let pool = s.pools.get(s.rules.default_pool()).map_or(0, |p| p.0);
        let patterns = s.patterns();
        for pattern in &patterns {
            if let HostMatch::Exact(host) = pattern {
                self.set_host(s, host)?;
            }
        }
        let number =
            |host: &HostMatch| patterns.iter().position(|p| **p == *host).map_or(0, |i| i + 1) as u16;
        // User space must say whose these are.
        for route in s.rules.folded_routes().filter(|_| s.strict) {
            self.set_route(s.id, &route, number(&route.host), POOL_UNKNOWN)?;
        }
        // The one that counts more is written last.
        for route in s.rules.routes().iter().rev() {
            let pool = s.pools.get(route.pool).map_or(pool, |p| p.0);
            self.set_route(s.id, route, number(&route.host), pool)?;
        }
        let value = types::service { id: s.id.0, pool, flags: s.flags() };
        for vip in &s.vips {
            self.written.borrow_mut().addresses.insert((*vip, s.port));
            // Port 0 stands for "any": it tells fragments for this address from foreign ones.
            for port in [s.port, 0] {
                put(&self.skel.maps.services, "services", &service_key(*vip, port), &value)?;
            }
        }
        Ok(())
    }

    /// A service gives an address up: what is open there goes on as before, and no new connection begins.
    /// [`Datapath::set_service`] opens it again.
    ///
    /// # Errors
    /// When the map refuses; an address of no service is no error.
    pub fn end_address(&self, vip: IpAddr, port: u16) -> Result<(), DatapathError> {
        let (map, key) = (&self.skel.maps.services, service_key(vip, port));
        let Some(mut value) = get::<_, types::service>(map, "services", &key)? else { return Ok(()) };
        value.flags |= SERVICE_ENDING;
        put(map, "services", &key, &value)
    }

    /// Forgets an address: its packets are the stack's from now on, and those of its other connections, too.
    ///
    /// # Errors
    /// When the map refuses; an address of no service is no error.
    pub fn remove_address(&self, vip: IpAddr, port: u16) -> Result<(), DatapathError> {
        let mut written = self.written.borrow_mut();
        written.addresses.remove(&(vip, port));
        let map = &self.skel.maps.services;
        remove(map, "services", &service_key(vip, port))?;
        if written.addresses.range((vip, 0)..=(vip, u16::MAX)).next().is_none() {
            remove(map, "services", &service_key(vip, 0))?;
        }
        Ok(())
    }

    /// Forgets a service's routes and hosts. No address may be the service's any more, and none was a moment
    /// ago: a packet under way would be of its default pool.
    ///
    /// # Errors
    /// When a map refuses; an unknown service is no error.
    pub fn remove_service(&self, service: ServiceId) -> Result<(), DatapathError> {
        let Some(keys) = self.written.borrow_mut().services.remove(&service) else { return Ok(()) };
        for key in &keys.routes {
            remove_bytes(&self.skel.maps.routes, "routes", key)?;
        }
        for key in &keys.hosts {
            remove_bytes(&self.skel.maps.hosts, "hosts", key)?;
        }
        let is_its = |k: types::host_key| k.service == service.0;
        forget(&self.skel.maps.seen_hosts, "seen_hosts", is_its)
    }

    /// Tells the programs which patterns a host matches. Hosts that no route names in full are any number:
    /// those not asked for the longest are forgotten, and user space says it again.
    ///
    /// # Errors
    /// When more patterns match it than an entry has room for, or the map refuses.
    pub fn set_host(&self, s: &ServiceEntry, host: &str) -> Result<(), DatapathError> {
        let limit = HOSTS_MAX as usize;
        let mut entry = types::hosts::default();
        let patterns = s.patterns();
        let matching = patterns.iter().zip(1_u16..).filter(|(pattern, _)| match pattern {
            HostMatch::Any => true,
            HostMatch::Exact(name) => name == host,
            HostMatch::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        });
        let matching: Vec<u16> = matching.map(|(_, number)| number).collect();
        if matching.len() > limit {
            let given = matching.len();
            return Err(DatapathError::TooMany { what: "host patterns that one host matches", given, limit });
        }
        for (to, from) in entry.patterns.iter_mut().zip(matching) {
            *to = from;
        }
        let hash = secret_hash(host, self.target_secret.get());
        let key = types::host_key { hash, service: s.id.0, pad: [0; 3] };
        if !patterns.contains(&&HostMatch::Exact(host.to_owned())) {
            return put(&self.skel.maps.seen_hosts, "seen_hosts", &key, &entry);
        }
        self.keys_of(s.id, |keys| keys.hosts.insert(as_bytes(&key).to_vec()));
        put(&self.skel.maps.hosts, "hosts", &key, &entry)
    }

    fn set_route(&self, service: ServiceId, r: &Route, host: u16, pool: u16) -> Result<(), DatapathError> {
        let (mut path, rank) = match &r.path {
            PathMatch::Any => (Vec::new(), 0),
            PathMatch::Prefix(path) => (path.clone().into_bytes(), path.len()),
            PathMatch::Exact(path) => (path.clone().into_bytes(), 0x8000 | path.len()),
        };
        let limit = PATH_MAX as usize - 1;
        if path.len() > limit {
            let given = path.len();
            return Err(DatapathError::TooMany { what: "bytes of a route's path", given, limit });
        }
        if matches!(r.path, PathMatch::Exact(_)) {
            path.push(0);
        }
        let secret = self.target_secret.get();
        let mut methods: Vec<u64> = r.methods.iter().map(|method| secret_hash(method, secret)).collect();
        if methods.is_empty() {
            methods.push(0);
        }
        for method in methods {
            let mut key = types::route_key {
                prefixlen: (offset_of!(types::route_key, path) - 4 + path.len()) as u32 * 8,
                service: service.0,
                host,
                method,
                path: [0; PATH_MAX as usize],
            };
            for (to, from) in key.path.iter_mut().zip(&path) {
                *to = *from;
            }
            self.keys_of(service, |keys| keys.routes.insert(as_bytes(&key).to_vec()));
            put(&self.skel.maps.routes, "routes", &key, &types::route { pool, rank: rank as u16 })?;
        }
        Ok(())
    }

    /// Makes a pool known.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn set_pool(&self, p: &PoolEntry) -> Result<(), DatapathError> {
        let key = match p.key {
            Key::Path => KEY_PATH,
            Key::PathQuery => KEY_PATH_QUERY,
            Key::Query(_) | Key::Header(_) | Key::Cookie(_) | Key::Name => KEY_OTHER,
        };
        let p_http = match p.p_http {
            PHttp::Stay => P_HTTP_STAY,
            PHttp::Move => P_HTTP_MOVE,
            PHttp::ExtendedLard => P_HTTP_EXTENDED,
        };
        let mut value =
            types::pool { key: key as u8, p_http: p_http as u8, service: p.service.0, ..Default::default() };
        for server in &p.servers {
            if let Some(word) = value.servers.get_mut(server.index() / 64) {
                *word |= 1 << (server.index() % 64);
            }
        }
        put(&self.skel.maps.pools, "pools", &u32::from(p.id.0), &value)
    }

    /// Makes a pool as if it had never been known: its number may be another's then. No service may have it.
    ///
    /// # Errors
    /// When a map refuses.
    pub fn remove_pool(&self, pool: PoolId) -> Result<(), DatapathError> {
        let number = u32::from(pool.0);
        put(&self.skel.maps.guides, "guides", &number, &types::guide::default())?;
        for turn in 0..ROTA_SLOTS {
            put(&self.skel.maps.rota, "rota", &(number * ROTA_SLOTS + turn), &0_u16)?;
        }
        put(&self.skel.maps.turns, "turns", &number, &0_u32)?;
        put(&self.skel.maps.pools, "pools", &number, &types::pool::default())?;
        // They say nothing of the next pool with the number.
        let is_its = |k: types::decision_key| k.pool == pool.0;
        forget(&self.skel.maps.decisions, "decisions", is_its)
    }

    fn keys_of(&self, service: ServiceId, note: impl FnOnce(&mut ServiceKeys) -> bool) {
        note(self.written.borrow_mut().services.entry(service).or_default());
    }
}

fn service_key(vip: IpAddr, port: u16) -> types::service_key {
    types::service_key { vip: addr_of(vip), port: port.to_be(), pad: 0 }
}
