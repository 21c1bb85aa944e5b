//! A client: opens a connection, sends its requests, checks every byte of the answers. Written from RFC 9293 and 9112;
//! for it there is one server, which has the VIP.

use baton_cluster::Flow;

use crate::message::{answer, coded, request};
use crate::plan::{ClientPlan, MS};
use crate::segment::{ACK, RST, SYN, Segment};
use crate::tcp::End;

/// A user waits so long for an answer, nanoseconds.
const PATIENCE: u64 = 30_000 * MS;
/// And so long when it has an alternative.
const IMPATIENCE: u64 = 6_000 * MS;
/// SYNs that a client sends before it gives up: the last one after about a minute (RFC 1122 4.2.3.5 asks for more).
const SYNS: u32 = 6;
/// A client that waits for an answer for so long asks whether anybody is there, and again, nanoseconds.
const PROBE_AFTER: u64 = 5_000 * MS;
/// For so long a client waits for "100 Continue" (RFC 9110 10.1.1: not for ever), nanoseconds.
const CONTINUE_WITHIN: u64 = 1000 * MS;

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Waiting,
    Opening,
    Open,
    /// All was answered, and it has closed.
    Done,
    /// It was told that nobody is there to serve it.
    Refused,
    /// Its connection was reset, or is silent for too long.
    Reset,
    /// Nobody has answered its SYNs.
    Unheard,
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) number: usize,
    pub(crate) flow: Flow,
    pub(crate) plan: ClientPlan,
    pub(crate) stage: Stage,
    pub(crate) end: Option<End>,
    isn: u32,
    /// When the SYN is sent again, and how long it waits then.
    pub(crate) syn_due: Option<u64>,
    syn_wait: u64,
    syns: u32,
    clock: (u32, u64),
    /// Requests that have been written, at least in part; bytes that wait to be written.
    asked: usize,
    /// When each of them was.
    pub(crate) asked_at: Vec<u64>,
    unwritten: Vec<u8>,
    /// What the request carries whose head was written last, while its client waits for the server's word; and until when.
    withheld: Option<(Vec<u8>, Option<u64>)>,
    pub(crate) write_at: u64,
    pub(crate) answered: usize,
    /// Every byte that has come, by its place; to be compared with what comes again.
    came: Vec<u8>,
    start: u32,
    /// The length of each answer that was taken off the stream.
    taken: Vec<usize>,
    /// When something came last.
    pub(crate) heard: u64,
    /// When some of an answer came last, or it wrote something.
    pub(crate) got: u64,
    /// When it asked last whether the server is there.
    probed: u64,
    /// When it is looked at again.
    pub(crate) timer: Option<u64>,
}

impl Client {
    pub(crate) fn new(number: usize, flow: Flow, plan: ClientPlan, isn: u32) -> Self {
        Self {
            number,
            flow,
            plan,
            stage: Stage::Waiting,
            end: None,
            isn,
            syn_due: None,
            syn_wait: 1000 * MS,
            syns: 0,
            clock: (isn.rotate_left(7), 0),
            asked: 0,
            asked_at: Vec::new(),
            unwritten: Vec::new(),
            withheld: None,
            write_at: 0,
            answered: 0,
            came: Vec::new(),
            start: 0,
            taken: Vec::new(),
            heard: 0,
            got: 0,
            probed: 0,
            timer: None,
        }
    }

    fn syn(&self, now: u64) -> Segment {
        let timestamps = self.plan.timestamps.then_some((self.reads(now), 0));
        let mss = Some(1460);
        Segment { seq: self.isn, ack: 0, flags: SYN, window: 64_000, timestamps, mss, payload: Vec::new() }
    }

    fn reads(&self, now: u64) -> u32 {
        self.clock.0.wrapping_add(((now - self.clock.1) / MS) as u32)
    }

    /// Opens, or asks again.
    pub(crate) fn open(&mut self, now: u64) -> Option<Segment> {
        if !matches!(self.stage, Stage::Waiting | Stage::Opening) || self.syn_due.is_some_and(|at| at > now) {
            return None;
        }
        self.stage = Stage::Opening;
        self.syns += 1;
        if self.syns > SYNS {
            self.stage = Stage::Unheard;
            return None;
        }
        self.syn_due = Some(now + self.syn_wait);
        self.syn_wait *= 2;
        Some(self.syn(now))
    }

    /// A segment of the server's. An error: it is not what a server would send.
    pub(crate) fn receive(&mut self, s: &Segment, now: u64) -> Result<(), String> {
        match self.stage {
            Stage::Opening if s.has(RST) => {
                if s.has(ACK) && s.ack == self.isn.wrapping_add(1) {
                    self.stage = Stage::Reset;
                }
                return Ok(());
            }
            Stage::Opening if s.has(SYN) && s.has(ACK) && s.ack == self.isn.wrapping_add(1) => {
                if s.timestamps.is_some() != self.plan.timestamps {
                    return Err("timestamps were not agreed on as offered".into());
                }
                let stamps = s.timestamps.map(|(value, _)| value);
                let mut end = End::new(s.ack, s.seq.wrapping_add(1), stamps, self.clock);
                end.mss = self.plan.mss.min(usize::from(s.mss.unwrap_or(536)));
                self.start = s.seq.wrapping_add(1);
                self.end = Some(end);
                self.stage = Stage::Open;
                (self.heard, self.got) = (now, now);
                self.syn_due = None;
                return Ok(());
            }
            Stage::Open => {}
            Stage::Done => {
                // RFC 9293 3.10.7.4: in TIME-WAIT a FIN that comes again is acknowledged again.
                if let Some(end) = &mut self.end {
                    end.receive(s, now);
                }
                return Ok(());
            }
            _ => return Ok(()),
        }
        if s.has(SYN) {
            return Ok(()); // a late copy
        }
        self.heard = now;
        self.compare(s)?;
        let Some(end) = &mut self.end else { return Ok(()) };
        end.receive(s, now);
        if end.is_reset {
            self.stage = Stage::Reset;
            return Ok(());
        }
        let input = std::mem::take(&mut end.input);
        if !input.is_empty() {
            self.got = now;
        }
        self.came.extend(input);
        self.check()
    }

    /// What has come before must be the same when it comes again.
    fn compare(&self, s: &Segment) -> Result<(), String> {
        for (at, byte) in s.payload.iter().enumerate() {
            let place = s.seq.wrapping_add(at as u32).wrapping_sub(self.start) as usize;
            if self.came.get(place).is_some_and(|known| known != byte) {
                return Err(format!("byte {place} of the stream is another one now"));
            }
        }
        Ok(())
    }

    /// Takes whole answers off the stream.
    fn check(&mut self) -> Result<(), String> {
        loop {
            let from: usize = self.taken.iter().sum();
            let Some(plan) = self.plan.requests.get(self.answered) else {
                let left = self.came.len() - from;
                return if left == 0 { Ok(()) } else { Err(format!("{left} bytes behind the last answer")) };
            };
            let rest = &self.came[from..];
            let Some(end) = rest.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(()) };
            let head = String::from_utf8_lossy(&rest[..end]);
            if head.starts_with("HTTP/1.1 100") {
                if !plan.upload.is_some_and(|upload| upload.expects) {
                    return Err(format!("answer {}: {head}, and nobody asked", self.answered));
                }
                self.taken.push(end + 4);
                let (content, _) = self.withheld.take().unwrap_or_default();
                self.unwritten.extend(content);
                continue;
            }
            if head.starts_with("HTTP/1.1 503") {
                self.stage = Stage::Refused;
                return Ok(());
            }
            let node = head.lines().find_map(|line| line.strip_prefix("Server: n")?.parse().ok());
            let Some(node) = node.filter(|_| head.starts_with("HTTP/1.1 200")) else {
                return Err(format!("answer {}: {head}", self.answered));
            };
            let expected = answer((self.number, self.answered), plan.body, node);
            let got = &rest[..rest.len().min(expected.len())];
            if !expected.starts_with(got) {
                return Err(format!("answer {} is not what its server wrote", self.answered));
            }
            if got.len() < expected.len() {
                return Ok(());
            }
            self.answered += 1;
            self.taken.push(expected.len());
        }
    }

    /// Writes what is to be written now, and says when to look again.
    pub(crate) fn write(&mut self, now: u64) {
        if self.stage != Stage::Open || now < self.write_at {
            return;
        }
        if self.withheld.as_ref().is_some_and(|(_, until)| until.is_some_and(|until| until <= now)) {
            let (content, _) = self.withheld.take().unwrap_or_default();
            self.unwritten.extend(content);
        }
        while self.may_ask() {
            let (id, plan) = ((self.number, self.asked), &self.plan.requests[self.asked]);
            self.unwritten.extend(request(id, plan));
            match plan.upload {
                Some(upload) if upload.expects => self.withheld = Some((coded(id, upload), None)),
                Some(upload) => self.unwritten.extend(coded(id, upload)),
                None => {}
            }
            self.asked_at.push(now);
            self.asked += 1;
        }
        let Some(end) = &mut self.end else { return };
        if !self.unwritten.is_empty() {
            let piece = self.unwritten.len().min(self.plan.piece);
            let bytes: Vec<u8> = self.unwritten.drain(..piece).collect();
            end.write(&bytes);
            self.write_at = now + self.plan.pause;
            self.got = now;
        }
        if self.unwritten.is_empty()
            && let Some((_, until @ None)) = &mut self.withheld
        {
            *until = Some(now + CONTINUE_WITHIN);
        }
        if self.answered == self.plan.requests.len() {
            end.close();
        }
    }

    fn may_ask(&self) -> bool {
        let most = self.plan.requests.len().min(self.answered + self.plan.depth);
        self.asked < most && self.withheld.is_none()
    }

    pub(crate) fn has_more_to_write(&self) -> bool {
        let all = self.answered == self.plan.requests.len();
        let closes = all && self.end.as_ref().is_some_and(|end| !end.is_closed());
        self.stage == Stage::Open && (self.may_ask() || closes || !self.unwritten.is_empty())
    }

    /// When it does not wait any longer for the server's word.
    pub(crate) fn waits_until(&self) -> Option<u64> {
        self.withheld.as_ref().and_then(|(_, until)| *until)
    }

    /// Asks whether the server is there, when nothing is under way and nothing has come for long (RFC 9293 3.8.4).
    pub(crate) fn probe(&mut self, now: u64) -> Option<Segment> {
        let end = self.end.as_ref().filter(|end| self.stage == Stage::Open && end.due.is_none())?;
        if now < self.probe_at() {
            return None;
        }
        self.probed = now;
        Some(end.probe(now))
    }

    /// When it asks next.
    pub(crate) fn probe_at(&self) -> u64 {
        self.heard.max(self.probed) + PROBE_AFTER
    }

    /// Nothing is under way, and for so long nothing has come: its user has no more patience.
    pub(crate) fn gives_up(&mut self, now: u64) -> bool {
        let idle = self.unwritten.is_empty() && self.end.as_ref().is_some_and(|end| end.due.is_none());
        let gives_up = self.stage == Stage::Open && idle && now > self.got + PATIENCE;
        if gives_up {
            self.stage = Stage::Reset;
        }
        gives_up
    }

    /// Nothing of its first answer has come for so long that its user tries something else.
    pub(crate) fn leaves(&mut self, now: u64) -> bool {
        let leaves = self.stage == Stage::Open && self.answered == 0 && now > self.got + IMPATIENCE;
        if leaves {
            self.stage = Stage::Reset;
        }
        leaves
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Done | Stage::Refused | Stage::Reset | Stage::Unheard)
    }

    pub(crate) fn finds_nobody(&self) -> bool {
        self.stage == Stage::Unheard
    }

    /// Whether it is content: everything was answered, and the connection has ended.
    pub(crate) fn finish(&mut self) {
        if self.stage == Stage::Open
            && self.answered == self.plan.requests.len()
            && self.end.as_ref().is_some_and(End::is_over)
        {
            self.stage = Stage::Done;
        }
    }
}
