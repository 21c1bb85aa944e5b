//! The web servers: each request, in order, gets its answer, in pieces and after a while.

use std::collections::VecDeque;

use crate::client::{RequestId, answer};

/// A request's head, taken off a stream: which it is, its pool, the length of its answer's body.
pub(crate) fn take_request(input: &mut Vec<u8>) -> Option<Result<(RequestId, usize, usize), String>> {
    let end = input.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head: Vec<u8> = input.drain(..end).collect();
    let head = String::from_utf8_lossy(&head).into_owned();
    Some(read_head(&head).ok_or(head))
}

fn read_head(head: &str) -> Option<(RequestId, usize, usize)> {
    let path = head.strip_prefix("GET /p")?.split(' ').next()?;
    let (pool, rest) = path.split_once('/')?;
    let mut numbers = rest.trim_start_matches("./").split('-').map(str::parse::<usize>);
    let mut next = || numbers.next()?.ok();
    let (client, number, body) = (next()?, next()?, next()?);
    Some(((client, number), pool.parse().ok()?, body))
}

/// An answer in pieces, each with the time at which it is written.
pub(crate) fn pieces(
    id: RequestId,
    body: usize,
    node: usize,
    from: u64,
    mut choose: impl FnMut(u64) -> u64,
) -> VecDeque<(u64, Vec<u8>)> {
    const THINKS: u64 = 20_000_000;
    let whole = answer(id, body, node);
    let mut at = from + if choose(3) == 0 { choose(THINKS) } else { choose(THINKS / 40) };
    let cuts = choose(3);
    let mut pieces = VecDeque::new();
    let mut rest = &whole[..];
    for _ in 0..cuts {
        let (piece, left) = rest.split_at(choose(rest.len() as u64) as usize);
        pieces.push_back((at, piece.to_vec()));
        at += choose(THINKS / 4);
        rest = left;
    }
    pieces.push_back((at, rest.to_vec()));
    pieces
}
