//! How long CPUs were at work: the machine's, one CPU's, a process's. All from /proc.
//!
//! "Busy" is what was neither idle, nor waiting for a disk, nor taken by the hypervisor: so it holds
//! user, system and interrupt time (softirqs, in which the network and all eBPF programs run).
//! Idle time is what the kernel measures exactly; user and system time it only samples.

use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

/// Counters of /proc/stat, in clock ticks, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticks {
    busy: u64,
    idle: u64,
}

impl Ticks {
    /// Of all CPUs together, or of one.
    pub fn now(cpu: Option<usize>) -> Self {
        let text = std::fs::read_to_string("/proc/stat").expect("Linux has /proc/stat");
        Self::parse(&text, cpu).expect("/proc/stat has this CPU")
    }

    /// `cpu  user nice system idle iowait irq softirq steal guest guest_nice`: guests are in user.
    fn parse(text: &str, cpu: Option<usize>) -> Option<Self> {
        let name = cpu.map_or("cpu".to_owned(), |number| format!("cpu{number}"));
        let line = text.lines().find(|line| line.split(' ').next() == Some(&name))?;
        let fields: Vec<u64> = line.split_whitespace().skip(1).map_while(|f| f.parse().ok()).collect();
        let [user, nice, system, idle, iowait, irq, softirq, ..] = fields[..] else { return None };
        Some(Self { busy: user + nice + system + irq + softirq, idle: idle + iowait })
    }

    /// Microseconds of work since `before`, of `cpus` CPUs during `wall`. Ticks give the share; the
    /// clock on the wall gives the time, because ticks are sampled and lag behind.
    pub fn busy_us_since(self, before: Self, wall: Duration, cpus: usize) -> f64 {
        let busy = self.busy.saturating_sub(before.busy) as f64;
        let idle = self.idle.saturating_sub(before.idle) as f64;
        let share = if busy + idle > 0.0 { busy / (busy + idle) } else { 0.0 };
        share * wall.as_secs_f64() * 1e6 * cpus as f64
    }
}

/// How many CPUs the machine has.
pub fn count() -> usize {
    let text = std::fs::read_to_string("/proc/stat").expect("Linux has /proc/stat");
    text.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count()
}

/// Microseconds that a process has been running, in user space and in the kernel. 0 if it is gone.
pub fn of_process(pid: u32) -> f64 {
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    process_ticks(&text).unwrap_or(0) as f64 * 1e6 / per_second as f64
}

/// The name is in parentheses and may hold anything; utime and stime are fields 14 and 15.
fn process_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

#[cfg(test)]
mod tests {
    use super::{Ticks, process_ticks};
    use std::time::Duration;

    const BEFORE: &str = "cpu  10 0 10 100 0 0 5 7 0 0\ncpu0 5 0 5 50 0 0 0 0 0 0\nintr 1\n";
    const AFTER: &str = "cpu  40 0 30 110 10 10 25 90 0 0\ncpu0 5 0 5 90 0 0 0 0 0 0\nintr 1\n";

    #[test]
    fn the_share_of_work_leaves_out_idle_and_stolen_time() {
        let of = |text, cpu| Ticks::parse(text, cpu).expect("a CPU");
        let second = Duration::from_secs(1);
        // 80 ticks of work, 20 of idling, of two CPUs.
        assert_eq!(of(AFTER, None).busy_us_since(of(BEFORE, None), second, 2), 1_600_000.0);
        assert_eq!(of(AFTER, Some(0)).busy_us_since(of(BEFORE, Some(0)), second, 1), 0.0);
        assert_eq!(of(AFTER, None).busy_us_since(of(AFTER, None), second, 2), 0.0);
        assert_eq!(Ticks::parse(BEFORE, Some(1)), None);
    }

    #[test]
    fn a_process_may_have_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 30 12 0 0 20 0 1 0 100";
        assert_eq!(process_ticks(stat), Some(42));
        assert_eq!(process_ticks(""), None);
    }
}
