//! What of a request its target is made from. A pool has one key; the cluster file names it, the
//! dispatcher's side asks it for bytes. It never hashes: the packet path does, with the cluster's key.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::head::Request;

/// What of a request its target is made from. Its text form, in the cluster file and everywhere else,
/// is `path`, `path+query`, `query:NAME`, `header:NAME`, `cookie:NAME`; or `name`, which no request has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Key {
    /// The normalised path.
    #[default]
    Path,
    /// The normalised path and, if there is one, `?` and the query as it was sent.
    PathQuery,
    /// The value of the first query parameter of this name (compared as sent, nothing decoded).
    Query(String),
    /// The value of the first header of this name (lower case; compared ignoring case).
    Header(String),
    /// The value of the first cookie of this name (compared exactly).
    Cookie(String),
    /// The server name of a connection whose requests nobody but its server can read (TLS).
    Name,
}

/// Why a text is not a [`Key`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// None of the five forms.
    #[error(
        "{0:?} is not a key: write \"path\", \"path+query\", \"query:NAME\", \"header:NAME\" or \"cookie:NAME\""
    )]
    Form(String),
    /// The name is empty, or no request could carry it.
    #[error(
        "{0:?} names nothing a request can carry: after the colon write the name alone, as in \"query:id\""
    )]
    Name(String),
}

impl Key {
    /// The bytes that this request's target is made from; `None` when the request has no such query
    /// parameter, header or cookie. A request without target is placed by load alone.
    pub fn of<'r>(&self, request: &'r Request<'_>) -> Option<Cow<'r, [u8]>> {
        match self {
            Self::Path => Some(request.path.as_bytes().into()),
            Self::PathQuery => Some(path_and_query(request)),
            Self::Query(name) => request.query.and_then(|query| parameter(query, name)).map(Cow::from),
            Self::Header(name) => {
                let mut headers = request.headers();
                headers.find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value.into())
            }
            Self::Cookie(name) => request
                .headers()
                .filter(|(n, _)| n.eq_ignore_ascii_case(b"cookie"))
                .find_map(|(_, value)| cookie(value, name.as_bytes()))
                .map(Cow::from),
            Self::Name => None,
        }
    }

    /// Whether the request line alone gives the bytes, so that the kernel may make the target.
    pub fn is_in_request_line(&self) -> bool {
        matches!(self, Self::Path | Self::PathQuery)
    }
}

fn path_and_query<'r>(request: &'r Request<'_>) -> Cow<'r, [u8]> {
    match request.query {
        None => request.path.as_bytes().into(),
        Some(query) => [request.path.as_bytes(), b"?", query].concat().into(),
    }
}

fn parameter<'q>(query: &'q [u8], name: &str) -> Option<&'q [u8]> {
    query.split(|c| *c == b'&').find_map(|pair| match pair.strip_prefix(name.as_bytes())? {
        [] => Some(&[][..]),
        [b'=', value @ ..] => Some(value),
        _ => None,
    })
}

/// RFC 6265 4.2.1: pairs between semicolons.
fn cookie<'h>(header: &'h [u8], name: &[u8]) -> Option<&'h [u8]> {
    header
        .split(|c| *c == b';')
        .map(<[u8]>::trim_ascii)
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"="))
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => f.write_str("path"),
            Self::PathQuery => f.write_str("path+query"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Name => f.write_str("name"),
        }
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (kind, name) = match text.split_once(':') {
            None if text == "path" => return Ok(Self::Path),
            None if text == "path+query" => return Ok(Self::PathQuery),
            None if text == "name" => return Ok(Self::Name),
            None => return Err(KeyError::Form(text.into())),
            Some(parts) => parts,
        };
        let (key, possible) = match kind {
            "query" => (Self::Query(name.into()), name.bytes().all(is_parameter_byte)),
            "header" => (Self::Header(name.to_ascii_lowercase()), name.bytes().all(crate::bytes::is_token)),
            "cookie" => (Self::Cookie(name.into()), name.bytes().all(crate::bytes::is_token)),
            _ => return Err(KeyError::Form(text.into())),
        };
        if name.is_empty() || !possible { Err(KeyError::Name(text.into())) } else { Ok(key) }
    }
}

fn is_parameter_byte(c: u8) -> bool {
    c.is_ascii_graphic() && c != b'&' && c != b'='
}

impl TryFrom<String> for Key {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.to_string()
    }
}
