//! The one function that makes a target of a request. The kernel has its twin in `bpf/request.h`,
//! which reads at most [`HEAD_MAX`](crate::constants::HEAD_MAX) bytes; a test holds the two equal.

use baton_cluster::Target;

use crate::constants::METHOD_MAX;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// What of a request the target is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKey {
    /// The path alone.
    Path,
    /// Path and query.
    PathQuery,
}

/// The target of the request that begins with these bytes, or `None` when the request line is
/// incomplete or anything about it is in doubt: then the connection is placed by load alone.
///
/// Accepted is exactly `METHOD SP /path[?query] SP HTTP/1.(0|1) CR LF`, the method 1 to 15 upper-case
/// letters, the path printable ASCII. The hash is FNV-1a from a keyed start, with murmur3's finaliser.
pub fn target_of(head: &[u8], key: TargetKey, secret: u64) -> Option<Target> {
    let method = head.iter().position(|c| !c.is_ascii_uppercase())?;
    if method == 0 || method >= METHOD_MAX as usize {
        return None;
    }
    let rest = head.get(method..)?.strip_prefix(b" ")?;
    let end = rest.iter().position(|c| !(0x21..0x7f).contains(c))?;
    let (path, rest) = rest.split_at_checked(end)?;
    let version = rest.get(..11)?;
    if !path.starts_with(b"/") || (version != b" HTTP/1.0\r\n" && version != b" HTTP/1.1\r\n") {
        return None;
    }
    let hashed = match key {
        TargetKey::Path => path.split(|c| *c == b'?').next()?,
        TargetKey::PathQuery => path,
    };
    let hash = hashed.iter().fold(FNV_OFFSET ^ secret, |h, c| (h ^ u64::from(*c)).wrapping_mul(FNV_PRIME));
    Some(Target(mix(hash)))
}

/// The finaliser of murmur3 (64 bit).
fn mix(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(head: &str, key: TargetKey) -> Option<Target> {
        target_of(head.as_bytes(), key, 7)
    }

    #[test]
    fn the_query_counts_only_if_asked_for() {
        let plain = target("GET /a HTTP/1.1\r\n", TargetKey::Path);
        assert!(plain.is_some());
        assert_eq!(plain, target("HEAD /a?x=1 HTTP/1.0\r\nHost: x\r\n", TargetKey::Path));
        assert_ne!(plain, target("GET /a?x=1 HTTP/1.1\r\n", TargetKey::PathQuery));
        assert_ne!(plain, target("GET /b HTTP/1.1\r\n", TargetKey::Path));
        assert_ne!(plain, target_of(b"GET /a HTTP/1.1\r\n", TargetKey::Path, 8));
    }

    #[test]
    fn doubtful_lines_have_no_target() {
        for head in [
            "",
            "GET",
            "GET /a",
            "GET /a HTTP/1.1",
            "GET /a HTTP/1.1\n",
            "get /a HTTP/1.1\r\n",
            "GET  /a HTTP/1.1\r\n",
            "GET http://x/a HTTP/1.1\r\n",
            "GET * HTTP/1.1\r\n",
            "PRI * HTTP/2.0\r\n",
            "GET /a HTTP/2.0\r\n",
            "GET /a\tHTTP/1.1\r\n",
            "GET /\u{e9} HTTP/1.1\r\n",
            "ABCDEFGHIJKLMNOP /a HTTP/1.1\r\n",
            " /a HTTP/1.1\r\n",
            "GET /a  HTTP/1.1\r\n",
        ] {
            assert_eq!(target(head, TargetKey::Path), None, "{head:?}");
        }
    }
}
