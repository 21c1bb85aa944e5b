//! Wall clocks that are wrong: a daemon that was started on a machine with one reads what the test says, by libfaketime.
//! The monotonic clock stays as it is, as when an operator, or NTP, sets the time.

use std::path::PathBuf;

use crate::host::Host;

/// Where the library lies in Debian, on the machines that tests run on.
fn library() -> PathBuf {
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    PathBuf::from("/usr/lib").join(triplet).join("faketime/libfaketimeMT.so.1")
}

fn file(host: &Host) -> PathBuf {
    host.scratch().path().join("wall-clock")
}

impl Host {
    /// Its daemon's wall clock is ahead by so many seconds from now on (or behind). The first time must be before the
    /// daemon starts.
    ///
    /// # Panics
    /// Without libfaketime.
    #[track_caller]
    pub fn set_wall_clock(&self, seconds: i64) {
        let library = library();
        assert!(library.is_file(), "there is no {library:?}: install the package libfaketime (make setup)");
        // In one piece: the daemon reads it each time that it looks at the clock.
        let next = self.scratch().path().join("wall-clock.next");
        std::fs::write(&next, format!("{seconds:+}\n")).expect("an own file");
        std::fs::rename(&next, file(self)).expect("an own file");
    }

    /// The environment of its daemon.
    pub(crate) fn wall_clock_environment(&self) -> Vec<(&'static str, PathBuf)> {
        let file = file(self);
        if !file.exists() {
            return Vec::new();
        }
        vec![
            ("LD_PRELOAD", library()),
            ("FAKETIME_TIMESTAMP_FILE", file),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }
}
