//! What a held packet asks for, by the rules of its service. Pure: bytes in, pool and target out.

use baton_cluster::{PoolId, Target};
use baton_datapath::{ServiceEntry, target_of};
use baton_http::{Exchange, Fed, Parsed, Request, parse_request};

/// What is to be done with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// It belongs to a pool, and has this target, if any.
    Request {
        pool: PoolId,
        target: Option<Target>,
        /// The host, when the kernel should be told which patterns it matches.
        host: Option<String>,
        /// Bytes of the payload before the next request begins in it, if one does.
        next: Option<usize>,
    },
    /// Its head is not whole, or is to be answered by Baton: the reader's.
    Reader,
    /// It cannot be read, but any server of the service may have it: placed by load alone.
    Unclear,
}

/// Reads the request that begins a payload.
pub(crate) fn read(service: &ServiceEntry, payload: &[u8], secret: u64) -> Read {
    match parse_request(payload) {
        Parsed::Complete(request, _) => place(service, &request, next_request(payload), secret),
        Parsed::Incomplete => read_line(service, payload, secret).unwrap_or(Read::Reader),
        Parsed::Doubt(_) if service.strict => Read::Reader,
        Parsed::Doubt(_) => Read::Unclear,
    }
}

/// Whether a payload holds all of the head that it begins with.
pub(crate) fn is_whole(payload: &[u8]) -> bool {
    !matches!(parse_request(payload), Parsed::Incomplete)
}

/// Where the request line says all that the service's rules ask, as the programs do: the head may be longer
/// than a packet. `None` when more is needed.
fn read_line(service: &ServiceEntry, payload: &[u8], secret: u64) -> Option<Read> {
    let rules = &service.rules;
    let says_all = (0..service.pools.len()).all(|pool| rules.key(pool).is_in_request_line());
    if service.strict || rules.look_at_hosts() || !says_all {
        return None;
    }
    let end = payload.windows(2).position(|two| two == b"\r\n")?;
    let alone = [payload.get(..end)?, b"\r\n\r\n"].concat();
    match parse_request(&alone) {
        Parsed::Complete(request, _) => Some(place(service, &request, None, secret)),
        _ => None,
    }
}

fn place(service: &ServiceEntry, request: &Request<'_>, next: Option<usize>, secret: u64) -> Read {
    let rules = &service.rules;
    let index = rules.choose(request);
    Read::Request {
        pool: service.pools.get(index).copied().unwrap_or(PoolId(0)),
        target: rules.target_bytes(index, request).map(|b| target_of(&b, secret)),
        host: request.host.as_deref().filter(|_| rules.look_at_wildcards()).map(str::to_owned),
        next,
    }
}

/// Where in the payload a second request begins.
fn next_request(payload: &[u8]) -> Option<usize> {
    let mut exchange = Exchange::new(0, 0);
    match exchange.one_request(0, payload) {
        (Fed::Followed, used) if used < payload.len() && exchange.requests().is_between_messages() => {
            Some(used)
        }
        _ => None,
    }
}
