//! The parts of a `[[service]]` that say who serves what: its pools, their settings, and the routes to
//! them. Called by `parse`; `value` judges single values, `pool_check` what they mean together.

use std::time::Duration;

use baton_http::{HostMatch, Key, PathMatch, Route};

use crate::protocol_draft::{self, check_settings, read_alpn, read_key};
use crate::read::Give::Value;
use crate::read::{KnownKey, Located, Section};
use crate::value;
use crate::{
    Consult, NameRoute, NodeId, PHttp, PolicyConfig, PolicyKind, Pool, PoolHash, PoolId, Protocol, ServiceId,
};

const POOL: &[KnownKey] = &[
    ("name", Value("\"images\"")),
    ("servers", Value("[\"n1\", \"n2\"]")),
    POLICY,
    CONSULT,
    KEY,
    P_HTTP,
    PRESSURE_LOW,
    MECHANISM,
    LARD,
];
const ROUTE: &[KnownKey] = &[
    ("pool", Value("\"images\"")),
    ("host", Value("\"img.example.com\"")),
    ("path", Value("\"/img/\"")),
    ("path_exact", Value("\"/favicon.ico\"")),
    ("methods", Value("[\"GET\", \"HEAD\"]")),
    protocol_draft::ALPN,
];
pub(crate) const POLICY: KnownKey = ("policy", Value("\"lard\""));
pub(crate) const CONSULT: KnownKey = ("consult", Value("\"cached\""));
pub(crate) const KEY: KnownKey = ("key", Value("\"path\""));
pub(crate) const P_HTTP: KnownKey = ("p_http", Value("\"stay\""));
pub(crate) const PRESSURE_LOW: KnownKey = ("pressure_low", Value("10"));
pub(crate) const MECHANISM: KnownKey = ("mechanism", Value("\"handoff\""));
pub(crate) const LARD: KnownKey = ("lard", Value("{ t_low = 25, t_high = 65, k_s = 20 }"));
/// What is said of each pool, or of a service that names none.
const SETTINGS: [KnownKey; 7] = [POLICY, CONSULT, KEY, P_HTTP, PRESSURE_LOW, MECHANISM, LARD];
const LARD_KEYS: &[KnownKey] = &[("t_low", Value("25")), ("t_high", Value("65")), ("k_s", Value("20"))];

/// A `[[service.pool]]` as read; or what stands for one in a service without.
pub(crate) struct PoolDraft {
    pub(crate) line: usize,
    pub(crate) name: Option<Located<String>>,
    /// `None`: every server.
    pub(crate) servers: Option<Located<Vec<Located<String>>>>,
    settings: PoolSettings,
}

/// How a pool's requests are spread, as read.
struct PoolSettings {
    policy: Option<PolicyConfig>,
    consult: Consult,
    key: Key,
    p_http: PHttp,
    pressure_low: Option<u8>,
}

/// A `[[service.route]]` as read.
pub(crate) struct RouteDraft {
    pub(crate) line: usize,
    pub(crate) pool: Option<Located<String>>,
    /// Which requests it takes; `None` if that could not be read.
    pub(crate) takes: Option<Takes>,
}

/// Which requests a route takes; or, of TLS, which connections.
pub(crate) struct Takes {
    pub(crate) host: HostMatch,
    pub(crate) path: PathMatch,
    pub(crate) methods: Vec<String>,
    pub(crate) alpn: Option<String>,
}

/// A service's pools; of one that names none, the one that it has all the same.
pub(crate) fn read_pools(
    service: &mut Section<'_, '_>,
    name: Option<&Located<String>>,
    protocol: Protocol,
) -> Vec<PoolDraft> {
    let pools = service.tables("pool", "[[service.pool]]");
    if pools.is_empty() {
        let settings = read_settings(service, "[service.lard]", protocol);
        return vec![PoolDraft { line: service.line(), name: name.cloned(), servers: None, settings }];
    }
    for (key, _) in SETTINGS {
        if let Some(line) = service.line_of(key) {
            let what = format!("`{key}` is given for a service that has pools");
            let help = "move it to each [[service.pool]] that it is meant for";
            service.problems.add(line, what, help);
        }
    }
    let read = |at| read_pool(Section::open_at("[[service.pool]]", POOL, at, service.problems), protocol);
    pools.into_iter().map(read).collect()
}

fn read_pool(mut section: Section<'_, '_>, protocol: Protocol) -> PoolDraft {
    let name = section.required_string("name").and_then(|at| value::name(at, "the pool's", section.problems));
    let servers = section.strings("servers").map(|list| {
        let owned = |at: &Located<&str>| Located { value: at.value.to_owned(), line: at.line };
        Located { value: list.value.iter().map(owned).collect(), line: list.line }
    });
    let settings = read_settings(&mut section, "[service.pool.lard]", protocol);
    PoolDraft { line: section.line(), name, servers, settings }
}

fn read_settings(section: &mut Section<'_, '_>, lard: &'static str, protocol: Protocol) -> PoolSettings {
    let policy = section.required_string("policy");
    let policy = policy
        .and_then(|at| value::choice(at, "policy", &PolicyKind::ALL, PolicyKind::name, section.problems));
    let consult = section.string("consult");
    let consult =
        consult.and_then(|at| value::choice(at, "consult", &Consult::ALL, Consult::name, section.problems));
    let key = read_key(section, protocol);
    let p_http = read_p_http(section, policy);
    check_settings(section, protocol, policy, p_http);
    if let Some(at) = section.string("mechanism") {
        value::mechanism(at, section.problems);
    }
    PoolSettings {
        // The constants are read even without a valid policy, for the sake of what is wrong with them.
        policy: read_lard(section, lard, policy.unwrap_or(PolicyKind::Lard)).filter(|_| policy.is_some()),
        consult: consult.unwrap_or_default(),
        key,
        p_http,
        pressure_low: section.number("pressure_low", 1..=100).map(|at| at.value),
    }
}

fn read_p_http(section: &mut Section<'_, '_>, policy: Option<PolicyKind>) -> PHttp {
    let Some(at) = section.string("p_http") else { return PHttp::default() };
    let p_http = value::choice(at, "p_http", &PHttp::ALL, PHttp::name, section.problems).unwrap_or_default();
    if let Some(blind) = policy.filter(|policy| p_http == PHttp::ExtendedLard && !policy.is_lard()) {
        let what = format!("p_http = \"extended-lard\" with the policy \"{blind}\", which knows no targets");
        section.problems.add(at.line, what, "choose the policy \"lard\" or \"lard/r\", or p_http = \"stay\"");
    }
    p_http
}

fn read_lard(settings: &mut Section<'_, '_>, title: &'static str, kind: PolicyKind) -> Option<PolicyConfig> {
    let mut policy = PolicyConfig::new(kind);
    let Some(mut section) = settings.section("lard", title, LARD_KEYS) else {
        return Some(policy);
    };
    let t_low = section.number("t_low", 1..=1_000_000);
    let t_high = section.number("t_high", 1..=1_000_000);
    policy.t_low = t_low.map_or(policy.t_low, |at| at.value);
    policy.t_high = t_high.map_or(policy.t_high, |at| at.value);
    if let Some(k_s) = section.number("k_s", 1..=3600) {
        policy.k = Duration::from_secs(k_s.value);
    }
    if policy.t_low >= policy.t_high {
        let line = t_low.or(t_high).map_or(section.line(), |at| at.line);
        let what = format!("t_low ({}) is not below t_high ({})", policy.t_low, policy.t_high);
        section.problems.add(line, what, "lower t_low or raise t_high; the papers' values are 25 and 65");
        return None;
    }
    Some(policy)
}

/// A service's routes.
pub(crate) fn read_routes(service: &mut Section<'_, '_>, protocol: Protocol) -> Vec<RouteDraft> {
    let routes = service.tables("route", "[[service.route]]");
    let read = |at| read_route(Section::open_at("[[service.route]]", ROUTE, at, service.problems), protocol);
    routes.into_iter().map(read).collect()
}

fn read_route(mut section: Section<'_, '_>, protocol: Protocol) -> RouteDraft {
    let before = section.problems.count();
    let pool =
        section.required_string("pool").map(|at| Located { value: at.value.to_owned(), line: at.line });
    let host = section.string("host").and_then(|at| value::host(at, section.problems));
    let path = section.string("path").and_then(|at| value::route_path(at, section.problems));
    let exact = section.string("path_exact");
    if let (Some(_), Some(at)) = (&path, exact) {
        let help = "give one of them, or write two routes";
        section.problems.add(at.line, "a route with both `path` and `path_exact`", help);
    }
    let exact = exact.and_then(|at| value::route_path(at, section.problems));
    let methods = section.strings("methods").map(|list| value::methods(&list, section.problems));
    let takes = Takes {
        host: host.unwrap_or_default(),
        path: match (path, exact) {
            (_, Some(exact)) => PathMatch::Exact(exact),
            // Every path begins so.
            (Some(path), None) if path == "/" => PathMatch::Any,
            (Some(path), None) => PathMatch::Prefix(path),
            (None, None) => PathMatch::Any,
        },
        methods: methods.unwrap_or_default(),
        alpn: read_alpn(&mut section, protocol),
    };
    let good = section.problems.count() == before;
    RouteDraft { line: section.line(), pool, takes: good.then_some(takes) }
}

impl PoolDraft {
    /// The pool, if every part of it could be read. `servers` are the cluster's, by name.
    pub(crate) fn build(
        self,
        id: PoolId,
        service: (ServiceId, &str),
        servers: &[(String, NodeId)],
        pressure_low: u8,
    ) -> Option<Pool> {
        let named =
            |at: &Located<String>| servers.iter().find(|(name, _)| *name == at.value).map(|(_, id)| *id);
        let mut servers: Vec<NodeId> = match &self.servers {
            None => servers.iter().map(|(_, id)| *id).collect(),
            Some(list) => list.value.iter().map(named).collect::<Option<_>>()?,
        };
        servers.sort_unstable();
        let PoolSettings { policy, consult, key, p_http, .. } = self.settings;
        let name = self.name?.value;
        Some(Pool {
            id,
            hash: PoolHash::of(service.1, &name),
            name,
            service: service.0,
            servers,
            policy: policy?,
            consult,
            key,
            p_http,
            pressure_low: self.settings.pressure_low.unwrap_or(pressure_low),
        })
    }
}

impl RouteDraft {
    /// The route, if every part of it could be read. `pools` are the service's, in order.
    pub(crate) fn build(self, pools: &[Pool]) -> Option<Route> {
        let pool = self.place(pools)?;
        let Takes { host, path, methods, .. } = self.takes?;
        Some(Route { host, path, methods, pool })
    }

    /// [`RouteDraft::build`] for TLS.
    pub(crate) fn build_name(self, pools: &[Pool]) -> Option<NameRoute> {
        let pool = self.place(pools)?;
        let Takes { host, alpn, .. } = self.takes?;
        Some(NameRoute { host, alpn, pool })
    }

    fn place(&self, pools: &[Pool]) -> Option<usize> {
        let pool = &self.pool.as_ref()?.value;
        pools.iter().position(|known| known.name == *pool)
    }
}
