//! A network namespace that lives as long as the thread that tests in it, and a cluster node to be.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, panic, thread};

use baton_host::Wanted;
use nix::sched::{CloneFlags, unshare};

/// The VIP of all tests.
pub const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1));

/// Runs the test in a network namespace of its own, with `lo` and a pair of Ethernet interfaces up:
/// `cluster` holds 10.1.0.11/24 and merges what can be wrapped, `peer` is the far end of its wire. The namespace ends with the thread.
#[track_caller]
pub fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce(RunDir) -> F + Send + 'static) {
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNET)
            .expect("these tests make a network namespace: run them as root, or with CAP_SYS_ADMIN");
        run("ip link set lo up");
        run("ip link add cluster type veth peer name peer");
        run("ip addr add 10.1.0.11/24 dev cluster");
        run("ip link set cluster gro_max_size 65432");
        run("ip link set cluster up");
        run("ip link set peer up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(test(RunDir::new()));
    };
    if let Err(panicked) = thread::spawn(body).join() {
        panic::resume_unwind(panicked);
    }
}

/// Runs a command in the namespace of this thread and returns what it prints.
#[track_caller]
pub fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a program");
    let done = Command::new(program).args(words).output().unwrap_or_else(|e| panic!("{command}: {e}"));
    assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("text")
}

/// Reads a kernel setting by its path below `/proc/sys/net/ipv4`.
#[track_caller]
pub fn sysctl(path: &str) -> String {
    fs::read_to_string(Path::new("/proc/sys/net/ipv4").join(path)).expect(path).trim().to_owned()
}

/// Sets a kernel setting by its path below `/proc/sys/net/ipv4`.
#[track_caller]
pub fn set_sysctl(path: &str, value: &str) {
    fs::write(Path::new("/proc/sys/net/ipv4").join(path), value).expect(path);
}

/// A run folder that is removed with the value.
#[derive(Debug)]
pub struct RunDir(PathBuf);

impl RunDir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("baton-host-{}-{number}", std::process::id())))
    }

    /// Its path; whoever needs it makes it.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A node that is server and distributor and holds the VIP on `lo`.
pub fn server() -> Wanted {
    Wanted {
        node: "b".into(),
        address: Ipv4Addr::new(10, 1, 0, 11).into(),
        interfaces: vec![],
        is_server: true,
        is_distributor: true,
        is_switch: false,
        decides: true,
        on_loopback: vec![VIP],
        on_interface: vec![],
        ports: vec![80],
        listens: [VIP].map(|vip| SocketAddr::new(vip, 80)).to_vec(),
        control_port: 7400,
        handoff_port: 6090,
    }
}
