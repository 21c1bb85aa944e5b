//! What is spoken on a service's connections, and so what can be known of one before it has a server: the
//! requests of HTTP, the server name of TLS, nothing of anything else. Types of the cluster file; asked by
//! distributors.

use std::cmp::Reverse;
use std::fmt;

use baton_http::HostMatch;
use serde::{Deserialize, Serialize};

/// What is spoken on a service's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1 in the clear: each request is read.
    #[default]
    Http,
    /// TLS that the servers end: the ClientHello is read, for its server name and ALPN.
    Tls,
    /// Anything in which the client speaks first: nothing is read.
    Tcp,
}

/// TLS connections for which name and protocol both match belong to this pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameRoute {
    /// Which server names (SNI).
    pub host: HostMatch,
    /// The protocol (ALPN) that the client must offer, such as `h2`; `None`: whatever it offers.
    pub alpn: Option<String>,
    /// The pool's index within the service.
    pub pool: usize,
}

/// The routes of a TLS service in order of precedence, and its default pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameRules {
    routes: Vec<NameRoute>,
    default_pool: Option<usize>,
}

/// Why a TLS connection has no pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unrouted {
    /// No route is for its server name.
    Name,
    /// Routes are for its name, but for none of the protocols that it offers.
    Protocol,
}

impl Protocol {
    /// Every value.
    pub const ALL: [Self; 3] = [Self::Http, Self::Tls, Self::Tcp];

    /// The value's name in the cluster file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tls => "tls",
            Self::Tcp => "tcp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl NameRules {
    /// The rules of a service: its routes in any order, and the pool of connections that no route matches.
    pub fn new(mut routes: Vec<NameRoute>, default_pool: Option<usize>) -> Self {
        routes.sort_by_key(|route| Reverse((route.host.rank(), route.alpn.is_some())));
        Self { routes, default_pool }
    }

    /// The pool of a connection: its server name, in lower case without final dot, if it gives one; and
    /// whether it offers a protocol.
    ///
    /// # Errors
    /// When no route takes it, and the service has no default pool.
    pub fn choose(&self, name: Option<&str>, offers: impl Fn(&str) -> bool) -> Result<usize, Unrouted> {
        let mut named = self.routes.iter().filter(|route| route.host.matches(name)).peekable();
        let unrouted = if named.peek().is_some() { Unrouted::Protocol } else { Unrouted::Name };
        let mut taking = named.filter(|route| route.alpn.as_deref().is_none_or(&offers));
        taking.next().map(|route| route.pool).or(self.default_pool).ok_or(unrouted)
    }

    /// The routes by precedence: exact name before longer before shorter suffix before any name; then with
    /// before without a protocol; then as they were given. The first that matches is the one.
    pub fn routes(&self) -> &[NameRoute] {
        &self.routes
    }

    /// The pool of connections that no route matches; `None`: they are refused.
    pub fn default_pool(&self) -> Option<usize> {
        self.default_pool
    }
}
