//! `cloister audit`: who did what, and proof that nobody changed the record of it.

use super::session::{Session, time};
use crate::{
    base::Result,
    work::request::{AuditReport, AuditRow, Request},
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Check every entry, the chain of segments and the signed checkpoints
    Verify,
    /// List entries, newest last
    Ls {
        /// From this entry on [default: the latest]
        #[arg(long, value_name = "NUMBER")]
        from: Option<u64>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u64,
    },
    /// Sign the log as it stands; keep what this prints somewhere else
    Checkpoint,
}

pub fn run(command: Command, session: &Session) -> Result<()> {
    let screen = &session.screen;
    match command {
        Command::Verify => {
            let report: AuditReport = session.ask(Request::AuditVerify)?;
            screen.show(&report, |screen, AuditReport { entries, root }| {
                screen.line(format_args!("{entries} entries, each in its place and signed for"))?;
                screen.line(format_args!("root {root}"))
            })
        }
        Command::Ls { from, limit } => {
            let rows: Vec<AuditRow> = session.ask(Request::AuditLs { from, limit })?;
            screen.rows(&rows, ["entry", "time", "actor", "action", "outcome", "object"], |row| {
                [
                    row.number.to_string(),
                    time(row.at_ms),
                    row.actor.clone(),
                    row.action.clone(),
                    row.outcome.clone(),
                    row.object.map_or_else(String::new, |id| id.to_string()),
                ]
            })
        }
        Command::Checkpoint => {
            let note: String = session.ask(Request::AuditCheckpoint)?;
            screen.show(&note, |screen, note| screen.line(note.trim_end()))
        }
    }
}
