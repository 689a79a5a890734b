//! The one binary. Everything is in the library, so that tests can import it.

fn main() -> std::process::ExitCode {
    cloister::cli::main()
}
