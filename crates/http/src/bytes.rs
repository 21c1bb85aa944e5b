//! The classes of bytes that heads are made of: one definition for the scanner, keys and routes.

/// RFC 9110 5.6.2, `tchar`.
pub(crate) fn is_token(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c)
}

/// What a method is made of: as [`is_token`], but no lower-case letters. Methods are compared in their case
/// (RFC 9110 9.1), and some servers take `get` for `GET` all the same.
pub(crate) fn is_method_byte(c: u8) -> bool {
    is_token(c) && !c.is_ascii_lowercase()
}

/// What a header's value, a reason phrase and a chunk extension are made of: printable ASCII, HT, and
/// bytes from 0x80 on (RFC 9110 5.5 with `obs-text`).
pub(crate) fn is_value(c: u8) -> bool {
    c == b'\t' || (c >= 0x20 && c != 0x7f)
}

/// RFC 3986 2.3, `unreserved`: their percent-escapes mean the same as they do.
pub(crate) fn is_unreserved(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"-._~".contains(&c)
}
