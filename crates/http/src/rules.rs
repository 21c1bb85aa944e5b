//! Which pool of a service a request belongs to. The cluster file makes [`Rules`]; the node's user
//! space asks them for each request that it reads, and fills the packet path's tables from them, so
//! that both choose alike. They never look at load or at servers.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::fmt;

use crate::head::Request;
use crate::key::Key;

/// Which hosts a route is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum HostMatch {
    /// Every host, and requests without one.
    #[default]
    Any,
    /// This host alone, in lower case without port.
    Exact(String),
    /// Hosts that end so and have something before it: `.example.com` for `*.example.com`.
    Suffix(String),
}

/// Which paths a route is about. Compared with the normalised path, byte by byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathMatch {
    /// Every path.
    #[default]
    Any,
    /// Paths that begin so: `/img` is also the beginning of `/imgs`, `/img/` is not.
    Prefix(String),
    /// This path alone.
    Exact(String),
}

/// Requests for which host, path and method all match belong to this pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Which hosts.
    pub host: HostMatch,
    /// Which paths.
    pub path: PathMatch,
    /// Which methods (upper case); empty means any.
    pub methods: Vec<String>,
    /// The pool's index within the service.
    pub pool: usize,
}

/// A service's routes in order of precedence, its default pool and its pools' keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    routes: Vec<Route>,
    default_pool: usize,
    keys: Vec<Key>,
    /// Servers that compare paths in any case may be behind: no two routes differ in case alone.
    any_case: bool,
}

impl HostMatch {
    /// How many patterns of one service may match one host: the packet path has room for so many.
    pub const TOGETHER_MAX: usize = 4;

    /// The match that `img.example.com` or `*.example.com` stands for, whatever its case.
    pub fn named(host: &str) -> Self {
        let host = host.to_ascii_lowercase();
        match host.strip_prefix('*') {
            Some(suffix) if suffix.starts_with('.') => Self::Suffix(suffix.into()),
            _ => Self::Exact(host),
        }
    }

    /// Whether every host that `other` matches is matched by this one too.
    ///
    /// Two patterns match one host only if one of them covers the other, because both are what the host
    /// ends with. So the most patterns that one host matches are the most that cover one pattern.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (_, Self::Any) => false,
            (_, Self::Exact(host)) => self.matches(Some(host)),
            (Self::Suffix(suffix), Self::Suffix(longer)) => longer.ends_with(suffix.as_str()),
            (Self::Exact(_), Self::Suffix(_)) => false,
        }
    }

    /// Whether this host matches: in lower case without port, or none.
    pub fn matches(&self, host: Option<&str>) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(name) => host == Some(name),
            Self::Suffix(suffix) => {
                host.is_some_and(|h| h.len() > suffix.len() && h.ends_with(suffix.as_str()))
            }
        }
    }

    /// How specific it is: of two that match a host the one with the higher rank counts.
    pub fn rank(&self) -> (u8, usize) {
        match self {
            Self::Any => (0, 0),
            Self::Suffix(suffix) => (1, suffix.len()),
            Self::Exact(_) => (2, 0),
        }
    }
}

/// As the cluster file writes it; any host as `*`.
impl fmt::Display for HostMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(host) => f.write_str(host),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

impl PathMatch {
    /// How long a route's path may be, in bytes: the packet path compares no more.
    pub const LEN_MAX: usize = 127;

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Prefix(prefix) => path.starts_with(prefix.as_str()),
            Self::Exact(exact) => path == exact,
        }
    }

    fn matches_in_any_case(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Prefix(prefix) => {
                path.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
            }
            Self::Exact(exact) => path.eq_ignore_ascii_case(exact),
        }
    }

    /// In small letters.
    fn folded(&self) -> Self {
        match self {
            Self::Any => Self::Any,
            Self::Prefix(prefix) => Self::Prefix(prefix.to_ascii_lowercase()),
            Self::Exact(exact) => Self::Exact(exact.to_ascii_lowercase()),
        }
    }

    fn rank(&self) -> (u8, usize) {
        match self {
            Self::Any => (0, 0),
            Self::Prefix(prefix) => (1, prefix.len()),
            Self::Exact(_) => (2, 0),
        }
    }
}

impl Route {
    /// Whether the request's host, path and method all match.
    pub fn matches(&self, request: &Request<'_>) -> bool {
        self.matches_as(request.host.as_deref(), &request.path, request.method)
    }

    fn matches_as(&self, host: Option<&str>, path: &str, method: &str) -> bool {
        self.host.matches(host) && self.path.matches(path) && self.takes(method)
    }

    fn takes(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|m| m == method)
    }

    fn rank(&self) -> impl Ord + use<> {
        (self.host.rank(), self.path.rank(), !self.methods.is_empty())
    }
}

impl Rules {
    /// The rules of a service: its routes in any order, the pool of requests that no route matches, and
    /// each pool's key by index (a pool without one is keyed by path).
    pub fn new(mut routes: Vec<Route>, default_pool: usize, keys: Vec<Key>) -> Self {
        routes.sort_by_key(|route| Reverse(route.rank()));
        let mut paths: Vec<_> = routes.iter().map(|route| (route.path.folded(), &route.path)).collect();
        paths.sort();
        let any_case = !paths.windows(2).any(|two| matches!(two, [a, b] if a.0 == b.0 && a.1 != b.1));
        Self { routes, default_pool, keys, any_case }
    }

    /// The pool of this request: that of the first route that matches, else the default pool.
    pub fn choose(&self, request: &Request<'_>) -> usize {
        self.choose_as(request.host.as_deref(), &request.path, request.method)
    }

    /// The same where pools have different servers, one of which may take the request for another: `None` when
    /// its pool depends on how a server reads its path or host.
    pub fn choose_surely(&self, request: &Request<'_>) -> Option<usize> {
        let chosen = self.choose(request);
        let paths = request.readings()?;
        let hosts = [&request.host].into_iter().chain(&request.other_hosts);
        let mut readings = hosts.flat_map(|host| paths.iter().map(move |path| (host.as_deref(), path)));
        let same = readings.all(|(host, path)| {
            self.choose_as(host, path, request.method) == chosen
                && (!self.any_case || self.choose_in_any_case(host, path, request.method) == chosen)
        });
        same.then_some(chosen)
    }

    fn choose_as(&self, host: Option<&str>, path: &str, method: &str) -> usize {
        let first = self.routes.iter().find(|route| route.matches_as(host, path, method));
        first.map_or(self.default_pool, |route| route.pool)
    }

    fn choose_in_any_case(&self, host: Option<&str>, path: &str, method: &str) -> usize {
        let first = self.routes.iter().find(|route| {
            route.host.matches(host) && route.path.matches_in_any_case(path) && route.takes(method)
        });
        first.map_or(self.default_pool, |route| route.pool)
    }

    /// For a table of paths: how long the longest is. A request with a capital letter in so much of its path may
    /// be another one's to a server that compares paths in any case. 0 where routes tell cases apart themselves.
    pub fn loud_within(&self) -> usize {
        let length = |route: &Route| match &route.path {
            PathMatch::Any => 0,
            PathMatch::Prefix(path) | PathMatch::Exact(path) => path.len(),
        };
        let longest = self.routes.iter().map(length).max().unwrap_or(0);
        if self.any_case { longest } else { 0 }
    }

    /// For a table of paths: the routes whose paths have capital letters, in small ones. What matches them may be
    /// that route's to a server that compares paths in any case.
    pub fn folded_routes(&self) -> impl Iterator<Item = Route> {
        let loud = self.routes.iter().filter(|route| self.any_case && route.path != route.path.folded());
        loud.map(|route| Route { path: route.path.folded(), ..route.clone() })
    }

    /// The bytes that the request's target is made from in this pool; see [`Key::of`].
    pub fn target_bytes<'r>(&self, pool: usize, request: &'r Request<'_>) -> Option<Cow<'r, [u8]>> {
        self.key(pool).of(request)
    }

    /// The key of a pool.
    pub fn key(&self, pool: usize) -> &Key {
        self.keys.get(pool).unwrap_or(&Key::Path)
    }

    /// The pool of requests that no route matches.
    pub fn default_pool(&self) -> usize {
        self.default_pool
    }

    /// The routes by precedence: exact host before longer before shorter suffix before any host; then
    /// exact path before longer before shorter prefix before any path; then methods named before any
    /// method; then as they were given. The first that matches is the one.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Whether any route names a host or a wildcard: then the request line alone does not choose.
    pub fn look_at_hosts(&self) -> bool {
        self.routes.iter().any(|route| route.host != HostMatch::Any)
    }

    /// Whether any route names a host with a wildcard.
    pub fn look_at_wildcards(&self) -> bool {
        self.routes.iter().any(|route| matches!(route.host, HostMatch::Suffix(_)))
    }

    /// Whether any route names methods.
    pub fn look_at_methods(&self) -> bool {
        self.routes.iter().any(|route| !route.methods.is_empty())
    }
}
