//! Names as routes compare them. Made from what a client sends; the hosts of the cluster file follow the
//! same rules.

use std::fmt;
use std::ops::Deref;

/// RFC 1035 2.3.4, without the final dot.
const NAME_LEN_MAX: usize = 253;
const LABEL_LEN_MAX: usize = 63;

/// A host name in lower case without final dot, at most 253 characters: labels of 1 to 63 letters,
/// digits, hyphens and underscores (which are no part of a host name, but of many names in use), the last
/// not of digits alone, so that it is never an IPv4 address. Names of other scripts come as `xn--`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// The name that a client means by these bytes, if it is one (RFC 6066 3). The final dot that it ought
    /// to leave out is left out.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let name = bytes.strip_suffix(b".").unwrap_or(bytes);
        let mut labels = name.rsplit(|c| *c == b'.');
        let is_number = labels.clone().next().is_none_or(|last| last.iter().all(u8::is_ascii_digit));
        if name.len() > NAME_LEN_MAX || is_number || !labels.all(is_label) {
            return None;
        }
        String::from_utf8(name.to_ascii_lowercase()).ok().map(Self)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_label(label: &[u8]) -> bool {
    let allowed = |c: &u8| c.is_ascii_alphanumeric() || b"-_".contains(c);
    (1..=LABEL_LEN_MAX).contains(&label.len()) && label.iter().all(allowed)
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
