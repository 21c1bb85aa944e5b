//! Compiles the eBPF programs to a skeleton, and turns the one list of counters in
//! `bpf/counters.h` into a Rust table, so that neither is written twice.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use libbpf_cargo::SkeletonBuilder;

const SOURCE: &str = "bpf/baton.bpf.c";
const SHARED: &str = "bpf/datapath.h";
const COUNTERS: &str = "bpf/counters.h";

fn main() {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=BATON_CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));

    let mut args = vec!["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-mcpu=v3"];
    // Debian keeps asm/types.h in the multiarch folder, which clang does not search for this target.
    let multiarch = format!("-I/usr/include/{}-linux-gnu", env::consts::ARCH);
    args.push(&multiarch);
    if let Err(e) = SkeletonBuilder::new()
        .source(SOURCE)
        .clang(clang())
        .clang_args(args)
        .build_and_generate(out.join("baton.skel.rs"))
    {
        panic!("compiling {SOURCE}: {e:#}\n(`make setup` installs the compiler)");
    }
    let header = fs::read_to_string(SHARED).expect("datapath.h is part of this crate");
    fs::write(out.join("constants.rs"), constants(&header)).expect("OUT_DIR is writable");
    let header = fs::read_to_string(COUNTERS).expect("counters.h is part of this crate");
    fs::write(out.join("counters.rs"), counters(&header)).expect("OUT_DIR is writable");
}

/// The first clang that is installed, newest first; `BATON_CLANG` overrides.
fn clang() -> String {
    if let Ok(named) = env::var("BATON_CLANG") {
        return named;
    }
    ["clang-22", "clang-19", "clang-16", "clang-14", "clang"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success()))
        .unwrap_or("clang")
        .to_owned()
}

/// `enum name { NAME = number, ... };` as constants.
fn constants(header: &str) -> String {
    let mut out = String::new();
    let code: String =
        header.split("/*").map(|part| part.split_once("*/").map_or(part, |(_comment, code)| code)).collect();
    for body in code.split("\nenum ").skip(1) {
        let Some((name, body)) = body.split_once('{') else { continue };
        let body = body.split('}').next().unwrap_or(body);
        for (key, value) in body.split(',').filter_map(|one| one.split_once('=')) {
            let (name, key, value) = (name.trim(), key.trim(), value.trim());
            writeln!(out, "/// `enum {name}` in datapath.h.\npub const {key}: u32 = {value};")
                .expect("writing to a string");
        }
    }
    out
}

/// `C(NAME, kind, "sentence")` lines as an enum and a table.
fn counters(header: &str) -> String {
    let (mut variants, mut table) = (String::new(), String::new());
    let list = header.split("#define COUNTERS(C)").nth(1).expect("counters.h lists the counters");
    let list = list.split("\n\n").next().unwrap_or(list).replace("\\\n", " ");
    for entry in list.split("C(").skip(1) {
        let mut parts = entry.splitn(3, ',').map(str::trim);
        let (Some(name), Some(kind), Some(text)) = (parts.next(), parts.next(), parts.next()) else {
            panic!("{COUNTERS}: a counter needs a name, a kind and a sentence: {entry}");
        };
        let text = text.split('"').nth(1).expect("the sentence is quoted");
        let variant: String = name.split('_').map(capital).collect();
        let kind = capital(kind);
        writeln!(variants, "    /// {text}.\n    {variant},").expect("writing to a string");
        let metric = name.to_lowercase();
        writeln!(table, "    (Counter::{variant}, CounterKind::{kind}, \"{metric}\", \"{text}\"),")
            .expect("writing to a string");
    }
    assert!(!variants.is_empty(), "{COUNTERS}: no counters found");
    format!(
        "/// What the programs count.\n#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]\n\
         #[repr(u32)]\npub enum Counter {{\n{variants}}}\n\n\
         const TABLE: &[(Counter, CounterKind, &str, &str)] = &[\n{table}];\n"
    )
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().collect::<String>() + &letters.as_str().to_lowercase()
    })
}
