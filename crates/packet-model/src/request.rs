//! What is asked for, as far as one packet tells, and which pool that belongs to: by the parser, the
//! follower and the rules of crates/http, which user space asks too.

use std::borrow::Cow;

use baton_cluster::{PoolId, Target};
use baton_http::{
    Exchange, Fed, HostMatch, Parsed, Request, Route, Rules, is_normal, is_plain, parse_request,
};

use crate::{Run, Service};
use baton_datapath::target_of;

/// What of a request a packet holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Read {
    /// A clear head; the request line alone, as a head, when the packet ends before the head does.
    head: Vec<u8>,
    /// The request line is there.
    pub(super) line: bool,
    /// The head is.
    pub(super) whole: bool,
    /// Where in the payload another request begins.
    pub(super) again: Option<usize>,
}

const END: &[u8] = b"\r\n";

/// The request line at the beginning of these bytes, with the empty lines before it and its end.
fn line_of(payload: &[u8]) -> Option<&[u8]> {
    let empty = empty_lines(payload);
    let end = payload.get(empty..)?.windows(2).position(|two| two == END)?;
    payload.get(..empty + end + 2)
}

/// How many bytes of empty lines these begin with.
pub(super) fn empty_lines(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|c| matches!(c, b'\r' | b'\n')).count()
}

impl Read {
    /// The request that begins these bytes; `None` when it is in doubt.
    pub(super) fn of(payload: &[u8]) -> Option<Self> {
        match parse_request(payload) {
            Parsed::Doubt(_) => None,
            Parsed::Complete(_, len) => {
                let head = payload.get(..len)?.to_vec();
                Some(Self { head, line: true, whole: true, again: None })
            }
            Parsed::Incomplete => Some(Self::of_line(payload).unwrap_or_default()),
        }
    }

    /// The request line alone; `None` when it is not whole, or in doubt.
    fn of_line(payload: &[u8]) -> Option<Self> {
        let head = [line_of(payload)?, END].concat();
        let clear = matches!(parse_request(&head), Parsed::Complete(..));
        clear.then_some(Self { head, line: true, whole: false, again: None })
    }

    /// The first request of a connection, whose service wants to see whole heads or not. `None`: in doubt.
    pub(super) fn first(payload: &[u8], whole_head: bool) -> Option<Self> {
        if !whole_head && line_of(payload).is_some() {
            return Self::of_line(payload);
        }
        let mut exchange = Exchange::new(0, 0);
        let (fed, again) = feed(&mut exchange, 0, payload);
        let read = Self::of(payload)?;
        (fed == Fed::Followed).then_some(Self { again, ..read })
    }

    fn request(&self) -> Option<Request<'_>> {
        match parse_request(&self.head) {
            Parsed::Complete(request, _) => Some(request),
            Parsed::Incomplete | Parsed::Doubt(_) => None,
        }
    }

    /// The request, if its path is spelled as the tables spell it: no other is looked up.
    fn plain(&self) -> Option<Request<'_>> {
        self.request().filter(|r| is_normal(r.raw_path))
    }
}

/// Takes a packet of the client, and tells where in it a request begins that is not its first byte's, or
/// that comes behind something that has not come. Empty lines before it are none of it.
pub(super) fn feed(exchange: &mut Exchange, seq: u32, payload: &[u8]) -> (Fed, Option<usize>) {
    let at = exchange.requests().at();
    let begins = |x: &Exchange, used: usize| {
        let rest = payload.get(used..).filter(|_| x.requests().is_between_messages())?;
        let empty = empty_lines(rest);
        (empty < rest.len()).then_some(used + empty)
    };
    let behind = at.wrapping_sub(seq) as usize;
    let mut again = begins(exchange, behind).filter(|_| behind > 0);
    let (fed, mut used) = exchange.one_request(seq, payload);
    if !matches!(fed, Fed::Followed | Fed::Skipped) {
        return (fed, again);
    }
    while used < payload.len() {
        // Only a request's end stops the follower before the packet's.
        again = again.or(begins(exchange, used));
        let rest = payload.get(used..).unwrap_or(&[]);
        let (next, taken) = exchange.one_request(seq.wrapping_add(used as u32), rest);
        if let Fed::Doubt(_) = next {
            return (next, again);
        }
        used += taken;
    }
    (Fed::Followed, again)
}

/// What of a packet of a strict service may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) fed: Fed,
    /// What begins here in the payload may not go along with what is before it.
    pub(super) cut: Option<usize>,
    /// Its last byte makes it unclear where the request that it is of ends.
    pub(super) broken: bool,
}

/// Takes a packet of a strict service's client as far as it may pass: up to a request that is not `own`, or is
/// not whole. The one that begins the packet is not asked about; `fresh`: nor is it behind empty lines.
pub(super) fn judge(
    exchange: &mut Exchange,
    seq: u32,
    payload: &[u8],
    fresh: bool,
    own: impl Fn(&Read) -> bool,
) -> Judged {
    let mut is_first = true;
    let at = exchange.requests().at();
    let opens = at == seq && exchange.requests().is_between_messages();
    let behind = at.wrapping_sub(seq) as usize;
    let mut used = if behind < payload.len() { behind } else { 0 };
    let judged = |fed, cut| Judged { fed, cut, broken: false };
    loop {
        let begins = exchange.requests().is_between_messages() && used < payload.len();
        let rest = payload.get(used..).unwrap_or(&[]);
        // Nothing is known of what has not come, before the follower has skipped it. Empty lines begin nothing.
        let empty = empty_lines(rest);
        let begun = (begins && empty < rest.len()).then_some(used + empty);
        let first = opens && is_first && (fresh || begun == Some(0));
        if begun.is_some() && exchange.outstanding().is_full() {
            return judged(Fed::Followed, begun);
        }
        let asked = exchange.outstanding().asked();
        let (fed, taken) = exchange.one_request(seq.wrapping_add(used as u32), rest);
        let whole = exchange.outstanding().asked() != asked;
        match fed {
            Fed::Old | Fed::Gap => return judged(fed, None),
            Fed::Doubt(_) if begun.is_some() && !whole => {
                return if first { judged(fed, None) } else { judged(Fed::Followed, begun) };
            }
            Fed::Doubt(_) => {}
            Fed::Followed | Fed::Skipped if begun.is_some() && !whole && !first => {
                return judged(Fed::Followed, begun);
            }
            Fed::Followed | Fed::Skipped => {}
        }
        if begun.is_some() && !first && !Read::of(rest).is_some_and(|read| own(&read)) {
            return judged(Fed::Followed, begun);
        }
        is_first &= !whole;
        used += taken;
        if let Fed::Doubt(_) = fed {
            let more = used + 1 < payload.len();
            return Judged { fed: Fed::Followed, cut: more.then_some(used + 1), broken: !more };
        }
        if used >= payload.len() {
            return judged(Fed::Followed, None);
        }
    }
}

/// A host that the programs can look up: a name in the Host header, without final dot. The outer `None`: user
/// space must say what it is.
#[allow(clippy::option_option, reason = "no host, and a host that cannot be told, are two things")]
fn plain_host(request: &Request<'_>) -> Option<Option<String>> {
    if request.absolute {
        return None;
    }
    let mut headers = request.headers();
    let Some((_, value)) = headers.find(|(name, _)| name.eq_ignore_ascii_case(b"host")) else {
        return Some(None);
    };
    if value.is_empty() {
        return Some(None);
    }
    let value = str::from_utf8(value).ok()?;
    let name = value.split(':').next()?;
    let plain = !name.starts_with('[') && !name.ends_with('.');
    plain.then(|| Some(name.to_ascii_lowercase()))
}

impl Service {
    /// Whether only a whole head tells which pool a request belongs to.
    pub(super) fn wants_heads(&self) -> bool {
        self.rules.look_at_hosts() || self.strict
    }

    /// The pool at an index of the rules.
    fn pool(&self, index: usize) -> Option<PoolId> {
        self.pools.get(index).copied()
    }

    /// User space has said which patterns this host matches, or its name alone says it.
    fn knows(&self, host: &str) -> bool {
        let named = |match_: &HostMatch| *match_ == HostMatch::Exact(host.to_owned());
        !self.rules.look_at_wildcards()
            || self.hosts.contains(host)
            || self.rules.routes().iter().any(|route| named(&route.host))
    }

    /// The pool of the request; `None` when user space must say. `read`: `None` for one in doubt.
    pub(super) fn choose(&self, read: Option<&Read>) -> Option<PoolId> {
        if self.rules.routes().is_empty() {
            return self.pool(self.rules.default_pool());
        }
        let read = read?;
        let request = read.plain()?;
        if self.strict && !self.is_read_alike(&request) {
            return None;
        }
        if self.rules.look_at_hosts() {
            let host = plain_host(&request).filter(|_| read.whole)?;
            if !host.is_none_or(|host| self.knows(&host)) {
                return None;
            }
        }
        self.pool(self.rules.choose(&request))
    }

    /// Whether the programs can tell that every web server takes the path for the same.
    fn is_read_alike(&self, request: &Request<'_>) -> bool {
        let path = request.raw_path;
        let is_digit =
            |at: usize| (1..=2).any(|back| at.checked_sub(back).is_some_and(|i| path.get(i) == Some(&b'%')));
        let loud = (0..path.len()).position(|at| path[at].is_ascii_uppercase() && !is_digit(at));
        // To a route in small letters, whose pool nobody has.
        let unknown = |route: Route| Route { pool: usize::MAX, ..route };
        let folded = self.rules.folded_routes().map(unknown);
        let routes = folded.chain(self.rules.routes().iter().cloned()).collect();
        let whose = Rules::new(routes, self.rules.default_pool(), Vec::new()).choose(request);
        is_plain(path) && loud.is_none_or(|at| at >= self.rules.loud_within()) && whose != usize::MAX
    }
}

impl Run<'_> {
    /// The target of the request in its pool; `None` when user space must say.
    pub(super) fn target(&self, read: Option<&Read>, pool: PoolId) -> Option<Target> {
        let request = read?.plain()?;
        let key = &self.model.tables.pools.get(&pool)?.key;
        let bytes: Cow<'_, [u8]> = key.of(&request).filter(|_| key.is_in_request_line())?;
        Some(target_of(&bytes, self.model.tables.keys.target))
    }
}
