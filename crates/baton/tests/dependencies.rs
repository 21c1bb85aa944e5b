//! What others' crates may be used: by their licences, where they come from, and what they may not be.

use std::process::Command;

use serde_json::Value;

/// Licences whose code may be given away with ours.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "0BSD",
    "Unicode-3.0",
    "Unlicense",
];
/// One runtime, and no C library that a package would have to name.
const BANNED: &[&str] = &["openssl-sys", "native-tls", "async-std", "libgit2-sys"];

fn packages() -> Vec<Value> {
    // As for the build: what other systems would need is not here.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let told = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", &platform])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo is there");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let metadata: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

/// Whether one of the ways in which an SPDX expression (ISO/IEC 5962) can be met is permitted. Crates nest no deeper than
/// this reads: alternatives of what goes together, or what goes together of alternatives in brackets.
fn is_permitted(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let parts = |text: &str, by: &str| -> Vec<String> {
        let (mut depth, mut parts) = (0_i32, vec![String::new()]);
        for word in text.split_whitespace() {
            if depth == 0 && word == by {
                parts.push(String::new());
                continue;
            }
            depth += word.matches('(').count() as i32 - word.matches(')').count() as i32;
            if let Some(part) = parts.last_mut() {
                *part = format!("{part} {word}").trim().to_owned();
            }
        }
        parts
    };
    let meets = |licence: &str| {
        let bare = licence.trim_matches(['(', ')']);
        if bare == licence { LICENCES.contains(&bare) } else { is_permitted(bare) }
    };
    parts(&expression, "OR").iter().any(|way| parts(way, "AND").iter().all(|licence| meets(licence)))
}

#[test]
fn licences_let_us_give_it_away() {
    for good in ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR GPL-2.0) AND ISC", "Apache-2.0 AND ISC"]
    {
        assert!(is_permitted(good), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-2.0", "(GPL-2.0 OR LGPL-2.1) AND MIT", ""] {
        assert!(!is_permitted(bad), "{bad}");
    }
    let all = packages();
    assert!(all.len() > 100, "{}", all.len());
    let others: Vec<String> = all
        .iter()
        .filter(|p| !p["license"].as_str().is_some_and(is_permitted))
        .map(|p| format!("{}: {}", p["name"], p["license"]))
        .collect();
    assert!(others.is_empty(), "{others:#?}");
}

#[test]
fn everything_comes_from_the_registry() {
    for package in packages() {
        // Ours has no source.
        let source = package["source"].as_str().unwrap_or("registry+ours");
        assert!(source.starts_with("registry+"), "{}: {source}", package["name"]);
        let name = package["name"].as_str().unwrap_or_default();
        assert!(!BANNED.contains(&name), "{name} is not to be used");
    }
}
