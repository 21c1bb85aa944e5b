//! The one binary. Each command is a file of this crate; what they do lives in the other crates.

mod check;
mod config;
mod daemon;
mod doctor;
mod init;
mod log;
mod measured;
mod node;
mod reload;
mod status;
mod status_tables;
mod verdict;

use std::process::ExitCode;

use baton_cli::exit::{Exit, Failure};
use baton_cli::{exit, output};
use clap::{Parser, Subcommand};

/// Content-aware load balancing by TCP handoff to unmodified web servers.
///
/// One file describes the cluster and lies on every node. On each node, `baton node` plays the
/// roles that the file gives it: switch, distributor, dispatcher, server.
#[derive(Parser)]
#[command(version, after_help = START, after_long_help = format!("{START}\n\n{}", exit::TABLE))]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const START: &str = "\
To begin:
  baton init                     write cluster.toml; then edit its nodes
  baton check cluster.toml       is the file right? Then copy it to each node, as /etc/baton/cluster.toml
  baton doctor --node s1         is this machine right?
  baton node --node s1           run it, on each node under its name
  baton status                   how is the cluster?
  baton reload                   take a changed file, on each node

--config FILE names another file; without --node a node goes by its host name.";

#[derive(Subcommand)]
enum Command {
    Init(init::Init),
    Check(check::Check),
    Doctor(doctor::Doctor),
    // Boxed for its log filter, the largest of all.
    Node(Box<node::NodeCommand>),
    Reload(reload::Reload),
    Status(status::Status),
}

impl Command {
    /// Whether it is to speak JSON, also of what goes wrong.
    fn json(&self) -> bool {
        match self {
            Self::Check(command) => command.json,
            Self::Doctor(command) => command.json,
            Self::Reload(command) => command.json,
            Self::Status(command) => command.json,
            Self::Init(_) | Self::Node(_) => false,
        }
    }

    fn run(self) -> Result<(), Failure> {
        match self {
            Self::Init(command) => command.run(),
            Self::Check(command) => command.run(),
            Self::Doctor(command) => command.run(),
            Self::Node(command) => command.run(),
            Self::Reload(command) => command.run(),
            Self::Status(command) => command.run(),
        }
    }
}

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(Cli { command }) => {
            let json = command.json();
            exit::code(command.run(), json)
        }
        Err(wrong) if wrong.use_stderr() && std::env::args_os().any(|argument| argument == "--json") => {
            exit::code(Err(Failure::told(Exit::Usage, wrong.to_string())), true)
        }
        // Help and version as well.
        Err(told) => told.exit(),
    }
}
