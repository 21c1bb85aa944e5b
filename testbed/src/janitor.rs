//! Cleans up after a test process that could not do it itself (SIGKILL, abort, `process::exit`).
//!
//! Guards do the ordinary work. Behind them stands one shell per test process, reading a pipe that
//! only the test process holds: when that ends, however it ends, the shell removes whatever still
//! carries the process's name. Should the shell have been killed as well, the next test process
//! sweeps what belongs to dead ones. Nothing of another live process is ever touched.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::tools::tool;

/// Removes all that process `$1` left: processes in its namespaces, the namespaces, directories.
/// The first line waits for the end of the pipe (or of nothing at all, when sweeping).
const CLEAN_UP: &str = r#"
cat >/dev/null
for file in /run/netns/bt"$1"-*; do
    [ -e "$file" ] || continue
    for pid in $(ip netns pids "${file##*/}"); do kill -9 "$pid"; done
    ip netns del "${file##*/}"
done
rm -rf /tmp/bt"$1"-*
"#;

/// Sweeps once, and starts this process's janitor.
pub(crate) fn start() {
    // Holds the only writing end of the pipe, for as long as this process lives.
    static JANITOR: OnceLock<Child> = OnceLock::new();
    JANITOR.get_or_init(|| {
        tool("ip");
        dead_owners().iter().for_each(|pid| sweep(*pid));
        clean_up(std::process::id())
            // Its own process group: an interrupt at the terminal must not take the janitor along.
            .process_group(0)
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell can be started")
    });
}

fn clean_up(pid: u32) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", CLEAN_UP, "janitor", &pid.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    shell
}

fn sweep(pid: u32) {
    let _ = clean_up(pid).stdin(Stdio::null()).status();
}

/// Processes that are gone but whose namespaces or directories are still there.
fn dead_owners() -> Vec<u32> {
    let names = ["/run/netns", "/tmp"].into_iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten();
    let mut owners: Vec<u32> =
        names.flatten().filter_map(|entry| owner(entry.file_name().to_str()?)).collect();
    owners.sort_unstable();
    owners.dedup();
    owners.retain(|pid| !Path::new("/proc").join(pid.to_string()).exists());
    owners
}

/// The process a name such as `bt123-4-client` belongs to.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix("bt")?.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn only_names_of_the_testbed_have_an_owner() {
        assert_eq!(owner("bt123-4-client"), Some(123));
        for foreign in ["btrfs-1", "bt-1-a", "bt12", "nb", "bt1x-2-a"] {
            assert_eq!(owner(foreign), None, "{foreign}");
        }
    }
}
