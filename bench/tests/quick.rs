//! The whole benchmark in its shortest form, with real servers and daemons: that it runs, that every
//! answer is right, that requests move where they should, and that its files have what is promised. Figures are not looked at.

use std::process::Command;

use baton_testbed::{Scratch, baton_binary};
use serde_json::Value;

#[test]
fn a_quick_run_compares_two_sides_without_an_error() {
    let out = Scratch::new("bench");
    let run = Command::new(env!("CARGO_BIN_EXE_baton-bench"))
        .env("BATON_BIN", baton_binary())
        .args(["--quick", "--load", "close", "--out"])
        .arg(out.path())
        .output()
        .expect("a program can be run");
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}");
    let text = std::fs::read_to_string(out.path().join("compare.json")).expect("a file of results");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let rows = json["rows"].as_array().expect("rows");
    let names: Vec<_> = rows.iter().map(|row| (row["load"].as_str(), row["side"].as_str())).collect();
    let expected = ["1k-close", "1m-close"]
        .map(|load| ["nginx", "baton-figure5"].map(|side| (Some(load), Some(side))))
        .concat();
    assert_eq!(names, expected, "{said}");
    for row in rows {
        assert_eq!(row["errors"], 0, "{said}");
        assert!(row["rate_rps"]["median"].as_f64() > Some(0.0), "{said}");
        for figure in ["cpu_us_per_request", "front_cpu_us_per_request", "p50_ms", "p99_ms", "ratio_to_nginx"]
        {
            assert!(row[figure]["max"].is_f64(), "{figure} in {said}");
        }
    }
    let text = std::fs::read_to_string(out.path().join("crossover.json")).expect("a file of results");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    for row in json["rows"].as_array().expect("rows") {
        assert_eq!(row["errors"], 0, "{said}");
        let moves = row["moves_per_request"]["median"].as_f64();
        assert_eq!(moves > Some(0.0), row["way"].as_str().is_some_and(|way| way.contains("move")), "{said}");
    }
    assert!(json["cost_of_a_move"]["cpu_us"]["median"].is_f64(), "{said}");
    assert!(out.path().join("crossover.svg").is_file(), "{said}");
}
