//! The small figures, from the crates' own benches: how fast a dispatcher decides, and what a program
//! takes for a packet. This file runs them, shows what they print, and keeps it.

use std::process::{Command, Stdio};

use anyhow::Context as _;
use serde::Serialize;

use crate::meta::Meta;
use crate::spread::Spread;

/// What is written to `dispatcher.json`.
#[derive(Debug, Serialize)]
pub struct Dispatcher {
    meta: Meta,
    /// Of one core, by policy and mix of loads.
    in_process: Vec<InProcess>,
    /// Over one encrypted control connection on loopback, asker and answerer on two threads.
    over_a_connection: Vec<OverConnection>,
}

#[derive(Debug, PartialEq, Serialize)]
struct InProcess {
    policy: String,
    mix: String,
    millions_per_second: Spread,
}

#[derive(Debug, Serialize)]
struct OverConnection {
    /// Requests that wait for a decision at any time.
    undecided: u32,
    decisions_per_second: Spread,
}

/// What is written to `packets.json`.
#[derive(Debug, Serialize)]
pub struct Packets {
    meta: Meta,
    programs: serde_json::Value,
}

const CONNECTION_ROUNDS: usize = 5;

/// Measures decisions.
///
/// # Errors
/// When a bench cannot be built, fails, or prints something else than it used to.
pub fn dispatcher(meta: &Meta) -> anyhow::Result<Dispatcher> {
    let text = cargo(&["bench", "-q", "-p", "baton-dispatcher", "--bench", "decide"])?;
    print!("{text}");
    let in_process: Vec<InProcess> = text.lines().filter_map(in_process).collect();
    anyhow::ensure!(!in_process.is_empty(), "the dispatcher's bench printed no rates");
    let mut over_a_connection = Vec::new();
    for (undecided, decisions) in [(4096, "2000000"), (64, "1000000"), (1, "50000")] {
        let mut rates = Vec::new();
        for _ in 0..CONNECTION_ROUNDS {
            let each = undecided.to_string();
            let example = ["run", "-q", "--release", "-p", "baton-control", "--example", "decisions", "--"];
            let text = cargo(&[&example[..], &[decisions, &each]].concat())?;
            print!("{undecided} undecided: {text}");
            rates.push(over_connection(&text).context("the control crate's example printed no rate")?);
        }
        let rates = Spread::of(rates, 0).context("no rounds")?;
        over_a_connection.push(OverConnection { undecided, decisions_per_second: rates });
    }
    Ok(Dispatcher { meta: meta.clone(), in_process, over_a_connection })
}

/// Measures programs.
///
/// # Errors
/// When the bench cannot be built, fails, or prints no JSON.
pub fn packets(meta: &Meta) -> anyhow::Result<Packets> {
    let text = cargo(&["bench", "-q", "-p", "baton-datapath", "--bench", "packet", "--", "--json"])?;
    print!("{text}");
    let programs = serde_json::from_str(&text).context("the packet bench printed no JSON")?;
    Ok(Packets { meta: meta.clone(), programs })
}

/// Runs the very cargo that runs this, and returns what is printed.
fn cargo(args: &[&str]) -> anyhow::Result<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let what = format!("cargo {}", args.join(" "));
    println!("{what}");
    let output = Command::new(cargo).args(args).stderr(Stdio::inherit()).output().context(what.clone())?;
    anyhow::ensure!(output.status.success(), "{what} ended with {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// `lard           calm      12.3 million/s  (11.0 to 13.0)`: median, least, most.
fn in_process(line: &str) -> Option<InProcess> {
    let (names, figures) = line.split_once(" million/s")?;
    let mut names = names.split_whitespace();
    let (policy, mix, median) = (names.next()?, names.next()?, names.next()?.parse().ok()?);
    let mut extremes = figures.trim().trim_matches(['(', ')']).split(" to ").map(str::parse::<f64>);
    let millions_per_second = Spread { median, min: extremes.next()?.ok()?, max: extremes.next()?.ok()? };
    Some(InProcess { policy: policy.to_owned(), mix: mix.to_owned(), millions_per_second })
}

/// `5000000 decisions in 2.10 s: 2380952/s, ...`
fn over_connection(text: &str) -> Option<f64> {
    text.split(": ").nth(1)?.split_once("/s")?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Spread, in_process, over_connection};

    #[test]
    fn what_the_benches_print_is_read() {
        let row = in_process("lard/r         busy      12.3 million/s  (11.0 to 13.5)").expect("a rate");
        assert_eq!((row.policy.as_str(), row.mix.as_str()), ("lard/r", "busy"));
        assert_eq!(row.millions_per_second, Spread { median: 12.3, min: 11.0, max: 13.5 });
        assert_eq!(in_process("maglev table of 65537 entries: 1.20 ms"), None);
        let text = "5000000 decisions in 2.10 s: 2380952/s, 1220 batches of 4096.0 on average, 3 us a batch";
        assert_eq!(over_connection(text), Some(2_380_952.0));
        assert_eq!(over_connection("nothing"), None);
    }
}
