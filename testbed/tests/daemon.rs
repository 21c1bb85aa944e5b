//! Starting, asking and stopping the daemon, with a shell script in the place of `baton`: it keeps
//! what `Baton` expects of it (arguments, readiness, signals, exit codes), or breaks it on purpose.

use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use baton_testbed::{Baton, Host, Scratch, Testbed};

/// `$1` is `node` or `status`; then `--node NAME --run-dir DIR`, for `node` with `--config FILE`, in some
/// order.
const STAND_IN: &str = r#"#!/bin/sh
command=$1; shift
while [ $# -gt 0 ]; do
    case $1 in
        --config) config=$2; shift ;;
        --node) node=$2; shift ;;
        --run-dir) dir=$2; shift ;;
    esac
    shift
done
if [ "$command" = status ]; then
    pins=$(ls -d /sys/fs/bpf/*/ | wc -l) started=$(cat "$dir/$node.ready")
    echo "{\"verdict\": {\"well\": true}, \"node\": \"$node\", \"started\": $started, \"pins\": $pins}"
    exit
fi
case $(cat "$config") in
    broken) echo "the secret is too short"; exit 2 ;;
    stubborn) code=1 ;;
    *) code=0 ;;
esac
trap 'rm -f "$dir/$node.ready"; exit $code' TERM
mkdir -p /sys/fs/bpf/"$node"
echo $$ > "$dir/$node.ready"
while :; do sleep 0.05; done
"#;

struct Fixture {
    dir: Scratch,
    binary: PathBuf,
    bed: Testbed,
}

impl Fixture {
    fn new() -> Self {
        let dir = Scratch::new("daemon");
        let binary = dir.write("baton", STAND_IN);
        std::fs::set_permissions(&binary, PermissionsExt::from_mode(0o755)).expect("an own file");
        Self { dir, binary, bed: Testbed::builder().nodes(2).build() }
    }

    fn start<'a>(&'a self, host: &'a Host, config: &Path) -> Baton<'a> {
        Baton::start_binary(&self.binary, host, config)
    }
}

/// The message of the panic that `work` must end in.
fn panic_of(work: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(work)).expect_err("it should panic");
    panic.downcast_ref::<String>().expect("a panic with a message").clone()
}

#[test]
fn daemons_start_answer_stop_and_start_again() {
    let fixture = Fixture::new();
    let config = fixture.dir.write("cluster.toml", "fine");
    let batons: Vec<_> = fixture.bed.nodes().iter().map(|node| fixture.start(node, &config)).collect();
    for (baton, name) in batons.iter().zip(["a", "b"]) {
        let status = baton.status();
        assert_eq!(status["node"], name);
        // Each machine sees only what it has pinned itself.
        assert_eq!(status["pins"], 1);
    }
    batons.into_iter().for_each(Baton::stop);
    let first = fixture.start(fixture.bed.node(0), &config);
    let before = first.status()["started"].clone();
    first.kill();
    let again = fixture.start(fixture.bed.node(0), &config);
    assert_ne!(again.status()["started"], before);
    again.stop();
}

#[test]
fn a_daemon_that_ends_early_or_badly_is_reported_with_its_log() {
    let fixture = Fixture::new();
    let broken = fixture.dir.write("broken.toml", "broken");
    let message = panic_of(|| drop(fixture.start(fixture.bed.node(0), &broken)));
    assert!(message.contains("the secret is too short"), "{message}");
    let stubborn = fixture.dir.write("stubborn.toml", "stubborn");
    let baton = fixture.start(fixture.bed.node(0), &stubborn);
    let message = panic_of(|| baton.stop());
    assert!(message.contains("ended with exit status: 1"), "{message}");
}
