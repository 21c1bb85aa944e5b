//! What each fuzz target checks, as functions of bytes: libFuzzer calls them through `fuzz_targets/`, the
//! test in `tests/replay.rs` with the files of `corpus/`. A check that fails panics. The targets know the
//! crates by their public interfaces alone, and compare with others' readings where there are any.
#![forbid(unsafe_code)]

mod cluster;
mod control;
mod frames;
mod framing;
mod heads;
pub mod seeds;
mod tls;

pub use cluster::cluster_file;
pub use control::{control_frames, control_message, control_session};
pub use frames::{held_frame, replay};
pub use framing::message_framing;
pub use heads::request_head;
pub use tls::client_hello;

/// One target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of its file in `fuzz_targets/` and of its folder in `corpus/`.
    pub name: &'static str,
    /// Its check; whether the bytes were understood, so that it had something to check.
    pub check: fn(&[u8]) -> bool,
}

/// Every target.
pub const TARGETS: [Target; 9] = [
    Target { name: "control_message", check: control_message },
    Target { name: "control_frames", check: control_frames },
    Target { name: "control_session", check: control_session },
    Target { name: "cluster_file", check: cluster_file },
    Target { name: "client_hello", check: client_hello },
    Target { name: "request_head", check: request_head },
    Target { name: "message_framing", check: message_framing },
    Target { name: "held_frame", check: held_frame },
    Target { name: "replay", check: replay },
];

/// The first byte, which says how the others are cut, and the others.
fn with_size(bytes: &[u8]) -> (usize, &[u8]) {
    bytes.split_first().map_or((1, bytes), |(size, rest)| (usize::from(*size).max(1), rest))
}
