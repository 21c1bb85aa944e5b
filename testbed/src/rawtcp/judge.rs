//! What TCP promises to a client about every segment it gets (RFC 9293, 7323, 2018, 3168), and what it
//! has got so far. Pure: segments in, complaints out.

use std::collections::BTreeMap;

use super::segment::{ACK, CWR, ECE, FIN, Opt, RST, SYN, Segment, URG};

/// What a client that was told no MSS must be sent at most (RFC 9293 3.7.1); with IPv6 and no MSS 1220.
const MSS_LEAST: u16 = 536;

/// What both ends agreed on, seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agreed {
    pub(crate) timestamps: bool,
    pub(crate) sack: bool,
    /// By how much our window field is to be shifted, and theirs.
    pub(crate) scales: (u8, u8),
    /// The most payload, with its options, that we may send in a segment.
    pub(crate) mss: u16,
}

/// One connection, as its client may see it.
#[derive(Debug)]
pub(crate) struct Judge {
    offered: Vec<Opt>,
    least_mss: u16,
    first_window: u16,
    agreed: Option<Agreed>,
    /// Our first sequence number, and the one behind all that we have sent.
    isn: u32,
    sent_to: u32,
    /// The first and the latest TSval we have sent.
    clock: Option<(u32, u32)>,
    /// Theirs: the first byte's number, the latest TSval, what is acknowledged, the edge of the window.
    start: u32,
    their_clock: Option<u32>,
    acked: u32,
    their_edge: u32,
    their_first_window: u32,
    /// How far we have let them send.
    edge: u32,
    stream: Vec<u8>,
    /// What came ahead: the place of its first byte in the stream.
    ahead: BTreeMap<usize, Vec<u8>>,
    /// Payload bytes that had come before.
    repeated: usize,
    /// Where in the stream their FIN is.
    end: Option<usize>,
}

impl Judge {
    /// `least_mss`: what may be sent to a client whose SYN said nothing, or less.
    pub(crate) fn new(isn: u32, ipv6: bool) -> Self {
        Self {
            offered: Vec::new(),
            least_mss: if ipv6 { 1220 } else { MSS_LEAST },
            first_window: 0,
            agreed: None,
            isn,
            sent_to: isn,
            clock: None,
            start: 0,
            their_clock: None,
            acked: isn,
            their_edge: isn,
            their_first_window: 0,
            edge: 0,
            stream: Vec::new(),
            ahead: BTreeMap::new(),
            repeated: 0,
            end: None,
        }
    }

    /// What was agreed on, once the SYN-ACK has come.
    pub(crate) fn agreed(&self) -> Option<Agreed> {
        self.agreed
    }

    /// The bytes received in order.
    pub(crate) fn stream(&self) -> &[u8] {
        &self.stream
    }

    /// How many payload bytes have come that had come before.
    pub(crate) fn repeated(&self) -> usize {
        self.repeated
    }

    /// The sequence number expected next.
    pub(crate) fn expected(&self) -> u32 {
        self.start.wrapping_add(self.stream.len() as u32).wrapping_add(u32::from(self.has_ended()))
    }

    /// Whether all came, and their FIN.
    pub(crate) fn has_ended(&self) -> bool {
        self.end == Some(self.stream.len())
    }

    /// Up to where they have acknowledged.
    pub(crate) fn acked(&self) -> u32 {
        self.acked
    }

    /// Up to where we may send.
    pub(crate) fn their_edge(&self) -> u32 {
        self.their_edge
    }

    /// Blocks that came ahead, as SACK blocks.
    pub(crate) fn blocks(&self) -> Vec<(u32, u32)> {
        let place = |at: usize| self.start.wrapping_add(at as u32);
        let mut blocks: Vec<(u32, u32)> = Vec::new();
        for (at, bytes) in &self.ahead {
            let (from, to) = (place(*at), place(at + bytes.len()));
            match blocks.last_mut() {
                Some(last) if last.1 == from => last.1 = to,
                _ => blocks.push((from, to)),
            }
        }
        blocks
    }

    /// We have sent this.
    pub(crate) fn sent(&mut self, segment: &Segment) {
        if segment.has(SYN) {
            self.offered.clone_from(&segment.options);
            self.first_window = segment.window;
        }
        if let Some((now, _)) = segment.timestamps() {
            let (first, last) = self.clock.unwrap_or((now, now));
            self.clock = Some((first, if is_before(last, now) { now } else { last }));
        }
        if is_before(self.sent_to, segment.end()) {
            self.sent_to = segment.end();
        }
        let scale = self.agreed.map_or(0, |agreed| agreed.scales.0);
        let edge = segment.ack.wrapping_add(u32::from(segment.window) << scale);
        if segment.has(ACK) && is_before(self.edge, edge) {
            self.edge = edge;
        }
    }

    /// This has come. An error says what is wrong with it.
    pub(crate) fn came(&mut self, segment: &Segment) -> Result<(), String> {
        if segment.has(RST) {
            return Ok(());
        }
        refuse(segment.ecn != 0 || segment.flags & (ECE | CWR) != 0, "ECN was not agreed on")?;
        refuse(segment.has(URG), "urgent data")?;
        refuse(!segment.has(ACK), "no ACK")?;
        if segment.has(SYN) {
            return self.came_syn_ack(segment);
        }
        let agreed = self.agreed.ok_or("there was no SYN-ACK")?;
        self.check_clock(segment, agreed.timestamps)?;
        self.check_ack(segment, agreed)?;
        self.check_data(segment)
    }

    fn came_syn_ack(&mut self, segment: &Segment) -> Result<(), String> {
        refuse(segment.ack != self.isn.wrapping_add(1), "acknowledges more or less than the SYN")?;
        refuse(!segment.payload.is_empty(), "a SYN-ACK with data")?;
        let offered = |wanted: fn(&Opt) -> bool| self.offered.iter().any(wanted);
        for option in &segment.options {
            let known = match option {
                Opt::Mss(_) => true,
                Opt::Scale(_) => offered(|o| matches!(o, Opt::Scale(_))),
                Opt::SackOk => offered(|o| *o == Opt::SackOk),
                Opt::Timestamps(..) => offered(|o| matches!(o, Opt::Timestamps(..))),
                _ => false,
            };
            refuse(!known, &format!("{option:?} was not offered"))?;
        }
        let mine = self.offered.iter().find_map(|option| match option {
            Opt::Scale(scale) => Some((*scale).min(14)),
            _ => None,
        });
        let agreed = Agreed {
            timestamps: segment.timestamps().is_some(),
            sack: segment.options.contains(&Opt::SackOk),
            scales: segment.scale().map_or((0, 0), |theirs| (mine.unwrap_or(0), theirs)),
            mss: segment.mss().unwrap_or(self.least_mss),
        };
        if let Some(before) = self.agreed {
            refuse(before != agreed, &format!("another SYN-ACK: {agreed:?}, not {before:?}"))?;
            // Its clock does not matter any more: a client does not take in what it says.
            return refuse(segment.end() != self.start, "another SYN-ACK's sequence number");
        }
        self.agreed = Some(agreed);
        self.start = segment.end();
        self.acked = segment.ack;
        self.their_first_window = segment.window.into();
        self.their_edge = segment.ack.wrapping_add(self.their_first_window);
        self.edge = self.start.wrapping_add(self.first_window.into());
        self.check_clock(segment, agreed.timestamps)
    }

    fn check_clock(&mut self, segment: &Segment, agreed: bool) -> Result<(), String> {
        let Some((value, echo)) = segment.timestamps() else {
            return refuse(agreed, "no timestamps, which were agreed on");
        };
        refuse(!agreed, "timestamps, which were not agreed on")?;
        let late = self.their_clock.is_some_and(|latest| is_before(value, latest));
        // An old owner acknowledges old bytes once more; what the new one says may overtake that.
        let overtaken = segment.length() == 0 && is_before(segment.ack, self.acked);
        refuse(late && !overtaken, "its clock runs backwards")?;
        if !late {
            self.their_clock = Some(value);
        }
        let (first, last) = self.clock.ok_or("an echo of nothing")?;
        refuse(is_before(echo, first) || is_before(last, echo), "an echo of what was not sent")
    }

    fn check_ack(&mut self, segment: &Segment, agreed: Agreed) -> Result<(), String> {
        refuse(is_before(self.sent_to, segment.ack), "acknowledges what was not sent")?;
        // What it acknowledges may be old: a node that had the connection answers for its own time.
        if is_before(segment.ack, self.acked) {
            return refuse(!is_before(self.isn, segment.ack), "acknowledges less than the SYN");
        }
        self.acked = segment.ack;
        let edge = segment.ack.wrapping_add(u32::from(segment.window) << agreed.scales.1);
        // By less than one unit of the scale it may seem to (RFC 7323 2.4).
        // And when a connection moves, its window may be as at the start again: less would be refused.
        let lost = self.their_edge.wrapping_sub(edge);
        let shrunk = is_before(edge, self.their_edge) && lost >> agreed.scales.1 > 0;
        let is_fresh = edge.wrapping_sub(segment.ack) >= self.their_first_window;
        refuse(shrunk && !is_fresh, &format!("its window shrinks by {lost}"))?;
        self.their_edge = edge;
        let blocks = segment.sack();
        refuse(!blocks.is_empty() && !agreed.sack, "SACK blocks, which were not agreed on")?;
        let wrong = |(from, to): &(u32, u32)| !is_before(*from, *to) || is_before(self.sent_to, *to);
        refuse(blocks.iter().any(wrong), "SACK blocks of what was not sent")
    }

    fn check_data(&mut self, segment: &Segment) -> Result<(), String> {
        let behind = segment.seq.wrapping_add(segment.payload.len() as u32);
        let options = (segment.options.iter().any(|o| matches!(o, Opt::Timestamps(..)))) as usize * 12;
        let most = self.offered.iter().find_map(|option| match option {
            Opt::Mss(mss) => Some(*mss),
            _ => None,
        });
        let most = most.unwrap_or(0).max(self.least_mss);
        refuse(segment.payload.len() + options > usize::from(most), "longer than the MSS")?;
        refuse(is_before(self.edge, behind) && !segment.payload.is_empty(), "beyond our window")?;
        let at = segment.seq.wrapping_sub(self.start) as i32;
        if segment.has(FIN) {
            let end = at as usize + segment.payload.len();
            refuse(at < 0 || self.end.is_some_and(|known| known != end), "another end than before")?;
            self.end = Some(end);
        }
        if segment.payload.is_empty() {
            return Ok(());
        }
        refuse(at < 0, "bytes before the first one")?;
        let before = self.held();
        self.take(at as usize, &segment.payload)?;
        self.repeated += segment.payload.len() - (self.held() - before);
        Ok(())
    }

    /// How many bytes there are, in order and ahead.
    fn held(&self) -> usize {
        self.stream.len() + self.ahead.values().map(Vec::len).sum::<usize>()
    }

    fn take(&mut self, at: usize, bytes: &[u8]) -> Result<(), String> {
        let known = self.stream.len();
        if at > known {
            self.ahead.entry(at).or_insert_with(|| bytes.to_vec());
            return Ok(());
        }
        let old = bytes.len().min(known - at);
        refuse(self.stream[at..at + old] != bytes[..old], "other bytes than before at the same place")?;
        self.stream.extend_from_slice(&bytes[old..]);
        while let Some(entry) = self.ahead.first_entry() {
            if *entry.key() > self.stream.len() {
                break;
            }
            let (at, bytes) = entry.remove_entry();
            self.take(at, &bytes)?;
        }
        let beyond = self.end.is_some_and(|end| self.stream.len() > end);
        refuse(beyond, "bytes behind the FIN")
    }
}

fn refuse(wrong: bool, what: &str) -> Result<(), String> {
    if wrong { Err(what.to_owned()) } else { Ok(()) }
}

/// Of sequence numbers and clocks, which wrap.
pub(crate) fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[cfg(test)]
mod tests {
    use super::{Judge, is_before};
    use crate::rawtcp::segment::{ACK, ECE, FIN, Opt, SYN, Segment};

    const START: u32 = u32::MAX - 4;

    fn theirs(seq: u32, flags: u16, payload: &[u8]) -> Segment {
        let options = vec![Opt::Timestamps(5, 1)];
        Segment { seq, ack: 11, flags, window: 100, options, payload: payload.to_vec(), ..Segment::default() }
    }

    fn mine(seq: u32, flags: u16) -> Segment {
        let options = vec![Opt::Mss(1000), Opt::Scale(3), Opt::SackOk, Opt::Timestamps(1, 0)];
        Segment { seq, flags, window: 50, options, ..Segment::default() }
    }

    fn connected() -> Judge {
        let mut judge = Judge::new(10, false);
        judge.sent(&mine(10, SYN));
        let options = vec![Opt::Mss(1400), Opt::Scale(0), Opt::SackOk, Opt::Timestamps(4, 1)];
        let syn_ack = Segment { options, ..theirs(START.wrapping_sub(1), SYN | ACK, b"") };
        assert_eq!(judge.came(&syn_ack), Ok(()));
        judge
    }

    #[test]
    fn a_stream_is_put_in_order_across_the_wrap() {
        let mut judge = connected();
        for (at, bytes) in [(8, &b"ij"[..]), (3, b"def"), (0, b"abcd"), (2, b"cdefghi")] {
            assert_eq!(judge.came(&theirs(START.wrapping_add(at), ACK, bytes)), Ok(()));
        }
        assert_eq!(judge.stream(), b"abcdefghij");
        assert_eq!(judge.came(&theirs(START.wrapping_add(10), FIN | ACK, b"")), Ok(()));
        assert!(judge.has_ended());
        assert_eq!(judge.expected(), START.wrapping_add(11));
    }

    #[test]
    fn what_breaks_a_promise_is_refused() {
        let good = theirs(START, ACK, b"abcdef");
        assert_eq!(connected().came(&good), Ok(()));
        let with = |change: fn(&mut Segment)| {
            let mut segment = good.clone();
            change(&mut segment);
            segment
        };
        let bad = [
            with(|s| s.flags |= ECE),
            with(|s| s.ecn = 2),
            with(|s| s.flags = 0),
            with(|s| s.options.clear()),
            with(|s| s.options = vec![Opt::Timestamps(3, 1)]),
            with(|s| s.options = vec![Opt::Timestamps(5, 2)]),
            with(|s| s.ack = 12),
            with(|s| s.ack = 10),
            with(|s| s.window = 99),
            with(|s| s.options.push(Opt::Sack(vec![(11, 12)]))),
            with(|s| s.payload = vec![0; 1001]),
            with(|s| s.seq = START.wrapping_add(60)),
            with(|s| s.seq = START.wrapping_sub(3)),
        ];
        for segment in bad {
            assert!(connected().came(&segment).is_err(), "{segment:?}");
        }
        let mut judge = connected();
        assert_eq!(judge.came(&good), Ok(()));
        assert!(judge.came(&theirs(START, ACK, b"abXdef")).is_err(), "other bytes");
    }

    #[test]
    fn options_that_were_not_offered_are_refused() {
        let mut judge = Judge::new(10, false);
        judge.sent(&Segment { options: vec![], ..mine(10, SYN) });
        for option in [Opt::Scale(7), Opt::SackOk, Opt::Timestamps(1, 1), Opt::Other(30, vec![0])] {
            let segment = Segment { options: vec![option], ..theirs(START, SYN | ACK, b"") };
            assert!(judge.came(&segment).is_err(), "{segment:?}");
        }
        assert!(is_before(u32::MAX, 3) && !is_before(3, u32::MAX) && !is_before(3, 3));
    }
}
