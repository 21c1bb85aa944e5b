//! One machine of the testbed: a network namespace, and a mount namespace in which `/sys/fs/bpf`
//! is the machine's own, so that programs pinned by two nodes never meet and vanish with them.
//!
//! [`crate::topology`] makes them; everything that runs "on" a machine runs through here. It never
//! enters a namespace on a caller's thread: a thread of its own does, and ends.
//!
//! `/sys/class/net` keeps showing the real machine's interfaces, also to what runs inside: use
//! netlink or `/proc/net`.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use crate::counters::{self, Counters};
use crate::process::{Place, Process, pin_to, run_in};
use crate::scratch::{Scratch, unique_name};
use crate::tools::{complete, succeed, tool};

/// A network namespace of this process, removed when dropped with whatever still runs in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    place: Place,
    scratch: Scratch,
}

impl Namespace {
    /// Makes a namespace with nothing but a loopback interface in it. If `cpu` is given, all that
    /// runs inside runs on that CPU.
    ///
    /// # Panics
    /// When not root, or the kernel refuses.
    #[track_caller]
    pub fn new(role: &str, cpu: Option<usize>) -> Self {
        assert!(Uid::effective().is_root(), "the testbed makes network namespaces: run it as root");
        let name = unique_name(role);
        let scratch = Scratch::named(&name);
        allow_cubic();
        add(&name);
        let net = Arc::new(open(&Path::new("/run/netns").join(&name)));
        let mounts = Arc::new(own_bpffs());
        let namespace = Self { name, place: Place { net, mounts, cpu }, scratch };
        namespace.ip("link set lo up");
        for (key, value) in SYSCTLS {
            namespace.sysctl(key, value);
        }
        namespace
    }

    /// Its name for `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A directory of its own, for configuration and logs.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// A command that will run inside. Look the program up first; see [`Namespace::run`].
    #[track_caller]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(tool(program));
        run_in(&mut command, &self.place);
        command
    }

    /// Runs a command inside to its end and returns its standard output.
    ///
    /// # Panics
    /// When it is not installed or fails; the message has what it said.
    #[track_caller]
    pub fn run<'a>(&self, program: &str, args: impl IntoIterator<Item = &'a str>) -> String {
        succeed(self.command(program).args(args))
    }

    /// Runs a command inside to its end, whatever its exit code.
    ///
    /// # Panics
    /// When it is not installed.
    #[track_caller]
    pub fn try_run<'a>(&self, program: &str, args: impl IntoIterator<Item = &'a str>) -> Output {
        complete(self.command(program).args(args))
    }

    /// Runs `ip` with these space-separated arguments.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ip(&self, args: &str) -> String {
        self.run("ip", args.split_whitespace())
    }

    /// Starts a command made by [`Namespace::command`]; its output goes to `<name>.log` in the
    /// scratch directory.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn start(&self, name: &str, command: Command) -> Process {
        Process::start(name, command, self.scratch.path().join(format!("{name}.log")))
    }

    /// Runs a closure on a thread of its own inside, and returns what it returns. Sockets made
    /// inside belong to the namespace for life, so they may be returned and used anywhere. A panic
    /// inside goes on outside.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter();
                work()
            });
            worker.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Runs a closure inside on a thread that may outlive the caller (a server of the testbed).
    pub(crate) fn thread(&self, work: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
        let place = self.place.clone();
        thread::spawn(move || {
            enter(&place);
            work();
        })
    }

    /// Takes the calling thread inside for good. Threads it starts are inside as well.
    fn enter(&self) {
        enter(&self.place);
    }

    /// Sets a sysctl inside, such as `net.ipv4.tcp_sack`.
    ///
    /// # Panics
    /// When the kernel has no such setting or refuses the value.
    #[track_caller]
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = sysctl_path(key);
        let written = self.inside(|| std::fs::write(&path, value));
        assert!(written.is_ok(), "cannot set {key}={value} in {}: {written:?}", self.name);
    }

    /// Sets a sysctl inside if this kernel has it.
    pub(crate) fn sysctl_if_there(&self, key: &str, value: &str) {
        let path = sysctl_path(key);
        if self.inside(|| Path::new(&path).exists()) {
            self.sysctl(key, value);
        }
    }

    /// What has gone over one of its interfaces.
    ///
    /// # Panics
    /// When there is no such interface.
    #[track_caller]
    pub fn counters(&self, interface: &str) -> Counters {
        // Not /proc/net, which is /proc/self/net: that of the process's first thread.
        let text = self.inside(|| std::fs::read_to_string("/proc/thread-self/net/dev"));
        let text = text.expect("the kernel always has /proc/thread-self/net/dev");
        counters::parse(&text, interface)
            .unwrap_or_else(|| panic!("no interface {interface} in {}:\n{text}", self.name))
    }

    /// A counter of its TCP/IP, by the kernel's name: `RetransSegs`, `OutRsts`, `ListenDrops`,
    /// `TCPLossProbes`, ...
    ///
    /// # Panics
    /// When the kernel has no counter of this name.
    #[track_caller]
    pub fn kernel_counter(&self, name: &str) -> u64 {
        let read = |table| std::fs::read_to_string(format!("/proc/thread-self/net/{table}"));
        let text = self.inside(|| ["snmp", "netstat"].map(|table| read(table).unwrap_or_default()).concat());
        counters::named(&text, name).unwrap_or_else(|| panic!("this kernel counts no {name}"))
    }

    /// Whether something listens on this TCP port (any address, IPv4 or both).
    pub fn listens(&self, port: u16) -> bool {
        self.inside(|| {
            ["tcp", "tcp6"].iter().any(|table| {
                let text = std::fs::read_to_string(format!("/proc/thread-self/net/{table}"));
                text.unwrap_or_default().lines().any(|line| is_listener(line, port))
            })
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What escaped its process group would keep the namespace alive for ever.
        let pids = complete(Command::new(tool("ip")).args(["netns", "pids", &self.name])).stdout;
        let pids = String::from_utf8_lossy(&pids);
        for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw) {
            if pid != Pid::this() {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
        let deleted = complete(Command::new(tool("ip")).args(["netns", "del", &self.name]));
        if !deleted.status.success() {
            eprintln!("cannot remove {}: {}", self.name, String::from_utf8_lossy(&deleted.stderr));
        }
    }
}

/// Settings of every machine. Cubic, because the default of the real machine may be BBR, which
/// paces and makes runs differ; no redirects, because a router and its nodes share one link. IPv6
/// addresses are those given, usable at once, and nobody asks for routers.
const SYSCTLS: &[(&str, &str)] = &[
    ("net.ipv4.tcp_congestion_control", "cubic"),
    ("net.ipv4.conf.all.send_redirects", "0"),
    ("net.ipv4.conf.default.send_redirects", "0"),
    ("net.ipv4.conf.all.accept_redirects", "0"),
    ("net.ipv4.conf.default.accept_redirects", "0"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv6.conf.all.accept_redirects", "0"),
    ("net.ipv6.conf.default.accept_redirects", "0"),
    ("net.ipv6.conf.all.accept_ra", "0"),
    ("net.ipv6.conf.default.accept_ra", "0"),
    ("net.ipv6.conf.default.router_solicitations", "0"),
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
];

fn sysctl_path(key: &str) -> String {
    format!("/proc/sys/{}", key.replace('.', "/"))
}

/// `   0: 00000000:0050 00000000:0000 0A ...`: local address, remote address, state (0A listens).
fn is_listener(line: &str, port: u16) -> bool {
    let mut fields = line.split_whitespace().skip(1);
    let local = fields.next().unwrap_or_default();
    let state = fields.nth(1).unwrap_or_default();
    state == "0A" && local.ends_with(&format!(":{port:04X}"))
}

fn enter(place: &Place) {
    setns(&*place.net, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace it has made");
    if let Some(cpu) = place.cpu {
        pin_to(cpu).expect("a thread may be pinned to a CPU that it was on");
    }
}

fn open(path: &Path) -> OwnedFd {
    File::open(path).unwrap_or_else(|error| panic!("cannot open {path:?}: {error}")).into()
}

/// `ip netns add`, one at a time on this machine: the first one ever makes `/run/netns` a mount of
/// its own, and two that do this at once hide each other's namespaces.
#[track_caller]
fn add(name: &str) {
    let lock = File::create("/tmp/baton-testbed.lock").expect("/tmp can be written to");
    lock.lock().expect("a file can be locked");
    succeed(Command::new(tool("ip")).args(["netns", "add", name]));
}

/// A mount namespace with an empty bpffs. Mounts made and removed outside still show inside
/// (slave): a copy of another namespace's mount would keep that namespace alive.
fn own_bpffs() -> OwnedFd {
    let make = || -> io::Result<OwnedFd> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)?;
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none)?;
        Ok(File::open("/proc/thread-self/ns/mnt")?.into())
    };
    let made = thread::scope(|scope| scope.spawn(make).join());
    made.unwrap_or_else(|panic| resume_unwind(panic))
        .unwrap_or_else(|error| panic!("cannot mount a bpffs of its own for a namespace: {error}"))
}

/// A namespace may only choose a congestion control that the real machine allows to all. Adding
/// cubic to that list is the one thing that the testbed changes outside, and it stays.
fn allow_cubic() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let list = sysctl_path("net.ipv4.tcp_allowed_congestion_control");
        let allowed = std::fs::read_to_string(&list).unwrap_or_default();
        if !allowed.split_whitespace().any(|name| name == "cubic") {
            let longer = format!("{} cubic", allowed.trim());
            std::fs::write(&list, longer).expect("this kernel has the cubic congestion control");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::is_listener;

    #[test]
    fn a_listener_is_known_by_state_and_port() {
        let line = "   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0";
        assert!(is_listener(line, 80));
        assert!(!is_listener(line, 81));
        assert!(!is_listener(&line.replace(" 0A ", " 01 "), 80));
        assert!(!is_listener("  sl  local_address rem_address   st", 80));
    }
}
