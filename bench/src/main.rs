//! `make bench`: Baton beside bare nginx, HAProxy and nginx as a proxy, in one run on one machine.
//! Prints tables and writes to `target/bench`: `dispatcher.json` and `packets.json`, `compare.json`, and
//! `crossover.json` with its pictures.
//! docs/benchmarks.md says how it is measured. Called by nobody; changes nothing outside of its own
//! network namespaces, other than the kernel's statistics on eBPF programs while they are needed.

mod compare;
mod cpu;
mod crossover;
mod front;
mod generator;
mod meta;
mod micro;
mod plan;
mod report;
mod sides;
mod spread;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use serde::Serialize;

use compare::{Figures, Run};
use cpu::Ticks;
use meta::Meta;
use plan::{Load, Plan, Side};
use report::Comparison;
use sides::Sides;

/// A machine busier than this with other work gives no figures to trust.
const QUIET_PERCENT: f64 = 5.0;

/// Compare Baton with bare nginx and with proxies
///
/// Needs root, nginx and haproxy, and a quiet machine: it takes about a quarter of an hour, and what else runs
/// meanwhile is in the figures. Build the daemon first: cargo build --release -p baton
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Only this part
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Rounds; each puts every load on every side
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Further rounds for the front tier's share
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(0..=100))]
    front_rounds: u16,
    /// Seconds that each load is measured on each side, in the part compare
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Client connections at any time
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    connections: u16,
    /// In the part compare, only loads whose name contains this
    #[arg(long, default_value = "")]
    load: String,
    /// In the part compare, only sides whose name contains this, and bare nginx
    #[arg(long, default_value = "")]
    side: String,
    /// Only see whether it works: one short round of two sides. Figures mean nothing
    #[arg(long)]
    quick: bool,
    /// Leave out the part micro, which builds more
    #[arg(long)]
    no_micro: bool,
    /// Where results go
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
}

/// What can be run on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The dispatcher's decisions, and the programs' nanoseconds for a packet
    Micro,
    /// Baton beside bare nginx and proxies
    Compare,
    /// Requests that alternate between servers: moving, staying, and HAProxy
    Crossover,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=60.0).contains(&seconds) { Ok(seconds) } else { Err("0.1 to 60".to_owned()) }
}

impl Cli {
    fn runs(&self, part: Part) -> bool {
        let left_out = part == Part::Micro && (self.quick || self.no_micro);
        self.only.map_or(!left_out, |only| only == part)
    }

    fn plan(&self) -> Plan {
        let side = |side: &Side| *side == Side::Nginx || side.name().contains(&self.side);
        let plan = Plan {
            loads: Load::ALL.into_iter().filter(|load| load.name.contains(&self.load)).collect(),
            sides: Side::ALL.into_iter().filter(side).collect(),
            rounds: self.rounds.into(),
            front_rounds: self.front_rounds.into(),
            warm: Duration::from_millis(500),
            measured: Duration::from_secs_f64(self.seconds),
            connections: self.connections.into(),
        };
        if !self.quick {
            return plan;
        }
        let sides = vec![Side::Nginx, Side::BatonFigure5];
        let short = Duration::from_millis(500);
        Plan { sides, rounds: 1, front_rounds: 1, warm: short / 5, measured: short, ..plan }
    }
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let plan = cli.plan();
    fs::create_dir_all(&cli.out).with_context(|| format!("cannot make {}", cli.out.display()))?;
    let mut meta = Meta::of(&plan);
    // First, because they may build: nothing else shall run during the comparison.
    if cli.runs(Part::Micro) {
        write(&cli.out, "dispatcher.json", &micro::dispatcher(&meta)?)?;
        write(&cli.out, "packets.json", &micro::packets(&meta)?)?;
    }
    if cli.only == Some(Part::Micro) {
        return Ok(());
    }
    let sides = Sides::build();
    meta.background_cpu_percent = background();
    let mut errors = 0;
    if cli.runs(Part::Crossover) {
        errors += crossover::crossover(&sides, meta.clone(), cli.rounds.into(), cli.quick, &cli.out)?;
    }
    if cli.runs(Part::Compare) {
        errors += compare(&cli, &plan, &sides, meta)?;
    }
    anyhow::ensure!(errors == 0, "{errors} wrong or missing answers: see the rows marked with !");
    Ok(())
}

/// The part compare; returns how many answers were wrong or missing.
fn compare(cli: &Cli, plan: &Plan, sides: &Sides, meta: Meta) -> anyhow::Result<u64> {
    let runs = compare::compare(plan, sides, progress);
    let rows = report::rows(plan, &runs);
    println!("\n{}", report::table(&rows));
    let errors = rows.iter().map(|row| row.errors).sum();
    write(&cli.out, "compare.json", &Comparison { meta, rows })?;
    Ok(errors)
}

/// How busy the machine is with other work, in percent of its CPUs.
fn background() -> f64 {
    let before = Ticks::now(None);
    std::thread::sleep(Duration::from_secs(1));
    let share = Ticks::now(None).busy_us_since(before, Duration::from_secs(1), 1) / 1e4;
    if share > QUIET_PERCENT {
        println!("WARNING: other work keeps this machine {share:.0} % busy: the figures are its, too");
    }
    (share * 10.0).round() / 10.0
}

fn progress(run: &Run) {
    let what = match run.figures {
        Figures::All { rate_rps, cpu_us, own_cpu_us, p50_ms, p99_ms } => {
            format!(
                "{rate_rps:>8.0}/s {cpu_us:>8.1} us CPU ({own_cpu_us:.1} us own) {p50_ms:>7.2} ms p50 {p99_ms:>7.2} ms p99"
            )
        }
        Figures::OwnCpu { cpu_us } => format!("front, on a CPU of its own: {cpu_us:.2} us"),
        Figures::Parts { programs_us, daemons_us } => {
            format!("programs: {programs_us:.2} us, daemons: {daemons_us:.2} us")
        }
    };
    println!("round {} {:<12} {:<13} {what}", run.round + 1, run.load, run.side.name());
    if let Some(error) = &run.first_error {
        println!("  {} errors: {error}", run.errors);
    }
}

fn write(dir: &Path, name: &str, content: &impl Serialize) -> anyhow::Result<()> {
    let path = dir.join(name);
    let mut text = serde_json::to_string_pretty(content)?;
    text.push('\n');
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("written: {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Cli, Part};
    use clap::{CommandFactory as _, Parser as _};

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_quick_run_is_one_round_of_two_sides() {
        let plan = Cli::parse_from(["bench", "--quick", "--rounds", "9"]).plan();
        assert_eq!((plan.rounds, plan.sides.len(), plan.loads.len()), (1, 2, 4));
    }

    #[test]
    fn parts_run_alone_or_all() {
        let runs = |args: &[&str]| {
            let cli = Cli::parse_from([&["bench"], args].concat());
            [Part::Micro, Part::Compare, Part::Crossover].map(|part| cli.runs(part))
        };
        assert_eq!(runs(&[]), [true, true, true]);
        assert_eq!(runs(&["--no-micro"]), [false, true, true]);
        assert_eq!(runs(&["--quick"]), [false, true, true]);
        assert_eq!(runs(&["--only", "crossover"]), [false, false, true]);
        assert_eq!(runs(&["--only", "micro"]), [true, false, false]);
    }
}
