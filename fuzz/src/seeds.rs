//! The corpus, written down: what `cargo run -p baton-fuzz --example seeds` puts into `corpus/`, so that it
//! can be read, and made anew when a format changes. Files there that none of these make are what a fuzzer
//! found, kept under a name of their own.

mod cluster;
mod control;
mod frames;
mod heads;
mod messages;
mod tls;

use std::fs;
use std::path::{Path, PathBuf};

/// One file of the corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// For which target.
    pub target: &'static str,
    /// Its name, which says what it is.
    pub name: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// All of them.
///
/// # Panics
/// When a file of the repository that some are made from is missing.
pub fn all() -> Vec<Seed> {
    let sources = [control::seeds, cluster::seeds, tls::seeds, heads::seeds, messages::seeds, frames::seeds];
    sources.iter().flat_map(|seeds| seeds()).collect()
}

/// The folder of the corpus.
pub fn corpus() -> PathBuf {
    repository().join("fuzz/corpus")
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is a folder of the repository")
}

/// The repository's files in a folder that end so, by name without that end.
fn files(folder: &str, end: &str) -> Vec<(String, Vec<u8>)> {
    let folder = repository().join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<_> = entries
        .filter_map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name()?.to_str()?.strip_suffix(end)?.to_owned();
            Some((name, fs::read(&path).expect("a readable file")))
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no files *{end}", folder.display());
    files
}

fn seed(target: &'static str, name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Seed {
    Seed { target, name: name.into(), bytes: bytes.into() }
}
