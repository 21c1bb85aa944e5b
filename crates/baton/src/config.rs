//! Reading the cluster file for every command that takes one, and telling what is wrong with it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use baton_cluster::{Cluster, ConfigError, ConfigErrors, Node, Warning};
use nix::fcntl::OFlag;

use crate::exit::{Exit, Failure};

/// No cluster file is longer: of the largest cluster it has some 100 kB.
const BYTES_MAX: u64 = 1 << 20;

/// The file's text.
pub fn text(file: &Path, exit: Exit) -> Result<String, Failure> {
    read(file).map_err(|error| {
        let help = match error.kind() {
            io::ErrorKind::PermissionDenied => "run this as root: the file has the cluster's secret",
            _ => "write one with `baton init`, or name the right one",
        };
        Failure::new(
            exit,
            format!("cannot read the cluster file {}: {error}\n  help: {help}", file.display()),
        )
    })
}

/// Reads a file that is one, as far as it can be a cluster file: no device, pipe or folder, which may never end.
fn read(path: &Path) -> io::Result<String> {
    // Of a pipe that nobody writes into, opening it would not end.
    let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    file.take(BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > BYTES_MAX {
        return Err(io::Error::other(format!("it is longer than {BYTES_MAX} bytes")));
    }
    Ok(text)
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
    Cluster::parse(&text).map_err(|errors| Failure::told(Exit::Config, problems(file, &text, &errors)))
}

/// The cluster that a file describes, and the node of this name in it.
pub fn node(file: &Path, name: &str) -> Result<(Cluster, Node), Failure> {
    let cluster = cluster(file)?;
    let Some(node) = cluster.node_named(name).cloned() else {
        let names: Vec<_> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
        let what = format!("{} has no node {name:?}; it has {}", file.display(), names.join(", "));
        return Err(Failure::new(Exit::Config, what));
    };
    Ok((cluster, node))
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
        let _ = writeln!(told, "   |\n{line:>3}| {source}\n   |");
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
