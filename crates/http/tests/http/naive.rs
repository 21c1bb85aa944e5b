//! A reading of whole buffers that is as simple as can be: find the empty line, split, look at the lines.
//! It is the second opinion that scanner and follower are held against.

/// What the bytes begin with.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// A whole clear message of so many bytes; `head` of them are its head.
    Whole { length: usize, head: usize, is_head: bool },
    /// A clear head; its body is not there, or not yet at its end.
    Begun { head: usize, is_head: bool },
    /// A head or body that is there and not clear.
    Bad,
    /// No empty line: cannot tell.
    Unknown,
}

pub fn request(bytes: &[u8]) -> Seen {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return Seen::Unknown };
    let Some((is_head, body)) = head(&bytes[..end]) else { return Seen::Bad };
    let (head, rest) = (end + 4, &bytes[end + 4..]);
    match body {
        Some(length) if length <= rest.len() as u64 => {
            Seen::Whole { length: head + length as usize, head, is_head }
        }
        Some(_) => Seen::Begun { head, is_head },
        None => match chunks(rest) {
            Some(Some(length)) => Seen::Whole { length: head + length, head, is_head },
            Some(None) => Seen::Begun { head, is_head },
            None => Seen::Bad,
        },
    }
}

/// A head without its empty line: whether it is HEAD, and the body's length (`None`: chunked).
fn head(head: &[u8]) -> Option<(bool, Option<u64>)> {
    let mut lines = lines(head)?.into_iter();
    let parts: Vec<&[u8]> = lines.next()?.split(|c| *c == b' ').collect();
    let [method, target, version] = parts[..] else { return None };
    let letters = method.iter().all(u8::is_ascii_uppercase) && (1..=15).contains(&method.len());
    let graphic = target.iter().all(u8::is_ascii_graphic) && target.starts_with(b"/");
    if !letters || method == b"CONNECT" || !graphic || !escapes(target) {
        return None;
    }
    let old = match version {
        b"HTTP/1.0" => true,
        b"HTTP/1.1" => false,
        _ => return None,
    };
    let fields: Vec<(String, &[u8])> = lines.map(field).collect::<Option<_>>()?;
    let all = |name| fields.iter().filter(|(n, _)| n == name).map(|(_, v)| *v).collect::<Vec<_>>();
    if all("host").len() > 1 {
        return None;
    }
    let body = match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => Some(0),
        ([length], []) => {
            let digits = length.iter().all(u8::is_ascii_digit) && (1..=18).contains(&length.len());
            Some(std::str::from_utf8(length).ok().filter(|_| digits)?.parse().ok()?)
        }
        ([], [coding]) if !old && coding.eq_ignore_ascii_case(b"chunked") => None,
        _ => return None,
    };
    Some((method == b"HEAD", body))
}

/// The bytes of a chunked body; `Some(None)` when its end is not there.
fn chunks(mut bytes: &[u8]) -> Option<Option<usize>> {
    let all = bytes.len();
    loop {
        let Some(end) = find(bytes, b"\r\n") else { return Some(None) };
        let line = &bytes[..end];
        let (size, extension) = match line.iter().position(|c| *c == b';') {
            Some(at) => (&line[..at], &line[at..]),
            None => (line, &line[..0]),
        };
        if size.is_empty() || size.len() > 15 || !size.iter().all(u8::is_ascii_hexdigit) || !text(extension) {
            return None;
        }
        let size = usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
        bytes = &bytes[end + 2..];
        if size == 0 {
            break;
        }
        let Some(behind) = bytes.get(size..size + 2) else { return Some(None) };
        if behind != b"\r\n" {
            return None;
        }
        bytes = &bytes[size + 2..];
    }
    while !bytes.starts_with(b"\r\n") {
        let Some(end) = find(bytes, b"\r\n") else { return Some(None) };
        field(&bytes[..end])?;
        bytes = &bytes[end + 2..];
    }
    Some(Some(all - bytes.len() + 2))
}

/// Lines that CRLF separates, with no other CR or LF among them.
fn lines(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut lines = Vec::new();
    while let Some(end) = find(bytes, b"\r\n") {
        lines.push(&bytes[..end]);
        bytes = &bytes[end + 2..];
    }
    lines.push(bytes);
    lines.iter().all(|line| !line.contains(&b'\r') && !line.contains(&b'\n')).then_some(lines)
}

fn field(line: &[u8]) -> Option<(String, &[u8])> {
    let colon = line.iter().position(|c| *c == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let token = |c: &u8| c.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(c);
    (colon > 0 && name.iter().all(token) && text(value))
        .then(|| (String::from_utf8_lossy(name).to_ascii_lowercase(), value.trim_ascii()))
}

fn text(bytes: &[u8]) -> bool {
    bytes.iter().all(|c| *c == b'\t' || !c.is_ascii_control())
}

fn escapes(target: &[u8]) -> bool {
    let path = target.split(|c| *c == b'?').next().unwrap_or_default();
    path.split(|c| *c == b'%')
        .skip(1)
        .all(|rest| rest.len() >= 2 && rest[..2].iter().all(u8::is_ascii_hexdigit))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
