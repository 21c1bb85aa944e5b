//! The machine's own tools (`ip`, `nft`, ...): that they are there, that they succeed, and waiting
//! for a condition with a deadline. Used by every other file; keeps no state but the factor of patience.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at while it is waited for.
const POLL: Duration = Duration::from_millis(5);
/// How many times longer than usual a machine may take, for those that are far slower: a virtual machine under software
/// emulation.
const VARIABLE: &str = "BATON_PATIENCE";

/// Which Debian package brings which tool: all that tests, demo and benchmarks call by name. `scripts/setup`
/// installs each of them, but for those that every Debian has.
const PACKAGES: &[(&str, &str)] = &[
    ("sh", "dash"),
    ("timeout", "coreutils"),
    ("apt-get", "apt"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
    ("sysctl", "procps"),
    ("find", "findutils"),
    ("kill", "procps"),
    ("iptables", "iptables"),
    ("ip6tables", "iptables"),
    ("haproxy", "haproxy"),
    ("ip", "iproute2"),
    ("chrt", "util-linux"),
    ("ss", "iproute2"),
    ("tc", "iproute2"),
    ("nft", "nftables"),
    ("tcpdump", "tcpdump"),
    ("ethtool", "ethtool"),
    ("bpftool", "bpftool"),
    ("nginx", "nginx"),
    ("apache2", "apache2"),
    ("curl", "curl"),
    ("openssl", "openssl"),
    ("lighttpd", "lighttpd"),
    ("haproxy", "haproxy"),
    ("python3", "python3"),
    ("caddy", "caddy"),
    ("node", "nodejs"),
    ("wget", "wget"),
    ("ab", "apache2-utils"),
    ("wrk", "wrk"),
    ("h2load", "nghttp2-client"),
    ("chromium", "chromium"),
    ("bridge", "iproute2"),
    ("tshark", "tshark"),
    ("ping", "iputils-ping"),
];

/// How long to wait here for what usually takes no longer than `usual`: that, times `BATON_PATIENCE`. Each wait of the
/// testbed has it already.
///
/// # Panics
/// When that is no whole number above 0.
#[track_caller]
pub fn patient(usual: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    usual * *FACTOR.get_or_init(|| factor(&std::env::var(VARIABLE).unwrap_or_default()))
}

#[track_caller]
fn factor(word: &str) -> u32 {
    let wrong = || panic!("{VARIABLE} is {word:?}, but must be a whole number above 0, such as 10");
    if word.is_empty() { 1 } else { word.parse().ok().filter(|factor| *factor > 0).unwrap_or_else(wrong) }
}

/// Waits until `condition` holds.
///
/// # Panics
/// When it still does not after `patience` (see [`patient`]); `what` then says what was waited for.
#[track_caller]
pub fn wait_until(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let patience = patient(patience);
    let deadline = Instant::now() + patience;
    while !condition() {
        assert!(Instant::now() < deadline, "after {patience:?} still no {what}");
        thread::sleep(POLL);
    }
}

/// The path of a tool.
///
/// # Panics
/// When it is not installed; the message names the package to install.
#[track_caller]
pub(crate) fn tool(name: &str) -> PathBuf {
    if name.contains('/') {
        return PathBuf::from(name);
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let found =
        std::env::split_paths(&path).chain(sbin).map(|dir| dir.join(name)).find(|file| file.is_file());
    // Whoever develops has everything; a new machine has what is listed.
    let package = PACKAGES.iter().find(|(tool, _)| *tool == name).map(|(_, package)| *package);
    let package = package.unwrap_or_else(|| panic!("name the package of `{name}` in testbed/src/tools.rs"));
    found.unwrap_or_else(|| panic!("`{name}` is not installed: install {package} (apt install {package})"))
}

/// Runs a command to its end and returns its standard output.
///
/// # Panics
/// When it cannot be started or fails; the message has the command and what it said.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = complete(command);
    assert!(
        output.status.success(),
        "{command:?} failed with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command to its end, whatever its exit code.
#[track_caller]
pub(crate) fn complete(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"))
}

/// The last `lines` lines of a file, for a message about a failure.
pub(crate) fn tail(file: &Path, lines: usize) -> String {
    let bytes = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::{PACKAGES, factor, tool};

    /// Packages that every Debian has.
    const ESSENTIAL: [&str; 5] = ["dash", "coreutils", "findutils", "util-linux", "apt"];
    /// What only benchmarks need.
    const OPTIONAL: [&str; 1] = ["haproxy"];

    #[test]
    fn tools_are_found_wherever_they_are() {
        let needed = PACKAGES.iter().filter(|(_, package)| !OPTIONAL.contains(package));
        needed.for_each(|(name, _)| assert!(tool(name).is_absolute()));
    }

    #[test]
    fn what_is_called_here_a_new_machine_is_given() {
        let setup = include_str!("../../scripts/setup");
        for (name, package) in PACKAGES.iter().filter(|(_, package)| !ESSENTIAL.contains(package)) {
            let installs = |line: &str| {
                let mut words = line.split_whitespace();
                words.next() == Some("need") && words.skip(1).any(|word| word.starts_with(package))
            };
            assert!(
                setup.lines().any(installs),
                "scripts/setup does not install {package}, which brings {name}"
            );
        }
    }

    #[test]
    fn who_says_nothing_is_as_patient_as_usual() {
        assert_eq!(["", "1", "20"].map(factor), [1, 1, 20]);
    }

    #[test]
    #[should_panic(expected = "must be a whole number above 0")]
    fn no_patience_at_all_is_a_mistake() {
        factor("0");
    }

    #[test]
    #[should_panic(expected = "name the package of `no-such-tool`")]
    fn a_tool_that_a_new_machine_would_not_have_is_not_called() {
        tool("no-such-tool");
    }
}
