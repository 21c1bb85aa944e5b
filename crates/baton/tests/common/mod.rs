//! Running the built binary, in a folder of the test's own, and in network namespaces that end with
//! the process.

#![allow(dead_code, reason = "each test file uses its part")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A secret that is long enough, and of letters and digits alone.
pub const SECRET: &str = "q7Vb2mXe9TzR4kLw8HsJ1dYc6NfGa3Pu";

/// What a command printed, and how it ended.
pub struct Ran {
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }

    /// Asserts the exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        self
    }
}

/// `baton` with these arguments, in `dir`.
#[track_caller]
pub fn baton(dir: &Scratch, arguments: &[&str]) -> Ran {
    run(Command::new(BATON).args(arguments).current_dir(&dir.0))
}

/// A shell script in a new network namespace, in `dir`; `$BATON` is the binary. `lo` is up, and veths
/// `v0` and `v1` are a link on which `v0` holds 10.1.0.11/24.
pub fn in_namespace(dir: &Scratch, script: &str) -> Command {
    let mut command = Command::new("unshare");
    let link = "set -e; ip link set lo up; ip link add v0 type veth peer name v1; \
                ip addr add 10.1.0.11/24 dev v0; ip link set v0 up; ip link set v1 up";
    command.args(["--net", "sh", "-c", &format!("{link}\n{script}")]).env("BATON", BATON);
    command.current_dir(&dir.0);
    command
}

/// Runs a command to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Ran {
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Ran {
        code: status.code().unwrap_or_else(|| panic!("{command:?} was killed: {status}")),
        out: String::from_utf8(stdout).expect("text"),
        err: String::from_utf8(stderr).expect("text"),
    }
}

/// A folder for one test, removed with its content.
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// A folder that is empty, and named after the test.
    pub fn new(test: &str) -> Self {
        // Short, because a Unix socket's path is at most 107 bytes.
        let dir = std::env::temp_dir().join(format!("baton-cli-{}-{test}", std::process::id()));
        fs::create_dir_all(&dir).expect("the temporary folder is writable");
        Self(dir)
    }

    /// Writes a file, which nobody else may read, as `baton init` does.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("an own folder");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("an own file");
        path
    }

    /// A cluster of one server at 10.1.0.11, which is also everything else.
    pub fn one_node(&self) -> PathBuf {
        self.write(
            "one.toml",
            &format!(
                "[cluster]\nname = \"one\"\nsecret = \"{SECRET}\"\n\
                 [[node]]\nname = \"n1\"\naddress = \"10.1.0.11\"\nroles = [\"distributor\", \"dispatcher\", \"server\"]\nannounce = false\n\
                 [[service]]\nname = \"www\"\nvips = [\"10.99.0.1\"]\nport = 80\npolicy = \"wrr\"\n"
            ),
        )
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file of the workspace.
pub fn workspace(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

pub const BATON: &str = env!("CARGO_BIN_EXE_baton");
