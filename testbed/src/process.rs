//! Processes of the testbed: started inside a namespace, logged to a file, gone when their guard
//! goes. Called by [`crate::netns`]; everything else starts processes through a namespace.
//!
//! The only file of the testbed with `unsafe`: a child must enter its namespaces between fork and
//! exec, and the standard library rightly calls code that runs there unsafe. Going through
//! `ip netns exec` instead would need no unsafe, but it mounts a fresh `/sys` and so hides bpffs,
//! cannot set the parent-death signal, and costs a second exec for each of some hundred commands.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::tools::{patient, tail};

/// Where a child runs: in which namespaces, on which CPU.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) net: Arc<OwnedFd>,
    pub(crate) mounts: Arc<OwnedFd>,
    pub(crate) cpu: Option<usize>,
}

/// Makes `command` enter `place` before it executes, and die when the thread that starts it dies.
pub(crate) fn run_in(command: &mut Command, place: &Place) {
    let place = place.clone();
    let enter = move || -> io::Result<()> {
        setns(&*place.net, CloneFlags::CLONE_NEWNET)?;
        setns(&*place.mounts, CloneFlags::CLONE_NEWNS)?;
        if let Some(cpu) = place.cpu {
            pin_to(cpu)?;
        }
        Ok(set_pdeathsig(Signal::SIGKILL)?)
    };
    // SAFETY: the closure runs in the forked child of a process with threads, where only
    // async-signal-safe calls are sound: no allocation, no locks. It makes four system calls
    // through thin wrappers, on descriptors that `place` keeps open, and converts an errno, which
    // allocates nothing.
    #[expect(unsafe_code, reason = "namespaces are entered between fork and exec; see the file's head")]
    unsafe {
        command.pre_exec(enter);
    }
}

/// Pins the calling thread (and what it starts later) to one CPU.
pub(crate) fn pin_to(cpu: usize) -> nix::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)
}

/// The CPUs that the calling thread may use.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("a thread may ask for its own CPUs");
    (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect()
}

/// A CPU that no other testbed on this machine is pinned to, until this is dropped: what tests on one CPU
/// measure must not depend on whether others run at the same time.
#[derive(Debug)]
pub(crate) struct OwnCpu {
    number: usize,
    _lock: File,
}

impl OwnCpu {
    /// Takes one of those that the calling thread may use, once there is one.
    ///
    /// # Panics
    /// When there is none for longer than tests take.
    #[track_caller]
    pub(crate) fn take() -> Self {
        let cpus = allowed_cpus();
        let deadline = Instant::now() + Duration::from_secs(600);
        loop {
            if let Some(own) = cpus.iter().find_map(|cpu| Self::try_take(*cpu)) {
                return own;
            }
            let late = Instant::now() >= deadline;
            assert!(!late, "no CPU of its own: does this test build two testbeds of one CPU at once?");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn try_take(number: usize) -> Option<Self> {
        let path = format!("/tmp/baton-testbed.cpu{number}.lock");
        let lock = File::create(path).expect("/tmp can be written to");
        match lock.try_lock() {
            Ok(()) => Some(Self { number, _lock: lock }),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Error(error)) => panic!("a file can be locked: {error}"),
        }
    }

    pub(crate) fn number(&self) -> usize {
        self.number
    }
}

/// The calling thread is pinned to one CPU until this is dropped (by the same thread).
#[derive(Debug)]
pub(crate) struct Pinned {
    before: CpuSet,
}

impl Pinned {
    pub(crate) fn to(cpu: usize) -> nix::Result<Self> {
        let before = sched_getaffinity(Pid::from_raw(0))?;
        pin_to(cpu)?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // A CPU that was there has gone: the thread stays where it is.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}

/// A running process and its process group; killed and waited for when dropped.
///
/// Its output goes to a log file, of which the end is printed when a test fails.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, already placed with [`run_in`], with stdout and stderr going to `log`.
    #[track_caller]
    pub(crate) fn start(name: &str, mut command: Command, log: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&log);
        let file = file.unwrap_or_else(|error| panic!("cannot write {log:?}: {error}"));
        let same = file.try_clone().expect("a descriptor can be duplicated");
        command.process_group(0).stdin(Stdio::null()).stdout(file).stderr(same);
        let what = format!("{command:?}");
        let child = spawn_from_lasting_thread(command).unwrap_or_else(|e| panic!("cannot start {what}: {e}"));
        Self { name: name.to_owned(), child, log }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The file with what it has printed.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// What it has printed last.
    pub fn log_tail(&self) -> String {
        tail(&self.log, 40)
    }

    /// Sends it a signal (to it alone, not to its group).
    ///
    /// # Panics
    /// When it is not there any more.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let sent = kill(pid(&self.child), signal);
        assert!(sent.is_ok(), "cannot send {signal} to {}: {sent:?}\n{}", self.name, self.log_tail());
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("an own child can be waited for")
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it has not ended after `patience` (see [`crate::patient`]).
    #[track_caller]
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let patience = patient(patience);
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            let late = Instant::now() >= deadline;
            assert!(!late, "{} still runs after {patience:?}:\n{}", self.name, self.log_tail());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until `ready` holds.
    ///
    /// # Panics
    /// When the process ends before, or at the end of `patience` (see [`crate::patient`]): with the end of its log.
    #[track_caller]
    pub fn wait_ready(&mut self, patience: Duration, mut ready: impl FnMut() -> bool) {
        let patience = patient(patience);
        let deadline = Instant::now() + patience;
        while !ready() {
            let ended = self.ended();
            assert!(ended.is_none(), "{} ended early with {ended:?}:\n{}", self.name, self.log_tail());
            let late = Instant::now() >= deadline;
            assert!(!late, "{} is not ready after {patience:?}:\n{}", self.name, self.log_tail());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- {} printed last ({}):\n{}", self.name, self.log.display(), self.log_tail());
        }
        // Only while the leader has not been waited for is the group's number surely its own.
        // Members that outlive their leader go with the namespace.
        if let Ok(None) = self.child.try_wait() {
            let group = pid(&self.child);
            let _ = killpg(group, Signal::SIGKILL);
            // Killed is not yet ended: a worker may hold its listening socket for a moment longer,
            // and the next server on this machine would not get the port.
            let deadline = Instant::now() + Duration::from_secs(2);
            while any_runs(group) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
            let _ = self.child.wait();
        }
    }
}

/// Whether a process of this group has not ended yet (zombies have: they hold nothing).
fn any_runs(group: Pid) -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let stats = processes.filter_map(|process| std::fs::read_to_string(process.path().join("stat")).ok());
    stats.into_iter().any(|stat| {
        // After the name in parentheses, which may be anything: state, parent, group.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let mut fields = fields.split_whitespace();
        fields.next() != Some("Z") && fields.nth(1) == Some(group.to_string().as_str())
    })
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id fits its kernel type"))
}

/// Starts a child from a thread that lives as long as this process.
///
/// The parent-death signal is sent when the *thread* that forked ends. A test may well start
/// servers from a thread that it ends before it uses them.
fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static ORDERS: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                for (mut command, reply) in orders {
                    // Nobody to reply to: the test has gone, and so shall the child.
                    if let Err(mpsc::SendError(Ok(mut child))) = reply.send(command.spawn()) {
                        let _ = child.kill();
                    }
                }
            })
            .expect("a thread can be started");
        sender
    });
    let (reply, child) = mpsc::channel();
    orders.send((command, reply)).expect("the spawner never ends");
    child.recv().expect("the spawner always replies")
}
