//! What a service's protocol allows in its section: which keys of pools and routes mean something where
//! requests cannot be read. Called by `parse` and `pool_draft`; `pool_check` compares the parts.

use baton_http::Key;

use crate::read::Give::Value;
use crate::read::{KnownKey, Located, Section};
use crate::value;
use crate::{PHttp, PolicyKind, Protocol};

pub(crate) const PROTOCOL: KnownKey = ("protocol", Value("\"http\""));
pub(crate) const SPEAKS_FIRST: KnownKey = ("speaks_first", Value("\"client\""));
pub(crate) const DEFAULT_POOL: KnownKey = ("default_pool", Value("\"site\""));
pub(crate) const ALPN: KnownKey = ("alpn", Value("\"h2\""));
/// RFC 7301 3.1.
const ALPN_LEN_MAX: usize = 255;
/// Keys of a route that only requests in the clear can be compared with.
const OF_REQUESTS: [&str; 3] = ["path", "path_exact", "methods"];

/// The service's protocol; HTTP if that could not be read.
pub(crate) fn read_protocol(service: &mut Section<'_, '_>) -> Protocol {
    let protocol = service
        .string("protocol")
        .and_then(|at| value::choice(at, "protocol", &Protocol::ALL, Protocol::name, service.problems));
    let protocol = protocol.unwrap_or_default();
    if let Some(at) = service.string("speaks_first") {
        speaks_first(at, protocol, service);
    }
    protocol
}

fn speaks_first(at: Located<&str>, protocol: Protocol, service: &mut Section<'_, '_>) {
    let (what, help) = match (protocol, at.value) {
        (Protocol::Tcp, "client") => return,
        (Protocol::Tcp, "server") => (
            "a protocol in which the server speaks first cannot be handed off: a connection goes to its server with \
             the first bytes of the client, which would wait for the server for ever"
                .to_owned(),
            "offer it without Baton, by an address of the server's own",
        ),
        (Protocol::Tcp, _) => (
            format!("{} is not a value of `speaks_first`", value::quoted(at.value)),
            "it takes \"client\"",
        ),
        _ => (
            format!("`speaks_first` is given for a service with protocol = \"{protocol}\", in which the client does"),
            "remove it",
        ),
    };
    service.problems.add(at.line, what, help);
}

/// The pool of a TLS service that takes what no route takes.
pub(crate) fn read_default_pool(
    service: &mut Section<'_, '_>,
    protocol: Protocol,
) -> Option<Located<String>> {
    let at = service.string("default_pool")?;
    if protocol != Protocol::Tls {
        let what = format!("`default_pool` is given for a service with protocol = \"{protocol}\"");
        let help = "remove it: the first pool is the default";
        service.problems.add(at.line, what, help);
    }
    Some(Located { value: at.value.to_owned(), line: at.line })
}

/// The key of a pool's targets, if its protocol has any.
pub(crate) fn read_key(pool: &mut Section<'_, '_>, protocol: Protocol) -> Key {
    let default = if protocol == Protocol::Http { Key::Path } else { Key::Name };
    let Some(at) = pool.string("key") else { return default };
    let Some(key) = value::key(at, pool.problems) else { return default };
    let (what, help) = match protocol {
        Protocol::Http if key == Key::Name => (
            "the key \"name\" is that of TLS connections",
            "it takes \"path\", \"path+query\", \"query:NAME\", \"header:NAME\", \"cookie:NAME\"",
        ),
        Protocol::Tls if key != Key::Name => (
            "requests inside TLS cannot be read: the server name alone can be the key",
            "write key = \"name\", or leave it out",
        ),
        Protocol::Tcp => ("a pool of protocol = \"tcp\" has no targets, and so no key", "remove it"),
        Protocol::Http | Protocol::Tls => return key,
    };
    pool.problems.add(at.line, what, help);
    default
}

/// Reports a policy or a `p_http` that the protocol has no use for.
pub(crate) fn check_settings(
    pool: &mut Section<'_, '_>,
    protocol: Protocol,
    policy: Option<PolicyKind>,
    p_http: PHttp,
) {
    if let (Protocol::Tcp, Some(policy), Some(line)) = (protocol, policy, pool.line_of("policy"))
        && policy.is_lard()
    {
        let what =
            format!("the policy \"{policy}\" places targets, and nothing is known of a TCP connection");
        pool.problems.add(line, what, "choose \"least-loaded\" or \"wrr\"");
    }
    if let (true, Some(line)) = (protocol != Protocol::Http && p_http != PHttp::Stay, pool.line_of("p_http"))
    {
        let what = format!(
            "p_http = \"{}\" in a service with protocol = \"{protocol}\", whose later requests cannot be read",
            p_http.name()
        );
        pool.problems.add(line, what, "remove it: such a connection stays with its server");
    }
}

/// The protocol (ALPN) that a route asks for; reports the keys that the service's protocol has no use for.
pub(crate) fn read_alpn(route: &mut Section<'_, '_>, protocol: Protocol) -> Option<String> {
    if protocol == Protocol::Tls {
        for key in OF_REQUESTS {
            if let Some(line) = route.line_of(key) {
                let what = format!("`{key}` in a route of TLS, within which requests cannot be read");
                route.problems.add(line, what, "tell connections apart by `host` and `alpn`");
            }
        }
    }
    let at = route.string("alpn")?;
    if protocol == Protocol::Http {
        let help = "remove it, or write protocol = \"tls\" in the service";
        route.problems.add(at.line, "`alpn` in a route of HTTP in the clear", help);
    }
    if (1..=ALPN_LEN_MAX).contains(&at.value.len()) && at.value.bytes().all(|c| c.is_ascii_graphic()) {
        return Some(at.value.to_owned());
    }
    let what = format!("{} is not a protocol", value::quoted(at.value));
    route.problems.add(at.line, what, "write its ALPN name, such as \"h2\" or \"http/1.1\"");
    None
}
