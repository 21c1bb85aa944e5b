//! The `baton` daemon on a machine of the testbed, run as an operator would run it. What its
//! configuration says is the caller's business.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::host::Host;
use crate::observer;
use crate::process::Process;

/// For the daemon to be ready.
const READY: Duration = Duration::from_secs(30);
/// For the daemon to undo what it did to its machine, and end.
const STOP: Duration = Duration::from_secs(30);

/// The `baton` binary: `$BATON_BIN`, or the one that was built with the running test.
///
/// # Panics
/// When there is none.
#[track_caller]
pub fn baton_binary() -> PathBuf {
    let named = std::env::var_os("BATON_BIN").map(PathBuf::from);
    let binary = named.unwrap_or_else(|| {
        let me = std::env::current_exe().expect("a program has a path");
        binary_near(&me).unwrap_or_else(|| {
            panic!("no baton beside {me:?}: build it (cargo build -p baton) or set BATON_BIN")
        })
    });
    assert!(binary.is_file(), "there is no {binary:?}: build baton, or mend BATON_BIN");
    binary.canonicalize().unwrap_or(binary)
}

/// From `target/debug/deps/test-0123` or `target/debug/program` to `target/debug/baton`.
fn binary_near(program: &Path) -> Option<PathBuf> {
    program.ancestors().skip(1).take(2).map(|dir| dir.join("baton")).find(|file| file.is_file())
}

fn ready_file(host: &Host) -> String {
    format!("{}.ready", host.name())
}

/// A running `baton node`; killed when dropped, ended properly by [`Baton::stop`].
#[derive(Debug)]
pub struct Baton<'a> {
    host: &'a Host,
    binary: PathBuf,
    run_dir: PathBuf,
    process: Process,
    config: PathBuf,
}

impl<'a> Baton<'a> {
    /// Runs `baton node --config CONFIG --node NAME --run-dir DIR` on a machine under its own
    /// name, and waits until it is ready: until `DIR/NAME.ready` is there.
    ///
    /// # Panics
    /// When there is no binary, or it is not ready in time (with the end of its log).
    #[track_caller]
    pub fn start(host: &'a Host, config: &Path) -> Self {
        Self::start_binary(&baton_binary(), host, config)
    }

    /// [`Baton::start`] on several machines side by side; in their order.
    ///
    /// # Panics
    /// See [`Baton::start`].
    #[track_caller]
    pub fn start_all(hosts: impl IntoIterator<Item = &'a Host>, config: &Path) -> Vec<Self> {
        let binary = baton_binary();
        let hosts = hosts.into_iter();
        let mut all: Vec<Self> = hosts.map(|host| Self::launch(&binary, host, config)).collect();
        all.iter_mut().for_each(Self::wait_ready);
        all
    }

    /// [`Baton::start`] with another binary: of another version, or a stand-in.
    ///
    /// # Panics
    /// See [`Baton::start`].
    #[track_caller]
    pub fn start_binary(binary: &Path, host: &'a Host, config: &Path) -> Self {
        let mut baton = Self::launch(binary, host, config);
        baton.wait_ready();
        baton
    }

    #[track_caller]
    fn launch(binary: &Path, host: &'a Host, config: &Path) -> Self {
        observer::resume(host);
        // The same one after a restart: the daemon may keep in it what it wants to find again.
        let run_dir = host.scratch().path().join("baton");
        std::fs::create_dir_all(&run_dir).unwrap_or_else(|error| panic!("cannot make {run_dir:?}: {error}"));
        // Left by one that was killed.
        let _ = std::fs::remove_file(run_dir.join(ready_file(host)));
        let mut command = host.command(&binary.display().to_string());
        command.arg("node").arg("--config").arg(config).args(["--node", host.name()]);
        command.arg("--run-dir").arg(&run_dir);
        command.envs(host.wall_clock_environment());
        let process = host.start("baton", command);
        Self { host, binary: binary.to_owned(), run_dir, process, config: config.to_owned() }
    }

    #[track_caller]
    fn wait_ready(&mut self) {
        let ready = self.run_dir.join(ready_file(self.host));
        self.process.wait_ready(READY, || ready.exists());
    }

    /// The machine that it runs on.
    pub fn host(&self) -> &'a Host {
        self.host
    }

    /// The daemon's process, for its log and for signals.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Writes another cluster file where the daemon's is, and runs `baton reload --json`: what that says.
    /// Daemons that were started with one file share it.
    ///
    /// # Panics
    /// When it says something that is not JSON.
    #[track_caller]
    pub fn reload(&self, text: &str) -> serde_json::Value {
        std::fs::write(&self.config, text).expect("an own file");
        let binary = self.binary.display().to_string();
        let name = self.host.name();
        let run_dir = self.run_dir.display().to_string();
        let said =
            self.host.try_run(&binary, ["reload", "--json", "--node", name, "--run-dir", run_dir.as_str()]);
        let code = said.status.code();
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        let said: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"));
        assert_eq!(code, Some(if said["error"].is_null() { 0 } else { 78 }), "{said}");
        said
    }

    /// What `baton status --json` says.
    ///
    /// # Panics
    /// When it fails or says something that is not JSON.
    #[track_caller]
    pub fn status(&self) -> serde_json::Value {
        let binary = self.binary.display().to_string();
        let name = self.host.name();
        let run_dir = self.run_dir.display().to_string();
        let said =
            self.host.try_run(&binary, ["status", "--json", "--node", name, "--run-dir", run_dir.as_str()]);
        let (text, wrong) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        let said_so = |error| panic!("not JSON ({error}): {text}{wrong}");
        let status: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(said_so);
        let expected = if status["verdict"]["well"] == true { 0 } else { 3 };
        assert_eq!(said.status.code(), Some(expected), "{status}");
        status
    }

    /// What `baton doctor` says of its machine.
    ///
    /// # Panics
    /// When it does not run.
    #[track_caller]
    pub fn doctor(&self) -> String {
        let (config, run_dir) = (self.config.display().to_string(), self.run_dir.display().to_string());
        let args = ["doctor", "--config", &config, "--node", self.host.name(), "--run-dir", &run_dir];
        let said = self.host.try_run(&self.binary.display().to_string(), args);
        String::from_utf8_lossy(&said.stdout).into_owned()
    }

    /// Asks it to end with SIGTERM.
    ///
    /// # Panics
    /// When it has not ended in time, or not with exit code 0.
    #[track_caller]
    pub fn stop(mut self) {
        observer::pause(self.host);
        self.process.signal(Signal::SIGTERM);
        let status = self.process.wait(STOP);
        let log = self.process.log_tail();
        assert!(status.success(), "baton on {} ended with {status}:\n{log}", self.host.name());
    }

    /// Waits until it ends by itself; how, and the end of its log.
    ///
    /// # Panics
    /// When it has not ended in time.
    #[track_caller]
    pub fn wait_ended(mut self, patience: Duration) -> (ExitStatus, String) {
        let status = self.process.wait(patience);
        observer::pause(self.host);
        (status, self.process.log_tail())
    }

    /// Kills it, as a crash would.
    #[track_caller]
    pub fn kill(mut self) {
        observer::pause(self.host);
        self.process.signal(Signal::SIGKILL);
        self.process.wait(STOP);
    }
}

/// Also at the end of a test that does not stop it.
impl Drop for Baton<'_> {
    fn drop(&mut self) {
        observer::pause(self.host);
    }
}

#[cfg(test)]
mod tests {
    use super::binary_near;
    use crate::scratch::Scratch;

    #[test]
    fn the_binary_is_found_from_tests_and_programs() {
        let target = Scratch::new("target");
        std::fs::create_dir(target.path().join("deps")).expect("an own directory");
        let (test, program) = (target.path().join("deps/e2e-0123"), target.path().join("demo"));
        assert_eq!(binary_near(&test), None);
        let baton = target.write("baton", "");
        assert_eq!(binary_near(&test), Some(baton.clone()));
        assert_eq!(binary_near(&program), Some(baton));
    }
}
