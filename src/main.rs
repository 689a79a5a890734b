//! The one binary. Everything is in the library, so that tests can import it.

use std::process::ExitCode;

use cloister::{cli, corpus, work};

fn main() -> ExitCode {
    // What the warden starts is no command of anybody's: it comes before arguments, threads and logging.
    let arguments: Vec<_> = std::env::args_os().skip(1).take(3).collect();
    match arguments.as_slice() {
        [first, second] if first == "worker" && second == "extract" => match corpus::cage::child_main() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => ExitCode::from(error.kind().exit_code()),
        },
        [only] if only == "worker" => work::worker::main(),
        _ => cli::main(),
    }
}
