//! One meaning for the many spellings of a path (RFC 3986 6.2.2), so that keys and routes see one. The
//! parser normalises; the packet path decides only what [`is_normal`]. Queries are left as they are. What web
//! servers do not agree on is in [`crate::readings`].

use std::borrow::Cow;

use crate::bytes::is_unreserved;

/// The normal form of a path: escapes of unreserved characters decoded and the others in upper case
/// (RFC 3986 6.2.2.1, 6.2.2.2), then runs of slashes made one, then dot segments removed (5.2.4), never
/// above the root. Bytes beyond ASCII become escapes (RFC 3987 3.1). `None` when it is not a path: a slash,
/// then no control character, blank, `?` or `#`, every `%` followed by two hexadecimal digits.
pub fn normalise<P: AsRef<[u8]> + ?Sized>(path: &P) -> Option<Cow<'_, str>> {
    let path = path.as_ref();
    if is_normal(path) {
        return str::from_utf8(path).ok().map(Cow::from);
    }
    let decoded = decode(path)?;
    let mut kept = Vec::new();
    let mut ends_in_slash = true;
    for segment in decoded.strip_prefix('/')?.split('/') {
        ends_in_slash = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    let mut normal = String::with_capacity(decoded.len());
    for segment in &kept {
        normal.push('/');
        normal.push_str(segment);
    }
    if ends_in_slash {
        normal.push('/');
    }
    Some(normal.into())
}

/// Whether this is a path and its own normal form: ASCII, no `//`, no segment `.` or `..`, each `%` followed by
/// two of `0-9A-F` that mean no unreserved character.
pub fn is_normal(path: &(impl AsRef<[u8]> + ?Sized)) -> bool {
    let Some(rest) = path.as_ref().strip_prefix(b"/") else { return false };
    let mut segments = rest.rsplit(|c| *c == b'/');
    let last_is_normal = segments.next().is_none_or(|last| !matches!(last, b"." | b".."));
    last_is_normal && segments.all(|s| !matches!(s, b"" | b"." | b"..")) && escapes_are_normal(rest)
}

fn escapes_are_normal(path: &[u8]) -> bool {
    let mut bytes = path.iter().copied();
    while let Some(c) = bytes.next() {
        if !is_path_byte(c) || !c.is_ascii() {
            return false;
        }
        if c == b'%' {
            let (Some(high), Some(low)) = (bytes.next(), bytes.next()) else { return false };
            let shouts = !high.is_ascii_lowercase() && !low.is_ascii_lowercase();
            if !shouts || unescape(high, low).is_none_or(is_unreserved) {
                return false;
            }
        }
    }
    true
}

/// The path with every escape in its normal form, and nothing but ASCII.
pub(crate) fn decode(path: &[u8]) -> Option<String> {
    let mut decoded = String::with_capacity(path.len());
    let mut bytes = path.iter().copied();
    while let Some(c) = bytes.next() {
        match c {
            b'%' => {
                let (high, low) = (bytes.next()?, bytes.next()?);
                let meant = unescape(high, low)?;
                if is_unreserved(meant) {
                    decoded.push(char::from(meant));
                } else {
                    decoded.extend(['%', upper(high), upper(low)]);
                }
            }
            0x80.. => decoded.extend(['%', digit(c >> 4), digit(c & 15)]),
            _ if is_path_byte(c) => decoded.push(char::from(c)),
            _ => return None,
        }
    }
    Some(decoded)
}

fn upper(c: u8) -> char {
    char::from(c.to_ascii_uppercase())
}

fn digit(value: u8) -> char {
    upper(char::from_digit(value.into(), 16).map_or(b'0', |c| c as u8))
}

fn unescape(high: u8, low: u8) -> Option<u8> {
    let digit = |c: u8| char::from(c).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

fn is_path_byte(c: u8) -> bool {
    (c.is_ascii_graphic() || !c.is_ascii()) && c != b'?' && c != b'#'
}
