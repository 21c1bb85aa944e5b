//! The house's rules that a machine can hold: see CONTRIBUTING.md. Each rule is a function over the files' texts, and is
//! shown a text that breaks it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines that a file of the product may have; a file above is listed below with the reason why it is one.
const LINES_MAX: usize = 500;
/// Files that are longer, and by how much at most. They may become shorter; none may be added without a reason.
const LONGER: &[(&str, usize)] = &[
    ("crates/datapath/bpf/datapath.h", 780), // what kernel and user space share, in one place
    ("crates/datapath/bpf/scan.h", 640),     // one state machine, and its twin
    ("crates/http/src/scan.rs", 610),
];
/// Lines that a function may have.
const FUNCTION_MAX: usize = 75;
/// Functions that are longer, by a word of their first lines, and by how much at most.
const LONGER_FUNCTIONS: &[(&str, usize)] = &[
    ("scan_byte(", 105),   // one state machine: a case for each state
    ("note(", 85),         // the same, of what is read meanwhile
    ("later_packet(", 95), // each way out of it ends the packet
    ("run(mut self)", 90), // a line for each source of work
];
/// Crates that open no socket, read no clock and draw no random number. `link` of `control` is its I/O.
const PURE: &[&str] = &["http", "tls", "cluster", "dispatcher", "control", "core"];
/// What a pure file must not say.
const IMPURE: &[&str] =
    &["Instant::now", "SystemTime::now", "thread_rng", "rand::random", "std::fs", "File::open"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace")
}

/// Files below `folder`, by their path from the root, with these endings.
fn files(folder: &str, endings: &[&str]) -> BTreeMap<String, String> {
    let root = root();
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if endings.iter().any(|ending| path.extension().is_some_and(|e| e == *ending)) {
                let name = path.strip_prefix(&root).expect("below it").display().to_string();
                found.insert(name, fs::read_to_string(&path).expect("text"));
            }
        }
    }
    found
}

/// The product's own files: no tests.
fn product() -> BTreeMap<String, String> {
    let mut all = files("crates", &["rs", "h", "c"]);
    all.retain(|name, _| {
        let beside =
            ["/tests/", "/tests.rs", "/benches/", "/packet-model/", "/simulation/", "/target/", "/build.rs"];
        (name.contains("/src/") || name.contains("/bpf/")) && !beside.iter().any(|part| name.contains(part))
    });
    all
}

fn text(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Without the tests that a file ends with.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

fn too_long(name: &str, text: &str) -> Option<String> {
    let limit = LONGER.iter().find(|(file, _)| *file == name).map_or(LINES_MAX, |(_, limit)| *limit);
    let lines = without_tests(text).lines().count();
    (lines > limit).then(|| format!("{name} has {lines} lines, {limit} are the most"))
}

#[test]
fn files_are_short() {
    assert!(too_long("crates/x/src/a.rs", &"\n".repeat(LINES_MAX + 1)).is_some());
    let product = product();
    let broken: Vec<_> = product.iter().filter_map(|(name, text)| too_long(name, text)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    for (file, _) in LONGER {
        let lines = product.get(*file).map_or(0, |text| without_tests(text).lines().count());
        assert!(lines > LINES_MAX, "{file} has {lines} lines: it needs no exception any more");
    }
}

/// The first lines of each function, and its length in lines, by its indentation.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let words = line.trim_start().split('(').next().unwrap_or_default();
        let rust =
            line.contains("fn ") && words.split(' ').any(|word| word == "fn") && !words.starts_with("//");
        let c = *line == "{" && at > 0;
        if !rust && !c {
            continue;
        }
        let end = format!("{}}}", " ".repeat(indent));
        let rest = lines.get(at..).unwrap_or(&[]);
        let is_declared = rust && rest.iter().take_while(|l| !l.ends_with('{')).any(|l| l.ends_with(';'));
        if let Some(length) = rest.iter().position(|l| *l == end).filter(|_| !is_declared) {
            let begins = lines.get(at.saturating_sub(2)..=at).unwrap_or(&[]).concat();
            found.push((begins, length + 1));
        }
    }
    found
}

#[test]
fn functions_are_short() {
    let shown =
        functions("    fn a() {\n        if b {\n        }\n    }\n\nint c(void)\n{\n\treturn 0;\n}\n");
    assert_eq!(shown.iter().map(|(_, length)| *length).collect::<Vec<_>>(), [4, 3]);
    let mut broken = Vec::new();
    let mut found = 0;
    for (file, text) in product() {
        for (begins, length) in functions(without_tests(&text)) {
            found += 1;
            let longer = LONGER_FUNCTIONS.iter().find(|(word, _)| begins.contains(word));
            if length > longer.map_or(FUNCTION_MAX, |(_, most)| *most) {
                broken.push(format!("{file}: {length} lines: {begins}"));
            }
        }
    }
    assert!(found > 1000, "{found} functions");
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn each_file_says_what_it_is() {
    let silent = |name: &str, text: &str| match name.ends_with(".rs") {
        true => !text.starts_with("//!") && !text.starts_with("#![") && !text.starts_with("include!"),
        false => !text.starts_with("/*") && !text.starts_with("//"),
    };
    assert!(silent("a.rs", "use std::fs;\n"));
    let broken: Vec<_> = product().into_iter().filter(|(name, text)| silent(name, text)).collect();
    let names: Vec<_> = broken.into_iter().map(|(name, _)| name).collect();
    assert!(names.is_empty(), "{names:#?}");
}

/// The files that ARCHITECTURE names, as `datapath/src/{skel,shared}.rs`.
fn unsafe_files() -> BTreeSet<String> {
    let architecture = text("ARCHITECTURE.md");
    let (_, at) = architecture.split_once("`unsafe` is in ").expect("the last rule");
    let mut named = BTreeSet::new();
    for place in at.split('`').skip(1).step_by(2) {
        match place.split_once('{').zip(place.split_once('}')) {
            Some(((before, rest), (_, after))) => {
                let inside = rest.split('}').next().unwrap_or_default();
                named.extend(inside.split(',').map(|name| format!("crates/{before}{name}{after}")));
            }
            None => drop(named.insert(format!("crates/{place}"))),
        }
    }
    named
}

#[test]
fn unsafe_is_where_architecture_says() {
    let says = |line: &str| {
        let line = line.trim();
        !line.starts_with("//") && (line.contains("unsafe {") || line.starts_with("unsafe impl"))
    };
    assert!(says("let x = unsafe { y() };") && !says("// unsafe { y() }"));
    let named = unsafe_files();
    let has: BTreeSet<String> = product()
        .into_iter()
        .filter(|(name, text)| name.ends_with(".rs") && text.lines().any(says))
        .map(|(name, _)| name)
        .collect();
    let more: Vec<_> = has.difference(&named).collect();
    assert!(more.is_empty(), "ARCHITECTURE does not name {more:?}");
    for file in named {
        assert!(root().join(&file).is_file(), "ARCHITECTURE names {file}, which is not there");
    }
}

#[test]
fn pure_crates_read_no_clock_and_open_no_file() {
    let broken = |text: &str| IMPURE.iter().find(|word| without_tests(text).contains(**word)).copied();
    assert_eq!(broken("let now = Instant::now();"), Some("Instant::now"));
    for (name, text) in product() {
        let pure = PURE.iter().any(|c| name.starts_with(&format!("crates/{c}/"))) && !name.contains("/link");
        if let Some(word) = broken(&text).filter(|_| pure) {
            panic!("{name} is to be pure, and says {word}");
        }
    }
}

/// The crates that a crate's product depends on.
fn needs(manifest: &str) -> BTreeSet<String> {
    let (_, rest) = manifest.split_once("[dependencies]").unwrap_or_default();
    let own = rest.split("\n[").next().unwrap_or_default();
    let names = own.lines().filter_map(|line| line.strip_prefix("baton-")?.split(['.', ' ']).next());
    names.map(str::to_owned).collect()
}

/// ARCHITECTURE draws the arrows in floors, upper ones first.
#[test]
fn no_crate_needs_one_above_it_and_the_product_needs_no_tests() {
    const FLOORS: [&[&str]; 7] = [
        &["baton"],
        &["node"],
        &["core"],
        &["datapath", "dispatcher", "control", "host"],
        &["cluster", "tls"],
        &["http"],
        &[],
    ];
    assert_eq!(
        needs("[dependencies]\nbaton-http.workspace = true\n[dev-dependencies]\nbaton-x.workspace = true"),
        { BTreeSet::from(["http".to_owned()]) }
    );
    for (floor, crates) in FLOORS.iter().enumerate() {
        for name in *crates {
            let below: BTreeSet<&str> = FLOORS[floor + 1..].iter().flat_map(|c| c.iter().copied()).collect();
            for needed in needs(&text(&format!("crates/{name}/Cargo.toml"))) {
                assert!(below.contains(&*needed), "{name} needs {needed}, which is not below it");
            }
        }
    }
}

/// Each counter is counted somewhere; one that never is would tell an operator that something never happens.
#[test]
fn every_counter_is_counted() {
    let header = text("crates/datapath/bpf/datapath.h");
    let (_, table) = header.split_once("#define COUNTERS(C)").expect("the table");
    let names: Vec<&str> = table.split("\tC(").skip(1).filter_map(|entry| entry.split(',').next()).collect();
    assert!(names.len() > 80, "{}", names.len());
    let programs: String =
        files("crates/datapath/bpf", &["h", "c"]).into_values().map(|text| text + "\n").collect();
    let words: BTreeSet<&str> = programs.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    let never: Vec<_> = names.iter().filter(|name| !words.contains(&*format!("COUNT_{name}"))).collect();
    assert!(never.is_empty(), "never counted: {never:?}");
}

/// The types that a Rust file defines, but for those of its tests and functions, which are indented.
fn types(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let mut words = line
            .split([' ', '<', '(', '{', ':', ';'])
            .skip_while(|word| matches!(*word, "pub" | "crate)" | "super)" | "unsafe"));
        let defines = matches!(words.next(), Some("struct" | "enum" | "trait" | "union" | "type"));
        words.next().filter(|name| defines && *name != "Result") // an alias by custom, over a crate's own error
    })
}

/// One name, one meaning: also across crates, where a path could tell them apart, but no sentence does.
#[test]
fn no_type_name_is_defined_twice() {
    let shown = "pub struct A<T> {\npub(crate) enum B {\nstruct C(u8);\npub unsafe trait D: Copy {}\ntype E = u8;\n    struct F;\nuse g::H;\n";
    assert_eq!(types(shown).collect::<Vec<_>>(), ["A", "B", "C", "D", "E"]);
    let mut defined: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, text) in product().into_iter().filter(|(file, _)| file.ends_with(".rs")) {
        for name in types(&text) {
            defined.entry(name.to_owned()).or_default().push(file.clone());
        }
    }
    assert!(defined.len() > 300, "{} types", defined.len());
    defined.retain(|_, files| files.len() > 1);
    assert!(
        defined.is_empty(),
        "use one definition, or give the less fundamental one another name: {defined:#?}"
    );
}

/// Text without what stands in code quotes and drawings.
fn prose(text: &str) -> String {
    let outside = text.split("```").step_by(2).collect::<String>();
    outside.split('`').step_by(2).collect()
}

/// One word for an idea: those that ARCHITECTURE's table of words has in its last column are used nowhere.
#[test]
fn no_second_word_is_used() {
    let architecture = text("ARCHITECTURE.md");
    let (before, rest) = architecture.split_once("| word | meaning | not |").expect("the table of words");
    let (table, after) = rest.split_once("\n\n").expect("its end");
    let rows = table.lines().filter(|row| row.starts_with("| "));
    let words: Vec<String> = rows
        .filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next())
        .flat_map(|list| list.split(", ").map(str::to_lowercase))
        .collect();
    assert!(words.len() > 20 && words.contains(&"load balancer".to_owned()), "{words:?}");
    let uses = |text: &str, word: &str| {
        let text = prose(text).to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
        text.match_indices(word).any(|(at, _)| {
            let beside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '-');
            let ends = text[at + word.len()..].trim_start_matches('s').chars().next();
            !beside(text[..at].chars().next_back()) && !beside(ends)
        })
    };
    assert!(uses("Many load\nbalancers.", "load balancer") && !uses("a `load balancer`", "load balancer"));
    let mut texts = files("docs", &["md"]);
    texts.retain(|name, _| !name.contains("/decisions/"));
    for file in ["README.md", "HACKING.md", "CONTRIBUTING.md", "SECURITY.md", "RELEASE.md"] {
        texts.insert(file.to_owned(), text(file));
    }
    texts.insert("ARCHITECTURE.md".to_owned(), format!("{before}{after}"));
    for (file, text) in texts {
        let used: Vec<_> = words.iter().filter(|word| uses(&text, word)).collect();
        assert!(
            used.is_empty(),
            "{file} says {used:?}: the table of words in ARCHITECTURE.md has another one"
        );
    }
}

/// Files and folders that documents name in code quotes exist.
#[test]
fn documents_name_what_is_there() {
    let mut missing = Vec::new();
    for file in ["ARCHITECTURE.md", "HACKING.md", "CONTRIBUTING.md", "docs/testing.md", "docs/debugging.md"] {
        for place in text(file).split('`').skip(1).step_by(2) {
            let begins =
                ["crates/", "testbed/", "docs/", "bench/", "fuzz/", "demo/", "examples/", "scripts/"];
            if begins.iter().any(|b| place.starts_with(b)) && !place.contains(['{', ' ', '*']) {
                let there = root().join(place.trim_end_matches('/')).exists();
                if !there {
                    missing.push(format!("{file}: {place}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}
