//! Packets that wait in user space for a decision, by connection: bounded in number, and counted as the
//! kernel counts what it gave, so that both agree on when the last has gone back.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use baton_cluster::{Flow, PoolId, Target};
use baton_datapath::constants::HELD_MS;
use baton_datapath::{Binding, DatapathError, Frame, State};

use crate::head::Head;
use crate::outside::Outside;
use crate::trouble::for_all;

/// Connections that the kernel is asked about at each tick.
const LOOKS: usize = 1024;

/// A request that waits: not another one of the same flow, whose client may have used its port again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) flow: Flow,
    number: u64,
}

/// A connection whose packets wait.
#[derive(Debug)]
pub(crate) struct Waiting<S> {
    /// Of its binding: tells it from others of the flow.
    pub(crate) start_seq: u32,
    /// Sequence number of the request's first byte.
    pub(crate) seq: u32,
    pub(crate) pool: PoolId,
    pub(crate) target: Option<Target>,
    /// This node serves the connection; a later request of it waits.
    pub(crate) is_ours: bool,
    /// Where in a packet the next request begins, which must be seen by itself.
    pub(crate) cut_seq: Option<u32>,
    /// The reader has the connection, and this of its first request.
    pub(crate) head: Option<Head<S>>,
    pub(crate) frames: Vec<Frame>,
    /// Packets of it read from the hold device, repetitions included.
    pub(crate) read: u32,
    pub(crate) since: Instant,
}

impl<S> Waiting<S> {
    /// Takes the client's times from what goes to a socket of this node's, up to where the next request begins: that will
    /// be asked about, and may move.
    pub(crate) fn strip_timestamps(&mut self) {
        let goes_on = |f: &Frame| self.cut_seq.is_none_or(|cut| f.seq.wrapping_sub(cut).cast_signed() < 0);
        let parts = self.frames.iter().flat_map(|frame| parts(frame, self.cut_seq));
        self.frames = parts.map(|f| if goes_on(&f) { f.without_timestamps() } else { f }).collect();
    }
}

/// A connection whose packets are on their way up here still, and back: decided, or the reader's.
#[derive(Debug)]
struct Releasing {
    start_seq: u32,
    read: u32,
    cut_seq: Option<u32>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Waits<S> {
    /// Each under the number of its ticket.
    waiting: BTreeMap<Flow, (u64, Waiting<S>)>,
    next_number: u64,
    releasing: BTreeMap<Flow, Releasing>,
    /// Those of them that the kernel has yet to be asked about, before it is asked about all again.
    to_look_at: VecDeque<Flow>,
    packets: usize,
    packets_max: usize,
    /// Packets that found no room.
    pub(crate) overflowed: u64,
}

impl<S> Waits<S> {
    pub(crate) fn new(packets_max: usize) -> Self {
        Self {
            waiting: BTreeMap::new(),
            next_number: 0,
            releasing: BTreeMap::new(),
            to_look_at: VecDeque::new(),
            packets: 0,
            packets_max,
            overflowed: 0,
        }
    }

    /// Packets that wait now.
    pub(crate) fn packets(&self) -> usize {
        self.packets
    }

    /// Connections that wait, and those whose packets are on their way back.
    pub(crate) fn connections(&self) -> (usize, usize) {
        (self.waiting.len(), self.releasing.len())
    }

    /// What waits with this ticket, if it still does.
    pub(crate) fn get(&self, ticket: &Ticket) -> Option<&Waiting<S>> {
        self.waiting.get(&ticket.flow).filter(|(number, _)| *number == ticket.number).map(|(_, w)| w)
    }

    /// A further packet of a connection that is known here; the packet back if it is not.
    pub(crate) fn add(
        &mut self,
        frame: Frame,
        outside: &mut impl Outside,
    ) -> Result<Option<Frame>, DatapathError> {
        let flow = frame.flow;
        // Its own connection may be gone, or may be asked for again.
        let known = outside.binding(&flow)?;
        self.forget_other(&flow, known);
        let binding = known.filter(|b| is_releasing(b.state));
        if self.releasing.get(&flow).map(|r| r.start_seq) != binding.map(|b| b.start_seq) {
            self.releasing.remove(&flow);
        }
        if let Some(start_seq) = self.releasing.get(&flow).map(|r| r.start_seq) {
            self.pass_on(&frame, start_seq, outside)?;
            return Ok(None);
        }
        let Some((_, waiting)) = self.waiting.get_mut(&flow) else { return Ok(Some(frame)) };
        waiting.read += 1;
        if waiting.frames.iter().any(|f| f.seq == frame.seq) {
            return Ok(None);
        }
        if self.packets < self.packets_max {
            self.packets += 1;
            waiting.frames.push(frame);
        } else {
            self.overflowed += 1;
        }
        self.check_invariants();
        Ok(None)
    }

    /// Panics in debug and test builds when what must always hold does not.
    fn check_invariants(&self) {
        let waiting: usize = self.waiting.values().map(|(_, waiting)| waiting.frames.len()).sum();
        debug_assert_eq!(self.packets, waiting, "packets that are not counted");
        debug_assert!(self.packets <= self.packets_max, "more packets than there is room for");
    }

    /// Forgets packets of an earlier connection between the same ends: its client is gone, and the decision for it is of no
    /// use to anybody.
    fn forget_other(&mut self, flow: &Flow, known: Option<Binding>) {
        let waits = |b: &Binding| matches!(b.state, State::Held | State::Asking | State::Reading);
        let another =
            |waiting: &Waiting<S>| known.filter(waits).is_some_and(|b| b.start_seq != waiting.start_seq);
        if self.waiting.get(flow).is_some_and(|(_, waiting)| another(waiting)) {
            self.remove(flow);
        }
    }

    /// Gives one packet back at once, and counts it, for it was held.
    pub(crate) fn pass_on(
        &mut self,
        frame: &Frame,
        start_seq: u32,
        outside: &mut impl Outside,
    ) -> Result<(), DatapathError> {
        let fresh = Releasing { start_seq, read: 0, cut_seq: None };
        let releasing = self.releasing.entry(frame.flow).or_insert(fresh);
        releasing.read += 1;
        let cut_seq = match releasing.cut_seq {
            None => end_of_first(&frame.flow, start_seq, outside)?,
            cut_seq => cut_seq,
        };
        let frame = up_to_date(frame, start_seq, outside)?;
        release(outside, &frame, cut_seq);
        self.finish(&frame.flow, outside)
    }

    /// How many packets were passed on of a connection that is to wait now.
    pub(crate) fn passed_on(&mut self, flow: &Flow) -> u32 {
        self.releasing.remove(flow).map_or(0, |r| r.read)
    }

    /// Begins to wait, in the place of what waited of the flow. Of what stands behind the request as much waits as there is
    /// room for: the client repeats the rest.
    ///
    /// # Errors
    /// What was given, when there is no room for it.
    pub(crate) fn begin(&mut self, flow: Flow, mut waiting: Waiting<S>) -> Result<Ticket, Box<Waiting<S>>> {
        if self.packets >= self.packets_max {
            self.overflowed += 1;
            return Err(Box::new(waiting));
        }
        self.remove(&flow);
        let room = self.packets_max - self.packets;
        self.overflowed += waiting.frames.len().saturating_sub(room) as u64;
        waiting.frames.truncate(room);
        self.packets += waiting.frames.len();
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        self.waiting.insert(flow, (number, waiting));
        self.check_invariants();
        Ok(Ticket { flow, number })
    }

    /// A packet was read that belongs to another queue: it counts all the same.
    pub(crate) fn read_another(
        &mut self,
        flow: &Flow,
        outside: &mut impl Outside,
    ) -> Result<(), DatapathError> {
        if let Some(releasing) = self.releasing.get_mut(flow) {
            releasing.read += 1;
        } else if let Some((_, waiting)) = self.waiting.get_mut(flow) {
            waiting.read += 1;
        } else if let Some(reading) = outside.reading(flow)? {
            let releasing = Releasing { start_seq: reading.start_seq, read: 1, cut_seq: None };
            self.releasing.insert(*flow, releasing);
        }
        self.finish(flow, outside)
    }

    /// Takes out what waits with this ticket, if it still does.
    pub(crate) fn take(&mut self, ticket: &Ticket) -> Option<Waiting<S>> {
        self.get(ticket)?;
        self.remove(&ticket.flow)
    }

    fn remove(&mut self, flow: &Flow) -> Option<Waiting<S>> {
        let (_, waiting) = self.waiting.remove(flow)?;
        self.packets -= waiting.frames.len();
        Some(waiting)
    }

    /// Gives back what waited, and lets the connection's packets pass by themselves when none is on its
    /// way up here any more: before that, they would overtake those. `start_seq` is the binding's.
    pub(crate) fn release(
        &mut self,
        flow: Flow,
        start_seq: u32,
        waited: &Waiting<S>,
        outside: &mut impl Outside,
    ) -> Result<(), DatapathError> {
        for frame in &waited.frames {
            release(outside, frame, waited.cut_seq);
        }
        let releasing = Releasing { start_seq, read: waited.read, cut_seq: waited.cut_seq };
        self.releasing.insert(flow, releasing);
        self.finish(&flow, outside)
    }

    fn finish(&mut self, flow: &Flow, outside: &mut impl Outside) -> Result<(), DatapathError> {
        if let Some(r) = self.releasing.get(flow)
            && outside.released(flow, r.start_seq, r.read)?
        {
            self.releasing.remove(flow);
        }
        Ok(())
    }

    /// Connections that have waited for too long, taken out. The kernel has given up on them too.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Waiting<S>> {
        let too_old = Duration::from_millis(u64::from(HELD_MS));
        let stale: Vec<Flow> =
            self.waiting.iter().filter(|(_, (_, w))| now - w.since > too_old).map(|(f, _)| *f).collect();
        stale.iter().filter_map(|flow| self.remove(flow)).collect()
    }

    /// Forgets what the kernel no longer counts on: it lets a connection's packets pass by themselves
    /// after a while. Looks at so many at a time, in turn: there may be as many as clients like.
    pub(crate) fn forget_released(&mut self, outside: &mut impl Outside) -> Result<(), DatapathError> {
        if self.to_look_at.is_empty() {
            self.to_look_at.extend(self.releasing.keys());
        }
        let now = self.to_look_at.len().min(LOOKS);
        let flows: Vec<Flow> = self.to_look_at.drain(..now).collect();
        for_all(flows, |flow| {
            if !outside.binding(&flow)?.is_some_and(|b| is_releasing(b.state)) {
                self.releasing.remove(&flow);
            }
            Ok(())
        })
    }
}

fn is_releasing(state: State) -> bool {
    matches!(state, State::Releasing(_) | State::Reading)
}

/// Where a strict service's first request ends in a connection that the reader has, once that is known and
/// another one has come: nothing from there on may reach the reader.
fn end_of_first(
    flow: &Flow,
    start_seq: u32,
    outside: &mut impl Outside,
) -> Result<Option<u32>, DatapathError> {
    if outside.reading(flow)?.is_none_or(|reading| reading.start_seq != start_seq) {
        return Ok(None);
    }
    Ok(outside.asked(flow)?.filter(|asked| asked.start_seq == start_seq).and_then(|asked| asked.cut_seq))
}

/// A packet that was on its way up here while its client may have said a later time.
pub(crate) fn up_to_date(
    frame: &Frame,
    start_seq: u32,
    outside: &mut impl Outside,
) -> Result<Frame, DatapathError> {
    let asked = outside.asked(&frame.flow)?.filter(|asked| asked.start_seq == start_seq);
    Ok(asked.map_or_else(|| frame.clone(), |asked| frame.not_before(&asked.heard)))
}

/// A packet in two, if `cut_seq` is within it.
fn parts(frame: &Frame, cut_seq: Option<u32>) -> Vec<Frame> {
    let two = cut_seq.and_then(|seq| Some(vec![frame.cut(seq)?, frame.after(seq)?]));
    two.unwrap_or_else(|| vec![frame.clone()])
}

/// Gives a packet back: in two, when a request begins in it that must be seen by itself.
pub(crate) fn release(outside: &mut impl Outside, frame: &Frame, cut_seq: Option<u32>) {
    for part in parts(frame, cut_seq) {
        if let Err(error) = outside.release(&part.made_ours().bytes) {
            tracing::debug!(%error, flow = %frame.flow, "held packet lost; the client repeats it");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use baton_cluster::NodeId;

    use super::*;

    fn flow() -> Flow {
        let [client, vip] = [1, 2].map(|last| Ipv4Addr::new(10, 0, 0, last).into());
        Flow { client, vip, client_port: 40_000, vip_port: 80 }
    }

    fn waiting(start_seq: u32, seq: u32) -> Waiting<()> {
        Waiting {
            start_seq,
            seq,
            pool: PoolId(0),
            target: None,
            is_ours: start_seq != seq,
            cut_seq: None,
            head: None,
            frames: Vec::new(),
            read: 1,
            since: Instant::now(),
        }
    }

    fn frame(payload: &[u8]) -> Frame {
        let mut bytes = vec![0; 66];
        bytes[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
        bytes[17] = 52 + payload.len() as u8;
        (bytes[22], bytes[23], bytes[46], bytes[47]) = (9, 6, 0x80, 16);
        bytes[54..58].copy_from_slice(&[1, 1, 8, 10]);
        bytes.extend(payload);
        Frame::parse(&bytes).expect("IPv4 and TCP")
    }

    #[test]
    fn what_stands_behind_a_request_finds_room_or_is_repeated() {
        let mut waits = Waits::new(3);
        let frames = |count| vec![frame(b"one"); count];
        let first = waits.begin(flow(), Waiting { frames: frames(2), ..waiting(1, 1) }).expect("room");
        let other = Flow { client_port: 40_001, ..flow() };
        waits.begin(other, Waiting { frames: frames(4), ..waiting(1, 1) }).expect("room for one");
        assert_eq!((waits.packets(), waits.overflowed), (3, 3));
        waits.begin(Flow { client_port: 40_002, ..flow() }, waiting(1, 1)).expect_err("none");
        assert_eq!(waits.take(&first).map(|w| w.frames.len()), Some(2));
        assert_eq!(waits.packets(), 1);
    }

    #[test]
    fn what_will_be_asked_about_keeps_its_time() {
        let frame = frame(b"onetwo..");
        let mut waiting = Waiting { cut_seq: Some(3), frames: vec![frame], ..waiting(0, 0) };
        waiting.strip_timestamps();
        let kept: Vec<_> = waiting.frames.iter().map(|f| (f.payload(), f.timestamps())).collect();
        assert_eq!(kept, [(&b"one"[..], None), (&b"two.."[..], Some((0, 0)))]);
    }

    #[test]
    fn an_answer_is_to_its_own_question_alone() {
        let mut waits = Waits::new(10);
        let earlier = waits.begin(flow(), waiting(1, 1)).expect("room");
        let later = waits.begin(flow(), waiting(9, 9)).expect("room");
        assert!(waits.get(&earlier).is_none() && waits.take(&earlier).is_none(), "the port is used again");
        assert_eq!(waits.get(&later).map(|w| w.seq), Some(9));
        assert_eq!(waits.take(&later).map(|w| w.seq), Some(9), "and this one waits on");
        assert!(waits.take(&later).is_none(), "once");
        // The same request again, asked about afresh.
        let again = waits.begin(flow(), waiting(9, 9)).expect("room");
        assert!(waits.take(&later).is_none());
        assert!(waits.take(&again).is_some());
    }

    #[test]
    fn what_waits_of_an_earlier_connection_is_forgotten() {
        let known = |state, start_seq| Some(Binding { state, start_seq, ending: false, is_adopted: false });
        for (seq, state) in [(1, State::Held), (1, State::Reading), (5, State::Asking)] {
            let mut waits = Waits::new(10);
            let ticket = waits.begin(flow(), waiting(1, seq)).expect("room");
            for same in [known(state, 1), known(State::Bound(NodeId(0)), 9), known(State::Open, 9), None] {
                waits.forget_other(&flow(), same);
                assert!(waits.get(&ticket).is_some(), "{same:?}");
            }
            waits.forget_other(&flow(), known(state, 9));
            assert!(waits.get(&ticket).is_none(), "another one waits now, {state:?}");
        }
    }
}
