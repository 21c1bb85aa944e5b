//! What web servers take a path for. They agree on plain paths; on others they do not: some decode an escaped
//! slash, join slashes, remove dot segments, take a backslash for a slash, or leave parameters away, and some do
//! not. Where pools have different servers, a request is only sent on when all readings belong to one pool
//! ([`crate::Rules::choose_surely`]).
//!
//! | reading | for example |
//! |---|---|
//! | an escaped slash is a slash | nginx, Apache with AllowEncodedSlashes, Go and Caddy |
//! | slashes are not joined | nginx with `merge_slashes off`, Go, Node |
//! | dot segments are not removed | Node, HAProxy |
//! | a backslash is a slash; an escaped one, too | IIS both, Node's `URL` the plain one |
//! | `;` and what follows it in its segment do not count | Tomcat, Jetty |
//! | the path ends at an escaped NUL, `?` or `#` | what hands the decoded path to C, or parses it again |
//!
//! An escaped letter, digit or `-._~` means the same as the character itself to all (RFC 9110 4.2.3).

use crate::normal::{decode, is_normal};

/// What of a path does not mean the same to all: two bytes, and escapes as the normal form has them.
const ODD_BYTES: &[u8] = b"\\;";
const CUTS: [&str; 3] = ["%00", "%3F", "%23"];
const SLASH: &str = "%2F";
const BACKSLASH: &str = "%5C";

/// Whether every server reads this path as it is written: it is normal, and has neither backslash nor semicolon
/// nor an escaped slash, backslash, NUL, question mark or number sign.
pub fn is_plain(path: &(impl AsRef<[u8]> + ?Sized)) -> bool {
    let path = path.as_ref();
    let has = |escape: &str| path.windows(escape.len()).any(|w| w == escape.as_bytes());
    is_normal(path)
        && !path.iter().any(|c| ODD_BYTES.contains(c))
        && !CUTS.iter().chain(&[SLASH, BACKSLASH]).any(|escape| has(escape))
}

/// Of all readings together: whoever sends a request chooses how many there are.
const BYTES_MAX: usize = 128 * 1024;

/// One way of reading a path; of each two servers differ.
#[derive(Clone, Copy, Debug)]
struct PathReading {
    slash: bool,
    backslash: bool,
    escaped_backslash: bool,
    parameters: bool,
    cut: bool,
    joined: bool,
    resolved: bool,
}

/// Every reading of a path that is not plain; some of them may be equal. `None`: they are more than may be looked
/// at.
pub(crate) fn readings(path: &[u8]) -> Option<Vec<String>> {
    let decoded = decode(path)?;
    let has = |what: &[&str]| what.iter().any(|w| decoded.contains(w));
    // What the path does not have need not be tried.
    let slash = ways(has(&[SLASH]));
    let (backslash, escaped) = (ways(has(&["\\"])), ways(has(&[BACKSLASH])));
    let (parameters, cut) = (ways(has(&[";"])), ways(has(&CUTS)));
    let mut all = Vec::new();
    let slashes = slash.iter().flat_map(|s| backslash.iter().map(move |b| (*s, *b)));
    let slashes = slashes.flat_map(|(s, b)| escaped.iter().map(move |e| (s, b, *e)));
    for (slash, backslash, escaped_backslash) in slashes {
        for (parameters, cut) in parameters.iter().flat_map(|p| cut.iter().map(move |c| (*p, *c))) {
            for (joined, resolved) in [(false, false), (false, true), (true, false), (true, true)] {
                all.push(PathReading {
                    slash,
                    backslash,
                    escaped_backslash,
                    parameters,
                    cut,
                    joined,
                    resolved,
                });
            }
        }
    }
    (all.len() * decoded.len() <= BYTES_MAX).then(|| all.iter().map(|way| way.read(&decoded)).collect())
}

fn ways(differs: bool) -> &'static [bool] {
    if differs { &[false, true] } else { &[false] }
}

impl PathReading {
    fn read(self, decoded: &str) -> String {
        let end = CUTS.iter().filter_map(|cut| decoded.find(cut)).min().filter(|_| self.cut);
        let mut path = decoded.get(..end.unwrap_or(decoded.len())).unwrap_or_default().to_owned();
        if self.slash {
            path = path.replace(SLASH, "/");
        }
        if self.backslash {
            path = path.replace('\\', "/");
        }
        if self.escaped_backslash {
            path = path.replace(BACKSLASH, "/");
        }
        let mut kept: Vec<&str> = Vec::new();
        let mut ends_in_slash = false;
        for segment in path.split('/').skip(1) {
            let segment = match segment.split_once(';') {
                Some((name, _)) if self.parameters => name,
                _ => segment,
            };
            ends_in_slash = true;
            match segment {
                "" if self.joined => {}
                "." if self.resolved => {}
                ".." if self.resolved => drop(kept.pop()),
                _ => {
                    kept.push(segment);
                    ends_in_slash = false;
                }
            }
        }
        let mut read: String = kept.iter().flat_map(|segment| ["/", segment]).collect();
        if ends_in_slash {
            read.push('/');
        }
        read
    }
}
