//! `baton init`: a fresh cluster file.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use baton_cluster::Cluster;
use clap::Args;
use rand::TryRngCore;
use rand::rngs::OsRng;

use crate::exit::{Exit, Failure};
use crate::output::print;

/// Write a fresh cluster file, with a new secret
///
/// The file explains itself: give each of your machines a `[[node]]` with its roles, and each port
/// that clients connect to a `[[service]]`. It is readable by you alone, because whoever knows its
/// secret can take over connections. A file that exists is never overwritten.
#[derive(Args)]
#[command(after_help = "\
Examples:
  baton init
  baton init --name shop --output /etc/baton/cluster.toml
  baton init -o - | grep ^secret")]
pub struct Init {
    /// The cluster's name: lower-case letters, digits and -
    #[arg(long, value_name = "NAME", default_value = "web")]
    name: String,
    /// The file to write; - prints it
    #[arg(long, short, value_name = "FILE", default_value = "cluster.toml")]
    output: PathBuf,
}

impl Init {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let secret = secret().map_err(|error| {
            Failure::new(Exit::Failed, format!("the kernel gives no random numbers: {error}"))
        })?;
        let text = Cluster::fresh(&self.name, &secret);
        if let Err(errors) = Cluster::parse(&text) {
            // Only the name can be wrong; the text is of no use to whoever chose it.
            let what = errors.0.first().map(|error| format!("{}\n  help: {}", error.what, error.help));
            return Err(Failure::new(Exit::Usage, what.unwrap_or_default()));
        }
        if self.output.as_os_str() == "-" {
            return print(&text);
        }
        write_new(&self.output, &text).map_err(|error| self.cannot_write(&error))?;
        let file = self.output.display();
        print(&format!(
            "wrote {file}: the cluster {name} with a new secret\n\n\
             next:\n\
             \x20 1. edit {file}: a [[node]] for each machine, a [[service]] for each port\n\
             \x20 2. baton check {file}\n\
             \x20 3. copy it to each node as /etc/baton/cluster.toml, readable by root alone\n\
             \x20 4. on each node: baton doctor --node NAME\n\
             \x20 5. on each node: baton node --node NAME\n",
            name = self.name,
        ))
    }

    fn cannot_write(&self, error: &io::Error) -> Failure {
        let file = self.output.display();
        Failure::new(
            Exit::Failed,
            if error.kind() == ErrorKind::AlreadyExists {
                format!("{file} exists, and is not overwritten\n  help: choose another with --output FILE")
            } else if let (ErrorKind::NotFound, Some(folder)) = (error.kind(), self.output.parent()) {
                format!(
                    "cannot write {file}: {error}\n  help: make its folder: mkdir -p {}",
                    folder.display()
                )
            } else {
                format!("cannot write {file}: {error}\n  help: choose another place with --output FILE")
            },
        )
    }
}

/// 256 random bits as hexadecimal digits.
fn secret() -> Result<String, rand::rand_core::OsError> {
    let mut bytes = [0; 32];
    OsRng.try_fill_bytes(&mut bytes)?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// Writes a file that is not there yet, for its owner alone.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).inspect_err(|_| {
        // Half a file would be in the way of the next try.
        let _ = fs::remove_file(path);
    })
}
