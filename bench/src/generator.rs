//! The client: a fixed number of connections at any time, each of which requests one file after
//! another and looks at every answer: status, length, and that a closed connection ends well; at some,
//! if asked to, byte by byte.
//!
//! Two threads, so that it can use what the machine has. Latency is what a user waits: from the
//! start of connecting (or, on a connection kept, of the request) to the last byte of the body.
//! It ends by itself: what is not answered a while after the end counts as an error.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use baton_testbed::{Content, Host};
use hdrhistogram::Histogram;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// Threads of the client.
const THREADS: usize = 2;
/// How much is read at once. One buffer serves all connections of a thread, and stays in its cache.
const READ: usize = 256 * 1024;
/// The longest response head.
const HEAD_MAX: usize = 8192;
/// What is under way at the end may take this much longer.
const GRACE: Duration = Duration::from_secs(3);
/// A connection that met an error waits this long, so that a side that refuses is not hammered.
const AFTER_ERROR: Duration = Duration::from_millis(20);
/// The longest latency told apart, in microseconds.
const LATENCY_MAX_US: u64 = 60_000_000;

/// What to request.
#[derive(Debug, Clone)]
pub struct Requests {
    /// The address of the side.
    pub to: SocketAddr,
    /// The files, requested in turn.
    pub files: Vec<Content>,
    /// Whether connections are kept.
    pub keep_alive: bool,
    /// Connections at any time.
    pub connections: usize,
    /// The one CPU to run on, if not on all.
    pub cpu: Option<usize>,
    /// One answer in so many is compared byte by byte; 0: none.
    pub sample: u64,
}

/// What came of it while it was measured.
#[derive(Debug)]
pub struct Tally {
    /// Right answers.
    pub answers: u64,
    /// Right answers before, while and after it was measured.
    pub all_answers: u64,
    /// How many of these were compared byte by byte.
    pub compared: u64,
    /// Everything else, warm-up included.
    pub errors: u64,
    /// What the first error was.
    pub first_error: Option<String>,
    /// Microseconds of each right answer.
    pub latency_us: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        let latency_us = Histogram::new_with_max(LATENCY_MAX_US, 3).expect("the limits are constants");
        Self { answers: 0, all_answers: 0, compared: 0, errors: 0, first_error: None, latency_us }
    }
}

impl Tally {
    fn note(&mut self, latency: Duration) {
        self.answers += 1;
        self.latency_us.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// Something was wrong.
    pub fn error(&mut self, what: impl ToString) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| what.to_string());
    }

    fn add(&mut self, other: Self) {
        self.answers += other.answers;
        self.all_answers += other.all_answers;
        self.compared += other.compared;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        self.latency_us += other.latency_us;
    }
}

impl Requests {
    /// Requests from a client until `until`, and tallies the answers that come from `from` on.
    /// `meanwhile` runs on the calling thread.
    pub fn run<T: Send>(
        &self,
        client: &Host,
        from: Instant,
        until: Instant,
        meanwhile: impl FnOnce() -> T + Send,
    ) -> (Tally, T) {
        // Threads started inside are inside.
        client.inside(|| {
            thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..THREADS).map(|i| scope.spawn(move || self.thread(i, from, until))).collect();
                let result = meanwhile();
                let mut tally = Tally::default();
                threads.into_iter().for_each(|thread| tally.add(thread.join().expect("no panic")));
                (tally, result)
            })
        })
    }

    fn thread(&self, number: usize, from: Instant, until: Instant) -> Tally {
        if let Some(cpu) = self.cpu {
            let mut cpus = CpuSet::new();
            cpus.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &cpus)).expect("a CPU");
        }
        let shared = Rc::new(Shared {
            tally: RefCell::default(),
            buffer: RefCell::new(vec![0; READ]),
            window: (from, until),
            requests: Cell::new(0),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let tasks = LocalSet::new();
        let mut connections = Vec::new();
        for i in (number..self.connections).step_by(THREADS) {
            connections.push(tasks.spawn_local(connection(self.clone(), i, Rc::clone(&shared))));
        }
        let all = async {
            for connection in connections.iter_mut() {
                let _ = connection.await;
            }
        };
        let late = until.saturating_duration_since(Instant::now()) + GRACE;
        let ended =
            tasks.block_on(&runtime.expect("a runtime"), async { tokio::time::timeout(late, all).await });
        let mut tally = shared.tally.take();
        if ended.is_err() {
            let open = connections.iter().filter(|connection| !connection.is_finished());
            open.for_each(|_| tally.error("no answer"));
        }
        tally
    }
}

/// What the connections of one thread share.
struct Shared {
    tally: RefCell<Tally>,
    buffer: RefCell<Vec<u8>>,
    window: (Instant, Instant),
    requests: Cell<u64>,
}

impl Shared {
    /// Room for the next answer, if it is one of those that are compared.
    fn sample(&self, requests: &Requests) -> Option<Vec<u8>> {
        let number = self.requests.replace(self.requests.get() + 1);
        (requests.sample > 0 && number.is_multiple_of(requests.sample)).then(Vec::new)
    }
}

fn keep(sample: &mut Option<Vec<u8>>, bytes: &[u8]) {
    if let Some(kept) = sample {
        kept.extend_from_slice(bytes);
    }
}

/// One connection at a time, for ever.
async fn connection(requests: Requests, number: usize, shared: Rc<Shared>) {
    let (from, until) = shared.window;
    let mut open = None;
    for file in requests.files.iter().cycle().skip(number % requests.files.len().max(1)) {
        let start = Instant::now();
        if start >= until {
            return;
        }
        match request(&requests, file, &mut open, &shared).await {
            Ok(end) => {
                shared.tally.borrow_mut().all_answers += 1;
                if end >= from && end < until {
                    shared.tally.borrow_mut().note(end - start);
                }
            }
            Err(error) => {
                open = None;
                shared.tally.borrow_mut().error(format!("{}: {error}", file.path()));
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
    }
}

/// Requests a file and reads all of the answer; says when the last byte of the body came.
async fn request(
    requests: &Requests,
    file: &Content,
    open: &mut Option<TcpStream>,
    shared: &Shared,
) -> io::Result<Instant> {
    let mut stream = match open.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(requests.to).await?;
            stream.set_nodelay(true)?;
            stream
        }
    };
    let mut sample = shared.sample(requests);
    let ending = if requests.keep_alive { "" } else { "Connection: close\r\n" };
    let text = format!("GET {} HTTP/1.1\r\nHost: {}\r\n{ending}\r\n", file.path(), requests.to);
    write(&mut stream, text.as_bytes()).await?;
    let (mut head, mut received) = (Vec::new(), 0);
    let mut body = loop {
        let seen = |bytes: &[u8]| {
            head.extend(bytes.iter().take(HEAD_MAX));
            keep(&mut sample, bytes);
        };
        let length = read(&stream, shared, seen).await?;
        received += length;
        if let Some(end) = head_end(&head) {
            check(&head[..end], file.size())?;
            sample = sample.map(|bytes| bytes[end..].to_vec());
            break (received - end) as u64;
        }
        if length == 0 || head.len() > HEAD_MAX {
            return Err(io::Error::other("no response"));
        }
    };
    while body < file.size() {
        match read(&stream, shared, |bytes| keep(&mut sample, bytes)).await? {
            0 => return Err(io::Error::other("closed in the middle of a body")),
            length => body += length as u64,
        }
    }
    let end = Instant::now();
    if body > file.size() {
        return Err(io::Error::other("a body too long"));
    }
    if let Some(bytes) = sample {
        if !file.is(&bytes) {
            return Err(io::Error::other("a wrong body"));
        }
        shared.tally.borrow_mut().compared += 1;
    }
    if requests.keep_alive {
        *open = Some(stream);
    } else if read(&stream, shared, |_| ()).await? > 0 {
        return Err(io::Error::other("bytes after the body"));
    }
    Ok(end)
}

async fn write(stream: &mut TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads what is there into the shared buffer and shows it. 0 is the end of the stream.
async fn read(stream: &TcpStream, shared: &Shared, seen: impl FnOnce(&[u8])) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        let mut buffer = shared.buffer.borrow_mut();
        match stream.try_read(&mut buffer) {
            Ok(length) => {
                seen(&buffer[..length]);
                return Ok(length);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Where the body starts.
fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// That the answer is the file: its status and length.
fn check(head: &[u8], size: u64) -> io::Result<()> {
    let head = std::str::from_utf8(head).map_err(io::Error::other)?;
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200 ") {
        return Err(io::Error::other(format!("answered {status}")));
    }
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok());
    if length == Some(size) { Ok(()) } else { Err(io::Error::other(format!("a body of {length:?} bytes"))) }
}

#[cfg(test)]
mod tests {
    use super::{check, head_end};

    #[test]
    fn answers_are_looked_at() {
        let head = b"HTTP/1.1 200 OK\r\ncontent-Length: 12\r\n\r\nbody";
        let end = head_end(head).expect("an end");
        assert_eq!(&head[end..], b"body");
        assert_eq!(head_end(&head[..end - 1]), None);
        assert!(check(&head[..end], 12).is_ok());
        assert!(check(&head[..end], 13).is_err());
        assert!(check(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 12\r\n\r\n", 12).is_err());
        assert!(check(b"HTTP/1.1 200 OK\r\n\r\n", 12).is_err());
    }
}
