//! Seeds, many of them; that the same seed is the same story; and that a rule which is broken on purpose is noticed.

use baton_simulation::{Plan, Planted, run};

/// Seeds that every run of the tests plays. `make simulate SEED=...` plays others.
const SEEDS: u64 = 2000;
/// Plans up to this seed, every tenth, are played with distributors that never rest.
const RESTLESS: u64 = 1500;
/// Among so many a planted fault is found.
const TO_FIND: u64 = 1500;

#[test]
fn nothing_breaks_a_rule() {
    let (mut moves, mut read, mut answered) = (0, 0, 0);
    for seed in 0..SEEDS {
        match run(&Plan::new(seed), None) {
            Ok(summary) => {
                moves += summary.moves;
                read += summary.read;
                answered += summary.answered;
            }
            Err(failure) => {
                let story = &failure.story[failure.story.len().saturating_sub(150)..];
                panic!("seed {seed}: {}\n{}\nmake simulate SEED={seed}", failure.what, story.join("\n"));
            }
        }
    }
    println!("{SEEDS} seeds: {answered} answers, {moves} moves, {read} connections of readers");
    assert!(moves > SEEDS && read > SEEDS / 4 && answered > 10 * SEEDS, "hardly anything happens");
}

/// However often distributors came and went: each client is answered, or told.
#[test]
fn distributors_that_come_and_go_use_nothing_up() {
    for seed in (7..RESTLESS).step_by(10) {
        if let Err(failure) = run(&Plan::restless(seed), None) {
            let story = &failure.story[failure.story.len().saturating_sub(150)..];
            panic!("seed {seed}: {}\n{}", failure.what, story.join("\n"));
        }
    }
}

#[test]
fn a_seed_tells_one_story() {
    for seed in 0..20 {
        let plan = Plan::new(seed);
        assert_eq!(run(&plan, None).ok(), run(&plan, None).ok(), "{seed}");
    }
}

#[test]
fn planted_faults_are_found() {
    let mut missing = Vec::new();
    for fault in Planted::ALL {
        let found = (0..TO_FIND).find_map(|seed| Some((seed, run(&Plan::new(seed), Some(fault)).err()?)));
        match found {
            Some((seed, failure)) => println!("{fault:?}: seed {seed}: {}", failure.what),
            None => missing.push(fault),
        }
    }
    assert!(missing.is_empty(), "not found: {missing:?}");
}
