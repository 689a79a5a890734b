//! `cloister bench sealing`: what reading and writing through the vault costs beside plain files.

use std::path::PathBuf;

use crate::{
    base::{Result, units::Bytes},
    cli::{progress::Line, session::Session},
    vault::bench,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to write: a folder is made in it and removed again
    #[arg(long, value_name = "DIR", default_value = ".")]
    scratch: PathBuf,
    /// How much to read and write each way
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    mib: u64,
    /// How often; the median counts
    #[arg(long, value_name = "N", default_value_t = 7)]
    rounds: usize,
}

pub fn run(args: &Args, session: &Session) -> Result<()> {
    let line = Line::new();
    let rows = bench::sealing(&args.scratch, args.mib, args.rounds, &line)?;
    drop(line);
    session.screen.rows(&rows, ["sealed / plain", "sealed", "plain", "what"], |row| {
        let rate = |seconds: f64| format!("{}/s", Bytes((row.bytes as f64 / seconds) as u64));
        [format!("{:.2}", row.ratio), rate(row.sealed_s), rate(row.plain_s), row.what.clone()]
    })
}
