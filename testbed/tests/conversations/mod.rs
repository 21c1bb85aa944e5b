//! Raw conversations with a web server, byte by byte as a client may well lead them, and what comes
//! back: for comparing a server behind Baton with the same one alone.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use baton_testbed::{Dial, Namespace};

mod table;
pub use table::all;

/// How long to wait for an end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two writes that shall not share a segment.
const APART: Duration = Duration::from_millis(15);

/// What a client does.
#[derive(Debug, Clone)]
pub enum Step {
    /// Sends this, as one write.
    Send(Vec<u8>),
    /// Waits until nothing comes any more.
    Listen,
    /// Sends no more, and says so.
    HalfClose,
}

/// A conversation.
#[derive(Debug, Clone)]
pub struct Conversation {
    /// What it is about.
    pub name: &'static str,
    /// What the client does; in the end it listens, half-closes, and listens to the end.
    pub steps: Vec<Step>,
    /// A server may close before it has read all: whether this ends in a FIN or a RST, and what of its
    /// answer the RST overtakes, is chance.
    pub may_be_cut: bool,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The server closed first.
    ServerFirst,
    /// The server closed when the client had.
    ClientFirst,
    /// With a RST.
    Reset,
    /// It did not.
    Never,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    /// What the server sent, in lines; what differs from one time to the next is masked.
    pub said: Vec<String>,
    /// How it ended.
    pub end: End,
}

impl Conversation {
    /// Leads it; a server is silent when it says nothing for `silence`.
    pub fn lead(&self, client: &Namespace, to: SocketAddr, silence: Duration) -> Transcript {
        let dial = Dial::new(to).patience(PATIENCE);
        let stream = dial.stream(client).unwrap_or_else(|fault| panic!("{}: {fault}", self.name));
        let mut talk = Talk { stream, heard: Vec::new(), end: None };
        let mut closed = false;
        for step in &self.steps {
            match step {
                Step::Send(bytes) => talk.send(bytes),
                Step::Listen => talk.listen(silence),
                Step::HalfClose => {
                    closed = true;
                    drop(talk.stream.shutdown(Shutdown::Write));
                }
            }
        }
        if !closed {
            talk.listen(silence);
        }
        let first = talk.end;
        if first.is_none() {
            drop(talk.stream.shutdown(Shutdown::Write));
            talk.listen(PATIENCE);
        }
        let end = match (first, talk.end) {
            (_, Some(End::Reset)) => End::Reset,
            (Some(_), _) => End::ServerFirst,
            (None, Some(_)) => End::ClientFirst,
            (None, None) => End::Never,
        };
        Transcript { said: masked(&talk.heard), end }
    }

    /// Whether two transcripts of it say the same.
    pub fn same(&self, a: &Transcript, b: &Transcript) -> bool {
        if self.may_be_cut {
            let closed = |t: &Transcript| matches!(t.end, End::ServerFirst | End::Reset);
            // A RST may overtake the rest of what was said.
            let begins = |short: &Transcript, long: &Transcript| {
                short.end == End::Reset && long.said.starts_with(&short.said)
            };
            return (a.end == b.end || closed(a) && closed(b))
                && (a.said == b.said || begins(a, b) || begins(b, a));
        }
        a == b
    }
}

struct Talk {
    stream: TcpStream,
    heard: Vec<u8>,
    end: Option<End>,
}

impl Talk {
    fn send(&mut self, bytes: &[u8]) {
        // One that does not listen any more is heard when it is listened to.
        let _ = self.stream.write_all(bytes);
        std::thread::sleep(APART);
    }

    /// Until nothing has come for `silence`, or the end.
    fn listen(&mut self, silence: Duration) {
        let mut buffer = vec![0; 1 << 16];
        let deadline = Instant::now() + PATIENCE;
        while self.end.is_none() && Instant::now() < deadline {
            self.stream.set_read_timeout(Some(silence)).expect("a time that is not zero");
            match self.stream.read(&mut buffer) {
                Ok(0) => self.end = Some(End::ServerFirst),
                Ok(read) => self.heard.extend_from_slice(&buffer[..read]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return,
                    ErrorKind::Interrupted => {}
                    _ => self.end = Some(End::Reset),
                },
            }
        }
    }
}

/// Headers that differ from time to time, or from node to node.
const VARYING: [&str; 2] = ["date:", "x-node:"];

fn masked(heard: &[u8]) -> Vec<String> {
    // HTTP/2 begins with a frame of settings (type 4, flags 0) of the connection (stream 0).
    let settings = |at: &usize| heard.get(at + 3..at + 9) == Some(&[4, 0, 0, 0, 0, 0]);
    let starts = (0..heard.len()).filter(|at| *at == 0 || heard[..*at].ends_with(b"\r\n\r\n"));
    let http_1 = starts.into_iter().find(settings).unwrap_or(heard.len());
    let text: String = heard[..http_1].iter().map(|byte| byte.escape_ascii().to_string()).collect();
    // Of parts: its length varies too, and with it that of the body.
    let boundary =
        text.split("boundary=").nth(1).and_then(|rest| rest.split("\\r").next()).unwrap_or_default();
    let parts = !boundary.is_empty();
    let text = if parts { text.replace(boundary, "BOUNDARY") } else { text };
    let line = |line: &str| {
        let lower = line.to_ascii_lowercase();
        if let Some(methods) = lower.strip_prefix("allow:") {
            // Apache's come in an order of each process's own.
            let mut methods: Vec<&str> = methods.split(',').map(str::trim).collect();
            methods.sort_unstable();
            return format!("allow: {methods:?}");
        }
        let length = parts.then_some(&"content-length:");
        let varying = VARYING.iter().chain(length).find(|name| lower.starts_with(**name));
        varying.map_or(line.to_owned(), |name| format!("{name} *"))
    };
    let mut said: Vec<String> = text.split("\\r\\n").map(line).collect();
    if text.is_empty() {
        said.clear();
    }
    said.extend(frames(&heard[http_1..]));
    said
}

/// What does not vary of HTTP/2 frames: which there were, and how much data. A date makes a head's length
/// vary, and the order of frames is chance.
fn frames(mut bytes: &[u8]) -> Vec<String> {
    let (mut said, mut data) = (BTreeSet::new(), 0);
    while let [a, b, c, kind, flags, stream @ ..] = bytes {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let Some((stream, rest)) = stream.split_at_checked(4) else { break };
        if *kind == 0 {
            data += length;
        } else {
            said.insert(format!("frame type {kind} flags {flags} stream {stream:?}"));
        }
        bytes = rest.get(length..).unwrap_or_default();
    }
    if !said.is_empty() {
        said.insert(format!("{data} bytes of data"));
    }
    said.into_iter().collect()
}
