//! The scanner: HTTP/1's message syntax, byte by byte, as strict as `docs/requests.md` says. The head
//! parser and the follower both run it, so that what is clear to one is clear to the other; the packet
//! path has its twin. It allocates nothing, keeps no bytes and knows nothing of packets.

use crate::bytes::{is_method_byte, is_token, is_value};
use crate::reason::Reason;

/// The longest method.
pub(crate) const METHOD_MAX: u8 = 31;
/// The most digits of a Content-Length: any such number is below 2^63.
const LENGTH_DIGITS: u8 = 18;
/// The most digits of a chunk's size: any such number is below 2^60.
const CHUNK_DIGITS: u8 = 15;

/// Where in a message the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Before the first byte of a message: the boundary. Empty lines before a request leave it here.
    Start,
    /// In the method.
    Method,
    /// After the space that ends the method.
    Target,
    /// In the path.
    Path,
    /// After a percent sign in the path.
    EscapeHigh,
    /// After the first digit of an escape.
    EscapeLow,
    /// In the query.
    Query,
    /// In what follows path and query, up to and with the CR.
    Version,
    /// In the fixed part of a status line.
    Status,
    /// After the CR of a line that has something in it.
    LineEnd,
    /// At the first byte of a header or trailer line.
    Line,
    /// In a header's name.
    Name,
    /// In a value that is not interpreted, or a reason phrase.
    Value,
    /// In the value of Content-Length, up to the last digit.
    Length,
    /// In the blanks behind it.
    LengthTail,
    /// In the value of Transfer-Encoding, up to the last letter.
    Coding,
    /// In the blanks behind it.
    CodingTail,
    /// After the CR of the empty line that ends a head or a trailer.
    HeadEnd,
    /// After a head; between packets only when in doubt.
    HeadDone,
    /// In a body of known length, which is skipped.
    Body,
    /// In a chunk's size.
    ChunkSize,
    /// In a chunk's extension.
    ChunkExtension,
    /// After the CR of a chunk's first line.
    ChunkLineEnd,
    /// In a chunk's data, which are skipped.
    ChunkData,
    /// At the CR behind a chunk's data.
    ChunkCr,
    /// At the LF behind it.
    ChunkLf,
    /// In the value of Host.
    Host,
    /// In the scheme of a target in absolute form, up to the two slashes.
    Scheme = 28,
    /// In the host and port of such a target.
    Authority,
    /// After the asterisk of `OPTIONS *`.
    Asterisk,
    /// In the value of Connection: a list of words.
    Options = 40,
    /// In the value of Upgrade: a list of protocols.
    Upgrade = 41,
}

/// Whose messages are scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Requests,
    Responses,
}

/// A message being scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    pub(crate) phase: Phase,
    pub(crate) side: Side,
    /// Bytes of the method, the name, the literal or the number so far; at most 255. In a host: where in it.
    count: u8,
    /// Of the words being compared, those that the bytes so far begin: one bit each.
    words: u8,
    /// What the head has said so far: bits of `Seen`.
    seen: u8,
    /// What Connection and Upgrade have said so far: bits of `HOP_...`.
    hop: u8,
    status: u16,
    /// Content-Length or the size of a chunk while it is read, then the bytes of it still to come.
    pub(crate) left: u64,
}

/// Methods have no lower-case letters, so that words which compare in any case compare exactly here.
const METHODS: [&[u8]; 3] = [b"HEAD", b"CONNECT", b"OPTIONS"];
const NAMES: [&[u8]; 5] = [b"content-length", b"transfer-encoding", b"host", b"connection", b"upgrade"];
/// Words of Connection and Upgrade that mean something to Baton.
const TOKENS: [&[u8]; 3] = [b"close", b"keep-alive", b"h2c"];
const CHUNKED: &[u8] = b"chunked";
const VERSION: &[u8] = b"HTTP/1.";
const SCHEME: &[u8] = b"https://";

/// Where in a host with its port the next byte stands.
mod host {
    /// Before it: nothing, or blanks.
    pub(super) const BEFORE: u8 = 0;
    /// Behind a byte of a name that is no dot.
    pub(super) const NAME: u8 = 1;
    /// Behind a dot of a name.
    pub(super) const DOT: u8 = 2;
    /// Behind the bracket that opens an IPv6 address.
    pub(super) const OPEN: u8 = 3;
    /// In the address.
    pub(super) const ADDRESS: u8 = 4;
    /// Behind the bracket that closes it.
    pub(super) const CLOSED: u8 = 5;
    /// Behind the colon.
    pub(super) const PORT: u8 = 6;
    /// In the blanks behind it.
    pub(super) const AFTER: u8 = 7;
}

const SEEN_LENGTH: u8 = 1;
const SEEN_CODING: u8 = 2;
const SEEN_HOST: u8 = 4;
const SEEN_HTTP10: u8 = 8;
const SEEN_HEAD: u8 = 16;
const SEEN_TRAILER: u8 = 32;

const HOP_CLOSE: u8 = 1;
const HOP_KEEP: u8 = 2;
const HOP_UPGRADE: u8 = 4;
const HOP_H2C: u8 = 8;

impl Scan {
    pub(crate) fn new(side: Side) -> Self {
        Self { phase: Phase::Start, side, count: 0, words: 0, seen: 0, hop: 0, status: 0, left: 0 }
    }

    /// Takes the next byte of a message; not in the phases that are skipped, nor after a head.
    pub(crate) fn step(&mut self, c: u8) -> Result<(), Reason> {
        self.phase = match self.phase {
            Phase::Start => self.start(c)?,
            Phase::Method => self.method(c)?,
            Phase::Target => self.target(c)?,
            Phase::Scheme => self.scheme(c)?,
            Phase::Authority => self.authority(c)?,
            Phase::Asterisk if c == b' ' => self.version_next(),
            Phase::Asterisk => return Err(Reason::PathForm),
            Phase::Path if c == b'%' => Phase::EscapeHigh,
            Phase::Path if c == b'?' => Phase::Query,
            Phase::Path | Phase::Query => self.path(c)?,
            Phase::EscapeHigh if c.is_ascii_hexdigit() => Phase::EscapeLow,
            Phase::EscapeLow if c.is_ascii_hexdigit() => Phase::Path,
            Phase::EscapeHigh | Phase::EscapeLow => return Err(Reason::Escape),
            Phase::Version => self.version(c)?,
            Phase::Status => self.status(c)?,
            Phase::LineEnd if c == b'\n' => Phase::Line,
            Phase::Line => self.line(c)?,
            Phase::Name => self.name(c)?,
            Phase::Value => value(c, Phase::Value, Phase::LineEnd)?,
            Phase::Host => self.host(c)?,
            Phase::Length => self.length(c)?,
            Phase::LengthTail => tail(c, Phase::LengthTail, Reason::Length)?,
            Phase::Coding => self.coding(c)?,
            Phase::CodingTail => tail(c, Phase::CodingTail, Reason::Coding)?,
            Phase::Options | Phase::Upgrade => self.token(c)?,
            Phase::HeadEnd if c == b'\n' && self.saw(SEEN_TRAILER) => Phase::Start,
            Phase::HeadEnd if c == b'\n' => Phase::HeadDone,
            Phase::ChunkSize => self.chunk_size(c)?,
            Phase::ChunkExtension => value(c, Phase::ChunkExtension, Phase::ChunkLineEnd)?,
            Phase::ChunkLineEnd if c == b'\n' => self.chunk_data(),
            Phase::LineEnd | Phase::HeadEnd | Phase::ChunkLineEnd => return Err(Reason::BareCr),
            Phase::ChunkCr if c == b'\r' => Phase::ChunkLf,
            Phase::ChunkLf if c == b'\n' => self.next_chunk(),
            Phase::ChunkCr | Phase::ChunkLf => return Err(Reason::ChunkEnd),
            Phase::HeadDone | Phase::Body | Phase::ChunkData => self.phase,
        };
        Ok(())
    }

    /// Bytes that may be skipped unseen.
    pub(crate) fn skippable(&self) -> u64 {
        if matches!(self.phase, Phase::Body | Phase::ChunkData) { self.left } else { 0 }
    }

    /// Skips `n` bytes, at most [`Scan::skippable`].
    pub(crate) fn skip(&mut self, n: u64) {
        self.left = self.left.saturating_sub(n);
        if self.left == 0 {
            self.phase = if self.phase == Phase::ChunkData { Phase::ChunkCr } else { Phase::Start };
        }
    }

    /// After a head: goes on to the body that its headers announce.
    pub(crate) fn enter_body(&mut self) {
        self.phase = match (self.is_chunked(), self.left) {
            (true, _) => self.next_chunk(),
            (false, 0) => Phase::Start,
            (false, _) => Phase::Body,
        };
    }

    /// After a head: its message has no body, whatever its headers announce.
    pub(crate) fn skip_body(&mut self) {
        self.phase = Phase::Start;
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.saw(SEEN_CODING)
    }

    pub(crate) fn has_length(&self) -> bool {
        self.saw(SEEN_LENGTH)
    }

    pub(crate) fn is_http10(&self) -> bool {
        self.saw(SEEN_HTTP10)
    }

    /// Whether the request scanned is a HEAD request.
    pub(crate) fn is_head(&self) -> bool {
        self.saw(SEEN_HEAD)
    }

    /// Whether the connection ends with this message (RFC 9112 9.3), as its head says.
    pub(crate) fn is_last(&self) -> bool {
        self.hop & HOP_CLOSE != 0 || (self.is_http10() && self.hop & HOP_KEEP == 0)
    }

    /// Whether the request asks for another protocol that may follow: not for HTTP/2, of which RFC 9113 has
    /// removed this way in.
    pub(crate) fn asks_for_upgrade(&self) -> bool {
        self.hop & (HOP_UPGRADE | HOP_H2C) == HOP_UPGRADE
    }

    /// The status of the response scanned.
    pub(crate) fn response_status(&self) -> u16 {
        self.status
    }

    fn saw(&self, what: u8) -> bool {
        self.seen & what != 0
    }

    fn start(&mut self, c: u8) -> Result<Phase, Reason> {
        *self = Self::new(self.side);
        match (self.side, c) {
            (Side::Responses, b'H') => {
                self.count = 1;
                Ok(Phase::Status)
            }
            (Side::Responses, _) => Err(Reason::StatusLine),
            // RFC 9112 2.2: empty lines before a request are ignored.
            (Side::Requests, b'\r' | b'\n') => Ok(Phase::Start),
            (Side::Requests, _) if is_method_byte(c) => {
                self.begin_word(&METHODS, c);
                Ok(Phase::Method)
            }
            (Side::Requests, _) => Err(Reason::Method),
        }
    }

    fn method(&mut self, c: u8) -> Result<Phase, Reason> {
        match c {
            _ if is_method_byte(c) && self.count == METHOD_MAX => Err(Reason::MethodLength),
            _ if is_method_byte(c) => {
                self.match_word(&METHODS, c);
                Ok(Phase::Method)
            }
            b' ' if self.word(&METHODS) == Some(1) => Err(Reason::Connect),
            b' ' => {
                if self.word(&METHODS) == Some(0) {
                    self.seen |= SEEN_HEAD;
                }
                Ok(Phase::Target)
            }
            b'\n' => Err(Reason::BareLf),
            _ => Err(Reason::Method),
        }
    }

    /// RFC 9112 3.2: the origin form, the absolute form, or the asterisk.
    fn target(&mut self, c: u8) -> Result<Phase, Reason> {
        match c {
            b'/' => Ok(Phase::Path),
            // The method is still the word that was compared last.
            b'*' if self.word(&METHODS) == Some(2) => Ok(Phase::Asterisk),
            b'h' | b'H' => {
                self.count = 1;
                Ok(Phase::Scheme)
            }
            _ => Err(Reason::PathForm),
        }
    }

    /// `http://` or `https://`, in any case (RFC 3986 3.1).
    fn scheme(&mut self, c: u8) -> Result<Phase, Reason> {
        // The s may be left out.
        let at = if self.count == 4 && c == b':' { 5 } else { self.count };
        if SCHEME.get(usize::from(at)) != Some(&c.to_ascii_lowercase()) {
            return Err(Reason::PathForm);
        }
        self.count = at + 1;
        if usize::from(self.count) < SCHEME.len() {
            return Ok(Phase::Scheme);
        }
        self.count = host::BEFORE;
        Ok(Phase::Authority)
    }

    /// Host and port of the absolute form: no user, for servers read what stands before an `@` differently.
    fn authority(&mut self, c: u8) -> Result<Phase, Reason> {
        let ends = ends_host(self.count);
        match c {
            b'/' if ends => Ok(Phase::Path),
            b'?' if ends => Ok(Phase::Query),
            b' ' if ends => Ok(self.version_next()),
            _ => {
                self.count = host_step(self.count, c).ok_or(Reason::HostForm)?;
                Ok(Phase::Authority)
            }
        }
    }

    /// The value of Host: nothing, or host and port with blanks around them.
    fn host(&mut self, c: u8) -> Result<Phase, Reason> {
        let at = self.count;
        match c {
            b'\r' if at == host::BEFORE || ends_host(at) => Ok(Phase::LineEnd),
            b'\n' => Err(Reason::BareLf),
            _ if !is_value(c) && c != b'\r' => Err(Reason::Value),
            b' ' | b'\t' if at == host::BEFORE => Ok(Phase::Host),
            b' ' | b'\t' if ends_host(at) => {
                self.count = host::AFTER;
                Ok(Phase::Host)
            }
            _ => {
                self.count = host_step(at, c).ok_or(Reason::HostForm)?;
                Ok(Phase::Host)
            }
        }
    }

    /// At the space behind the target.
    fn version_next(&mut self) -> Phase {
        self.count = 0;
        Phase::Version
    }

    fn path(&mut self, c: u8) -> Result<Phase, Reason> {
        match c {
            // What it means that a target has a fragment, no two servers agree on.
            b'#' => Err(Reason::Fragment),
            0x21..=0x7e | 0x80.. => Ok(self.phase),
            b' ' => Ok(self.version_next()),
            b'\r' => Err(Reason::Version),
            b'\n' => Err(Reason::BareLf),
            _ => Err(Reason::PathByte),
        }
    }

    fn version(&mut self, c: u8) -> Result<Phase, Reason> {
        let at = self.count;
        self.count += 1;
        match (at, c) {
            (0..7, _) if VERSION.get(usize::from(at)) == Some(&c) => Ok(Phase::Version),
            (7, b'0') => {
                self.seen |= SEEN_HTTP10;
                Ok(Phase::Version)
            }
            (7, b'1') => Ok(Phase::Version),
            (8, b'\r') => Ok(Phase::LineEnd),
            (8, b'\n') => Err(Reason::BareLf),
            _ => Err(Reason::Version),
        }
    }

    fn status(&mut self, c: u8) -> Result<Phase, Reason> {
        let at = self.count;
        self.count += 1;
        match (at, c) {
            (0..7, _) if VERSION.get(usize::from(at)) == Some(&c) => Ok(Phase::Status),
            (7, b'0'..=b'9') => {
                if c == b'0' {
                    self.seen |= SEEN_HTTP10;
                }
                Ok(Phase::Status)
            }
            (8, b' ') => Ok(Phase::Status),
            (9..12, b'0'..=b'9') => {
                self.status = self.status * 10 + u16::from(c - b'0');
                if at == 11 && self.status == 101 { Err(Reason::Upgrade) } else { Ok(Phase::Status) }
            }
            (12, b' ') => Ok(Phase::Value),
            (12, b'\r') => Ok(Phase::LineEnd),
            (12, b'\n') => Err(Reason::BareLf),
            _ => Err(Reason::StatusLine),
        }
    }

    fn line(&mut self, c: u8) -> Result<Phase, Reason> {
        match c {
            b'\r' => Ok(Phase::HeadEnd),
            b'\n' => Err(Reason::BareLf),
            b' ' | b'\t' => Err(Reason::Folded),
            _ if is_token(c) => {
                self.begin_word(&NAMES, c);
                Ok(Phase::Name)
            }
            _ => Err(Reason::Name),
        }
    }

    fn name(&mut self, c: u8) -> Result<Phase, Reason> {
        match c {
            b':' if self.saw(SEEN_TRAILER) => Ok(Phase::Value),
            b':' => self.header(),
            b' ' | b'\t' => Err(Reason::BlankBeforeColon),
            b'\n' => Err(Reason::BareLf),
            _ if is_token(c) => {
                self.match_word(&NAMES, c);
                Ok(Phase::Name)
            }
            _ => Err(Reason::Name),
        }
    }

    /// At the colon: which header is it, and may it be here?
    fn header(&mut self) -> Result<Phase, Reason> {
        let (bit, phase) = match self.word(&NAMES) {
            Some(0) if self.has_length() => return Err(Reason::LengthTwice),
            Some(0) if self.is_chunked() => return Err(Reason::LengthAndCoding),
            Some(0) => (SEEN_LENGTH, Phase::Length),
            Some(1) if self.is_chunked() => return Err(Reason::CodingTwice),
            Some(1) if self.has_length() => return Err(Reason::LengthAndCoding),
            Some(1) if self.is_http10() => return Err(Reason::CodingTooEarly),
            Some(1) => (SEEN_CODING, Phase::Coding),
            Some(2) if self.saw(SEEN_HOST) => return Err(Reason::HostTwice),
            Some(2) => (SEEN_HOST, Phase::Host),
            Some(3) => (0, Phase::Options),
            Some(_) => (0, Phase::Upgrade),
            None => (0, Phase::Value),
        };
        self.seen |= bit;
        self.count = 0;
        self.words = !0;
        Ok(phase)
    }

    /// A byte of a list of words, which end at commas and blanks.
    fn token(&mut self, c: u8) -> Result<Phase, Reason> {
        if !matches!(c, b'\r' | b',' | b' ' | b'\t') {
            self.match_word(&TOKENS, c);
            return value(c, self.phase, Phase::LineEnd);
        }
        match (self.phase, self.word(&TOKENS)) {
            (Phase::Options, Some(0)) => self.hop |= HOP_CLOSE,
            (Phase::Options, Some(1)) => self.hop |= HOP_KEEP,
            (Phase::Upgrade, Some(2)) => self.hop |= HOP_UPGRADE | HOP_H2C,
            (Phase::Upgrade, _) if self.count > 0 => self.hop |= HOP_UPGRADE,
            _ => {}
        }
        self.count = 0;
        self.words = !0;
        value(c, self.phase, Phase::LineEnd)
    }

    fn length(&mut self, c: u8) -> Result<Phase, Reason> {
        match c {
            b'0'..=b'9' if self.count < LENGTH_DIGITS => {
                self.count += 1;
                self.left = self.left * 10 + u64::from(c - b'0');
                Ok(Phase::Length)
            }
            b' ' | b'\t' if self.count == 0 => Ok(Phase::Length),
            b'\n' => Err(Reason::BareLf),
            _ if self.count == 0 => Err(Reason::Length),
            _ => tail(c, Phase::LengthTail, Reason::Length),
        }
    }

    fn coding(&mut self, c: u8) -> Result<Phase, Reason> {
        match CHUNKED.get(usize::from(self.count)) {
            Some(letter) if c.to_ascii_lowercase() == *letter => {
                self.count += 1;
                Ok(Phase::Coding)
            }
            Some(_) if self.count == 0 && matches!(c, b' ' | b'\t') => Ok(Phase::Coding),
            Some(_) if c == b'\n' => Err(Reason::BareLf),
            Some(_) => Err(Reason::Coding),
            None => tail(c, Phase::CodingTail, Reason::Coding),
        }
    }

    fn chunk_size(&mut self, c: u8) -> Result<Phase, Reason> {
        match (char::from(c).to_digit(16), c) {
            (Some(digit), _) if self.count < CHUNK_DIGITS => {
                self.count += 1;
                self.left = self.left * 16 + u64::from(digit);
                Ok(Phase::ChunkSize)
            }
            (_, b'\n') => Err(Reason::BareLf),
            (_, b';') if self.count > 0 => Ok(Phase::ChunkExtension),
            (_, b'\r') if self.count > 0 => Ok(Phase::ChunkLineEnd),
            _ => Err(Reason::ChunkSize),
        }
    }

    fn chunk_data(&mut self) -> Phase {
        if self.left > 0 {
            return Phase::ChunkData;
        }
        self.seen |= SEEN_TRAILER;
        Phase::Line
    }

    fn next_chunk(&mut self) -> Phase {
        self.count = 0; // what was left is passed
        Phase::ChunkSize
    }

    /// The first byte of a word: all of them are candidates.
    fn begin_word(&mut self, words: &[&[u8]], c: u8) {
        self.count = 0;
        self.words = !0;
        self.match_word(words, c);
    }

    /// The next byte of a word, whatever its case.
    fn match_word(&mut self, words: &[&[u8]], c: u8) {
        for (i, word) in words.iter().enumerate() {
            if !word.get(usize::from(self.count)).is_some_and(|w| w.eq_ignore_ascii_case(&c)) {
                self.words &= !(1 << i);
            }
        }
        self.count = self.count.saturating_add(1);
    }

    /// At the end of a word: which it was.
    fn word(&self, words: &[&[u8]]) -> Option<usize> {
        let whole =
            |(i, word): (usize, &&[u8])| self.words & (1 << i) != 0 && word.len() == usize::from(self.count);
        words.iter().enumerate().position(whole)
    }
}

/// The next byte of a host with its port (RFC 3986 3.2.2, 3.2.3), as narrow as hosts are in practice: a name of
/// letters, digits, hyphens and underscores with single dots between, an IPv4 address, which looks like one, or
/// an IPv6 address in brackets; then perhaps a colon and digits. `None`: no host has it there.
fn host_step(at: u8, c: u8) -> Option<u8> {
    match (at, c) {
        (host::BEFORE | host::NAME | host::DOT, _)
            if c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_') =>
        {
            Some(host::NAME)
        }
        (host::NAME, b'.') => Some(host::DOT),
        (host::BEFORE, b'[') => Some(host::OPEN),
        (host::OPEN | host::ADDRESS, b':' | b'.') => Some(host::ADDRESS),
        (host::OPEN | host::ADDRESS, _) if c.is_ascii_hexdigit() => Some(host::ADDRESS),
        (host::ADDRESS, b']') => Some(host::CLOSED),
        (host::NAME | host::DOT | host::CLOSED, b':') => Some(host::PORT),
        (host::PORT, b'0'..=b'9') => Some(host::PORT),
        _ => None,
    }
}

/// Whether a host may end here.
fn ends_host(at: u8) -> bool {
    matches!(at, host::NAME | host::DOT | host::CLOSED | host::PORT | host::AFTER)
}

/// A byte of text that is not interpreted, or the CR behind it.
fn value(c: u8, stay: Phase, end: Phase) -> Result<Phase, Reason> {
    match c {
        b'\r' => Ok(end),
        b'\n' => Err(Reason::BareLf),
        _ if is_value(c) => Ok(stay),
        _ => Err(Reason::Value),
    }
}

/// A blank behind an interpreted value, or the CR.
fn tail(c: u8, stay: Phase, otherwise: Reason) -> Result<Phase, Reason> {
    match c {
        b' ' | b'\t' => Ok(stay),
        b'\r' => Ok(Phase::LineEnd),
        b'\n' => Err(Reason::BareLf),
        _ => Err(otherwise),
    }
}
