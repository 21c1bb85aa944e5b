//! On what machine, with what versions, and how the figures came about: they mean nothing without.

use std::collections::BTreeMap;
use std::process::Command;

use serde::Serialize;

use crate::cpu;
use crate::plan::Plan;

/// Written into every file of results.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Meta {
    /// When, in UTC.
    pub date: String,
    /// Which sources: the commit, with `-dirty` when there were changes.
    pub commit: String,
    /// `uname -r`.
    pub kernel: String,
    /// The CPU's name.
    pub cpu: String,
    /// How many CPUs.
    pub cpus: usize,
    /// What each program says of its version.
    pub versions: BTreeMap<&'static str, String>,
    /// Rounds.
    pub rounds: usize,
    /// Further rounds for the front tier.
    pub front_rounds: usize,
    /// Seconds that each run was measured.
    pub seconds: f64,
    /// Seconds that each ran before.
    pub warm_up_seconds: f64,
    /// How busy the machine's CPUs were with other work just before the comparison.
    pub background_cpu_percent: f64,
    /// Client connections at any time.
    pub connections: usize,
    /// How the front tier's CPU was told apart.
    pub front_cpu: &'static str,
}

const FRONT_CPU: &str = "nginx: no front tier, 0. baton-figure5, haproxy-*, nginx-proxy: rounds of their own, \
     in which the front machine's processes and packets have a CPU to themselves: what it was busy. \
     baton-figure7, whose front tier is on all nodes: run time of all eBPF programs (bpf_stats) and CPU time \
     of all daemons, which programs_us_per_request and daemons_us_per_request give for both figures";

impl Meta {
    /// Of this machine, now.
    pub fn of(plan: &Plan) -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
        let baton = baton_testbed::baton_binary().display().to_string();
        let versions = [
            ("baton", says(&baton, &["--version"])),
            ("nginx", says("nginx", &["-v"])),
            ("haproxy", says("haproxy", &["-v"])),
        ];
        Self {
            date: says("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
            commit: says("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
            kernel: says("uname", &["-r"]),
            cpu: model.unwrap_or("unknown").to_owned(),
            cpus: cpu::count(),
            versions: versions.into(),
            rounds: plan.rounds,
            front_rounds: plan.front_rounds,
            seconds: plan.measured.as_secs_f64(),
            warm_up_seconds: plan.warm.as_secs_f64(),
            background_cpu_percent: 0.0,
            connections: plan.connections,
            front_cpu: FRONT_CPU,
        }
    }
}

/// The first line that a program prints.
fn says(program: &str, args: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(args).output() else { return "unknown".to_owned() };
    // nginx says it on standard error.
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown").to_owned()
}
