//! Single values of a cluster file: names, addresses, roles, hosts, paths, the secret. Each function reports
//! what is wrong with the value and gives `None` then. Called by `parse`; compares nothing with
//! the rest of the file.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use baton_http::{HostMatch, Key, KeyError, PathMatch, is_method, is_normal};

use crate::read::{Located, Problems};
use crate::{Roles, Service, similar};

const NAME_LEN_MAX: usize = 32;
/// IFNAMSIZ less its NUL.
const INTERFACE_LEN_MAX: usize = 15;
const INTERFACES_MAX: usize = 16;
/// RFC 1035 2.3.4.
const HOST_LEN_MAX: usize = 253;
const LABEL_LEN_MAX: usize = 63;
/// Less than Linux's PATH_MAX.
const FILE_LEN_MAX: usize = 1024;
/// What to do about a bad secret, or none.
pub(crate) const SECRET_HELP: &str =
    "copy the secret of the file that `baton init -o -` prints; it is the same on every node";
const SECRET_LEN_MIN: usize = 32;
const SECRET_LEN_MAX: usize = 256;
/// Fewer different characters than this are typed, not drawn: 32 random hexadecimal digits have
/// 14 on average, and fewer than 8 once in ten million.
const SECRET_VARIETY_MIN: usize = 8;
/// What people write where a secret should be, in lower case without spaces and punctuation.
/// Seven letters and more, so that no random secret holds one by chance.
const PLACEHOLDERS: [&str; 9] = [
    "replaceme",
    "replacethis",
    "changeme",
    "changethis",
    "placeholder",
    "batoninit",
    "yoursecret",
    "example",
    "abcdefghij",
];

/// A name: lower-case letters, digits, `-`; `whose` begins the message.
pub(crate) fn name(at: Located<&str>, whose: &str, problems: &mut Problems) -> Option<Located<String>> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let Located { value, line } = at;
    if (1..=NAME_LEN_MAX).contains(&value.len()) && value.chars().all(allowed) {
        return Some(Located { value: value.to_owned(), line });
    }
    problems.add(
        line,
        format_args!("{whose} name {} is not a name", quoted(value)),
        format_args!("use 1 to {NAME_LEN_MAX} lower-case letters, digits and '-'"),
    );
    None
}

/// A unicast address that a node or a VIP may have.
pub(crate) fn address(at: Located<&str>, problems: &mut Problems) -> Option<Located<IpAddr>> {
    match address_of(at.value) {
        Ok(value) => Some(Located { value, line: at.line }),
        Err((what, help)) => {
            problems.add(at.line, format_args!("{} {what}", quoted(at.value)), help);
            None
        }
    }
}

fn address_of(text: &str) -> Result<IpAddr, (&'static str, &'static str)> {
    let wanted = "give the unicast address that other machines reach it by";
    let Ok(address) = text.parse::<IpAddr>() else {
        return Err(("is not an IP address", not_an_address(text)));
    };
    let (reserved, link_local) = match address {
        IpAddr::V4(v4) => (v4.octets()[0] >= 240, v4.is_link_local()),
        IpAddr::V6(v6) => (v6.to_ipv4_mapped().is_some(), v6.is_unicast_link_local()),
    };
    let begins_with_zero = matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 0);
    match address {
        _ if address.is_unspecified() || begins_with_zero => Err(("is an unspecified address", wanted)),
        _ if address.is_loopback() => Err(("is a loopback address", wanted)),
        _ if address.is_multicast() => Err(("is a multicast address", wanted)),
        IpAddr::V6(_) if reserved => {
            Err(("is an IPv4 address written as an IPv6 one", "write it as an IPv4 address"))
        }
        _ if reserved => Err(("is a reserved or broadcast address", wanted)),
        IpAddr::V6(_) if link_local => Err(("is a link-local address", wanted)),
        _ => Ok(address),
    }
}

/// What to do about a text that is no address, by what it looks like.
fn not_an_address(text: &str) -> &'static str {
    let is_name = text.chars().any(|c| c.is_ascii_alphabetic()) && !text.contains(':');
    if text.contains('/') {
        "write the address alone, without the length of its network's prefix, such as \"10.1.0.11\""
    } else if text.contains('[') {
        "write it without brackets and port, such as \"2001:db8::1\""
    } else if is_name {
        "write the address itself, such as \"10.1.0.11\": names are not looked up"
    } else {
        "write no more than it, such as \"10.1.0.11\" or \"2001:db8::11\""
    }
}

/// The VIPs of a service; those that are wrong are left out.
pub(crate) fn vips(list: &Located<Vec<Located<&str>>>, problems: &mut Problems) -> Vec<Located<IpAddr>> {
    let (count, max) = (list.value.len(), Service::MAX_VIPS);
    if count == 0 {
        problems.add(list.line, "the service has no VIP", "give it one: vips = [\"10.99.0.1\"]");
    }
    if count > max {
        let what = format!("the service has {count} VIPs, {max} are the most");
        problems.add(list.line, what, "make it several services");
    }
    list.value.iter().filter_map(|at| address(*at, problems)).collect()
}

/// The interfaces of a node, as Linux names them; those that are wrong are left out.
pub(crate) fn interfaces(list: &[Located<&str>], problems: &mut Problems) -> Vec<String> {
    let allowed = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    let mut names: Vec<String> = Vec::new();
    for Located { value, line } in list {
        let lasting = *value != "." && *value != "..";
        if !((1..=INTERFACE_LEN_MAX).contains(&value.len()) && value.chars().all(allowed) && lasting) {
            let what = format!("{} is not the name of an interface", quoted(value));
            problems.add(*line, what, "`ip -br link` lists the node's interfaces");
        } else if names.iter().any(|name| name == value) {
            let what = format!("interface {} is named twice", quoted(value));
            problems.add(*line, what, "name it once");
        } else if names.len() == INTERFACES_MAX {
            let what = format!("the node has more than {INTERFACES_MAX} interfaces");
            problems.add(*line, what, "name only those that clients' packets or other nodes are on");
            break;
        } else {
            names.push((*value).to_owned());
        }
    }
    names
}

/// The roles of a node.
pub(crate) fn roles(list: &Located<Vec<Located<&str>>>, problems: &mut Problems) -> Option<Located<Roles>> {
    const KNOWN: &str = "the roles are switch, distributor, dispatcher, server";
    let mut roles = Roles::default();
    let mut good = true;
    for Located { value, line } in &list.value {
        let role = match *value {
            "switch" => &mut roles.switch,
            "distributor" => &mut roles.distributor,
            "dispatcher" => &mut roles.dispatcher,
            "server" => &mut roles.server,
            _ => {
                let offer = similar::offer(value, ["switch", "distributor", "dispatcher", "server"]);
                let what = format!("{} is not a role", quoted(value));
                problems.add(*line, what, format_args!("{offer}{KNOWN}"));
                good = false;
                continue;
            }
        };
        if std::mem::replace(role, true) {
            problems.add(*line, format_args!("role {} is given twice", quoted(value)), "give it once");
        }
    }
    if list.value.is_empty() {
        problems.add(list.line, "the node has no role", format_args!("give it one; {KNOWN}"));
        good = false;
    }
    good.then_some(Located { value: roles, line: list.line })
}

/// One of a few named values.
pub(crate) fn choice<T: Copy>(
    at: Located<&str>,
    key: &str,
    all: &[T],
    name: impl Fn(T) -> &'static str,
    problems: &mut Problems,
) -> Option<T> {
    let found = all.iter().copied().find(|value| name(*value) == at.value);
    if found.is_none() {
        let names: Vec<_> = all.iter().map(|value| format!("\"{}\"", name(*value))).collect();
        let what = format!("{} is not a value of `{key}`", quoted(at.value));
        let offer = similar::offer(at.value, all.iter().map(|value| name(*value)));
        problems.add(at.line, what, format_args!("{offer}it takes {}", names.join(", ")));
    }
    found
}

/// Which part of a request names its target.
pub(crate) fn key(at: Located<&str>, problems: &mut Problems) -> Option<Key> {
    let (what, help) = match at.value.parse() {
        Ok(key) => return Some(key),
        Err(KeyError::Form(_)) => (
            "is not a value of `key`",
            "it takes \"path\", \"path+query\", \"query:NAME\", \"header:NAME\", \"cookie:NAME\"",
        ),
        Err(KeyError::Name(_)) => (
            "names nothing that a request can carry",
            "after the colon write the name alone, as in \"query:id\"",
        ),
    };
    problems.add(at.line, format_args!("{} {what}", quoted(at.value)), help);
    None
}

/// How connections get to a pool's servers. There is one way in this version.
pub(crate) fn mechanism(at: Located<&str>, problems: &mut Problems) {
    match at.value {
        "handoff" => {}
        "relay" => problems.add(
            at.line,
            "the mechanism \"relay\" is not built yet: this version only hands connections off",
            "write mechanism = \"handoff\", or leave it out",
        ),
        _ => {
            let what = format!("{} is not a value of `mechanism`", quoted(at.value));
            problems.add(at.line, what, "it takes \"handoff\"");
        }
    }
}

/// A host name as requests carry it, or all names below one; in any case.
pub(crate) fn host(at: Located<&str>, problems: &mut Problems) -> Option<HostMatch> {
    let name = at.value.strip_prefix("*.").unwrap_or(at.value);
    let allowed = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
    let label = |label: &str| (1..=LABEL_LEN_MAX).contains(&label.len()) && label.bytes().all(allowed);
    if at.value.len() <= HOST_LEN_MAX && name.split('.').all(label) {
        return Some(HostMatch::named(at.value));
    }
    problems.add(
        at.line,
        format_args!("{} is not a host", quoted(at.value)),
        "write a name without port, such as \"img.example.com\", or \"*.example.com\" for all names below one",
    );
    None
}

/// A path, or the beginning of paths, as it is after normalisation: nothing else would ever match.
pub(crate) fn route_path(at: Located<&str>, problems: &mut Problems) -> Option<String> {
    let (what, help) = if !at.value.starts_with('/') {
        ("does not begin with a slash", "write the path alone, such as \"/img/\"")
    } else if at.value.bytes().any(|c| !c.is_ascii_graphic() || c == b'?' || c == b'#') {
        ("is more than a path", "write printable ASCII without '?' and '#', other characters as %-escapes")
    } else if !is_normal(at.value) {
        (
            "is not normal, so that no request would match it",
            "write no \"//\", \"/./\" and \"/../\"; escapes in capitals (%C3), and none of letters, digits and -._~",
        )
    } else if at.value.len() > PathMatch::LEN_MAX {
        ("is too long", "a route's path has at most 127 characters")
    } else {
        return Some(at.value.to_owned());
    };
    problems.add(at.line, format_args!("the path {} {what}", quoted(at.value)), help);
    None
}

/// The methods that a route takes; those that are wrong are left out.
pub(crate) fn methods(list: &Located<Vec<Located<&str>>>, problems: &mut Problems) -> Vec<String> {
    let mut methods: Vec<String> = Vec::new();
    if list.value.is_empty() {
        problems.add(
            list.line,
            "the route takes no method",
            "name one, or leave `methods` out for all of them",
        );
    }
    if list.value.len() > Service::MAX_METHODS {
        let (count, max) = (list.value.len(), Service::MAX_METHODS);
        let what = format!("the route names {count} methods, {max} are the most");
        problems.add(list.line, what, "make it several routes");
    }
    for Located { value, line } in &list.value {
        if !is_method(value) {
            let what = format!("{} is not a method", quoted(value));
            problems.add(*line, what, "write 1 to 31 capital letters, such as \"GET\", or what else a method may have but small ones");
        } else if *value == "CONNECT" {
            let what = "no route takes CONNECT: such a connection stays with the service's first pool";
            problems.add(*line, what, "take it out of the list");
        } else if methods.iter().any(|method| method == value) {
            problems.add(*line, format_args!("method {} is named twice", quoted(value)), "name it once");
        } else {
            methods.push((*value).to_owned());
        }
    }
    methods
}

/// The file that tells how busy a server's disk is.
pub(crate) fn pressure_file(at: Located<&str>, problems: &mut Problems) -> Option<PathBuf> {
    let path = Path::new(at.value);
    if path.is_absolute() && at.value.len() <= FILE_LEN_MAX && !at.value.contains(char::is_control) {
        return Some(path.to_owned());
    }
    problems.add(
        at.line,
        format_args!("{} is not the whole path of a file", quoted(at.value)),
        "begin with a slash, such as \"/run/pressure\"",
    );
    None
}

/// The secret. No message tells any of it.
pub(crate) fn secret(at: Located<&str>, problems: &mut Problems) -> Option<String> {
    let len = at.value.chars().count();
    let what = if is_placeholder(at.value) {
        "the secret is a placeholder".to_owned()
    } else if len < SECRET_LEN_MIN {
        format!("the secret has {len} characters, {SECRET_LEN_MIN} are the least")
    } else if len > SECRET_LEN_MAX {
        format!("the secret has {len} characters, {SECRET_LEN_MAX} are the most")
    } else if is_monotonous(at.value) {
        "the secret is too regular to be random".to_owned()
    } else {
        return Some(at.value.to_owned());
    };
    problems.add(at.line, what, SECRET_HELP);
    None
}

fn is_placeholder(secret: &str) -> bool {
    let letters: String =
        secret.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    letters.is_empty() || PLACEHOLDERS.iter().any(|placeholder| letters.contains(placeholder))
}

/// Whether a secret has few different characters, or repeats a shorter piece.
fn is_monotonous(secret: &str) -> bool {
    let mut different: Vec<char> = secret.chars().collect();
    different.sort_unstable();
    different.dedup();
    let bytes = secret.as_bytes();
    let repeats = |period: usize| bytes.iter().skip(period).eq(bytes.iter().take(bytes.len() - period));
    different.len() < SECRET_VARIETY_MIN || (1..=bytes.len() / 2).any(repeats)
}

/// A value for a message: in quotes, with control characters shown, cut when long.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN_MAX: usize = 48;
    let shown: String = text.chars().take(SHOWN_MAX).collect();
    let more = if shown.len() < text.len() { "..." } else { "" };
    format!("\"{}{more}\"", shown.escape_debug())
}
