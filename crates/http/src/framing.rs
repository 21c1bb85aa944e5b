//! Where each message on a connection ends, followed over the packets of both directions (RFC 9112 6).
//! The reference model of the packet path's follower: a fixed number of words, resumable at every byte.
//! It sees packets as they come, lost, doubled or out of order, and never decides what happens to them.

use crate::reason::Reason;
use crate::scan::{Phase, Scan, Side};

/// The most requests that may be unanswered: one bit is kept of each.
pub const OUTSTANDING_MAX: u32 = 32;

/// What became of a packet's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fed {
    /// Taken from the next byte expected on; what lay before it in the packet was old.
    Followed,
    /// Nothing in it is new.
    Old,
    /// It began beyond the next byte expected, but all between them is body: taken.
    Skipped,
    /// It begins beyond the next byte expected, and what lies between matters: not taken.
    Gap,
    /// The connection is in doubt, since now or before: not followed any more.
    Doubt(Reason),
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    at: u32,
    boundary: u32,
    scan: Scan,
}

/// The requests that have been asked, and which of the unanswered ones are HEAD requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outstanding {
    asked: u32,
    answered: u32,
    heads: u32,
    upgrades: u32,
    /// A request, or a final response, has said that the connection ends with it.
    closing: bool,
}

/// Both directions of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    requests: Follower,
    responses: Follower,
    outstanding: Outstanding,
    doubt: Option<Reason>,
    /// The responses cannot be read, but the requests are followed on.
    deaf: Option<Reason>,
}

/// What a packet is to a follower, before its bytes are looked at.
enum PacketPlace {
    Old,
    Gap,
    /// Its bytes from here on are the next ones.
    Next(usize),
    /// Its first byte is, once so much body is skipped.
    Beyond(u32),
}

impl Follower {
    fn new(side: Side, at: u32) -> Self {
        Self { at, boundary: at, scan: Scan::new(side) }
    }

    /// The sequence number of the next byte to look at; in doubt, of the byte that brought it.
    pub fn at(&self) -> u32 {
        self.at
    }

    /// The sequence number at which the last message ended and the present or next one begins.
    pub fn boundary(&self) -> u32 {
        self.boundary
    }

    /// Where in a message the next byte stands.
    pub fn phase(&self) -> Phase {
        self.scan.phase
    }

    /// Bytes of the body or chunk still to come that are skipped unseen.
    pub fn left(&self) -> u64 {
        self.scan.skippable()
    }

    /// Whether no message is under way.
    pub fn is_between_messages(&self) -> bool {
        self.scan.phase == Phase::Start
    }

    fn place(&self, seq: u32, len: usize) -> PacketPlace {
        let ahead = seq.wrapping_sub(self.at);
        let behind = self.at.wrapping_sub(seq);
        // Half of the numbers are ahead, half behind (RFC 9293 3.4).
        match usize::try_from(behind) {
            _ if len == 0 => PacketPlace::Old,
            Ok(behind) if ahead == 0 || ahead >= 1 << 31 => {
                if behind < len {
                    PacketPlace::Next(behind)
                } else {
                    PacketPlace::Old
                }
            }
            _ if u64::from(ahead) <= self.scan.skippable() => PacketPlace::Beyond(ahead),
            _ => PacketPlace::Gap,
        }
    }

    /// Takes the bytes up to the end of a run, at least one; there must be one.
    fn take(&mut self, bytes: &[u8], outstanding: &mut Outstanding) -> Result<usize, Reason> {
        let run = usize::try_from(self.scan.skippable()).unwrap_or(usize::MAX).min(bytes.len());
        if run > 0 {
            self.pass(run as u32, outstanding);
            return Ok(run);
        }
        let Some(c) = bytes.first() else { return Ok(0) };
        if self.is_between_messages() && self.scan.side == Side::Responses && outstanding.is_none() {
            return Err(Reason::Unasked);
        }
        self.scan.step(*c)?;
        self.at = self.at.wrapping_add(1);
        if self.scan.phase == Phase::HeadDone {
            match self.scan.side {
                Side::Requests => self.asked(outstanding)?,
                Side::Responses => self.answering(outstanding)?,
            }
        }
        self.note_end(outstanding);
        Ok(1)
    }

    /// Passes over body, at most what is left of it.
    fn pass(&mut self, n: u32, outstanding: &mut Outstanding) {
        self.scan.skip(n.into());
        self.at = self.at.wrapping_add(n);
        self.note_end(outstanding);
    }

    fn asked(&mut self, outstanding: &mut Outstanding) -> Result<(), Reason> {
        outstanding.ask(self.scan.is_head(), self.scan.asks_for_upgrade())?;
        outstanding.closing |= self.scan.is_last();
        self.scan.enter_body();
        Ok(())
    }

    /// RFC 9112 6.3, as far as a length is known.
    fn answering(&mut self, outstanding: &mut Outstanding) -> Result<(), Reason> {
        outstanding.closing |= !self.is_interim() && self.scan.is_last();
        let bodiless = matches!(self.scan.response_status(), 204 | 304) || outstanding.next_is_head();
        if bodiless || self.is_interim() {
            self.scan.skip_body();
        } else if self.scan.is_chunked() || self.scan.has_length() {
            self.scan.enter_body();
        } else {
            return Err(Reason::UntilClose);
        }
        Ok(())
    }

    /// RFC 9110 15.2: the response to the same request is still to come.
    fn is_interim(&self) -> bool {
        (100..200).contains(&self.scan.response_status())
    }

    fn note_end(&mut self, outstanding: &mut Outstanding) {
        if self.is_between_messages() {
            self.boundary = self.at;
            if self.scan.side == Side::Responses && !self.is_interim() {
                outstanding.answered = outstanding.answered.wrapping_add(1);
            }
        }
    }
}

impl Outstanding {
    /// Requests whose heads have been seen, modulo 2^32.
    pub fn asked(&self) -> u32 {
        self.asked
    }

    /// Final responses that have ended, modulo 2^32.
    pub fn answered(&self) -> u32 {
        self.answered
    }

    /// Which of the unanswered requests are HEAD requests: the bit of a request is its number modulo 32.
    pub fn heads(&self) -> u32 {
        self.heads
    }

    /// Which of the unanswered requests ask for another protocol, other than HTTP/2.
    pub fn upgrades(&self) -> u32 {
        self.upgrades
    }

    /// Whether the oldest unanswered request asks for another protocol, other than HTTP/2.
    pub fn next_may_upgrade(&self) -> bool {
        self.upgrades & (1 << (self.answered % OUTSTANDING_MAX)) != 0
    }

    /// Whether no further request can be followed before one is answered.
    pub fn is_full(&self) -> bool {
        self.asked.wrapping_sub(self.answered) >= OUTSTANDING_MAX
    }

    /// Whether every request has been answered.
    pub fn is_none(&self) -> bool {
        self.asked == self.answered
    }

    fn ask(&mut self, head: bool, upgrade: bool) -> Result<(), Reason> {
        if self.is_full() {
            return Err(Reason::TooManyAsked);
        }
        let bit = 1 << (self.asked % OUTSTANDING_MAX);
        self.heads = if head { self.heads | bit } else { self.heads & !bit };
        self.upgrades = if upgrade { self.upgrades | bit } else { self.upgrades & !bit };
        self.asked = self.asked.wrapping_add(1);
        Ok(())
    }

    /// Whether the oldest unanswered request is a HEAD request.
    fn next_is_head(&self) -> bool {
        self.heads & (1 << (self.answered % OUTSTANDING_MAX)) != 0
    }
}

impl Exchange {
    /// A connection on which nothing is under way: the sequence numbers of the next request's and the
    /// next response's first bytes.
    pub fn new(request: u32, response: u32) -> Self {
        Self {
            requests: Follower::new(Side::Requests, request),
            responses: Follower::new(Side::Responses, response),
            outstanding: Outstanding::default(),
            doubt: None,
            deaf: None,
        }
    }

    /// Takes a packet of the client: the sequence number of its first byte, and its payload.
    pub fn request(&mut self, seq: u32, payload: &[u8]) -> Fed {
        self.feed(Side::Requests, seq, payload, false).0
    }

    /// Takes a packet of the server.
    pub fn response(&mut self, seq: u32, payload: &[u8]) -> Fed {
        self.feed(Side::Responses, seq, payload, false).0
    }

    /// As [`Exchange::request`], but stops behind the next end of a request; also says how many bytes of
    /// the payload are done with. What is left begins with the next request, or with empty lines before it.
    pub fn one_request(&mut self, seq: u32, payload: &[u8]) -> (Fed, usize) {
        self.feed(Side::Requests, seq, payload, true)
    }

    /// As [`Exchange::response`], but stops behind the next end of a response, interim or final.
    pub fn one_response(&mut self, seq: u32, payload: &[u8]) -> (Fed, usize) {
        self.feed(Side::Responses, seq, payload, true)
    }

    /// The responses are in doubt, but where the next request begins is not: only the requests are followed
    /// from now on, and nothing is known of what has been answered.
    pub fn without_responses(&mut self) {
        self.deaf = self.deaf.or(self.doubt.take());
    }

    /// A packet of the client comes: where nothing is known of the answers, none counts as outstanding.
    pub fn expect_no_responses(&mut self) {
        if self.deaf.is_some() {
            self.outstanding.answered = self.outstanding.asked;
        }
    }

    /// Whether a request, or a final response, has said that the connection ends with it (RFC 9112 9.3).
    pub fn is_closing(&self) -> bool {
        self.outstanding.closing
    }

    /// Whether nothing is under way: every request has been answered, both directions are between
    /// messages, nothing is in doubt, and further requests may come. Then the next byte of the client at
    /// `requests().at()` begins a request.
    pub fn is_idle(&self) -> bool {
        self.is_answered() && self.requests.is_between_messages()
    }

    /// As [`Exchange::is_idle`], but the next request may have begun.
    pub fn is_answered(&self) -> bool {
        self.doubt.is_none()
            && self.deaf.is_none()
            && !self.outstanding.closing
            && self.outstanding.is_none()
            && self.responses.is_between_messages()
    }

    /// Why the connection is not followed any more, if so.
    pub fn doubt(&self) -> Option<Reason> {
        self.doubt
    }

    /// The client's direction.
    pub fn requests(&self) -> &Follower {
        &self.requests
    }

    /// The server's direction.
    pub fn responses(&self) -> &Follower {
        &self.responses
    }

    /// What has been asked and answered.
    pub fn outstanding(&self) -> &Outstanding {
        &self.outstanding
    }

    fn feed(&mut self, side: Side, seq: u32, payload: &[u8], one: bool) -> (Fed, usize) {
        let deaf = self.deaf.filter(|_| side == Side::Responses);
        if let Some(reason) = self.doubt.or(deaf) {
            return (Fed::Doubt(reason), 0);
        }
        let follower = match side {
            Side::Requests => &mut self.requests,
            Side::Responses => &mut self.responses,
        };
        let (fed, mut used) = match follower.place(seq, payload.len()) {
            PacketPlace::Old => return (Fed::Old, payload.len()),
            PacketPlace::Gap => return (Fed::Gap, 0),
            PacketPlace::Next(from) => (Fed::Followed, from),
            PacketPlace::Beyond(ahead) => {
                follower.pass(ahead, &mut self.outstanding);
                (Fed::Skipped, 0)
            }
        };
        let mut ended = fed == Fed::Skipped && follower.is_between_messages();
        while !(one && ended) {
            let Some(rest) = payload.get(used..).filter(|rest| !rest.is_empty()) else { break };
            let before = follower.is_between_messages();
            match follower.take(rest, &mut self.outstanding) {
                Ok(taken) => used += taken,
                Err(reason) => {
                    self.doubt = Some(reason);
                    return (Fed::Doubt(reason), used);
                }
            }
            // An empty line before a request is none.
            ended = follower.is_between_messages() && !before;
        }
        (fed, used)
    }
}
