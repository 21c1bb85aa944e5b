//! Whether two servers answered one connection, as its client's capture shows it: bytes that differ at the same place of
//! a stream, or a stream that begins elsewhere than where the client connected. Pure: frames in, connections out.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;

use crate::pcap;

/// No window of a test is as large, in bytes: what is further off the client's acknowledgements is another server's.
const NEAR: i64 = 1 << 26;

/// A connection that two servers answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TwoOwners {
    /// The client's end.
    pub client: SocketAddr,
    /// The server's end, which both had.
    pub server: SocketAddr,
    /// What shows it.
    pub sign: Sign,
}

/// What shows that a connection had two owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// The bytes at this place of the stream from the server, counted from 0, came twice and differed.
    Bytes(i64),
    /// Bytes came with this sequence number, which is none of the stream that the client acknowledges.
    Stream(u32),
}

impl fmt::Display for TwoOwners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "two servers answered {} at {}: ", self.client, self.server)?;
        match self.sign {
            Sign::Bytes(at) => write!(f, "byte {at} came twice, and differed"),
            Sign::Stream(sequence) => write!(f, "bytes at {sequence} are none of its stream"),
        }
    }
}

/// A segment with what was captured of its payload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece<'a> {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub sequence: u32,
    /// What it acknowledges, if anything.
    pub acknowledged: Option<u32>,
    pub syn: bool,
    pub bytes: &'a [u8],
}

/// The connections to `server_port` that two servers answered, each once, in the order in which it showed. Frames are in
/// the order of their capture, from the connections' beginnings on.
pub(crate) fn two_owners<'a>(frames: impl IntoIterator<Item = &'a [u8]>, server_port: u16) -> Vec<TwoOwners> {
    judge(frames.into_iter().filter_map(pcap::piece), server_port)
}

fn judge<'a>(pieces: impl IntoIterator<Item = Piece<'a>>, server_port: u16) -> Vec<TwoOwners> {
    let mut found = Vec::new();
    // The connections of a client's port, the latest last: a port may be used again.
    let mut all: HashMap<(SocketAddr, SocketAddr), Vec<Stream>> = HashMap::new();
    for piece in pieces {
        if piece.to.port() == server_port {
            all.entry((piece.from, piece.to)).or_default().note(&piece);
        } else if piece.from.port() == server_port && !piece.bytes.is_empty() {
            let Some(streams) = all.get_mut(&(piece.to, piece.from)) else { continue };
            let near = streams.iter_mut().rev().find(|stream| stream.is_near(piece.sequence));
            let (sign, stream) = match near {
                Some(stream) => (stream.take(&piece).map(Sign::Bytes), stream),
                // Before the client has acknowledged anything, nothing is known of it.
                None => match streams.last_mut().filter(|stream| stream.acknowledged.is_some()) {
                    Some(stream) => (Some(Sign::Stream(piece.sequence)), stream),
                    None => continue,
                },
            };
            if let Some(sign) = sign.filter(|_| !stream.is_told) {
                stream.is_told = true;
                found.push(TwoOwners { client: piece.to, server: piece.from, sign });
            }
        }
    }
    found
}

trait Connections {
    fn note(&mut self, from_client: &Piece<'_>);
}

impl Connections for Vec<Stream> {
    /// A SYN of another number begins a new connection.
    fn note(&mut self, from_client: &Piece<'_>) {
        let begins = from_client.syn && self.last().is_none_or(|last| last.syn != Some(from_client.sequence));
        if begins || self.is_empty() {
            let syn = from_client.syn.then_some(from_client.sequence);
            self.push(Stream { syn, ..Stream::default() });
        }
        if let (Some(last), Some(acknowledged)) = (self.last_mut(), from_client.acknowledged) {
            last.acknowledge(acknowledged);
        }
    }
}

/// What a client got on one connection.
#[derive(Debug, Default)]
struct Stream {
    /// The sequence number of the client's SYN.
    syn: Option<u32>,
    /// What the client has acknowledged last, and at which place of the stream this is.
    acknowledged: Option<(u32, i64)>,
    /// The bytes that were captured, by their place; none twice.
    bytes: BTreeMap<i64, Vec<u8>>,
    is_told: bool,
}

impl Stream {
    fn acknowledge(&mut self, number: u32) {
        let (last, place) = *self.acknowledged.get_or_insert((number, 0));
        let step = i64::from(number.wrapping_sub(last) as i32);
        // A RST may carry the number of a segment that was none of this connection.
        if (0..NEAR).contains(&step) {
            self.acknowledged = Some((number, place + step));
        }
    }

    fn place(&self, sequence: u32) -> Option<i64> {
        let (last, place) = self.acknowledged?;
        let step = i64::from(sequence.wrapping_sub(last) as i32);
        (step.abs() < NEAR).then_some(place + step)
    }

    fn is_near(&self, sequence: u32) -> bool {
        self.place(sequence).is_some()
    }

    /// Compares bytes with those that came before at the same places, and keeps the others; says where they differ.
    fn take(&mut self, piece: &Piece<'_>) -> Option<i64> {
        let start = self.place(piece.sequence)?;
        let end = start + piece.bytes.len() as i64;
        let here = |from: i64, to: i64| &piece.bytes[(from - start) as usize..(to - start) as usize];
        let mut differs = None;
        let mut gaps = Vec::new();
        let mut done = end;
        // From the end to the start: each piece that overlaps, and the gap behind it.
        for (&from, known) in self.bytes.range(..end).rev() {
            let to = from + known.len() as i64;
            if to <= start {
                break;
            }
            let (first, last) = (from.max(start), to.min(end));
            let ours = here(first, last);
            let theirs = &known[(first - from) as usize..(last - from) as usize];
            differs =
                ours.iter().zip(theirs).position(|(a, b)| a != b).map(|at| first + at as i64).or(differs);
            gaps.push((last, done));
            done = first;
        }
        gaps.push((start, done));
        for (from, to) in gaps.into_iter().filter(|(from, to)| from < to) {
            self.bytes.insert(from, here(from, to).to_vec());
        }
        differs
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::{Piece, Sign, judge, two_owners};

    const CLIENT: &str = "10.2.0.2:4000";
    const SERVER: &str = "10.99.0.1:80";
    /// Where streams begin, short of the wrap.
    const FIRST: u32 = u32::MAX - 2;

    fn client(syn: bool, sequence: u32, acknowledged: Option<u32>) -> Piece<'static> {
        let (from, to) = (CLIENT.parse().expect("an address"), SERVER.parse().expect("an address"));
        Piece { from, to, sequence, acknowledged, syn, bytes: &[] }
    }

    fn server(sequence: u32, bytes: &str) -> Piece<'_> {
        let (from, to) = (SERVER.parse().expect("an address"), CLIENT.parse().expect("an address"));
        Piece { from, to, sequence, acknowledged: None, syn: false, bytes: bytes.as_bytes() }
    }

    /// What is found in a connection whose server sends these.
    fn signs(sent: &[(u32, &str)]) -> Vec<Sign> {
        let begin = [client(true, 7, None), client(false, 8, Some(FIRST))];
        let sent = sent.iter().map(|(at, bytes)| server(FIRST.wrapping_add(*at), bytes));
        judge(begin.into_iter().chain(sent), 80).into_iter().map(|found| found.sign).collect()
    }

    #[test]
    fn one_server_says_the_same_again() {
        assert_eq!(signs(&[(0, "abcdef"), (6, "ghi"), (0, "abc"), (2, "cdefgh"), (9, "j")]), []);
        assert_eq!(signs(&[(6, "ghi"), (3, "d"), (0, "abcdefghij")]), [], "gaps filled at once");
    }

    #[test]
    fn two_servers_differ_in_a_byte() {
        assert_eq!(signs(&[(0, "abcdef"), (0, "abXdef")]), [Sign::Bytes(2)]);
        assert_eq!(signs(&[(0, "abc"), (6, "ghi"), (2, "cdefgX")]), [Sign::Bytes(7)], "behind a gap");
        assert_eq!(signs(&[(0, "abc"), (0, "X"), (1, "Y")]), [Sign::Bytes(0)], "each connection once");
        assert_eq!(signs(&[(0, "abcd"), (4, "ef"), (1, "XcdeX")]), [Sign::Bytes(1)], "the first place");
    }

    #[test]
    fn two_servers_send_two_streams() {
        let far = 1 << 30;
        assert_eq!(signs(&[(0, "abc"), (far, "abc")]), [Sign::Stream(FIRST.wrapping_add(far))]);
    }

    #[test]
    fn places_are_counted_from_what_the_client_has() {
        let acknowledged = |at: u32| client(false, 8, Some(FIRST.wrapping_add(at)));
        let all = [client(true, 7, None), acknowledged(0), server(FIRST, "abcdef"), acknowledged(4)];
        let again = |text| [server(FIRST.wrapping_add(3), text)];
        assert_eq!(judge(all.into_iter().chain(again("def")), 80), []);
        let found = judge(all.into_iter().chain(again("dXf")), 80);
        assert_eq!(found.iter().map(|found| found.sign).collect::<Vec<_>>(), [Sign::Bytes(4)]);
    }

    #[test]
    fn a_port_used_again_is_another_connection() {
        let first = [client(true, 7, None), client(false, 8, Some(100)), server(100, "abc")];
        let other = 100 + (1 << 27);
        let second = [client(true, 9, None), client(true, 9, None), client(false, 10, Some(other))];
        let late = [server(other, "xyz"), server(100, "abc"), server(other, "xyz")];
        assert_eq!(judge(first.into_iter().chain(second).chain(late), 80), []);
    }

    #[test]
    fn what_was_never_begun_or_is_on_another_port_is_left_out() {
        assert_eq!(judge([server(1, "abc"), server(1, "xyz")], 80), []);
        let other = [client(true, 7, None), client(false, 8, Some(1)), server(1, "abc"), server(1, "xyz")];
        assert_eq!(judge(other, 81), []);
    }

    /// A frame as tcpdump writes it: cut behind `captured` bytes.
    fn frame(from_client: bool, sequence: u32, syn: bool, payload: &[u8], captured: usize) -> Vec<u8> {
        let (client, server) = (([10, 2, 0, 2], 4000), ([10, 99, 0, 1], 80));
        let (from, to) = if from_client { (client, server) } else { (server, client) };
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from.0, to.0, 64);
        let builder = builder.tcp(from.1, to.1, sequence, 1000);
        let builder = if syn { builder.syn() } else { builder.ack(100) };
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).expect("a vector takes all");
        frame.truncate(captured);
        frame
    }

    #[test]
    fn frames_are_compared_as_far_as_they_were_captured() {
        let long = |head: &str| [head.as_bytes(), &[b'x'; 1000]].concat();
        let (one, other) = (long("HTTP/1.1 200 OK\r\nX-Node: a"), long("HTTP/1.1 200 OK\r\nX-Node: b"));
        let begin = [frame(true, 7, true, &[], 700), frame(true, 8, false, b"GET", 700)];
        let answers = |captured| [&one, &other].map(|answer| frame(false, 100, false, answer, captured));
        let found = |captured| {
            let answers = answers(captured);
            let frames = begin.iter().chain(&answers).map(Vec::as_slice);
            two_owners(frames, 80).into_iter().map(|found| found.sign).collect::<Vec<_>>()
        };
        assert_eq!(found(700), [Sign::Bytes(25)]);
        assert_eq!(found(70), [], "the head was cut off");
    }
}
