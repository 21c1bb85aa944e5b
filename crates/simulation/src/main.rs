//! Plays seeds: `baton-simulation FIRST [LAST]`. The story of one that breaks a rule is printed.

use std::process::ExitCode;

use baton_simulation::{Plan, run};

fn main() -> ExitCode {
    let (words, numbers): (Vec<String>, _) = std::env::args().skip(1).partition(|word| word == "strictly");
    let mut numbers = numbers.into_iter().map(|text: String| text.parse::<u64>());
    let (Some(Ok(first)), last) = (numbers.next(), numbers.next()) else {
        eprintln!(
            "usage: baton-simulation FIRST [LAST] [strictly]\nPlays the seeds from FIRST to LAST, and tells the story of one that fails. strictly: clients of crashed machines must hear of it, too."
        );
        return ExitCode::from(2);
    };
    let last = last.and_then(Result::ok).unwrap_or(first);
    let mut failed = false;
    for seed in first..=last {
        let plan = Plan { strictly: !words.is_empty(), ..Plan::new(seed) };
        match run(&plan, None) {
            Ok(summary) if first == last => println!("seed {seed}: {summary:?}"),
            Ok(_) => {}
            Err(failure) => {
                failed = true;
                if first == last {
                    println!("{plan:#?}");
                    failure.story.iter().for_each(|line| println!("{line}"));
                }
                println!("seed {seed}: {}", failure.what);
            }
        }
        if seed % 100 == 99 {
            eprintln!("{} of {}", seed - first + 1, last - first + 1);
        }
    }
    ExitCode::from(u8::from(failed))
}
