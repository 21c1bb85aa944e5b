//! What servers were given of connections that the reader had, until their TCP has acknowledged it: the
//! client will not repeat it, so it is repeated here.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use baton_cluster::Flow;
use baton_datapath::{DatapathError, State, answer};

use crate::outside::Outside;
use crate::tools::Tools;

/// Repeated first after this long, then after twice as long each time.
const FIRST_WAIT: Duration = Duration::from_millis(20);
/// Given up after this long.
const PATIENCE: Duration = Duration::from_secs(3);

/// A connection whose server has yet to take what the reader had.
#[derive(Debug)]
pub(crate) struct Replayed {
    pub(crate) start_seq: u32,
    /// What the client expects next, and what it will send next.
    pub(crate) start_ack: u32,
    pub(crate) end: u32,
    pub(crate) frames: Vec<Vec<u8>>,
    pub(crate) since: Instant,
}

#[derive(Debug)]
struct OpenReplay {
    replayed: Replayed,
    wait: Duration,
    due: Instant,
}

/// All of them.
#[derive(Debug)]
pub struct Replays {
    open: BTreeMap<Flow, OpenReplay>,
    most: usize,
    /// Connections whose bytes were given to a server.
    pub begun: u64,
    /// Times that such bytes were given again.
    pub repeated: u64,
    /// Connections that no server took in time.
    pub failed: u64,
}

impl Replays {
    pub(crate) fn new(most: usize) -> Self {
        Self { open: BTreeMap::new(), most, begun: 0, repeated: 0, failed: 0 }
    }

    /// Whether something may have to be repeated soon.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// How many are not taken yet.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Gives the frames to the programs for the first time.
    pub(crate) fn begin(&mut self, flow: Flow, replayed: Replayed, outside: &mut impl Outside) {
        self.begun += 1;
        give(&replayed, outside);
        if self.open.len() >= self.most {
            self.failed += 1;
            tracing::warn!(%flow, "too many replays are open: this one is not repeated if it is lost");
            return;
        }
        let due = replayed.since + FIRST_WAIT;
        self.open.insert(flow, OpenReplay { replayed, wait: FIRST_WAIT, due });
    }

    /// The server has acknowledged all.
    pub(crate) fn taken(&mut self, flow: &Flow, start_seq: u32) {
        if self.open.get(flow).is_some_and(|open| open.replayed.start_seq == start_seq) {
            self.open.remove(flow);
        }
    }

    /// Called on every tick.
    pub(crate) fn tick(&mut self, tools: &mut Tools<'_, impl Outside>) -> Result<(), DatapathError> {
        let is_due = |open: &OpenReplay| open.due <= tools.now;
        let due: Vec<Flow> = self.open.iter().filter(|(_, open)| is_due(open)).map(|(f, _)| *f).collect();
        due.into_iter().try_for_each(|flow| self.repeat(flow, tools))
    }

    fn repeat(&mut self, flow: Flow, tools: &mut Tools<'_, impl Outside>) -> Result<(), DatapathError> {
        let Some(open) = self.open.get_mut(&flow) else { return Ok(()) };
        let replayed = &open.replayed;
        let stands = tools.outside.binding(&flow)?.is_some_and(|b| {
            b.start_seq == replayed.start_seq && matches!(b.state, State::Bound(_) | State::Releasing(_))
        });
        if !stands {
            // It has moved on, so it was taken; or the port has another connection.
            self.open.remove(&flow);
            return Ok(());
        }
        if tools.now - replayed.since >= PATIENCE {
            self.failed += 1;
            tracing::warn!(%flow, "no server took what the client had sent: the connection is reset");
            send_reset(&flow, replayed, tools.outside);
            tools.outside.remove_binding(&flow)?;
            self.open.remove(&flow);
            return Ok(());
        }
        self.repeated += 1;
        give(replayed, tools.outside);
        open.wait *= 2;
        open.due = (tools.now + open.wait).min(open.replayed.since + PATIENCE);
        Ok(())
    }
}

fn give(replayed: &Replayed, outside: &mut impl Outside) {
    for frame in &replayed.frames {
        if let Err(error) = outside.release(frame) {
            tracing::debug!(%error, "frame of a replay lost; it is repeated");
            return;
        }
    }
}

/// Ends the client's connection, which no socket here has.
fn send_reset(flow: &Flow, replayed: &Replayed, outside: &mut impl Outside) {
    let packet = answer::reset(flow, replayed.start_ack, replayed.end);
    if let Err(error) = outside.send_packet(&packet, flow) {
        tracing::debug!(%error, %flow, "the client could not be told; it will give up by itself");
    }
}
