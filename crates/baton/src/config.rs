//! Reading the cluster file for every command that takes one, and telling what is wrong with it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use baton_cluster::{Cluster, ConfigError, ConfigErrors, Node, Warning};
use clap::Args;
use nix::fcntl::OFlag;
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};

/// No cluster file is longer: of the largest cluster it has some 100 kB.
const BYTES_MAX: u64 = 1 << 20;

/// A line of the file is shown as far as this, in characters.
const SHOWN_MAX: usize = 100;

/// Which cluster file, and which of its nodes this machine is.
#[derive(Args)]
pub struct ThisNode {
    /// The cluster file
    #[arg(long, value_name = "FILE", default_value = "/etc/baton/cluster.toml")]
    pub config: PathBuf,
    /// The name of this node in it [default: this machine's host name, up to its first dot]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

impl ThisNode {
    /// The cluster that the file describes, and this node in it.
    pub fn read(&self) -> Result<(Cluster, Node), Failure> {
        let cluster = cluster(&self.config)?;
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = host.trim().split('.').next().unwrap_or_default().to_lowercase();
        let name = self.node.as_deref().unwrap_or(&host);
        if let Some(node) = cluster.node_named(name).cloned() {
            return Ok((cluster, node));
        }
        let names: Vec<_> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
        let mut what = format!("{} has no node {name:?}; it has {}", self.config.display(), names.join(", "));
        if self.node.is_none() {
            what.push_str(
                "\n  help: that is this machine's host name; say which node it is with --node NAME",
            );
        }
        Err(Failure::new(Exit::Config, what))
    }
}

/// The file's text.
pub fn text(file: &Path, exit: Exit) -> Result<String, Failure> {
    read(file).map_err(|error| {
        let help = match error.kind() {
            io::ErrorKind::PermissionDenied => "run this as root: the file has the cluster's secret",
            io::ErrorKind::InvalidData => "is it the right file? A cluster file is text, in UTF-8",
            _ => "write one with `baton init`, or name the right one",
        };
        let what = format!("cannot read the cluster file {}: {error}", file.display());
        Failure::new(exit, format!("{what}\n  help: {help}"))
    })
}

/// The text on standard input.
pub fn standard_input(exit: Exit) -> Result<String, Failure> {
    limited(io::stdin().lock()).map_err(|error| {
        let what = format!("cannot read a cluster file from standard input: {error}");
        Failure::new(exit, format!("{what}\n  help: as in `baton check - < cluster.toml`"))
    })
}

/// Reads a file that is one, as far as it can be a cluster file: no device, pipe or folder, which may never end.
fn read(path: &Path) -> io::Result<String> {
    // Of a pipe that nobody writes into, opening it would not end.
    let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    limited(file)
}

/// Reads text as far as it can be a cluster file.
fn limited(from: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    from.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(io::Error::other(format!("it is longer than {BYTES_MAX} bytes")));
    }
    let is_utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    let wrong = bytes.iter().position(|byte| *byte == 0);
    let wrong = std::str::from_utf8(&bytes).err().map(|error| error.valid_up_to()).or(wrong);
    match wrong {
        None => String::from_utf8(bytes).map_err(io::Error::other),
        Some(_) if is_utf16 => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "it is not text in UTF-8, but in UTF-16"))
        }
        Some(at) => {
            let (before, byte) = (bytes.get(..at).unwrap_or_default(), bytes.get(at).copied().unwrap_or(0));
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            let what = format!("it is not text: byte {at}, on line {line}, is 0x{byte:02x}");
            Err(io::Error::new(io::ErrorKind::InvalidData, what))
        }
    }
}

/// What to say of a file that users of this machine may read or change who are neither its owner nor of its group.
pub fn exposed(path: &Path) -> Option<Warning> {
    let mode = fs::metadata(path).ok()?.permissions().mode();
    let file = path.display();
    let others = match mode & 0o6 {
        0 => return None,
        0o4 => "read",
        _ => "change",
    };
    let what = format!("every user of this machine may {others} {file}, which has the cluster's secret");
    Some(Warning { what, help: format!("chmod o-rwx {file}") })
}

/// The cluster that a file describes.
pub fn cluster(file: &Path) -> Result<Cluster, Failure> {
    let text = text(file, Exit::Config)?;
    Cluster::parse(&text).map_err(|errors| {
        let list: Vec<Value> = errors.0.iter().map(as_json).collect();
        Failure::told(Exit::Config, problems(file, &text, &errors)).with("problems", list)
    })
}

/// One thing that is wrong with a file, for scripts.
pub fn as_json(error: &ConfigError) -> Value {
    json!({ "line": error.line, "what": error.what, "help": error.help })
}

/// All that is wrong with a file, each with its line.
pub fn problems(file: &Path, text: &str, errors: &ConfigErrors) -> String {
    errors.0.iter().map(|error| problem(file, text, error)).collect::<Vec<_>>().join("\n")
}

fn problem(file: &Path, text: &str, error: &ConfigError) -> String {
    let file = file.display();
    let mut told = format!("error: {}\n", error.what);
    // Writing to a string cannot fail.
    let _ = match error.line {
        Some(line) => writeln!(told, "  --> {file}:{line}"),
        None => writeln!(told, "  --> {file}"),
    };
    let source = error.line.and_then(|line| Some((line, text.lines().nth(line.checked_sub(1)?)?)));
    if let Some((line, source)) = source.and_then(|(line, source)| Some((line, harmless(source)?))) {
        let shown: String = source.chars().take(SHOWN_MAX).collect();
        let more = if shown.len() < source.len() { "..." } else { "" };
        let _ = writeln!(told, "   |\n{line:>3}| {shown}{more}\n   |");
    }
    let _ = writeln!(told, "   = help: {}", error.help);
    told
}

/// A line of the file as far as it cannot hold the secret, even where that was put under a wrong
/// key: what is printed here may end up in a log.
fn harmless(line: &str) -> Option<String> {
    /// A secret has 32 characters at least, and its quotes.
    const VALUE_MAX: usize = 33;
    if line.to_lowercase().contains("secret") {
        return None;
    }
    match line.split_once('=') {
        Some((_, value)) if value.trim().starts_with('[') || value.trim().len() <= VALUE_MAX => {
            Some(line.to_owned())
        }
        Some((key, _)) => Some(format!("{key}= ...")),
        // A section; else perhaps the inside of a long string.
        None => line.trim_start().starts_with('[').then(|| line.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::harmless;

    #[test]
    fn a_line_that_may_hold_the_secret_is_not_shown() {
        assert_eq!(harmless("secret = \"short\""), None);
        assert_eq!(harmless("cluster = { Secret = \"0123\" }"), None);
        assert_eq!(harmless("0123456789abcdef0123456789abcdef"), None, "inside a long string");
        let misspelt = "secert = \"0123456789abcdef0123456789abcdef\"";
        assert_eq!(harmless(misspelt).as_deref(), Some("secert = ..."));
        let open = "secert = 0123456789abcdef0123456789abcdef01";
        assert_eq!(harmless(open).as_deref(), Some("secert = ..."));
        for shown in ["[[node]]", "port = 80000", "vips = [\"10.99.0.1\", \"10.99.0.2\", \"10.99.0.3\"]"] {
            assert_eq!(harmless(shown).as_deref(), Some(shown));
        }
    }
}
