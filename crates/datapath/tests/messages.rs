//! Messages of a connection that this node serves, in whatever packets they come: cut anywhere, repeated,
//! overlapping, out of order, some of them spoilt. After each packet the programs' whole exchange must be
//! what the follower of crates/http makes of the same bytes. Seeded; needs root.

mod common;

use std::cell::RefCell;

use baton_cluster::{Flow, PHttp};
use baton_datapath::State;
use baton_datapath::constants::{FLAG_ADOPTED, FLAG_CONFIRMED};
use baton_http::Key;
use baton_packet_model::Binding;
use baton_packet_model::flag::{ACK, PSH};
use common::frames::flow;
use common::world::{SELF, WEB, Way};
use common::{Tcp, World, in_netns};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

/// Sequence numbers wrap on the way.
const START: u32 = 0xffff_ff80;
const START_ACK: u32 = 0xffff_ffe0;

/// A request, and the responses to it.
#[derive(Clone, Debug)]
struct Pair {
    request: Vec<u8>,
    response: Vec<u8>,
}

fn body() -> impl Strategy<Value = (String, Vec<u8>)> {
    let bytes = || {
        prop_oneof![vec(any::<u8>(), 0..60), Just(vec![b'x'; 700]), Just(b"GET / HTTP/1.1\r\n\r\n".to_vec())]
    };
    let name = select(vec!["Content-Length: ", "content-length:", "CONTENT-LENGTH:\t 0"]);
    let digits = |longest: usize| prop_oneof![8 => Just(1), 1 => longest..=longest + 1];
    let length = (bytes(), name, digits(18))
        .prop_map(|(bytes, name, digits)| (format!("{name}{:0digits$} \r\n", bytes.len()), bytes));
    let size =
        |n: usize, digits: usize| if digits == 3 { format!("{n:03X};a=b") } else { format!("{n:0digits$x}") };
    let digits = prop_oneof![1 => digits(15), 1 => Just(3)];
    let trailer = select(vec!["", "Content-Length: 5\r\n", "a: b\r\nTransfer-Encoding: x\r\n"]);
    let chunks = (vec((bytes(), digits), 0..4), trailer).prop_map(move |(chunks, trailer)| {
        let mut out = Vec::new();
        for (bytes, digits) in chunks.iter().filter(|(bytes, _)| !bytes.is_empty()) {
            out.extend(size(bytes.len(), *digits).into_bytes());
            out.extend([b"\r\n", &bytes[..], b"\r\n"].concat());
        }
        out.extend(format!("0\r\n{trailer}\r\n").into_bytes());
        ("Transfer-Encoding: Chunked\r\n".to_owned(), out)
    });
    prop_oneof![2 => length, 2 => chunks]
}

fn headers() -> impl Strategy<Value = String> {
    let header = select(vec![
        "Host: a.example.com\r\n",
        "Host: [2001:db8::1]:80\t\r\n",
        "Host:a.:\r\n",
        "Host:\r\n",
        "Accept: */*\r\n",
        "X: \u{e9}\t~\r\n",
        "content-lengths: 9\r\n",
        "Transfer-Encodin: 9\r\n",
        "!#$%&'*+-.^_`|~: \r\n",
    ]);
    vec(header, 0..4).prop_map(|headers| {
        let mut once = headers;
        once.sort_unstable();
        once.dedup_by_key(|h| h.starts_with("Host"));
        once.concat()
    })
}

fn pairs() -> impl Strategy<Value = Pair> {
    let method = prop_oneof![6 => select(vec!["GET", "HEAD", "POST", "HEADS", "M-SEARCH", "OPTIONS"]).prop_map(str::to_owned), 1 => "[A-Z]{31,32}"];
    let empty = select(vec!["", "", "", "\r\n", "\r\n\r\n", "\r", "\n"]);
    let path = prop_oneof![3 => Just("/a?b=%".to_owned()), 1 => "/[!-$&-~]{0,20}", 1 => Just("/%2e%Af\u{e9}?\u{e9}".to_owned()),
            1 => "(http|HTTPS)://(a|a\\.B\\.|\\[::1\\]|-_)(:|:80)?(/|/%aa|)(\\?#?)?", 1 => Just("*".to_owned())];
    let nothing = || (String::new(), Vec::new());
    let request =
        (empty, method, path, headers(), prop_oneof![2 => Just(nothing()), 1 => body()], any::<bool>());
    let request = request.prop_map(|(empty, method, path, headers, (length, body), old)| {
        let version = if old && !length.starts_with('T') { "0" } else { "1" };
        let head = format!("{empty}{method} {path} HTTP/1.{version}\r\n{headers}{length}\r\n");
        (method == "HEAD", [head.into_bytes(), body].concat())
    });
    let interim =
        select(vec!["", "", "", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 \r\nLink: x\r\n\r\n"]);
    let status = select(vec!["200 OK", "200 OK", "404", "304 Not Modified", "204 ", "999 \u{e9}"]);
    (request, interim, status, headers(), prop_oneof![9 => body(), 1 => Just(nothing())]).prop_map(
        |((is_head, request), interim, status, headers, (length, body))| {
            let bodiless = is_head || status.starts_with("304") || status.starts_with("204");
            let head = format!("{interim}HTTP/1.1 {status}\r\n{headers}{length}\r\n");
            let response = [head.into_bytes(), if bodiless { Vec::new() } else { body }].concat();
            Pair { request, response }
        },
    )
}

/// What is wrong in a stream.
#[derive(Clone, Debug)]
enum Spoilt {
    Byte(u8),
    /// A header line more, behind the line that the place is in.
    Line(&'static str),
}

impl Spoilt {
    fn spoil(&self, bytes: &mut Vec<u8>, at: usize) {
        match self {
            Self::Byte(value) => bytes[at] = *value,
            Self::Line(line) => {
                let end = bytes.windows(2).skip(at).position(|two| two == b"\r\n");
                let at = end.map_or(bytes.len(), |end| at + end + 2);
                bytes.splice(at..at, line.bytes());
            }
        }
    }
}

/// Ahead up to where the message ends.
const TO_END: u16 = u16::MAX;

/// The next packet of a direction: it begins so much before, or ahead of, what was sent.
#[derive(Clone, Debug)]
struct Cut {
    back: bool,
    overlap: u16,
    ahead: u16,
    len: u16,
}

fn cuts() -> impl Strategy<Value = Cut> {
    let len = prop_oneof![4 => 1..40_u16, 3 => 40..400_u16, 2 => 400..1376_u16];
    let overlap = prop_oneof![6 => Just(0), 1 => 0..20_u16, 1 => 0..900_u16];
    let ahead = prop_oneof![18 => Just(0), 2 => 0..700_u16, 1 => Just(TO_END)];
    (any::<bool>(), overlap, ahead, len).prop_map(|(back, overlap, ahead, len)| Cut {
        back,
        overlap,
        ahead,
        len,
    })
}

#[derive(Clone, Debug)]
struct Play {
    pairs: Vec<Pair>,
    /// What of either stream is not what it should be.
    spoilt: Option<(bool, Index, Spoilt)>,
    cuts: Vec<Cut>,
    /// The client asks so many requests ahead.
    pipelines: bool,
}

fn plays() -> impl Strategy<Value = Play> {
    let value = prop_oneof![2 => any::<u8>(), 3 => select(b"\r\n :0123456789aAfFhH\t%?/\0".to_vec())];
    let line = select(vec![
        "Host: b\r\n",
        "Content-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        " folded\r\n",
        "X : y\r\n",
        "\r\n",
    ]);
    let spoilt = prop_oneof![2 => value.prop_map(Spoilt::Byte), 1 => line.prop_map(Spoilt::Line)];
    let spoilt = prop_oneof![2 => Just(None), 1 => (any::<bool>(), any::<Index>(), spoilt).prop_map(Some)];
    let short =
        Pair { request: b"GET / HTTP/1.1\r\n\r\n".to_vec(), response: b"HTTP/1.1 204 \r\n\r\n".to_vec() };
    let pairs = prop_oneof![15 => vec(pairs(), 1..6), 1 => Just(vec![short; 45])];
    (pairs, spoilt, vec(cuts(), 4..50), any::<bool>()).prop_map(|(pairs, spoilt, cuts, pipelines)| Play {
        pairs,
        spoilt,
        cuts,
        pipelines,
    })
}

/// One direction's bytes, and how far they were sent.
#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    sent: usize,
}

impl Stream {
    fn add(&mut self, message: &[u8]) {
        self.bytes.extend(message);
        self.ends.push(self.bytes.len());
    }

    /// Messages sent in full.
    fn ended(&self) -> usize {
        self.ends.iter().filter(|end| **end <= self.sent).count()
    }

    /// Up to where it may be sent, when so many of its messages may.
    fn limit(&self, messages: usize) -> usize {
        messages.checked_sub(1).map_or(0, |last| self.ends.get(last).copied().unwrap_or(self.bytes.len()))
    }

    /// The packet that a cut makes: where it begins, and its bytes.
    fn cut(&mut self, cut: &Cut, limit: usize, may_jump: bool) -> Option<(usize, Vec<u8>)> {
        let end = self.ends.iter().find(|end| **end > self.sent).map_or(0, |end| end - self.sent);
        let ahead = match cut.ahead {
            _ if !may_jump => 0,
            TO_END => end,
            ahead => ahead.into(),
        };
        let from = if ahead > 0 { self.sent + ahead } else { self.sent.saturating_sub(cut.overlap.into()) };
        let to = (from + usize::from(cut.len)).min(limit);
        let bytes = self.bytes.get(from..to).filter(|b| !b.is_empty())?.to_vec();
        if ahead == 0 {
            self.sent = self.sent.max(to);
        }
        Some((from, bytes))
    }
}

/// How often what was seen, so that the packets reach what they should.
#[derive(Debug, Default)]
struct Seen {
    idle: u32,
    doubt: u32,
    asked: u32,
    answered: u32,
    gaps: u32,
}

fn through(world: &mut World, f: Flow, play: &Play, seen: &mut Seen) -> Result<(), String> {
    world.rest().map_err(|e| e.to_string())?;
    let b = Binding {
        start_ack: START_ACK,
        snd_end: START_ACK,
        flags: FLAG_ADOPTED | FLAG_CONFIRMED,
        mss: 1460,
        seen_ns: world.clock().kernel_ns,
        ..Binding::unknown(START, State::Bound(SELF))
    };
    world.bind(f, b);
    world.follow(f, START, START_ACK);
    let (mut requests, mut responses) = (Stream::default(), Stream::default());
    for pair in &play.pairs {
        requests.add(&pair.request);
        responses.add(&pair.response);
    }
    if let Some((back, at, spoilt)) = &play.spoilt {
        let bytes = if *back { &mut responses.bytes } else { &mut requests.bytes };
        spoilt.spoil(bytes, at.index(bytes.len()));
    }
    for cut in &play.cuts {
        // Nobody answers what was not asked; who does not pipeline asks one at a time.
        let may_ask = if play.pipelines { usize::MAX } else { responses.ended() + 1 };
        let (limits, turn) = ([requests.limit(may_ask), responses.limit(requests.ended())], cut.back);
        let answers = if turn { responses.sent < limits[1] } else { requests.sent >= limits[0] };
        let at = (requests.sent as u32, responses.sent as u32);
        let stream = if answers { &mut responses } else { &mut requests };
        let Some((from, bytes)) = stream.cut(cut, limits[usize::from(answers)], !answers) else { continue };
        let (seq, ack) = (START.wrapping_add(at.0), START_ACK.wrapping_add(at.1));
        let mut tcp = Tcp::new(f, ACK | PSH, seq, ack).data(&bytes);
        (tcp.seq, tcp.ack, tcp.back) = if answers {
            (START_ACK.wrapping_add(from as u32), seq, true)
        } else {
            (START.wrapping_add(from as u32), ack, false)
        };
        let way = if answers { Way::Out } else { Way::In };
        world.step(&tcp.frame(), way)?;
        seen.gaps += u32::from(world.counted.contains(&"drop_gap"));
        if world.counted.contains(&"drop_gap") {
            // The client repeats from where the gap is.
            let at = world.model.tables.exchanges[&f].messages.requests().at();
            requests.sent = at.wrapping_sub(START) as usize;
        }
    }
    let said = world.model.tables.exchanges[&f];
    seen.asked += said.messages.outstanding().asked();
    seen.answered += said.messages.outstanding().answered();
    seen.doubt += u32::from(said.doubt.is_some());
    seen.idle += u32::from(said.doubt.is_none() && said.messages.is_idle());
    Ok(())
}

#[test]
fn programs_and_follower_read_the_same_messages() {
    in_netns(|| {
        let f = flow(40_000);
        let mut world = World::new("s", &[f]);
        // What is read is compared here, not where it should go.
        world.pool(WEB, 0, Key::Path, PHttp::Stay, &[SELF]).expect("pools");
        let (world, seen) = (RefCell::new(world), RefCell::new(Seen::default()));
        let config = Config { cases: 1300, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let outcome = runner.run(&plays(), |play| {
            through(&mut world.borrow_mut(), f, &play, &mut seen.borrow_mut()).map_err(TestCaseError::fail)
        });
        if let Err(e) = outcome {
            panic!("{e}");
        }
        let seen = seen.into_inner();
        let enough =
            seen.idle > 100 && seen.doubt > 100 && seen.asked > 500 && seen.answered > 300 && seen.gaps > 20;
        assert!(enough, "the packets reach too little: {seen:?}");
    });
}
