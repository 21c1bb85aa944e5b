//! `baton-demo`: a cluster on this one machine, in network namespaces: real web servers, real
//! connections, real handoffs. It tells a story in two phases, sums it up, and removes everything.
//!
//! [`site`] makes the machines and runs the cluster; [`phase`] puts the [`workload`] on it, counts
//! in a [`tally`] and shows it [`live`]; [`account`] counts bytes on the cables; [`summary`] judges.

mod account;
mod live;
mod phase;
mod site;
mod stop;
mod summary;
mod tally;
mod workload;

use std::any::Any;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use baton_cli::exit::{self, Exit, Failure};
use baton_cli::output::print;
use baton_cluster::PolicyKind;
use baton_testbed::{Capture, Host, Namespace, baton_binary};
use clap::Parser;
use nix::unistd::Uid;

use account::Account;
use phase::Phase;
use site::{Cluster, Site};
use stop::Stop;
use summary::Summary;
use workload::Workload;

/// Watch a cluster of four nodes at work on this machine
///
/// Makes network namespaces for clients, a router, a switch, four nodes with stock nginx or Apache
/// and small caches, and one slow origin; runs the same requests through round robin and through
/// LARD; checks every byte of every answer; removes everything. Needs root, nginx, apache2, nftables.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Examples:
  baton-demo
  baton-demo --keep            leave the cluster running, to curl it

Exit codes: 0 all was right, 1 an answer was wrong, a client was disturbed, or it could not be run,
2 wrong usage, 77 not root"
)]
struct Demo {
    /// How long each of the two phases runs
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// After how many milliseconds a silent node counts as dead; more than usual where the machine is very slow
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(200..=60_000))]
    failure_timeout: u64,
    /// Leave the cluster running at the end, tell how to use it, and wait for Ctrl-C
    #[arg(long)]
    keep: bool,
    /// The file to write the summary to, as JSON
    #[arg(long, value_name = "FILE", default_value = "target/demo/summary.json")]
    json: PathBuf,
    /// Capture what the clients see, write it to this file (pcap), and look whether two servers answered a
    /// connection; needs tcpdump
    #[arg(long, value_name = "FILE")]
    capture: Option<PathBuf>,
}

fn main() -> ExitCode {
    exit::code(Demo::parse().run(), false)
}

impl Demo {
    fn run(self) -> Result<(), Failure> {
        if !Uid::effective().is_root() {
            let help = "run it as root: sudo baton-demo, or make demo, which does";
            let what = format!("the demo makes network namespaces, which only root may\n  help: {help}");
            return Err(Failure::new(Exit::NoPermission, what));
        }
        // Each of its nodes needs it; without it the first would fail when all has been built.
        if let Err(error) = fs::File::options().read(true).write(true).open("/dev/net/tun") {
            let what = format!("/dev/net/tun cannot be used: {error}\n  help: modprobe tun");
            return Err(Failure::new(Exit::Failed, what));
        }
        let failed = |error: std::io::Error| Failure::new(Exit::Failed, error);
        let stop = Stop::on_signals().map_err(failed)?;
        let failure_timeout = Duration::from_millis(self.failure_timeout);
        caught(|| self.play(&Site::build().with_failure_timeout(failure_timeout), &stop))
    }

    /// The whole story, on a site.
    fn play(&self, site: &Site, stop: &Stop) -> Result<(), Failure> {
        let workload = Workload::new();
        print(&introduction(&workload))?;
        let account = Account::open(site);
        let capture = self.capture.as_deref().map(|file| (Capture::with_answers(site.client(), 80), file));
        let (round_robin, cluster) = self.phase(site, PolicyKind::WeightedRoundRobin, &workload, stop)?;
        cluster.stop();
        let (lard, cluster) = self.phase(site, PolicyKind::Lard, &workload, stop)?;
        let two_owners = capture.map(|(capture, file)| capture.stop_into(file).two_owners);
        let summary = Summary::new(&[round_robin, lard], account.read(), two_owners.as_deref());
        print(&summary.describe())?;
        write(&self.json, &summary)?;
        if self.keep {
            wait(site, &cluster, &workload, stop)?;
        }
        cluster.stop();
        match summary.problems.is_empty() {
            true => Ok(()),
            false => Err(Failure::told(Exit::Failed, String::new())),
        }
    }

    fn phase<'a>(
        &self,
        site: &'a Site,
        policy: PolicyKind,
        workload: &Workload,
        stop: &Stop,
    ) -> Result<(Phase, Cluster<'a>), Failure> {
        let cluster = site.start(policy);
        let length = Duration::from_secs(self.seconds);
        let phase = phase::play(site, &cluster, policy, workload, length, stop).map_err(|error| {
            Failure::new(Exit::Failed, format!("the cluster does not say how it is: {error}"))
        })?;
        if stop.is_asked() {
            return Err(Failure::told(
                Exit::Failed,
                "interrupted; all that was made is removed\n".to_owned(),
            ));
        }
        Ok((phase, cluster))
    }
}

fn introduction(workload: &Workload) -> String {
    format!(
        "\
  clients --- router ---+--- switch           sends new connections to any node
                        +--- n1  nginx  \\
                        +--- n2  Apache  \\     each a distributor, which reads the request, and a
                        +--- n3  nginx   /     server, which takes the connection over to answer it
                        +--- n4  Apache /
                        +--- origin           slow: {delay} ms for an answer, {at_once} at a time

{contents} pages, {mb:.0} MB, some far more popular than others; each node caches {cached} of them.
First round robin, then LARD, each from empty caches. One connection for each request.

",
        delay = site::ORIGIN_DELAY.as_millis(),
        at_once = site::ORIGIN_AT_ONCE,
        contents = workload::CONTENTS,
        mb = workload.bytes() as f64 / 1e6,
        cached = site::CACHED,
    )
}

fn write(file: &Path, summary: &Summary) -> Result<(), Failure> {
    let written = serde_json::to_string_pretty(summary).map_err(std::io::Error::from).and_then(|text| {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(file, text + "\n")
    });
    written
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot write {}: {error}", file.display())))?;
    print(&format!("The same in numbers: {}\n", file.display()))
}

/// Leaves the cluster to whoever is at the terminal, until asked to stop.
fn wait(site: &Site, cluster: &Cluster<'_>, workload: &Workload, stop: &Stop) -> Result<(), Failure> {
    print(&format!(
        "\n\
         The cluster is running, with LARD. In another terminal, as root:\n\n\
         \x20 ip netns exec {client} curl -so /dev/null -D - http://{vip}{path}\n\
         \x20     ask it for a page; X-Node says who answered, X-Cache whether its cache had the page\n\
         \x20 {baton} status --run-dir {run_dir}\n\
         \x20     how the cluster is\n\
         \x20 ip netns exec {node} ss -tn\n\
         \x20     the connections on the first node, the clients' own addresses at their other ends\n\n\
         Ctrl-C, or kill {pid}, stops and removes everything.\n",
        baton = baton_binary().display(),
        client = namespace(site.client()),
        vip = site.service().ip(),
        path = workload.example().path(),
        run_dir = cluster.run_dir().display(),
        node = namespace(&site.nodes()[0]),
        pid = std::process::id(),
    ))?;
    while !stop.is_asked() {
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// A machine's name for `ip netns`.
fn namespace(host: &Host) -> &str {
    let namespace: &Namespace = host;
    namespace.name()
}

/// The testbed panics when something is not installed or the kernel refuses, and its message says
/// what to do: that is what is told, without a back trace. Guards have cleaned up by then.
fn caught(work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    let ordinary = take_hook();
    set_hook(Box::new(|_| {}));
    let outcome = catch_unwind(AssertUnwindSafe(work));
    set_hook(ordinary);
    outcome.unwrap_or_else(|panic| Err(Failure::new(Exit::Failed, message(panic.as_ref()))))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("the demo has failed without a word").to_owned()
}

#[cfg(test)]
mod tests;
