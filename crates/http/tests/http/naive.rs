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
    let empty = bytes.iter().take_while(|c| matches!(c, b'\r' | b'\n')).count();
    let Some(end) = find(&bytes[empty..], b"\r\n\r\n").map(|end| empty + end) else { return Seen::Unknown };
    let Some((is_head, body)) = head(&bytes[empty..end]) else { return Seen::Bad };
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
    let known =
        method.iter().all(|c| token(c) && !c.is_ascii_lowercase()) && (1..=31).contains(&method.len());
    if !known || method == b"CONNECT" || !(target == b"*" && method == b"OPTIONS" || uri(target)) {
        return None;
    }
    let old = match version {
        b"HTTP/1.0" => true,
        b"HTTP/1.1" => false,
        _ => return None,
    };
    let fields: Vec<(String, &[u8])> = lines.map(field).collect::<Option<_>>()?;
    let all = |name| fields.iter().filter(|(n, _)| n == name).map(|(_, v)| *v).collect::<Vec<_>>();
    match &all("host")[..] {
        [] | [b""] => {}
        [one] if authority(one) => {}
        _ => return None,
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
    (colon > 0 && name.iter().all(token) && text(value))
        .then(|| (String::from_utf8_lossy(name).to_ascii_lowercase(), value.trim_ascii()))
}

fn token(c: &u8) -> bool {
    c.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(c)
}

/// A target in origin or absolute form.
fn uri(target: &[u8]) -> bool {
    let scheme = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|s| target.get(..s.len()).is_some_and(|t| t.eq_ignore_ascii_case(s)));
    let path = match scheme {
        None if !target.starts_with(b"/") => return false,
        None => target,
        Some(scheme) => {
            let rest = &target[scheme.len()..];
            let end = rest.iter().position(|c| b"/?".contains(c)).unwrap_or(rest.len());
            if !authority(&rest[..end]) {
                return false;
            }
            &rest[end..]
        }
    };
    path.iter().all(|c| *c > b' ' && *c != 0x7f && *c != b'#') && escapes(path)
}

/// A name or an address, perhaps with a port.
fn authority(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let port = |text: &str| text.is_empty() || text.strip_prefix(':').is_some_and(digits);
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else { return false };
        let of_address = |c: char| c.is_ascii_hexdigit() || ".:".contains(c);
        return !address.is_empty() && address.chars().all(of_address) && port(rest);
    }
    let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
    let label = |l: &str| !l.is_empty() && l.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    name.strip_suffix('.').unwrap_or(name).split('.').all(label) && port(rest)
}

fn digits(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_digit())
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
