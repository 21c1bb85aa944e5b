//! What a client's capture says about its connections: resets, retransmissions, order, clocks,
//! options. Pure: segments in, counts out.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use crate::owners::TwoOwners;

/// One TCP segment as captured. After segmentation offload it may be longer than a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Who sent it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// The sequence number of its first byte.
    pub sequence: u32,
    /// How many payload bytes it has.
    pub payload: u32,
    /// SYN.
    pub syn: bool,
    /// FIN.
    pub fin: bool,
    /// RST.
    pub rst: bool,
    /// TSval, if it has the option.
    pub timestamp: Option<u32>,
    /// The options, on a SYN or SYN-ACK.
    pub options: Option<SynOptions>,
}

/// What a SYN offered or a SYN-ACK agreed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SynOptions {
    /// Maximum segment size in bytes.
    pub mss: Option<u16>,
    /// Window scale shift.
    pub window_scale: Option<u8>,
    /// Selective acknowledgements.
    pub sack: bool,
    /// Timestamps.
    pub timestamps: bool,
    /// The window field, unscaled.
    pub window: u16,
}

/// One direction of a connection, or of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Direction {
    /// Segments.
    pub segments: u64,
    /// Payload bytes, repeated ones included.
    pub payload_bytes: u64,
    /// Segments of which some sequence number (SYN and FIN have one) had been seen before.
    pub retransmitted: u64,
    /// Segments that came after a later one but had not been seen before.
    pub out_of_order: u64,
    /// RSTs.
    pub resets: u64,
    /// RSTs before both ends' FINs had been seen: those that break a connection. Later ones answer what
    /// is repeated after the end, which happens when packets are lost.
    pub early_resets: u64,
    /// Segments with a TSval before the highest one seen.
    pub timestamp_regressions: u64,
}

impl Direction {
    fn add(&mut self, other: &Self) {
        self.segments += other.segments;
        self.payload_bytes += other.payload_bytes;
        self.retransmitted += other.retransmitted;
        self.out_of_order += other.out_of_order;
        self.resets += other.resets;
        self.early_resets += other.early_resets;
        self.timestamp_regressions += other.timestamp_regressions;
    }
}

/// One connection. A source port that is used again makes a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// The client's end.
    pub client: SocketAddr,
    /// The server's end.
    pub server: SocketAddr,
    /// From the client.
    pub from_client: Direction,
    /// From the server.
    pub from_server: Direction,
    /// What the client's SYN offered, if it was captured.
    pub syn: Option<SynOptions>,
    /// What the SYN-ACK agreed to, if it was captured.
    pub syn_ack: Option<SynOptions>,
}

/// All connections of a capture.
#[derive(Debug, Clone, Default)]
pub struct Analysis {
    /// Each connection, in the order in which they began.
    pub flows: Vec<Flow>,
    /// Those that two servers answered. Full only if the capture has the heads of the answers
    /// ([`crate::Capture::with_answers`]), by which servers differ.
    pub two_owners: Vec<TwoOwners>,
}

impl Analysis {
    /// Everything that clients sent.
    pub fn from_clients(&self) -> Direction {
        self.sum(|flow| &flow.from_client)
    }

    /// Everything that servers sent.
    pub fn from_servers(&self) -> Direction {
        self.sum(|flow| &flow.from_server)
    }

    /// RSTs in both directions.
    pub fn resets(&self) -> u64 {
        self.from_clients().resets + self.from_servers().resets
    }

    /// RSTs in both directions that came before both ends had sent their FINs.
    pub fn early_resets(&self) -> u64 {
        self.from_clients().early_resets + self.from_servers().early_resets
    }

    /// Retransmitted segments in both directions.
    pub fn retransmitted(&self) -> u64 {
        self.from_clients().retransmitted + self.from_servers().retransmitted
    }

    fn sum(&self, direction: impl Fn(&Flow) -> &Direction) -> Direction {
        let mut sum = Direction::default();
        self.flows.iter().for_each(|flow| sum.add(direction(flow)));
        sum
    }

    /// Analyses segments in the order of their capture. Servers listen on `server_port`; segments
    /// of other ports are left out.
    pub fn of(segments: impl IntoIterator<Item = Segment>, server_port: u16) -> Self {
        let mut flows: Vec<Flow> = Vec::new();
        let mut live: HashMap<(SocketAddr, SocketAddr), (usize, [Tracker; 2])> = HashMap::new();
        for segment in segments {
            let to_server = segment.to.port() == server_port;
            if !to_server && segment.from.port() != server_port {
                continue;
            }
            let (client, server) =
                if to_server { (segment.from, segment.to) } else { (segment.to, segment.from) };
            let key = (client, server);
            let begins = to_server
                && segment.syn
                && live.get(&key).is_some_and(|(_, [tracker, _])| !tracker.repeats_first(&segment));
            if begins || !live.contains_key(&key) {
                live.insert(key, (flows.len(), Default::default()));
                flows.push(Flow::new(client, server));
            }
            let Some((index, [from_client, from_server])) = live.get_mut(&key) else { continue };
            let Some(flow) = flows.get_mut(*index) else { continue };
            let early = u64::from(segment.rst && !(from_client.ended && from_server.ended));
            let direction = if to_server { &mut flow.from_client } else { &mut flow.from_server };
            direction.early_resets += early;
            if to_server {
                flow.syn = flow.syn.or(segment.options);
                from_client.note(&segment, &mut flow.from_client);
            } else {
                flow.syn_ack = flow.syn_ack.or(segment.options);
                from_server.note(&segment, &mut flow.from_server);
            }
        }
        Self { flows, two_owners: Vec::new() }
    }
}

impl Flow {
    fn new(client: SocketAddr, server: SocketAddr) -> Self {
        let none = Direction::default();
        Self { client, server, from_client: none, from_server: none, syn: None, syn_ack: None }
    }
}

/// What has been seen of one direction of one connection.
#[derive(Debug, Default)]
struct Tracker {
    first: Option<u32>,
    /// Its FIN has been seen.
    ended: bool,
    /// The highest sequence number seen so far, and where it is on the unbounded line.
    last: (u32, i64),
    /// The ranges seen, on a line without wrap-around: start to end, apart from each other.
    seen: BTreeMap<i64, i64>,
    timestamp: Option<u32>,
}

impl Tracker {
    fn repeats_first(&self, segment: &Segment) -> bool {
        self.first == Some(segment.sequence)
    }

    fn note(&mut self, segment: &Segment, counts: &mut Direction) {
        counts.segments += 1;
        counts.payload_bytes += u64::from(segment.payload);
        if segment.rst {
            // Its sequence number and clock may be anything (RFC 9293 3.10.7.1, RFC 7323 3.2).
            counts.resets += 1;
            return;
        }
        self.ended |= segment.fin;
        self.note_timestamp(segment.timestamp, counts);
        let length = i64::from(segment.payload) + i64::from(segment.syn) + i64::from(segment.fin);
        if length == 0 {
            return;
        }
        if self.first.is_none() {
            self.first = Some(segment.sequence);
            self.last = (segment.sequence, 0);
        }
        let (last, place) = self.last;
        let start = place + i64::from(segment.sequence.wrapping_sub(last) as i32);
        let end = start + length;
        let after_later = self.seen.last_key_value().is_some_and(|(_, seen_to)| start < *seen_to);
        if self.overlaps(start, end) {
            counts.retransmitted += 1;
        } else if after_later {
            counts.out_of_order += 1;
        }
        self.insert(start, end);
        if start > place {
            self.last = (segment.sequence, start);
        }
    }

    fn note_timestamp(&mut self, timestamp: Option<u32>, counts: &mut Direction) {
        match (self.timestamp, timestamp) {
            (Some(highest), Some(now)) if (now.wrapping_sub(highest) as i32) < 0 => {
                counts.timestamp_regressions += 1;
            }
            (_, Some(now)) => self.timestamp = Some(now),
            (_, None) => {}
        }
    }

    fn overlaps(&self, start: i64, end: i64) -> bool {
        self.seen.range(..end).next_back().is_some_and(|(_, seen_to)| *seen_to > start)
    }

    fn insert(&mut self, mut start: i64, mut end: i64) {
        while let Some((&from, &to)) = self.seen.range(..=end).next_back() {
            if to < start {
                break;
            }
            start = start.min(from);
            end = end.max(to);
            self.seen.remove(&from);
        }
        self.seen.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use super::{Analysis, Segment};

    const CLIENT: &str = "10.2.0.2:4000";
    const SERVER: &str = "10.99.0.1:80";

    fn sent(by_client: bool, sequence: u32, payload: u32) -> Segment {
        let (from, to) = if by_client { (CLIENT, SERVER) } else { (SERVER, CLIENT) };
        Segment {
            from: from.parse().expect("an address"),
            to: to.parse().expect("an address"),
            sequence,
            payload,
            syn: false,
            fin: false,
            rst: false,
            timestamp: None,
            options: None,
        }
    }

    fn syn(sequence: u32) -> Segment {
        Segment { syn: true, ..sent(true, sequence, 0) }
    }

    /// Retransmitted and out of order, of what the server sent.
    fn server(sequences: &[(u32, u32)]) -> (u64, u64) {
        let all = sequences.iter().map(|(sequence, payload)| sent(false, *sequence, *payload));
        let sum = Analysis::of(all, 80).from_servers();
        (sum.retransmitted, sum.out_of_order)
    }

    #[test]
    fn a_stream_in_order_is_clean_also_across_the_wrap() {
        assert_eq!(server(&[(100, 10), (110, 10), (120, 0), (120, 5)]), (0, 0));
        assert_eq!(server(&[(u32::MAX - 4, 10), (5, 10), (15, 1)]), (0, 0));
    }

    #[test]
    fn repeated_bytes_are_retransmissions_new_ones_are_not() {
        assert_eq!(server(&[(100, 10), (110, 10), (100, 10)]), (1, 0), "all of it");
        assert_eq!(server(&[(100, 10), (105, 10)]), (1, 0), "a part of it");
        assert_eq!(server(&[(100, 10), (120, 10), (110, 10)]), (0, 1), "a late one");
        assert_eq!(server(&[(100, 10), (120, 10), (110, 10), (110, 20)]), (1, 1), "the gap again");
        assert_eq!(server(&[(u32::MAX - 4, 10), (5, 10), (u32::MAX - 4, 10)]), (1, 0), "across the wrap");
        assert_eq!(server(&[(100, 10), (90, 10)]), (0, 1), "before the first");
    }

    #[test]
    fn syns_and_fins_count_as_one_byte() {
        let fin = Segment { fin: true, ..sent(true, 11, 0) };
        let sum = Analysis::of([syn(10), syn(10), fin, fin], 80);
        assert_eq!(sum.flows.len(), 1);
        assert_eq!(sum.from_clients().retransmitted, 2);
    }

    #[test]
    fn a_port_used_again_is_a_new_flow() {
        let flow = [syn(10), sent(true, 11, 5), sent(false, 900, 5)];
        let again = [syn(9), sent(true, 10, 5), sent(false, 900, 5)];
        let sum = Analysis::of(flow.into_iter().chain(again), 80);
        assert_eq!(sum.flows.len(), 2);
        assert_eq!(sum.retransmitted(), 0);
    }

    #[test]
    fn resets_and_clocks_are_counted_by_direction() {
        let rst = Segment { rst: true, ..sent(false, 1, 0) };
        let at = |timestamp| Segment { timestamp: Some(timestamp), ..sent(false, 1, 0) };
        let other_port = Segment { from: "10.1.0.10:81".parse().expect("an address"), ..rst };
        let sum = Analysis::of([at(u32::MAX), at(3), at(3), at(2), rst, other_port], 80);
        assert_eq!(sum.from_servers().timestamp_regressions, 1);
        assert_eq!((sum.from_servers().resets, sum.from_clients().resets), (1, 0));
    }
}
