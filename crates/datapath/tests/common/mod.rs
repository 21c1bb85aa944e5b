//! What the packet tests share: frames built and judged by an independent crate, a network namespace
//! per test, and a world: the loaded programs and their model, told the same and held equal.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod client;
pub mod frames;
pub mod furnish;
pub mod served;
pub mod world;

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

pub use frames::Tcp;
pub use world::World;

/// Runs a test in a network namespace of its own, with `lo` up, at the address that frames
/// are sent to, and the VIP on it. The namespace goes
/// with its thread.
pub fn in_netns(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        // Where a test-run's packets arrive.
        ip(&["link", "set", "lo", "address", "02:00:00:00:00:10", "up"]);
        ip(&["address", "add", "10.99.0.1/32", "dev", "lo"]);
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` with these arguments.
#[track_caller]
pub fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {}", arguments.join(" "));
}
