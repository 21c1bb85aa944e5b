//! Temporary directories that go when their guard goes. Named like the namespaces of the same
//! process, so that [`crate::janitor`] finds those of a killed one.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A name that no other guard on this machine has: `bt<pid>-<n>-<role>`.
pub(crate) fn unique_name(role: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("bt{}-{}-{role}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A directory under `/tmp`, readable by every user of the machine (web servers run as their own),
/// removed with all it holds when dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes a new, empty directory.
    ///
    /// # Panics
    /// When `/tmp` cannot be written to.
    #[track_caller]
    pub fn new(role: &str) -> Self {
        Self::named(&unique_name(role))
    }

    pub(crate) fn named(name: &str) -> Self {
        crate::janitor::start();
        let path = Path::new("/tmp").join(name);
        std::fs::create_dir(&path).unwrap_or_else(|error| panic!("cannot make {path:?}: {error}"));
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file into it and returns the file's path.
    ///
    /// # Panics
    /// When it cannot be written.
    #[track_caller]
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path.join(name);
        std::fs::write(&path, content).unwrap_or_else(|error| panic!("cannot write {path:?}: {error}"));
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: a panic here, while a test unwinds, would hide the test's own message.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
