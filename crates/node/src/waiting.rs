//! Packets that wait in user space for a decision, by connection: bounded in number, and counted as the
//! kernel counts what it gave, so that both agree on when the last has gone back.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use baton_cluster::{Flow, PoolId, Target};
use baton_datapath::constants::HELD_MS;
use baton_datapath::{Datapath, DatapathError, Frame, Hold, State};

use crate::reader::Head;

/// A connection whose packets wait.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// Sequence number of the request's first byte.
    pub(crate) seq: u32,
    pub(crate) pool: PoolId,
    pub(crate) target: Option<Target>,
    /// This node serves the connection; a later request of it waits.
    pub(crate) is_ours: bool,
    /// Where in a packet the next request begins, which must be seen by itself.
    pub(crate) cut_seq: Option<u32>,
    /// The reader has the connection, and this of its first request.
    pub(crate) head: Option<Head>,
    pub(crate) frames: Vec<Frame>,
    /// Packets of it read from the hold device, repetitions included.
    pub(crate) read: u32,
    pub(crate) since: Instant,
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
pub(crate) struct Waits {
    waiting: HashMap<Flow, Waiting>,
    releasing: HashMap<Flow, Releasing>,
    packets: usize,
    packets_max: usize,
    /// Packets that found no room.
    pub(crate) overflowed: u64,
}

impl Waits {
    pub(crate) fn new(packets_max: usize) -> Self {
        Self { waiting: HashMap::new(), releasing: HashMap::new(), packets: 0, packets_max, overflowed: 0 }
    }

    /// Packets that wait now.
    pub(crate) fn packets(&self) -> usize {
        self.packets
    }

    pub(crate) fn get(&self, flow: &Flow) -> Option<&Waiting> {
        self.waiting.get(flow)
    }

    /// A further packet of a connection that is known here; the packet back if it is not.
    pub(crate) fn add(
        &mut self,
        frame: Frame,
        datapath: &Datapath,
        hold: &Hold,
    ) -> Result<Option<Frame>, DatapathError> {
        let flow = frame.flow;
        // Its own connection may be gone, or may be asked for again.
        let binding = datapath.binding(&flow)?.filter(|b| is_releasing(b.state));
        if self.releasing.get(&flow).map(|r| r.start_seq) != binding.map(|b| b.start_seq) {
            self.releasing.remove(&flow);
        }
        if let Some(start_seq) = self.releasing.get(&flow).map(|r| r.start_seq) {
            self.pass_on(&frame, start_seq, datapath, hold)?;
            return Ok(None);
        }
        let Some(waiting) = self.waiting.get_mut(&flow) else { return Ok(Some(frame)) };
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
        Ok(None)
    }

    /// Gives one packet back at once, and counts it, for it was held.
    pub(crate) fn pass_on(
        &mut self,
        frame: &Frame,
        start_seq: u32,
        datapath: &Datapath,
        hold: &Hold,
    ) -> Result<(), DatapathError> {
        let fresh = Releasing { start_seq, read: 0, cut_seq: None };
        let releasing = self.releasing.entry(frame.flow).or_insert(fresh);
        releasing.read += 1;
        let cut_seq = match releasing.cut_seq {
            None => end_of_first(&frame.flow, start_seq, datapath)?,
            cut_seq => cut_seq,
        };
        release(hold, frame, cut_seq);
        self.finish(&frame.flow, datapath)
    }

    /// How many packets were passed on of a connection that is to wait now.
    pub(crate) fn passed_on(&mut self, flow: &Flow) -> u32 {
        self.releasing.remove(flow).map_or(0, |r| r.read)
    }

    /// Begins to wait; what was given, when there is no room for it.
    pub(crate) fn begin(&mut self, flow: Flow, waiting: Waiting) -> Option<Waiting> {
        if self.packets >= self.packets_max {
            self.overflowed += 1;
            return Some(waiting);
        }
        self.take(&flow);
        self.packets += waiting.frames.len();
        self.waiting.insert(flow, waiting);
        None
    }

    /// A packet was read that belongs to another queue: it counts all the same.
    pub(crate) fn read_another(&mut self, flow: &Flow, datapath: &Datapath) -> Result<(), DatapathError> {
        if let Some(releasing) = self.releasing.get_mut(flow) {
            releasing.read += 1;
        } else if let Some(waiting) = self.waiting.get_mut(flow) {
            waiting.read += 1;
        } else if let Some(reading) = datapath.reading(flow)? {
            let releasing = Releasing { start_seq: reading.start_seq, read: 1, cut_seq: None };
            self.releasing.insert(*flow, releasing);
        }
        self.finish(flow, datapath)
    }

    /// Takes a connection's packets out.
    pub(crate) fn take(&mut self, flow: &Flow) -> Option<Waiting> {
        let waiting = self.waiting.remove(flow)?;
        self.packets -= waiting.frames.len();
        Some(waiting)
    }

    /// Gives back what waited, and lets the connection's packets pass by themselves when none is on its
    /// way up here any more: before that, they would overtake those. `start_seq` is the binding's.
    pub(crate) fn release(
        &mut self,
        flow: Flow,
        start_seq: u32,
        waited: &Waiting,
        datapath: &Datapath,
        hold: &Hold,
    ) -> Result<(), DatapathError> {
        for frame in &waited.frames {
            release(hold, frame, waited.cut_seq);
        }
        let releasing = Releasing { start_seq, read: waited.read, cut_seq: waited.cut_seq };
        self.releasing.insert(flow, releasing);
        self.finish(&flow, datapath)
    }

    fn finish(&mut self, flow: &Flow, datapath: &Datapath) -> Result<(), DatapathError> {
        if let Some(r) = self.releasing.get(flow)
            && datapath.released(flow, r.start_seq, r.read)?
        {
            self.releasing.remove(flow);
        }
        Ok(())
    }

    /// Connections that have waited for too long, taken out. The kernel has given up on them too.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Waiting> {
        let too_old = Duration::from_millis(u64::from(HELD_MS));
        let stale: Vec<Flow> =
            self.waiting.iter().filter(|(_, w)| now - w.since > too_old).map(|(f, _)| *f).collect();
        stale.iter().filter_map(|flow| self.take(flow)).collect()
    }

    /// Forgets what the kernel no longer counts on: it lets a connection's packets pass by themselves
    /// after a while.
    pub(crate) fn forget_released(&mut self, datapath: &Datapath) -> Result<(), DatapathError> {
        let flows: Vec<Flow> = self.releasing.keys().copied().collect();
        for flow in flows {
            if !datapath.binding(&flow)?.is_some_and(|b| is_releasing(b.state)) {
                self.releasing.remove(&flow);
            }
        }
        Ok(())
    }
}

fn is_releasing(state: State) -> bool {
    matches!(state, State::Releasing(_) | State::Reading)
}

/// Where a strict service's first request ends in a connection that the reader has, once that is known and
/// another one has come: nothing from there on may reach the reader.
fn end_of_first(flow: &Flow, start_seq: u32, datapath: &Datapath) -> Result<Option<u32>, DatapathError> {
    if datapath.reading(flow)?.is_none_or(|reading| reading.start_seq != start_seq) {
        return Ok(None);
    }
    Ok(datapath.asked(flow)?.filter(|asked| asked.start_seq == start_seq).and_then(|asked| asked.cut_seq))
}

/// Gives a packet back: in two, when a request begins in it that must be seen by itself.
pub(crate) fn release(hold: &Hold, frame: &Frame, cut_seq: Option<u32>) {
    let parts = cut_seq.and_then(|seq| Some([frame.cut(seq)?, frame.after(seq)?]));
    let parts = parts.as_ref().map_or(std::slice::from_ref(frame), <[Frame; 2]>::as_slice);
    for part in parts {
        if let Err(error) = hold.release(&part.bytes) {
            tracing::debug!(%error, flow = %frame.flow, "held packet lost; the client repeats it");
        }
    }
}
