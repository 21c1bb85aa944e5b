//! One end of a TCP connection, written from RFC 9293 (and 7323 for timestamps, 6298 for the timeout), as much of it as an
//! end does whose peer must not notice anything: in order or not, twice or not, late or lost. Knows nothing of Baton.

use crate::segment::{ACK, FIN, PSH, RST, Segment};

/// The least timeout, nanoseconds (what Linux has; RFC 6298 2.4 asks for more).
const TIMEOUT: u64 = 200_000_000;
const TIMEOUT_MAX: u64 = 5_000_000_000;
/// FINs that are sent again before a kernel gives a closed socket up: for 90 s or so.
const FINS_MAX: u8 = 20;
/// Bytes that may be under way.
const FLIGHT: usize = 14_000;

pub(crate) fn after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct End {
    snd_una: u32,
    snd_nxt: u32,
    /// From `snd_una` on.
    out: Vec<u8>,
    fin_wanted: bool,
    fin_sent: bool,
    pub(crate) rcv_nxt: u32,
    /// Came out of order.
    ahead: Vec<(u32, Vec<u8>)>,
    their_fin: Option<u32>,
    /// What came in order, and nobody has taken yet.
    pub(crate) input: Vec<u8>,
    /// Whether the connection has timestamps; what the other end said last.
    timestamps: Option<u32>,
    /// This end's clock: what it read at a time, milliseconds and nanoseconds.
    clock: (u32, u64),
    pub(crate) mss: usize,
    timeout: u64,
    pub(crate) due: Option<u64>,
    /// Reset by the other end.
    pub(crate) is_reset: bool,
    /// An acknowledgement is owed.
    owes: bool,
    /// How often nothing but its FIN was sent again.
    fins: u8,
}

impl End {
    /// An established connection.
    pub(crate) fn new(snd_nxt: u32, rcv_nxt: u32, timestamps: Option<u32>, clock: (u32, u64)) -> Self {
        Self {
            snd_una: snd_nxt,
            snd_nxt,
            out: Vec::new(),
            fin_wanted: false,
            fin_sent: false,
            rcv_nxt,
            ahead: Vec::new(),
            their_fin: None,
            input: Vec::new(),
            timestamps,
            clock,
            mss: 1400,
            timeout: TIMEOUT,
            due: None,
            is_reset: false,
            owes: true,
            fins: 0,
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.fin_wanted
    }

    pub(crate) fn close(&mut self) {
        self.fin_wanted = true;
    }

    /// The end of what has been written.
    pub(crate) fn write_seq(&self) -> u32 {
        self.snd_una.wrapping_add(self.out.len() as u32)
    }

    pub(crate) fn snd_una(&self) -> u32 {
        self.snd_una
    }

    pub(crate) fn snd_nxt(&self) -> u32 {
        self.snd_nxt
    }

    pub(crate) fn has_gap(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Whether the other end has ended its direction, and all of it has come.
    pub(crate) fn they_ended(&self) -> bool {
        self.their_fin.is_some_and(|at| after(self.rcv_nxt, at))
    }

    /// Whether either end has begun to close.
    pub(crate) fn is_closing(&self) -> bool {
        self.fin_wanted || self.their_fin.is_some()
    }

    /// Whether both directions have ended and all is acknowledged, or nobody has acknowledged the end of a socket that no
    /// program has any more for as long as a kernel waits (Linux: tcp_orphan_retries).
    pub(crate) fn is_over(&self) -> bool {
        let is_heard = self.snd_una == self.snd_nxt || self.fins >= FINS_MAX;
        self.they_ended() && self.fin_sent && is_heard
    }

    fn reads(&self, now: u64) -> u32 {
        self.clock.0.wrapping_add(((now - self.clock.1) / 1_000_000) as u32)
    }

    fn segment(&self, seq: u32, flags: u8, payload: &[u8], now: u64) -> Segment {
        let timestamps = self.timestamps.map(|theirs| (self.reads(now), theirs));
        let window = 64_000;
        Segment { seq, ack: self.rcv_nxt, flags, window, timestamps, mss: None, payload: payload.to_vec() }
    }

    /// What this end would say now, if it only acknowledged.
    pub(crate) fn acknowledgement(&self, now: u64) -> Segment {
        self.segment(self.snd_nxt, ACK, b"", now)
    }

    /// A byte before the next one, which the other end has: it must answer.
    pub(crate) fn probe(&self, now: u64) -> Segment {
        self.segment(self.snd_nxt.wrapping_sub(1), ACK, b"", now)
    }

    /// A segment of the other end.
    pub(crate) fn receive(&mut self, s: &Segment, now: u64) {
        if s.has(RST) {
            // RFC 5961 3.2: elsewhere it may be forged.
            self.is_reset |= s.seq == self.rcv_nxt;
            return;
        }
        if let (Some(theirs), Some((value, _))) = (self.timestamps, s.timestamps) {
            // RFC 7323 5.3: what is older than what came before is not taken.
            if after(theirs, value) {
                self.owes = true;
                return;
            }
            if !after(s.seq, self.rcv_nxt) {
                self.timestamps = Some(value);
            }
        }
        if s.has(ACK) {
            self.acknowledged(s.ack, now);
        }
        // RFC 9293 3.10.7.4: what is before the window is answered.
        if after(self.rcv_nxt, s.seq) {
            self.owes = true;
        }
        if !s.payload.is_empty() || s.has(FIN) {
            self.owes = true;
            let from = s.seq;
            if s.has(FIN) {
                self.their_fin = Some(from.wrapping_add(s.payload.len() as u32));
            }
            self.ahead.push((from, s.payload.clone()));
            self.take_in_order();
        }
    }

    fn acknowledged(&mut self, ack: u32, now: u64) {
        if after(ack, self.snd_nxt) {
            // RFC 9293 3.10.7.4: of something that was never sent.
            self.owes = true;
            return;
        }
        if !after(ack, self.snd_una) {
            return;
        }
        let acked = ack.wrapping_sub(self.snd_una) as usize;
        self.out.drain(..acked.min(self.out.len()));
        self.snd_una = ack;
        self.timeout = TIMEOUT;
        self.due = (self.snd_una != self.snd_nxt).then_some(now + self.timeout);
    }

    fn take_in_order(&mut self) {
        loop {
            let rcv_nxt = self.rcv_nxt;
            let next = self.ahead.iter().position(|(seq, bytes)| {
                !after(*seq, rcv_nxt) && after(seq.wrapping_add(bytes.len() as u32), rcv_nxt)
            });
            let Some(place) = next else { break };
            let (seq, bytes) = self.ahead.swap_remove(place);
            let new = &bytes[rcv_nxt.wrapping_sub(seq) as usize..];
            self.input.extend_from_slice(new);
            self.rcv_nxt = rcv_nxt.wrapping_add(new.len() as u32);
        }
        let rcv_nxt = self.rcv_nxt;
        self.ahead.retain(|(seq, bytes)| after(seq.wrapping_add(bytes.len() as u32), rcv_nxt));
        if self.their_fin == Some(rcv_nxt) {
            self.rcv_nxt = rcv_nxt.wrapping_add(1);
        }
    }

    /// What is to be sent now. `piece`: how long a segment is to be, of at most so many bytes.
    pub(crate) fn send(&mut self, now: u64, mut piece: impl FnMut(usize) -> usize) -> Vec<Segment> {
        let mut segments = Vec::new();
        loop {
            if self.fin_sent {
                break;
            }
            let sent = self.snd_nxt.wrapping_sub(self.snd_una) as usize;
            let left = self.out.len() - sent;
            if left == 0 && self.fin_wanted {
                segments.push(self.segment(self.snd_nxt, FIN | ACK, b"", now));
                self.snd_nxt = self.snd_nxt.wrapping_add(1);
                self.fin_sent = true;
                break;
            }
            if left == 0 || sent >= FLIGHT {
                break;
            }
            let length = piece(left.min(self.mss)).clamp(1, left.min(self.mss));
            let payload = self.out[sent..sent + length].to_vec();
            segments.push(self.segment(self.snd_nxt, ACK | PSH, &payload, now));
            self.snd_nxt = self.snd_nxt.wrapping_add(length as u32);
        }
        if !segments.is_empty() {
            self.owes = false;
            self.due = self.due.or(Some(now + self.timeout));
        }
        if std::mem::take(&mut self.owes) {
            segments.push(self.acknowledgement(now));
        }
        segments
    }

    /// Nothing was acknowledged in time: the first segment again. `piece`: as above, for it need not be the same.
    pub(crate) fn repeat(&mut self, now: u64, mut piece: impl FnMut(usize) -> usize) -> Option<Segment> {
        if self.due.is_none_or(|due| due > now) {
            return None;
        }
        self.timeout = (self.timeout * 2).min(TIMEOUT_MAX);
        self.due = Some(now + self.timeout);
        let sent = (self.snd_nxt.wrapping_sub(self.snd_una) as usize).min(self.out.len());
        if sent == 0 {
            let is_fin = self.snd_nxt != self.snd_una;
            self.fins = self.fins.saturating_add(u8::from(is_fin));
            if !is_fin || self.is_over() {
                self.due = None;
            }
            return is_fin.then(|| self.segment(self.snd_una, FIN | ACK, b"", now));
        }
        let length = piece(sent.min(self.mss)).clamp(1, sent.min(self.mss));
        let payload = self.out[..length].to_vec();
        Some(self.segment(self.snd_una, ACK | PSH, &payload, now))
    }
}
