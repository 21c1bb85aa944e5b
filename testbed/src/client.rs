//! A client for HTTP/1.1 that controls what ordinary ones hide: source port, receive buffer, the
//! cut of its writes, pipelining. It checks every byte of a body. Blocking sockets; made inside a
//! client's namespace, usable from any thread.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};

use crate::content::Content;
use crate::exchange::Exchange;
use crate::netns::Namespace;
use crate::network::Family;
use crate::tools::patient;

/// The longest response head taken.
const HEAD_MAX: usize = 64 * 1024;
/// The longest body kept for a caller that did not say which one is right.
const UNCHECKED_MAX: u64 = 1 << 20;
/// How long a source port may stay taken by its last connection.
const PORT_FREE: Duration = Duration::from_secs(2);
/// How much is read at once; more than the longest head.
const READ: usize = 256 * 1024;

/// What can go wrong for a client.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Nobody listens there, or a firewall says so.
    #[error("connection refused")]
    Refused,
    /// The client received a RST.
    #[error("connection reset")]
    Reset,
    /// The patience of [`Dial::patience`] was at an end.
    #[error("timed out")]
    Timeout,
    /// The server closed in the middle: after this many bytes of a head or body.
    #[error("closed after {0} bytes of a response")]
    ClosedEarly(u64),
    /// The body differs from what belongs to the path, first at this byte.
    #[error("wrong body for {path}: first wrong byte at {at}")]
    WrongBody {
        /// What was requested.
        path: String,
        /// The first byte that differs, or that is missing.
        at: u64,
    },
    /// Not 200.
    #[error("status {0}")]
    Status(u16),
    /// A response that this client cannot read.
    #[error("not a response: {0}")]
    BadHead(String),
    /// Something came where the connection should have been closed.
    #[error("bytes after the end of the last response")]
    Trailing,
    /// Any other error of a socket.
    #[error(transparent)]
    Socket(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            // A socket with a time limit says "would block", and a connect "in progress".
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Timeout,
            _ if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => Self::Timeout,
            _ => Self::Socket(error),
        }
    }
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

/// How to connect.
#[derive(Debug, Clone)]
pub struct Dial {
    to: SocketAddr,
    from: Option<IpAddr>,
    source_port: u16,
    receive_buffer: Option<usize>,
    patience: Duration,
}

impl Dial {
    /// Connects to this address like anyone would.
    pub fn new(to: impl Into<SocketAddr>) -> Self {
        let to = to.into();
        Self {
            to,
            from: None,
            source_port: 0,
            receive_buffer: None,
            patience: patient(Duration::from_secs(20)),
        }
    }

    /// From this address of the client (see [`crate::Host::extra_address`]).
    pub fn from_address(self, from: impl Into<IpAddr>) -> Self {
        Self { from: Some(from.into()), ..self }
    }

    /// From this port, also if it was used a moment ago.
    pub fn source_port(self, source_port: u16) -> Self {
        Self { source_port, ..self }
    }

    /// With a receive buffer of about this many bytes (the kernel doubles it).
    pub fn receive_buffer(self, bytes: usize) -> Self {
        Self { receive_buffer: Some(bytes), ..self }
    }

    /// How long to wait for the connection, and for each response in whole (see [`crate::patient`]).
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience: patient(patience), ..self }
    }

    /// Connects from a client.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn open(&self, client: &Namespace) -> Result<Connection, Fault> {
        client.inside(|| self.open_here())
    }

    /// Connects from the calling thread's namespace: on a thread that [`Namespace::inside`] started.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn open_here(&self) -> Result<Connection, Fault> {
        let stream = self.stream_here()?;
        Ok(Connection { stream, patience: self.patience, buffer: vec![0; READ], pending: 0..0 })
    }

    /// Connects from a client, for a conversation that is not requests and responses: a plain socket,
    /// of which reading and writing fail after the patience.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn stream(&self, client: &Namespace) -> Result<TcpStream, Fault> {
        client.inside(|| self.stream_here())
    }

    fn stream_here(&self) -> Result<TcpStream, Fault> {
        let family = if self.to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        if let Some(bytes) = self.receive_buffer {
            setsockopt(&socket, sockopt::RcvBuf, &bytes)?;
        }
        self.bind(&socket)?;
        let stream = TcpStream::from(socket);
        stream.set_write_timeout(Some(self.patience))?;
        self.connect(&stream)?;
        stream.set_read_timeout(Some(self.patience))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A chosen port is free only when its last connection's FIN has been acknowledged, a moment after
    /// its close.
    fn connect(&self, stream: &TcpStream) -> Result<(), Fault> {
        let until = Instant::now() + PORT_FREE;
        loop {
            match connect(stream.as_raw_fd(), &SockaddrStorage::from(self.to)) {
                Err(Errno::EADDRNOTAVAIL) if self.source_port != 0 && Instant::now() < until => {
                    std::thread::yield_now();
                }
                other => return Ok(other?),
            }
        }
    }

    fn bind(&self, socket: &OwnedFd) -> Result<(), Fault> {
        if self.source_port != 0 {
            setsockopt(socket, sockopt::ReuseAddr, &true)?;
        } else if self.from.is_some() {
            // Let connect() choose the port: it knows which ones are free towards the server.
            setsockopt(socket, sockopt::IpBindAddressNoPort, &true)?;
        } else {
            return Ok(());
        }
        let any = || Family::of(self.to.ip()).unspecified();
        let from = SocketAddr::new(self.from.unwrap_or_else(any), self.source_port);
        Ok(bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?)
    }
}

/// The bytes of a GET request.
pub fn get(content: &Content, close: bool) -> Vec<u8> {
    let close = if close { "Connection: close\r\n" } else { "" };
    format!("GET {} HTTP/1.1\r\nHost: testbed\r\n{close}\r\n", content.path()).into_bytes()
}

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    patience: Duration,
    buffer: Vec<u8>,
    /// What of the buffer is received and not yet taken: with pipelining, the next response's
    /// beginning.
    pending: Range<usize>,
}

/// Which body a response should have.
#[derive(Debug)]
pub(crate) enum Right<'a> {
    /// Whatever comes is kept; it must be short.
    Any,
    /// None, whatever its length would be: the answer to HEAD.
    None,
    /// This part of a content.
    Body(&'a Content, Range<u64>),
}

/// A response that was received in whole.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, unless it was checked against a [`Content`] while it came.
    pub body: Vec<u8>,
    /// The body's length in bytes.
    pub length: u64,
    /// From the call that waits for the response to its last byte.
    pub took: Duration,
}

impl Response {
    /// A header's value; the name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// Which node answered, as its web server says in `X-Node`.
    pub fn node(&self) -> &str {
        self.header("x-node").unwrap_or("?")
    }
}

impl Connection {
    /// The client's own end.
    ///
    /// # Panics
    /// Never for an open connection.
    pub fn local(&self) -> SocketAddr {
        self.stream.local_addr().expect("a connected socket has an address")
    }

    /// Requests a content and checks the answer.
    ///
    /// # Errors
    /// See [`Fault`]; any status but 200 is one.
    pub fn fetch(&mut self, content: &Content) -> Result<Response, Fault> {
        self.send(&get(content, false))?;
        self.response_of(content)
    }

    /// Requests a content with `Connection: close`, checks the answer and that the server then
    /// closes properly.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn fetch_last(mut self, content: &Content) -> Result<Response, Fault> {
        self.send(&get(content, true))?;
        let response = self.response_of(content)?;
        self.expect_end()?;
        Ok(response)
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Sends an [`Exchange`]'s request, whose body may be longer than memory.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn send_request(&mut self, exchange: &Exchange) -> Result<(), Fault> {
        Ok(exchange.write_to(&mut self.stream)?)
    }

    /// Sends bytes cut in front of each of the positions `cuts` (rising), one segment for each
    /// piece, the next after `pause`.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn send_cut(&mut self, bytes: &[u8], cuts: &[usize], pause: Duration) -> Result<(), Fault> {
        let mut start = 0;
        for end in cuts.iter().copied().chain([bytes.len()]) {
            self.send(&bytes[start..end])?;
            start = end;
            if start < bytes.len() {
                std::thread::sleep(pause);
            }
        }
        Ok(())
    }

    /// Receives the response to a request for `content`, and checks it.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn response_of(&mut self, content: &Content) -> Result<Response, Fault> {
        self.receive(200, Right::Body(content, 0..content.size()))
    }

    /// Receives the response to an [`Exchange`]'s request, and checks it.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn response_to(&mut self, exchange: &Exchange) -> Result<Response, Fault> {
        let (status, right) = exchange.right();
        let response = self.receive(status, right)?;
        exchange.judge(&response)?;
        Ok(response)
    }

    /// Receives whatever response comes (not that to a HEAD), of any status; its body must be short.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn response(&mut self) -> Result<Response, Fault> {
        self.receive(0, Right::Any)
    }

    /// Checks that the server closes, and sends nothing before.
    ///
    /// # Errors
    /// [`Fault::Trailing`], [`Fault::Reset`] or [`Fault::Timeout`].
    pub fn expect_end(&mut self) -> Result<(), Fault> {
        self.more(Instant::now() + self.patience)?;
        if self.pending.is_empty() { Ok(()) } else { Err(Fault::Trailing) }
    }

    /// Asks the kernel to probe the other end when nothing has been heard of it for so long (whole
    /// seconds), and as often.
    ///
    /// # Errors
    /// When the socket refuses.
    pub fn keepalive(&self, every: Duration) -> Result<(), Fault> {
        let seconds = every.as_secs() as u32;
        setsockopt(&self.stream, sockopt::TcpKeepIdle, &seconds)?;
        setsockopt(&self.stream, sockopt::TcpKeepInterval, &seconds)?;
        Ok(setsockopt(&self.stream, sockopt::KeepAlive, &true)?)
    }

    /// Ends the connection with a RST.
    ///
    /// # Errors
    /// When the socket refuses.
    pub fn abort(self) -> Result<(), Fault> {
        let now = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        Ok(setsockopt(&self.stream, sockopt::Linger, &now)?)
    }

    /// `status` 0 stands for any.
    fn receive(&mut self, status: u16, right: Right<'_>) -> Result<Response, Fault> {
        let start = Instant::now();
        let deadline = start + self.patience;
        let wanted = status;
        let (status, headers) = self.head(deadline)?;
        let mut response = Response { status, headers, body: Vec::new(), length: 0, took: Duration::ZERO };
        if wanted != 0 && status != wanted {
            return Err(Fault::Status(status));
        }
        let length = body_length(&response)?;
        response.length = length;
        match right {
            Right::Body(content, part) => self.checked_body(content, part, length, deadline)?,
            Right::Any => response.body = self.kept_body(length, deadline)?,
            Right::None => response.length = 0,
        }
        response.took = start.elapsed();
        Ok(response)
    }

    fn head(&mut self, deadline: Instant) -> Result<(u16, Vec<(String, String)>), Fault> {
        loop {
            let pending = &self.buffer[self.pending.clone()];
            if let Some(end) = pending.windows(4).position(|four| four == b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&pending[..end]).into_owned();
                self.pending.start += end + 4;
                return parse_head(&text).ok_or(Fault::BadHead(text));
            }
            if pending.len() > HEAD_MAX {
                return Err(Fault::BadHead("a head without an end".into()));
            }
            let received = pending.len() as u64;
            if self.more(deadline)? == 0 {
                return Err(Fault::ClosedEarly(received));
            }
        }
    }

    fn checked_body(
        &mut self,
        content: &Content,
        part: Range<u64>,
        length: u64,
        deadline: Instant,
    ) -> Result<(), Fault> {
        let mut check = content.check_range(part);
        self.body(length, deadline, |piece| check.push(piece))?;
        match check.wrong_at() {
            None => Ok(()),
            Some(at) => Err(Fault::WrongBody { path: content.path().into(), at }),
        }
    }

    fn kept_body(&mut self, length: u64, deadline: Instant) -> Result<Vec<u8>, Fault> {
        if length > UNCHECKED_MAX {
            return Err(Fault::BadHead(format!("an unexpected body of {length} bytes")));
        }
        let mut body = Vec::new();
        self.body(length, deadline, |piece| body.extend_from_slice(piece))?;
        Ok(body)
    }

    /// Takes exactly `length` bytes; what follows stays for the next response.
    fn body(&mut self, length: u64, deadline: Instant, mut take: impl FnMut(&[u8])) -> Result<(), Fault> {
        let mut left = length;
        loop {
            let now = usize::try_from(left).map_or(self.pending.len(), |left| left.min(self.pending.len()));
            let end = self.pending.start + now;
            take(&self.buffer[self.pending.start..end]);
            self.pending.start = end;
            left -= now as u64;
            if left == 0 {
                return Ok(());
            }
            if self.more(deadline)? == 0 {
                return Err(Fault::ClosedEarly(length - left));
            }
        }
    }

    /// Reads what is there, at least one byte; 0 at the end of the stream.
    fn more(&mut self, deadline: Instant) -> Result<usize, Fault> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Fault::Timeout);
        }
        self.stream.set_read_timeout(Some(left))?;
        self.buffer.copy_within(self.pending.clone(), 0);
        self.pending = 0..self.pending.len();
        let read = self.stream.read(&mut self.buffer[self.pending.end..])?;
        self.pending.end += read;
        Ok(read)
    }
}

fn parse_head(text: &str) -> Option<(u16, Vec<(String, String)>)> {
    let mut lines = text.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    Some((status, lines.map(header).collect::<Option<_>>()?))
}

/// The testbed's servers always say how long a body is, and so must whoever stands before them.
fn body_length(response: &Response) -> Result<u64, Fault> {
    match (response.header("content-length"), response.status) {
        (Some(length), _) => length.parse().map_err(|_| Fault::BadHead(format!("length {length}"))),
        (None, 100..200 | 204 | 304) => Ok(0),
        (None, _) => Err(Fault::BadHead("a response without Content-Length".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_head;

    #[test]
    fn heads_are_read_or_refused() {
        let (status, headers) = parse_head("HTTP/1.1 200 OK\r\nX-Node: a\r\nB:c").expect("a head");
        assert_eq!(status, 200);
        assert_eq!(headers, [("x-node".into(), "a".into()), ("b".into(), "c".into())]);
        for bad in ["", "HTTP/1.1", "HTTP/1.1 2x0 OK", "HTTP/1.1 200 OK\r\nnonsense", "zzz"] {
            assert!(parse_head(bad).is_none(), "{bad:?}");
        }
    }
}
