//! Plays seeds: `baton-simulation FIRST [LAST]`. The story of one that breaks a rule is printed.

use std::process::ExitCode;

use baton_simulation::{Plan, run};

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let (Some(Ok(first)), last) = (numbers.next(), numbers.next()) else {
        eprintln!(
            "usage: baton-simulation FIRST [LAST]\nPlays the seeds from FIRST to LAST, and tells the story of one that fails."
        );
        return ExitCode::from(2);
    };
    let last = last.and_then(Result::ok).unwrap_or(first);
    let mut failed = false;
    for seed in first..=last {
        let plan = Plan::new(seed);
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
