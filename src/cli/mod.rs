//! The command line: raw arguments become a validated plan, the plan a request, the answer a page or JSON.
//!
//! This is the only room that prints. It promises the exit codes of [`ErrorKind`](crate::base::ErrorKind),
//! results on standard output and everything else on standard error; what the commands do is other rooms'.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod audit;
mod backup;
mod bench;
mod chat;
mod data;
mod deploy;
mod doctor;
mod erase;
mod feedback;
mod init;
mod job;
mod key;
mod lineage;
mod model;
mod progress;
mod quickstart;
mod screen;
mod seal;
mod selftest;
mod serve;
mod session;
mod settings;
mod signals;
mod terminal;
mod token;
mod tokenizer;
mod user;
mod worker;

use std::{io::Write, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::base::{Error, Result};
use screen::Screen;
use session::Session;
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
    /// The whole road once: documents in, a trained model served
    Quickstart(quickstart::Args),
    /// Make a data directory, its root key and its certificate
    Init(init::Args),
    /// Documents: bring them in, list them, see what was refused, erase them
    #[command(subcommand)]
    Data(data::Command),
    /// Tokenizers: train one, look at them
    #[command(subcommand)]
    Tokenizer(tokenizer::Command),
    /// Models: train, resume, look, let one write
    #[command(subcommand)]
    Model(model::Command),
    /// Give a sealed daemon what it takes: a passphrase, a key file, one share
    Unseal(seal::UnsealArgs),
    /// Have the daemon end what it serves and forget every key
    Seal(seal::SealArgs),
    /// Which model stands for a name: proposed by one person, approved by another
    #[command(subcommand)]
    Deploy(deploy::Command),
    /// Talk with a model on this terminal
    Chat(chat::Args),
    /// Serve the models to applications, over HTTPS, as the OpenAI clients expect
    Serve(serve::Args),
    /// What people said about answers
    #[command(subcommand)]
    Feedback(feedback::Command),
    /// Where a thing came from, and what came of it
    #[command(subcommand)]
    Lineage(lineage::Command),
    /// Who did what, and proof of it
    #[command(subcommand)]
    Audit(audit::Command),
    /// The keys that everything is sealed under
    #[command(subcommand)]
    Key(key::Command),
    /// Copies on another disk, and the way back from them
    #[command(subcommand)]
    Backup(backup::Command),
    /// People
    #[command(subcommand)]
    User(user::Command),
    /// What applications show to be let in
    #[command(subcommand)]
    Token(token::Command),
    /// Long work
    #[command(subcommand)]
    Job(job::Command),
    /// How fast this machine trains and generates
    #[command(subcommand)]
    Bench(bench::Command),
    /// Try every operation on this machine's device against a reference, and say how far off each is
    Selftest(selftest::Args),
    /// Look at this machine and the data directory, and say what would get in the way
    Doctor(doctor::Args),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    // Before anything else of the process exists: the cage depends on it.
    if let Some(ended) = worker::enter(std::env::args_os()) {
        return ended;
    }
    // A panic's message stays unsaid, as that of a worker does: it may quote a document.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(std::io::stderr(), "panicked at {place}");
    }));
    match crate::seal::forbid_core_dumps().and_then(|()| run(Cli::parse())) {
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
    let session = Session { screen: Screen::new(settings.json), settings };
    match cli.command {
        Command::Quickstart(args) => quickstart::run(args, session),
        Command::Init(args) => init::run(args, &session),
        Command::Data(command) => data::run(command, &session),
        Command::Tokenizer(command) => tokenizer::run(command, &session),
        Command::Model(command) => model::run(command, &session),
        Command::Unseal(args) => seal::unseal(args, &session),
        Command::Seal(args) => seal::seal(args, &session),
        Command::Deploy(command) => deploy::run(command, &session),
        Command::Chat(args) => chat::run(args, &session),
        Command::Serve(args) => serve::run(args, &session),
        Command::Feedback(command) => feedback::run(command, &session),
        Command::Lineage(command) => lineage::run(command, &session),
        Command::Audit(command) => audit::run(command, &session),
        Command::Key(command) => key::run(command, &session),
        Command::Backup(command) => backup::run(command, &session),
        Command::User(command) => user::run(command, &session),
        Command::Token(command) => token::run(command, &session),
        Command::Job(command) => job::run(command, &session),
        Command::Bench(command) => bench::run(command, &session),
        Command::Selftest(args) => selftest::run(args, &session),
        Command::Doctor(args) => doctor::run(args, &session),
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
