//! What came before a strict service's connection could take it: a request of another pool behind one that is not
//! answered yet, half a request, what is behind a gap. It waits here, is joined, and is given back in packets that
//! the connection takes, as the client would send them now: this node's own requests as soon as they are whole,
//! another pool's when the connection is idle. The client still has all of it too: whatever is lost here it repeats.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use baton_cluster::Flow;
use baton_datapath::{Frame, Progress};
use baton_http::{Parsed, Request, parse_request};

use crate::outside::Outside;
use crate::waiting::release;

mod plan;

pub(crate) use plan::Owner;
use plan::{Plan, plan};

/// The client's own repetition has long come by then.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// For this time it is known what a socket has been told. Once more does no harm.
const TOLD_FOR: Duration = Duration::from_secs(1);
/// What is missing before a packet mostly comes within this time: it was on another CPU, or has yet to be read here.
/// A client that hears nothing repeats it after 200 ms.
const OVERTAKEN: Duration = Duration::from_millis(40);
/// A socket that cannot be taken from its server although all is answered is in use by the server just then.
const BUSY_FOR: Duration = Duration::from_millis(5);
const BUSY_TRIES: u32 = 20;
/// Bytes of one connection: more than a socket of the server's offers before it has read something.
const BYTES_MAX: usize = 4 << 20;

/// Most heads are shorter.
const FIRST_BYTES: usize = 1000;

/// What is kept of a connection.
#[derive(Debug)]
struct Queue {
    since: Instant,
    /// In order.
    frames: Vec<Frame>,
    bytes: usize,
    /// The largest payload that one of them had.
    longest: usize,
    /// What the server's socket has been told last of what the client has got.
    told: Option<(u32, u16)>,
    /// What was given back from here on: if it comes again, the programs want it to wait.
    tried: Option<u32>,
    tried_idle: Option<Tried>,
    untold: Option<Untold>,
    half: Option<Half>,
}

/// Half a request, that is what a connection would go on with. The other half is mostly on its way up here; if it is
/// not, the client is slow, and the reader shall have the request.
#[derive(Clone, Copy, Debug)]
struct Half {
    at: u32,
    since: Instant,
}

/// What was given back from `at` on while the connection was idle. If it comes again, the server's socket is busy.
#[derive(Clone, Copy, Debug)]
struct Tried {
    at: u32,
    last: Instant,
    times: u32,
}

impl Half {
    fn is_late(&self, now: Instant) -> bool {
        now - self.since >= OVERTAKEN
    }
}

/// What came, and the client has not heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Untold {
    /// For so long the connection has not gone on.
    since: Instant,
    /// Where it goes on.
    pub(crate) at: u32,
    /// Where the newest of what came begins.
    pub(crate) newest: u32,
}

impl Queue {
    /// Whether what was given to an idle connection has come again.
    fn is_refused(&self) -> bool {
        let front = self.frames.first().map(|frame| frame.seq);
        self.tried_idle.is_some_and(|tried| front == Some(tried.at))
    }

    /// Whether a connection that could go on at `at`, with half a request, has waited for the other half for long enough.
    fn is_half_late(&mut self, at: u32, now: Instant) -> bool {
        let half = self.half.filter(|half| half.at == at).unwrap_or(Half { at, since: now });
        self.half = Some(half);
        half.is_late(now)
    }

    /// Forgets all bytes before `at`.
    fn cut_before(&mut self, at: u32) {
        let kept = std::mem::take(&mut self.frames).into_iter();
        self.frames = kept.filter_map(|frame| frame.from(at)).collect();
        self.bytes = self.frames.iter().map(|frame| frame.payload().len()).sum();
    }
}

/// All of them, by connection.
#[derive(Debug)]
pub(crate) struct Early {
    flows: BTreeMap<Flow, Queue>,
    packets: usize,
    packets_max: usize,
}

impl Early {
    pub(crate) fn new(packets_max: usize) -> Self {
        Self { flows: BTreeMap::new(), packets: 0, packets_max }
    }

    /// Connections of which something is known, and their packets.
    pub(crate) fn kept(&self) -> (usize, usize) {
        (self.flows.len(), self.packets)
    }

    fn queue(&mut self, flow: Flow, now: Instant) -> &mut Queue {
        let fresh = Queue {
            since: now,
            frames: Vec::new(),
            bytes: 0,
            longest: 0,
            told: None,
            tried: None,
            tried_idle: None,
            untold: None,
            half: None,
        };
        self.flows.entry(flow).or_insert(fresh)
    }

    /// Keeps a packet, if there is room; of two that begin alike the longer.
    pub(crate) fn add(&mut self, frame: Frame, now: Instant) {
        let (flow, len) = (frame.flow, frame.payload().len());
        let queue = self.queue(flow, now);
        queue.since = now;
        let place = queue.frames.partition_point(|kept| kept.seq.wrapping_sub(frame.seq).cast_signed() < 0);
        if let Some(kept) = queue.frames.get(place).filter(|kept| kept.seq == frame.seq) {
            if kept.payload().len() > len {
                return;
            }
            queue.bytes -= kept.payload().len();
            queue.frames.remove(place);
            self.packets -= 1;
        }
        if self.make_room(&flow, frame.seq, len)
            && let Some(queue) = self.flows.get_mut(&flow)
        {
            queue.bytes += len;
            queue.longest = queue.longest.max(len);
            queue.frames.insert(place, frame);
            self.packets += 1;
        }
        self.check_invariants(&flow);
    }

    /// Whether there is room for a packet. What comes behind it gives way to it: a connection goes on with what is in front.
    /// So does a packet of the connection that has most of them, and more than this one.
    fn make_room(&mut self, flow: &Flow, seq: u32, len: usize) -> bool {
        loop {
            let Some(queue) = self.flows.get_mut(flow) else { return false };
            let fits = queue.bytes + len <= BYTES_MAX;
            if fits && self.packets < self.packets_max {
                return true;
            }
            let own = queue.frames.len();
            let is_behind = |last: &mut Frame| last.seq.wrapping_sub(seq).cast_signed() > 0;
            if let Some(gone) = queue.frames.pop_if(is_behind) {
                queue.bytes -= gone.payload().len();
            } else {
                let most = self.flows.values_mut().max_by_key(|queue| queue.frames.len());
                let Some(most) = most.filter(|most| fits && most.frames.len() > own + 1) else {
                    return false;
                };
                let gone = most.frames.pop();
                most.bytes -= gone.map_or(0, |gone| gone.payload().len());
            }
            self.packets -= 1;
        }
    }

    /// Panics in debug and test builds when what must always hold does not.
    fn check_invariants(&self, flow: &Flow) {
        debug_assert!(self.packets <= self.packets_max, "more packets than there is room for");
        let Some(queue) = self.flows.get(flow) else { return };
        debug_assert!(queue.frames.len() <= self.packets, "packets that are not counted");
        let bytes: usize = queue.frames.iter().map(|frame| frame.payload().len()).sum();
        debug_assert_eq!(queue.bytes, bytes, "bytes of no packet");
        debug_assert!(queue.bytes <= BYTES_MAX, "more bytes than there is room for");
        let in_order = |two: &[Frame]| matches!(two, [a, b] if b.seq.wrapping_sub(a.seq).cast_signed() >= 0);
        debug_assert!(queue.frames.windows(2).all(in_order), "packets out of order");
    }

    /// Whether a packet says something that the server's socket has not been told.
    pub(crate) fn is_news(&mut self, frame: &Frame, now: Instant) -> bool {
        let Some((ack, window)) = frame.says() else { return false };
        let queue = self.queue(frame.flow, now);
        let news = match queue.told {
            Some((told, _)) if told != ack => ack.wrapping_sub(told).cast_signed() > 0,
            Some((_, told)) => told != window,
            None => true,
        };
        if news {
            queue.told = Some((ack, window));
        }
        news
    }

    /// A packet that begins at `newest` has come, or was there before, to a connection that goes on at `at`: if both
    /// is still so in a while, the client is to hear of it.
    pub(crate) fn came(&mut self, flow: &Flow, at: u32, newest: u32, now: Instant) {
        if let Some(queue) = self.flows.get_mut(flow).filter(|queue| !queue.frames.is_empty()) {
            let since = queue.untold.filter(|untold| untold.at == at).map_or(now, |untold| untold.since);
            queue.untold = Some(Untold { since, at, newest });
        }
    }

    /// Whether something is to be done soon.
    pub(crate) fn is_busy(&self) -> bool {
        self.flows.values().any(|queue| queue.untold.is_some() || queue.half.is_some() || queue.is_refused())
    }

    /// The connections that may now be given what they were not given before: half requests that have waited for long
    /// enough, and what a busy socket did not let move.
    pub(crate) fn due(&self, now: Instant) -> Vec<Flow> {
        let is_due = |queue: &Queue| queue.is_refused() || queue.half.is_some_and(|half| half.is_late(now));
        self.flows.iter().filter(|(_, queue)| is_due(queue)).map(|(flow, _)| *flow).collect()
    }

    /// A half request that has waited for long enough has been given to the connection, or that has gone on without it.
    pub(crate) fn forget_late_half(&mut self, flow: &Flow, now: Instant) {
        if let Some(queue) = self.flows.get_mut(flow) {
            queue.half.take_if(|half| half.is_late(now));
        }
    }

    /// The connections whose clients are to hear of what came, if they have not gone on meanwhile.
    pub(crate) fn take_untold(&mut self, now: Instant) -> Vec<(Flow, Untold)> {
        let due = |queue: &mut Queue| queue.untold.take_if(|untold| now - untold.since >= OVERTAKEN);
        self.flows.iter_mut().filter_map(|(flow, queue)| Some((*flow, due(queue)?))).collect()
    }

    /// What is kept of a connection while something before it is missing, from `at` on; first the range that the
    /// packet of `newest` is in.
    pub(crate) fn behind_a_gap(&self, flow: &Flow, at: u32, newest: u32) -> Vec<Range<u32>> {
        let mut ranges: Vec<Range<u32>> = Vec::new();
        for frame in self.flows.get(flow).map_or(&[][..], |queue| &queue.frames) {
            let end = frame.end().wrapping_add(u32::from(frame.is_fin()));
            match ranges.last_mut() {
                Some(last) if last.end.wrapping_sub(frame.seq).cast_signed() >= 0 => {
                    if end.wrapping_sub(last.end).cast_signed() > 0 {
                        last.end = end;
                    }
                }
                _ => ranges.push(frame.seq..end),
            }
        }
        if ranges.first().is_some_and(|first| first.start.wrapping_sub(at).cast_signed() <= 0) {
            return Vec::new();
        }
        // The ones that came before are most likely next to it.
        let has = |range: &Range<u32>| newest.wrapping_sub(range.start) < range.end.wrapping_sub(range.start);
        if let Some(place) = ranges.iter().position(has) {
            ranges[..=place].rotate_right(1);
        }
        ranges
    }

    /// Takes a connection's packets out, in order.
    pub(crate) fn take(&mut self, flow: &Flow) -> Vec<Frame> {
        let Some(queue) = self.flows.get_mut(flow) else { return Vec::new() };
        queue.bytes = 0;
        queue.tried = None;
        self.packets -= queue.frames.len();
        std::mem::take(&mut queue.frames)
    }

    /// Gives everything back as it came.
    pub(crate) fn let_go(&mut self, flow: &Flow, outside: &mut impl Outside) {
        for frame in self.take(flow) {
            release(outside, &frame, None);
        }
    }

    /// Gives the reader what its request's head goes on with: one packet, for behind a whole head it takes no more.
    pub(crate) fn read_on(&mut self, flow: &Flow, asked: &Progress, outside: &mut impl Outside) {
        let Some(queue) = self.flows.get_mut(flow).filter(|_| !asked.is_head_whole) else { return };
        let is_ahead = |seq: u32| seq.wrapping_sub(asked.at).cast_signed() > 0;
        let next = queue.frames.iter().position(|frame| is_ahead(frame.end()));
        if let Some(place) = next.filter(|place| !queue.frames.get(*place).is_none_or(|f| is_ahead(f.seq))) {
            let frame = queue.frames.remove(place);
            queue.bytes -= frame.payload().len();
            self.packets -= 1;
            release(outside, &frame.not_before(&asked.heard), None);
        }
    }

    /// Gives back what the connection can take. `owner`: whose a request is.
    pub(crate) fn feed(
        &mut self,
        flow: &Flow,
        asked: &Progress,
        owner: impl Fn(&Request<'_>) -> Owner,
        now: Instant,
        outside: &mut impl Outside,
    ) {
        if asked.is_let_go {
            return self.let_go(flow, outside);
        }
        self.advance(flow, asked, outside);
        let Some(queue) = self.flows.get_mut(flow) else { return };
        let at = asked.at;
        // Mostly the first request tells, or what of the client's has come since is of no interest yet.
        if !asked.is_idle && asked.boundary.is_some() {
            let some = Frame::joined_to(&queue.frames, at, FIRST_BYTES);
            let waits = match parse_request(&some) {
                Parsed::Complete(request, _) => at != asked.start_seq && !owner(&request).own,
                Parsed::Incomplete => false,
                Parsed::Doubt(_) => true,
            };
            if waits || (asked.room == 0 && !some.is_empty()) {
                return;
            }
        }
        let bytes = Frame::joined(&queue.frames, at);
        if bytes.is_empty() {
            // A FIN that everything before it has passed.
            if queue.frames.first().is_some_and(|first| first.end() == at) {
                self.let_go(flow, outside);
            }
            return;
        }
        if asked.boundary.is_some() && parse_request(&bytes) == Parsed::Incomplete {
            // If a part is missing, it waits for that: the reader could not take what is behind.
            let end = at.wrapping_add(bytes.len() as u32);
            let has_gap = queue.frames.iter().any(|frame| frame.seq.wrapping_sub(end).cast_signed() > 0);
            if has_gap || (asked.is_idle && !queue.is_half_late(at, now)) {
                return;
            }
        }
        let before = queue.tried_idle.filter(|tried| asked.is_idle && tried.at == at);
        if before.is_some_and(|tried| now - tried.last < BUSY_FOR) {
            return;
        }
        if before.is_some_and(|tried| tried.times >= BUSY_TRIES) {
            // There is more to it: the client's own repetitions are rarer.
            self.take(flow);
            return;
        }
        let fresh = queue.tried != Some(at);
        let planned = asked.boundary.and_then(|_| plan(&bytes, asked, fresh, owner));
        let cut =
            asked.cut_seq.map(|seq| seq.wrapping_sub(at) as usize).filter(|n| *n > 0 && *n <= bytes.len());
        let part = |bytes| Plan { bytes, cuts: Vec::new(), all: false };
        let plan = match (planned, cut) {
            // The programs have read more, or less, than is read here: as much passes as they say.
            (_, Some(bytes)) if !fresh || asked.boundary.is_none() => part(bytes),
            (Some(plan), _) => plan,
            (None, _) if fresh && asked.boundary.is_none() => part(bytes.len()),
            (None, _) => return,
        };
        queue.tried = Some(at);
        let times = before.map_or(0, |tried| tried.times) + 1;
        queue.tried_idle = asked.is_idle.then_some(Tried { at, last: now, times });
        self.give(flow, asked, &bytes, &plan, outside);
    }

    /// Forgets what the programs have let pass. The socket may lack it: the client's repetition of it goes there, too.
    fn advance(&mut self, flow: &Flow, asked: &Progress, outside: &mut impl Outside) {
        let Some(queue) = self.flows.get_mut(flow) else { return };
        let at = asked.at;
        let passed = |frame: &Frame| {
            let end = frame.end().wrapping_add(u32::from(frame.is_fin()));
            at.wrapping_sub(end).cast_signed() >= 0
        };
        let before = queue.frames.len();
        queue.frames.retain(|frame| !passed(frame));
        self.packets -= before - queue.frames.len();
        for frame in &queue.frames {
            let again = at.wrapping_sub(frame.seq) as usize;
            if let Some(seen) = frame.payload().get(..again).filter(|seen| !seen.is_empty()) {
                for old in frame.renewed(frame.seq, seen, &[], queue.longest, &asked.heard) {
                    release(outside, &old.without_timestamps(), None);
                }
            }
        }
        queue.cut_before(at);
        self.check_invariants(flow);
    }

    /// Gives back a connection's `bytes` by a plan; with the time that the client has said last, for a socket may be made
    /// of them, here or elsewhere.
    fn give(&mut self, flow: &Flow, asked: &Progress, bytes: &[u8], plan: &Plan, outside: &mut impl Outside) {
        let Some(queue) = self.flows.get_mut(flow) else { return };
        let Some(first) = queue.frames.first().cloned() else { return };
        let longest = queue.longest;
        let (head, rest) = bytes.split_at_checked(plan.bytes).unwrap_or((bytes, &[]));
        let from = asked.at.wrapping_add(head.len() as u32);
        let mut go = first.renewed(asked.at, head, &plan.cuts, longest, &asked.heard);
        if plan.all {
            go.extend(first.renewed(from, rest, &[], longest, &asked.heard));
            let end = asked.at.wrapping_add(bytes.len() as u32);
            // Behind a gap, or the end.
            let ahead = |f: &Frame| f.is_fin() || f.seq.wrapping_sub(end).cast_signed() > 0;
            go.extend(self.take(flow).into_iter().filter(ahead));
        } else {
            let before = queue.frames.len();
            queue.cut_before(from);
            self.packets -= before - queue.frames.len();
            self.check_invariants(flow);
        }
        for frame in go {
            release(outside, &frame, None);
        }
    }

    /// Forgets what nobody waits for any more.
    pub(crate) fn expire(&mut self, now: Instant) {
        let kept_for = |queue: &Queue| if queue.frames.is_empty() { TOLD_FOR } else { KEPT_FOR };
        self.flows.retain(|_, queue| now - queue.since < kept_for(queue));
        self.packets = self.flows.values().map(|queue| queue.frames.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn of_client(client_port: u16, seq: u32) -> Frame {
        let mut bytes = frame(seq, &[0; 10], 0, 0).bytes;
        bytes[34..36].copy_from_slice(&client_port.to_be_bytes());
        Frame::parse(&bytes).expect("IPv4 and TCP")
    }

    #[test]
    fn what_is_in_front_finds_room() {
        let (mut early, now) = (Early::new(4), Instant::now());
        let kept = |early: &Early, port| -> Vec<u32> {
            let queue = early.flows.get(&of_client(port, 0).flow);
            queue.map(|queue| queue.frames.iter().map(|frame| frame.seq).collect()).unwrap_or_default()
        };
        [20, 30, 40, 50].into_iter().for_each(|seq| early.add(of_client(1, seq), now));
        early.add(of_client(1, 60), now);
        assert_eq!(kept(&early, 1), [20, 30, 40, 50], "there is no room for more");
        early.add(of_client(1, 10), now);
        assert_eq!(kept(&early, 1), [10, 20, 30, 40], "the client repeats what came last");
        [70, 80, 90].into_iter().for_each(|seq| early.add(of_client(2, seq), now));
        assert_eq!((kept(&early, 1), kept(&early, 2)), (vec![10, 20], vec![70, 80]), "each its share");
        assert_eq!(early.packets, 4);
    }

    #[test]
    fn the_reader_has_half_a_request_of_a_slow_client_alone() {
        let (mut early, began) = (Early::new(4), Instant::now());
        let flow = of_client(1, 20).flow;
        early.add(of_client(1, 20), began);
        assert!(!early.is_busy());
        let mut is_late = |at, now| early.queue(flow, now).is_half_late(at, now);
        let later = began + OVERTAKEN;
        assert!(!is_late(20, began));
        assert!(is_late(20, later));
        assert!(!is_late(48, later), "another request has its own time");
        assert!(early.is_busy() && early.due(later).is_empty());
        early.forget_late_half(&flow, later);
        let last = later + OVERTAKEN;
        assert_eq!(early.due(last), [flow]);
        early.forget_late_half(&flow, last);
        assert!(!early.is_busy());
    }

    fn frame(seq: u32, payload: &[u8], ack: u32, window: u16) -> Frame {
        let mut bytes = vec![0; 54];
        bytes[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
        bytes[16..18].copy_from_slice(&(40 + payload.len() as u16).to_be_bytes());
        (bytes[22], bytes[23], bytes[46], bytes[47]) = (9, 6, 0x50, 16);
        bytes[38..42].copy_from_slice(&seq.to_be_bytes());
        bytes[42..46].copy_from_slice(&ack.to_be_bytes());
        bytes[48..50].copy_from_slice(&window.to_be_bytes());
        bytes.extend(payload);
        Frame::parse(&bytes).expect("IPv4 and TCP")
    }

    #[test]
    fn what_a_busy_socket_did_not_let_move_is_due_again() {
        let (mut early, now) = (Early::new(4), Instant::now());
        let flow = of_client(1, 20).flow;
        early.queue(flow, now).tried_idle = Some(Tried { at: 20, last: now, times: 1 });
        assert!(!early.is_busy() && early.due(now).is_empty(), "it went");
        early.add(of_client(1, 20), now);
        assert!(early.is_busy());
        assert_eq!(early.due(now), [flow]);
    }

    #[test]
    fn a_socket_is_told_what_is_new_once() {
        let mut early = Early::new(10);
        let now = Instant::now();
        let news: Vec<bool> = [(5, 1), (5, 1), (7, 1), (6, 1), (7, 2), (7, 2)]
            .into_iter()
            .map(|(ack, window)| early.is_news(&frame(0, b"x", ack, window), now))
            .collect();
        assert_eq!(news, [true, false, true, false, true, false]);
    }

    #[test]
    fn behind_a_gap_the_newest_range_is_told_first() {
        let mut early = Early::new(10);
        let flow = frame(0, b"", 0, 0).flow;
        let base = u32::MAX - 5;
        let told = |early: &Early, newest| -> Vec<_> {
            let from_base =
                |range: Range<u32>| (range.start.wrapping_sub(base), range.end.wrapping_sub(base));
            let newest = base.wrapping_add(newest);
            early.behind_a_gap(&flow, base, newest).into_iter().map(from_base).collect()
        };
        for (seq, ranges) in [(4, &[(4, 6)][..]), (10, &[(10, 12), (4, 6)]), (6, &[(4, 8), (10, 12)])] {
            early.add(frame(base.wrapping_add(seq), b"xx", 0, 0), Instant::now());
            assert_eq!(told(&early, seq), ranges, "{seq}");
        }
        early.add(frame(base, b"xx", 0, 0), Instant::now());
        assert_eq!(told(&early, 0), [], "nothing is missing at its front");
    }

    proptest! {
        /// Whatever pieces a stream comes in, twice or not: joined it is itself, up to the first gap.
        #[test]
        fn a_stream_is_joined_again(
            pieces in proptest::collection::vec((0_usize..300, 1_usize..80), 1..30),
            base in any::<u32>(),
        ) {
            let stream: Vec<u8> = (0..=u8::MAX).cycle().take(400).collect();
            let mut early = Early::new(1000);
            let mut there = vec![false; stream.len()];
            for (at, len) in pieces {
                early.add(frame(base.wrapping_add(at as u32), &stream[at..at + len], 0, 0), Instant::now());
                there[at..at + len].fill(true);
            }
            let flow = frame(0, b"", 0, 0).flow;
            prop_assert_eq!(flow.client, Ipv4Addr::UNSPECIFIED);
            let frames = early.take(&flow);
            let whole = there.iter().take_while(|there| **there).count();
            let joined = Frame::joined(&frames, base);
            prop_assert_eq!(&joined[..], &stream[..whole]);
            prop_assert_eq!(early.packets, 0);
        }
    }
}
