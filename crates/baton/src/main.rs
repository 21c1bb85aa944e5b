//! The one binary. Each command is a file of this crate; what they do lives in the other crates.

mod check;
mod config;
mod daemon;
mod doctor;
mod init;
mod log;
mod node;
mod reload;
mod status;
mod status_tables;

use std::process::ExitCode;

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
  baton init                                           write cluster.toml; then edit its nodes
  baton check cluster.toml                             is the file right?
  baton doctor --config cluster.toml --node s1         is this machine right?
  baton node --config cluster.toml --node s1           run it, on each node under its name
  baton status                                         how is the cluster?
  baton reload                                         take a changed file, on each node";

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

fn main() -> ExitCode {
    exit::code(match Cli::parse().command {
        Command::Init(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Doctor(command) => command.run(),
        Command::Node(command) => command.run(),
        Command::Reload(command) => command.run(),
        Command::Status(command) => command.run(),
    })
}
