//! The one binary. Everything is in the library, so that tests can import it.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
