//! Every file of the corpus once through its target's check; and the corpus is whole: a folder for each
//! target, the seeds as they are written down, small altogether.

use std::collections::BTreeMap;
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use baton_fuzz::{TARGETS, seeds};

const CORPUS_BYTES_MAX: usize = 300_000;

/// The files of one folder by name.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let file = |path: &Path| {
        let name = path.file_name().expect("a name").to_str().expect("a readable name");
        (name.to_owned(), fs::read(path).expect("a readable file"))
    };
    entries.map(|entry| file(&entry.expect("an entry").path())).collect()
}

/// Seeds are a fair start only if some bring their target to what it compares, and some do not.
#[test]
fn every_file_of_the_corpus_passes() {
    let mut failed = Vec::new();
    for target in TARGETS {
        let files = files(&seeds::corpus().join(target.name));
        let mut understood = 0;
        for (name, bytes) in &files {
            match catch_unwind(|| (target.check)(bytes)) {
                Ok(yes) => understood += usize::from(yes),
                Err(_) => failed.push(format!("{}/{name}", target.name)),
            }
        }
        println!("{}: {} files, {understood} understood", target.name, files.len());
        assert!(understood >= 3, "{}: only {understood} of its files are understood", target.name);
        assert!(understood < files.len(), "{}: nothing is refused", target.name);
    }
    assert!(failed.is_empty(), "these fail: {failed:#?}");
}

#[test]
fn the_corpus_holds_the_seeds() {
    for seed in seeds::all() {
        let file = seeds::corpus().join(seed.target).join(&seed.name);
        let same = fs::read(&file).is_ok_and(|bytes| bytes == seed.bytes);
        assert!(same, "{}: run `cargo run -p baton-fuzz --example seeds`", file.display());
    }
}

#[test]
fn the_corpus_is_small_and_its_files_have_names() {
    let files: Vec<_> = TARGETS.iter().flat_map(|target| files(&seeds::corpus().join(target.name))).collect();
    let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(bytes <= CORPUS_BYTES_MAX, "{bytes} bytes");
    for (name, _) in files {
        let hash = name.len() == 40 && name.bytes().all(|c| c.is_ascii_hexdigit());
        assert!(!hash, "{name}: give what a fuzzer found a name that says what it is");
    }
}

/// A target that is not listed would be neither replayed nor, without a file of its own, fuzzed.
#[test]
fn targets_have_a_file_and_a_folder_each_and_no_other_has() {
    let mut wanted: Vec<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    wanted.sort();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(here.join(folder)).expect("a folder");
        let name = |path: &Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
        let mut names: Vec<String> = entries.map(|entry| name(&entry.expect("an entry").path())).collect();
        names.sort();
        names
    };
    assert_eq!(names("fuzz_targets"), wanted);
    assert_eq!(names("corpus"), wanted);
    let manifest = fs::read_to_string(here.join("Cargo.toml")).expect("the manifest");
    for name in wanted {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is no [[bin]]");
    }
}
