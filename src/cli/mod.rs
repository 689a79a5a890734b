//! The command line: raw arguments become a validated plan, the plan a request, the answer a page or JSON.
//!
//! This is the only room that prints. It promises the exit codes of [`ErrorKind`](crate::base::ErrorKind),
//! results on standard output and everything else on standard error; what the commands do is other rooms'.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod doctor;
mod progress;
mod screen;
mod settings;
mod signals;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::base::{Error, Result};
use screen::Screen;
use settings::{GlobalArgs, Settings};

/// An on-premise LLM appliance: private documents in, a trained model served, nothing leaves.
#[derive(Debug, Parser)]
#[command(name = "cloister", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look at this machine and the data directory, and say what would get in the way
    Doctor(doctor::Args),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(error.kind().exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let settings = Settings::resolve(cli.global)?;
    settings::start_log(&settings.log)?;
    let screen = Screen::new(settings.json);
    match cli.command {
        Command::Doctor(args) => doctor::run(args, &settings, &screen),
    }
}

/// The two lines every failure ends with: what failed, and what to do about it.
fn complain(error: &Error) {
    eprintln!("error: {error}");
    if let Some(remedy) = error.remedy_text() {
        eprintln!("help: {remedy}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
