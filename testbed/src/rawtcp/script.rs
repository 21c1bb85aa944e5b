//! One connection of a raw client. What is not scripted is as an ordinary client has it; waits have
//! deadlines, and what comes meanwhile is checked.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::client::RawClient;
use super::judge::{Agreed, Judge, is_before};
use super::segment::{ACK, FIN, Opt, PSH, RST, SYN, Segment};
use crate::content::Content;
use crate::tools::patient;

/// For what is waited for.
const PATIENCE: Duration = Duration::from_secs(8);
/// After so long without progress an upload is sent again.
const AGAIN: Duration = Duration::from_millis(300);
/// So many of the last segments are told when something goes wrong.
const TOLD: usize = 16;

/// A connection to be scripted. Dropping it says nothing to the other end.
#[derive(Debug)]
pub struct RawTcp<'c> {
    client: &'c RawClient,
    me: SocketAddr,
    peer: SocketAddr,
    judge: Judge,
    /// The sequence number of what is sent next.
    pub seq: u32,
    /// How many bytes we take; told in whole units of the scale.
    pub window: u32,
    /// What our clock read, in milliseconds, and when.
    clock: (u32, Instant),
    tsecr: u32,
    /// Bytes of the stream that scripts have read.
    taken: usize,
    last: VecDeque<String>,
}

/// An HTTP response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Which node's web server answered.
    pub node: String,
    /// The body.
    pub body: Vec<u8>,
}

impl<'c> RawTcp<'c> {
    pub(crate) fn new(client: &'c RawClient, me: SocketAddr, peer: SocketAddr) -> Self {
        let isn = 0x1000_0000 | u32::from(me.port()).wrapping_mul(40_503);
        let clock = (u32::from(me.port()), Instant::now());
        let judge = Judge::new(isn, peer.is_ipv6());
        let last = VecDeque::new();
        Self { client, me, peer, judge, seq: isn, window: 64_000, clock, tsecr: 0, taken: 0, last }
    }

    /// With this initial sequence number.
    pub fn isn(self, isn: u32) -> Self {
        Self { judge: Judge::new(isn, self.peer.is_ipv6()), seq: isn, ..self }
    }

    /// With a clock that reads this now.
    pub fn clock(self, reads: u32) -> Self {
        Self { clock: (reads, Instant::now()), ..self }
    }

    /// With this window from the start, in bytes.
    pub fn window(self, window: u32) -> Self {
        Self { window, ..self }
    }

    /// Our end.
    pub fn me(&self) -> SocketAddr {
        self.me
    }

    /// The bytes received in order.
    pub fn stream(&self) -> &[u8] {
        self.judge.stream()
    }

    /// How many payload bytes have come that had come before.
    pub fn repeated(&self) -> usize {
        self.judge.repeated()
    }

    /// The sequence number that we expect next.
    pub fn expected(&self) -> u32 {
        self.judge.expected()
    }

    /// Up to where we are acknowledged.
    pub fn acked(&self) -> u32 {
        self.judge.acked()
    }

    /// Whether the other end's FIN has come, and all before it.
    pub fn has_ended(&self) -> bool {
        self.judge.has_ended()
    }

    /// What our clock reads now.
    pub fn now(&self) -> u32 {
        self.clock.0.wrapping_add(self.clock.1.elapsed().as_millis() as u32)
    }

    /// Its clock goes ahead by so many milliseconds.
    pub fn tick(&mut self, milliseconds: u32) {
        self.clock.0 = self.clock.0.wrapping_add(milliseconds);
    }

    /// The options that an ordinary client offers.
    pub fn all_options(&self) -> Vec<Opt> {
        vec![Opt::Mss(1460), Opt::SackOk, Opt::Timestamps(self.now(), 0), Opt::Scale(7)]
    }

    /// A segment as it would be sent now: at the present places, with the present window and time.
    pub fn segment(&self, flags: u16, payload: &[u8]) -> Segment {
        let agreed = self.agreed();
        let scale = if flags & SYN != 0 { 0 } else { agreed.map_or(0, |agreed| agreed.scales.0) };
        let mut options = Vec::new();
        if agreed.is_some_and(|agreed| agreed.timestamps) && flags & SYN == 0 {
            // As Linux has it: two NOPs first. Here they are behind; both are right.
            options.push(Opt::Timestamps(self.now(), self.tsecr));
        }
        let blocks = self.judge.blocks();
        if agreed.is_some_and(|agreed| agreed.sack) && flags & SYN == 0 && !blocks.is_empty() {
            options.push(Opt::Sack(blocks.into_iter().take(3).collect()));
        }
        Segment {
            seq: self.seq,
            ack: if flags & ACK == 0 { 0 } else { self.expected() },
            flags,
            window: (self.window >> scale).min(65_535) as u16,
            urgent: 0,
            options,
            payload: payload.to_vec(),
            ecn: 0,
        }
    }

    fn agreed(&self) -> Option<Agreed> {
        self.judge.agreed()
    }

    /// Sends a segment as it is. What is behind it is sent next.
    #[track_caller]
    pub fn send(&mut self, segment: Segment) {
        self.judge.sent(&segment);
        if is_before(self.seq, segment.end()) {
            self.seq = segment.end();
        }
        self.forge(&segment);
    }

    /// Sends a segment as somebody else might: it changes nothing of what is right here.
    #[track_caller]
    pub fn forge(&mut self, segment: &Segment) {
        self.note('>', segment);
        self.client.send(self.me, self.peer, segment);
    }

    /// Sends a SYN with these options.
    #[track_caller]
    pub fn syn(&mut self, options: &[Opt]) {
        let syn = Segment { options: options.to_vec(), ..self.segment(SYN, b"") };
        self.send(syn);
    }

    /// Sends an ACK of all that has come in order.
    #[track_caller]
    pub fn ack(&mut self) {
        self.send(self.segment(ACK, b""));
    }

    /// Sends one segment of data.
    #[track_caller]
    pub fn write(&mut self, bytes: &[u8]) {
        self.send(self.segment(ACK | PSH, bytes));
    }

    /// The handshake, its last ACK included; returns the SYN-ACK.
    #[track_caller]
    pub fn connect(&mut self, options: &[Opt]) -> Segment {
        self.syn(options);
        let syn_ack = self.expect("a SYN-ACK", |segment| segment.is(SYN | ACK));
        self.ack();
        syn_ack
    }

    /// The handshake with the options that an ordinary client offers.
    #[track_caller]
    pub fn open(&mut self) -> Segment {
        let options = self.all_options();
        self.connect(&options)
    }

    /// Waits for a segment; all that comes before it is checked and passed by.
    ///
    /// # Panics
    /// When it does not come in time, or anything comes that should not: a RST among others, unless it is
    /// what was waited for.
    #[track_caller]
    pub fn expect(&mut self, what: &str, wanted: impl Fn(&Segment) -> bool) -> Segment {
        self.expect_until(Instant::now() + patient(PATIENCE), what, wanted)
    }

    #[track_caller]
    fn expect_until(&mut self, until: Instant, what: &str, wanted: impl Fn(&Segment) -> bool) -> Segment {
        loop {
            let Some(segment) = self.receive(until) else { self.fail(&format!("no {what} came")) };
            if wanted(&segment) {
                return segment;
            }
            if segment.has(RST) {
                self.fail(&format!("a RST came where {what} was expected"));
            }
        }
    }

    /// Waits for a segment, and loses it: it is as if it had never come.
    ///
    /// # Panics
    /// When it does not come in time. What comes before it is as in [`RawTcp::expect`].
    #[track_caller]
    pub fn lose(&mut self, what: &str, wanted: impl Fn(&Segment) -> bool) {
        let until = Instant::now() + patient(PATIENCE);
        loop {
            let segment = self.client.receive(self.me, self.peer, until);
            let Some(segment) = segment else { self.fail(&format!("no {what} came")) };
            if wanted(&segment) {
                return self.note('x', &segment);
            }
            self.take(&segment);
        }
    }

    /// Waits for a segment, which must be the very next one.
    ///
    /// # Panics
    /// As [`RawTcp::expect`].
    #[track_caller]
    pub fn expect_next(&mut self, what: &str, wanted: impl Fn(&Segment) -> bool) -> Segment {
        match self.receive(Instant::now() + patient(PATIENCE)) {
            Some(segment) if wanted(&segment) => segment,
            Some(_) => self.fail(&format!("something came before {what}")),
            None => self.fail(&format!("no {what} came")),
        }
    }

    /// The next segment, checked.
    #[track_caller]
    fn receive(&mut self, until: Instant) -> Option<Segment> {
        let segment = self.client.receive(self.me, self.peer, until)?;
        self.take(&segment);
        Some(segment)
    }

    #[track_caller]
    fn take(&mut self, segment: &Segment) {
        self.note('<', segment);
        if let Err(why) = self.judge.came(segment) {
            self.fail(&why);
        }
        let connects = self.tsecr == 0 || !segment.has(SYN);
        if let Some((value, _)) = segment.timestamps().filter(|_| connects) {
            self.tsecr = value;
        }
    }

    /// Reads so many more bytes of the stream, acknowledging what comes; fewer, if it ends before.
    #[track_caller]
    pub fn read(&mut self, bytes: usize) -> Vec<u8> {
        while self.stream().len() - self.taken < bytes && !self.has_ended() {
            let what = format!("{bytes} bytes of data");
            let segment = self.expect(&what, |segment| segment.length() > 0);
            if !segment.has(SYN) {
                self.ack();
            }
        }
        let (from, to) = (self.taken, self.stream().len().min(self.taken + bytes));
        self.taken = to;
        self.stream()[from..to].to_vec()
    }

    /// Reads a response of HTTP/1.1 with a Content-Length.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = self.read(1);
            if byte.is_empty() {
                self.fail(&format!("closed within a head: {:?}", String::from_utf8_lossy(&head)));
            }
            head.extend(byte);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let field = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let length = field("content-length").and_then(|length| length.parse().ok());
        let (Some(status), Some(length)) = (status, length) else {
            self.fail(&format!("this is no head with a length: {head:?}"))
        };
        let node = field("x-node").unwrap_or("?").to_owned();
        Answer { status, node, body: self.read(length) }
    }

    /// Reads the response to a request for a content, checks its bytes, and says which node answered.
    #[track_caller]
    pub fn answer_of(&mut self, content: &Content) -> String {
        let answer = self.answer();
        if answer.status != 200 || !content.is(&answer.body) {
            self.fail(&format!("a wrong answer for {}: status {}", content.path(), answer.status));
        }
        answer.node
    }

    /// Sends bytes in segments of `piece` bytes, as the other end's window allows, and until they are
    /// acknowledged. What is not in time is sent again.
    #[track_caller]
    pub fn upload(&mut self, bytes: &[u8], piece: usize) {
        let (start, until) = (self.seq, Instant::now() + 2 * patient(PATIENCE));
        let mut next = 0;
        while self.acked().wrapping_sub(start) as i32 != bytes.len() as i32 {
            let room = self.judge.their_edge().wrapping_sub(start) as i32;
            while next < bytes.len() && (next + piece.min(bytes.len() - next)) as i32 <= room {
                let part = &bytes[next..bytes.len().min(next + piece)];
                let seq = start.wrapping_add(next as u32);
                self.send(Segment { seq, ..self.segment(ACK | PSH, part) });
                next += part.len();
            }
            let acked = self.acked();
            while self.acked() == acked {
                let Some(_) = self.receive(Instant::now() + AGAIN) else { break };
            }
            if self.acked() == acked {
                if Instant::now() > until {
                    self.fail("an upload does not get on");
                }
                next = acked.wrapping_sub(start) as usize;
            }
        }
    }

    /// Asks whether the other end is there, as keepalives do (RFC 9293 3.8.4), and waits for its answer,
    /// which must be the next thing that comes.
    #[track_caller]
    pub fn probe(&mut self, garbage: &[u8]) {
        let probe = Segment { seq: self.seq.wrapping_sub(1), ..self.segment(ACK, garbage) };
        let (seq, expected) = (self.seq, self.expected());
        self.send(probe);
        let is_answer = |s: &Segment| s.is(ACK) && s.length() == 0 && s.ack == seq && s.seq == expected;
        self.expect_next("answer to a keepalive probe", is_answer);
    }

    /// Closes: FIN, the other end's FIN, and all acknowledged.
    #[track_caller]
    pub fn close(&mut self) {
        self.send(self.segment(FIN | ACK, b""));
        self.expect_close();
    }

    /// After our FIN: waits for its acknowledgement and for the other end's FIN, and acknowledges that.
    #[track_caller]
    pub fn expect_close(&mut self) {
        let until = Instant::now() + patient(PATIENCE);
        while !self.has_ended() || self.acked() != self.seq {
            let segment = self.expect_until(until, "end of the connection", |_| true);
            if segment.length() > 0 {
                self.ack();
            }
        }
    }

    /// Ends the script: what has come for its port until now is thrown away, and what comes later is the
    /// next script's.
    pub fn forget(self) {
        while self.client.receive(self.me, self.peer, Instant::now()).is_some() {}
    }

    fn note(&mut self, direction: char, segment: &Segment) {
        if self.last.len() == TOLD {
            self.last.pop_front();
        }
        let Segment { seq, ack, flags, window, options, payload, ecn, urgent } = segment;
        let names = ["F", "S", "R", "P", ".", "U", "E", "W", "A"];
        let flags: String = (0..9).filter(|bit| flags & 1 << bit != 0).map(|bit| names[bit]).collect();
        self.last.push_back(format!(
            "{direction} {flags} seq {seq} ack {ack} win {window} len {} ecn {ecn} urg {urgent} {options:?}",
            payload.len()
        ));
    }

    #[track_caller]
    fn fail(&self, why: &str) -> ! {
        let last: Vec<&str> = self.last.iter().map(String::as_str).collect();
        panic!("{} to {}: {why}\n{}", self.me, self.peer, last.join("\n"))
    }
}
