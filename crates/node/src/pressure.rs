//! How busy this server's disk is, in percent: read from the kernel (PSI) or from a file of the
//! operator's, told to the dispatcher with the load. Called by the server role; decides nothing.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use baton_cluster::Node;

/// The kernel renews its averages every two seconds; a file of the operator's may be quicker.
const READ_EVERY: Duration = Duration::from_millis(200);
/// Where the kernel tells in how much of the time some task waited for a disk
/// (Documentation/accounting/psi.rst).
const KERNEL: &str = "/proc/pressure/io";
/// What stands for a pressure that cannot be read: nothing more is to be read from this disk.
const UNKNOWN: u8 = 100;

/// The disk's pressure, as last read.
#[derive(Debug)]
pub(crate) struct Pressure {
    source: Source,
    last: u8,
    read: Option<Instant>,
    warned: bool,
}

#[derive(Debug)]
enum Source {
    Kernel,
    /// A number from 0 to 100, and nothing else but space around it.
    File(PathBuf),
}

impl Pressure {
    /// As the cluster file says of the node.
    pub(crate) fn new(node: &Node) -> Self {
        let source = node.pressure_file.clone().map_or(Source::Kernel, Source::File);
        Self { source, last: UNKNOWN, read: None, warned: false }
    }

    /// The pressure now, in percent; read again if that was not done just before.
    pub(crate) fn get(&mut self, now: Instant) -> u8 {
        if self.read.is_some_and(|read| now.saturating_duration_since(read) < READ_EVERY) {
            return self.last;
        }
        self.read = Some(now);
        let path = self.source.path();
        let value = match std::fs::read_to_string(path) {
            Ok(text) => self.source.value(&text).ok_or("it does not hold what it should".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        self.last = match value {
            Ok(value) => {
                self.warned = false;
                value
            }
            Err(cause) => {
                if !self.warned {
                    tracing::warn!(path = %path.display(), cause, "pressure unknown; taken for 100 %");
                    self.warned = true;
                }
                UNKNOWN
            }
        };
        self.last
    }
}

impl Source {
    fn path(&self) -> &Path {
        match self {
            Self::Kernel => Path::new(KERNEL),
            Self::File(path) => path,
        }
    }

    fn value(&self, text: &str) -> Option<u8> {
        match self {
            Self::Kernel => some_avg10(text),
            Self::File(_) => text.trim().parse().ok().filter(|value| *value <= 100),
        }
    }
}

/// `some avg10=1.53 avg60=...`: rounded to the nearest whole number.
fn some_avg10(text: &str) -> Option<u8> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let value: f32 =
        line.split_ascii_whitespace().find_map(|field| field.strip_prefix("avg10="))?.parse().ok()?;
    // Within 0 to 100, so that the cast cuts nothing.
    (0.0..=100.0).contains(&value).then(|| value.round() as u8)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use baton_cluster::{NodeId, Roles};

    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let psi = "some avg10=1.53 avg60=90.00 avg300=0.00 total=1\nfull avg10=77.00 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(some_avg10(psi), Some(2));
        assert_eq!(some_avg10("some avg10=100.00 avg60=0.00\n"), Some(100));
        for bad in [
            "",
            "full avg10=1.00",
            "some avg60=1.00",
            "some avg10=",
            "some avg10=-1.00",
            "some avg10=NaN",
            "some avg10=101",
        ] {
            assert_eq!(some_avg10(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_file_is_read_again_but_not_too_often_and_counts_as_full_when_it_is_bad() {
        let path = std::env::temp_dir().join(format!("baton-pressure-{}", std::process::id()));
        let node = Node {
            id: NodeId(0),
            name: "n".to_owned(),
            address: Ipv4Addr::LOCALHOST.into(),
            interfaces: Vec::new(),
            roles: Roles { server: true, ..Roles::default() },
            weight: 1,
            announce: true,
            pressure_file: Some(path.clone()),
        };
        let (mut pressure, mut now) = (Pressure::new(&node), Instant::now());
        assert_eq!((pressure.get(now), pressure.warned), (100, true), "no file yet");
        let mut written = |text: &str| {
            std::fs::write(&path, text).expect("a file of one's own");
            let before = pressure.get(now);
            now += READ_EVERY;
            let after = pressure.get(now);
            (before, after, pressure.warned)
        };
        assert_eq!(written(" 7\n"), (100, 7, false));
        assert_eq!(written("101"), (7, 100, true));
        assert_eq!(written("0"), (100, 0, false));
        assert_eq!(written("0.5"), (0, 100, true));
        assert_eq!(written(""), (100, 100, true));
        std::fs::remove_file(&path).expect("it was there");
    }
}
