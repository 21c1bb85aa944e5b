//! How much of what came early may go on now: pure.

use baton_datapath::Progress;
use baton_http::{Exchange, Fed, Parsed, Request, parse_request};

/// Whose a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Its pool.
    pub(crate) pool: u16,
    /// This node's server is in that.
    pub(crate) own: bool,
}

/// What of a connection's bytes may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// So many bytes, as packets of their own.
    pub(crate) bytes: usize,
    /// Where requests begin in them.
    pub(crate) cuts: Vec<usize>,
    /// And what is behind them.
    pub(crate) all: bool,
}

/// What of the bytes may go, that begin with a request; `None`: nothing may. `fresh`: they have not been given
/// back before.
pub(super) fn plan(
    bytes: &[u8],
    asked: &Progress,
    fresh: bool,
    owner: impl Fn(&Request<'_>) -> Owner,
) -> Option<Plan> {
    let mut run = Plan { bytes: 0, cuts: Vec::new(), all: false };
    // Empty lines before a request are this node's server's: many take none before a connection's first.
    let empty = bytes.iter().take_while(|c| matches!(c, b'\r' | b'\n')).count();
    if empty > 0 && !matches!(parse_request(bytes), Parsed::Complete(request, _) if owner(&request).own) {
        return Some(Plan { bytes: empty, ..run });
    }
    let mut of: Option<Owner> = None;
    while let Some(rest) = bytes.get(run.bytes..).filter(|rest| !rest.is_empty()) {
        let begins = match parse_request(rest) {
            Parsed::Complete(request, _) => owner(&request),
            Parsed::Incomplete | Parsed::Doubt(_) => break,
        };
        // What the connection began with here is this node's.
        let own = begins.own || (run.bytes == 0 && asked.at == asked.start_seq);
        let begins = Owner { own, ..begins };
        let goes_along = match of {
            None => true,
            Some(before) if before.own => begins.own && (run.cuts.len() as u32) < asked.room,
            Some(before) => before.pool == begins.pool,
        };
        if !goes_along {
            break;
        }
        of = of.or(Some(begins));
        run.cuts.push(run.bytes);
        let mut exchange = Exchange::new(0, 0);
        match exchange.one_request(0, rest) {
            (Fed::Followed, used) => run.bytes += used,
            _ => run.bytes = bytes.len(),
        }
    }
    match of {
        Some(owner) if owner.own && asked.room > 0 && fresh => Some(run),
        _ if asked.is_idle => {
            let bytes = if run.bytes == 0 { bytes.len() } else { run.bytes };
            Some(Plan { bytes, all: true, ..run })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_datapath::Heard;

    fn asked(is_idle: bool, room: u32) -> Progress {
        let heard = Heard { ack: 0, window: 1, timestamps: None };
        Progress {
            start_seq: 1000,
            at: 0,
            boundary: Some(0),
            early_seq: None,
            is_idle,
            is_head_whole: false,
            room,
            is_let_go: false,
            heard,
            cut_seq: None,
        }
    }

    /// Pools by the first letter of the path; `a` is this node's.
    fn owner(request: &Request<'_>) -> Owner {
        let pool = u16::from(request.raw_path[1]);
        Owner { pool, own: pool == u16::from(b'a') }
    }

    fn get(pool: char) -> String {
        format!("GET /{pool} HTTP/1.1\r\nHost: x\r\n\r\n")
    }

    const ONE: usize = 28;

    #[test]
    fn own_requests_go_at_once_and_others_when_the_connection_is_idle() {
        let stream = |pools: &str| pools.chars().map(get).collect::<String>().into_bytes();
        let planned = |pools: &str, idle, room| {
            plan(&stream(pools), &asked(idle, room), true, owner).map(|p| (p.bytes / ONE, p.all))
        };
        assert_eq!(get('a').len(), ONE);
        assert_eq!(planned("aaabba", false, 32), Some((3, false)));
        assert_eq!(planned("aaabba", true, 32), Some((3, false)), "the rest when that is answered");
        assert_eq!(planned("bbcaa", false, 32), None);
        assert_eq!(planned("bbcaa", true, 32), Some((2, true)), "one pool's, and all behind them");
        assert_eq!(planned("aaaaa", false, 2), Some((2, false)), "no more than can be followed");
        assert_eq!(planned("aaaaa", false, 0), None);
    }

    #[test]
    fn empty_lines_go_to_who_has_the_connection() {
        let planned = |pool: &str, idle| {
            let bytes = format!("\r\n\r\n{pool}").into_bytes();
            plan(&bytes, &asked(idle, 32), true, owner).map(|p| (p.bytes, p.all))
        };
        for idle in [true, false] {
            assert_eq!(planned(&get('b'), idle), Some((4, false)));
            assert_eq!(planned(&get('b')[..9], idle), Some((4, false)));
            assert_eq!(planned("", idle), Some((4, false)));
            assert_eq!(planned(&get('a'), idle), Some((4 + ONE, false)));
        }
    }

    #[test]
    fn half_a_request_waits_for_the_rest() {
        let bytes = (get('a') + &get('a')[..9]).into_bytes();
        let planned = plan(&bytes, &asked(false, 9), true, owner).expect("the first");
        assert_eq!((planned.bytes, planned.cuts), (ONE, vec![0]));
        assert_eq!(plan(&bytes[ONE..], &asked(false, 9), true, owner), None);
        let whole = plan(&bytes[ONE..], &asked(true, 9), true, owner).expect("a slow client");
        assert_eq!((whole.bytes, whole.all), (9, true), "the reader shall have it");
    }

    #[test]
    fn what_came_back_is_not_given_again_before_the_connection_is_idle() {
        let bytes = get('a').into_bytes();
        assert_eq!(plan(&bytes, &asked(false, 9), false, owner), None);
        assert!(plan(&bytes, &asked(true, 9), false, owner).is_some());
    }

    #[test]
    fn the_first_request_of_a_connection_is_this_nodes() {
        let first = Progress { start_seq: 0, ..asked(false, 9) };
        let bytes = (get('b') + &get('b')).into_bytes();
        assert_eq!(plan(&bytes, &first, true, owner).map(|p| p.bytes), Some(ONE));
    }
}
