//! How much of the work the front tier does, told apart in two ways. Both change the machine, so they
//! are used in rounds of their own.
//!
//! *A CPU of its own*: the front's processes run on one CPU alone, everything else on the others, and
//! receive steering (RPS) has every packet received where its machine runs. What that CPU does is the
//! front's: user space, system calls, and all of receiving, eBPF programs and sending. It treats Baton
//! and proxies alike. It needs a front machine, so it cannot be used for figure 7.
//!
//! *Parts*: the kernel's own run-time statistics of the programs, and the CPU time of the daemons, of all
//! nodes. What the kernel does to a packet after a program has chosen its way is not in it. It also says
//! where Baton's time goes.

use std::collections::HashMap;
use std::fs;

use baton_testbed::{Host, Namespace};

use crate::cpu;
use crate::sides::Sides;

/// The CPU that the front has to itself; all else runs on CPU 0.
pub const FRONT_CPU: usize = 1;

/// The front has its own CPU, until dropped.
#[derive(Debug)]
pub struct OwnCpu<'a>(&'a Sides);

impl<'a> OwnCpu<'a> {
    /// Moves the front to its own CPU and everything else away. Daemons must be running.
    pub fn give(sides: &'a Sides) -> Self {
        let front = sides.front().name();
        for machine in sides.machines() {
            place(machine, if machine.name() == front { 1 << FRONT_CPU } else { 1 }, true);
        }
        Self(sides)
    }
}

impl Drop for OwnCpu<'_> {
    fn drop(&mut self) {
        let all = (1 << cpu::count()) - 1;
        self.0.machines().for_each(|machine| place(machine, all, false));
    }
}

/// Has all processes of a machine run on these CPUs (a mask), and packets received there.
fn place(machine: &Host, cpus: u32, steer: bool) {
    let steered = if steer { cpus } else { 0 };
    let name = Namespace::name(machine);
    // A fresh /sys shows the machine's own interfaces.
    let script = format!(
        "for queue in /sys/class/net/*/queues/rx-0/rps_cpus; do echo {steered:x} > $queue; done; \
         for pid in $(ip netns pids {name}); do taskset -a -p {cpus:x} $pid || true; done",
    );
    let output =
        std::process::Command::new("ip").args(["netns", "exec", name, "/bin/sh", "-c", &script]).output();
    let output = output.expect("iproute2 is installed");
    assert!(output.status.success(), "cannot steer: {}", String::from_utf8_lossy(&output.stderr));
}

/// The kernel measures programs, until dropped.
#[derive(Debug)]
pub struct Measured(String);

const BPF_STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl Measured {
    /// Turns the statistics on.
    pub fn programs() -> Self {
        let before = fs::read_to_string(BPF_STATS).expect("this kernel measures eBPF programs");
        fs::write(BPF_STATS, "1").expect("root may turn statistics on");
        Self(before.trim().to_owned())
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        let _ = fs::write(BPF_STATS, &self.0);
    }
}

/// Microseconds that programs, and daemons, have run so far, by the daemons' process ids.
pub fn parts_us(daemons: &[u32]) -> [f64; 2] {
    let sum = |of: fn(u32) -> f64| daemons.iter().map(|pid| of(*pid)).sum();
    [sum(programs_us), sum(cpu::of_process)]
}

/// Of the programs that a process holds descriptors of.
fn programs_us(pid: u32) -> f64 {
    let mut by_id = HashMap::new();
    let files = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    for file in files {
        let text = fs::read_to_string(file.path()).unwrap_or_default();
        if let (Some(id), Some(ns)) = (field(&text, "prog_id"), field(&text, "run_time_ns")) {
            by_id.insert(id, ns);
        }
    }
    by_id.values().sum::<u64>() as f64 / 1e3
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn descriptors_tell_of_their_programs() {
        let text = "pos:\t0\nprog_type:\t3\nprog_id:\t17\nrun_time_ns:\t2500\nrun_cnt:\t5\n";
        assert_eq!((field(text, "prog_id"), field(text, "run_time_ns")), (Some(17), Some(2500)));
        assert_eq!(field("map_id:\t3\n", "prog_id"), None);
    }
}
