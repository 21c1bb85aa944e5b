//! Packets that came before they may be taken: a request of another pool behind one that is not answered
//! yet. They wait here until their connection is idle, and are then given back as the client would send
//! them now. The client still has them too: whatever is lost here it repeats.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use baton_cluster::Flow;
use baton_datapath::{Frame, Heard, Hold};

use crate::waiting::release;

/// The client's own repetition has long come by then.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// All of them, by connection.
#[derive(Debug)]
pub(crate) struct Early {
    flows: HashMap<Flow, (Instant, Vec<Frame>)>,
    packets: usize,
    packets_max: usize,
}

impl Early {
    pub(crate) fn new(packets_max: usize) -> Self {
        Self { flows: HashMap::new(), packets: 0, packets_max }
    }

    /// Keeps a packet, if there is room; of a repetition the later.
    pub(crate) fn add(&mut self, frame: Frame, now: Instant) {
        let (since, frames) = self.flows.entry(frame.flow).or_insert((now, Vec::new()));
        *since = now;
        match frames.iter_mut().find(|kept| kept.seq == frame.seq) {
            Some(kept) => *kept = frame,
            None if self.packets < self.packets_max => {
                self.packets += 1;
                frames.push(frame);
            }
            None => {}
        }
    }

    /// Takes a connection's packets out, in order.
    pub(crate) fn take(&mut self, flow: &Flow) -> Vec<Frame> {
        let mut frames = self.flows.remove(flow).map(|(_, frames)| frames).unwrap_or_default();
        self.packets -= frames.len();
        let first = frames
            .iter()
            .map(|f| f.seq)
            .reduce(|a, b| if a.wrapping_sub(b).cast_signed() < 0 { a } else { b });
        frames.sort_by_key(|frame| frame.seq.wrapping_sub(first.unwrap_or_default()));
        frames
    }

    /// The connection is idle, and `at` is what it takes next: its packets go, saying what the client has said
    /// since. Behind a gap they would come back at once: the client fills that.
    pub(crate) fn idle(&mut self, flow: &Flow, at: u32, heard: Heard, hold: &Hold) {
        let reaches = |frame: &Frame| frame.seq.wrapping_sub(at).cast_signed() <= 0;
        if !self.flows.get(flow).is_some_and(|(_, frames)| frames.iter().any(reaches)) {
            return;
        }
        let frames = self.take(flow);
        for frame in Frame::renewed(&frames, &heard) {
            release(hold, &frame, None);
        }
    }

    /// Forgets what nobody waits for any more.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.flows.retain(|_, (since, _)| now - *since < KEPT_FOR);
        self.packets = self.flows.values().map(|(_, frames)| frames.len()).sum();
    }
}
