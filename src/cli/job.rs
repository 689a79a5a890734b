//! `cloister job`: the long work that ran, runs or waits.

use super::session::{Session, job_id, time};
use crate::{
    base::{Id, Result},
    work::request::{JobRow, Request},
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the jobs
    Ls,
    /// Show one
    Show {
        #[arg(value_parser = job_id, value_name = "ID")]
        job: Id,
    },
    /// Stop one at its next safe place; what it has is kept
    Cancel {
        #[arg(value_parser = job_id, value_name = "ID")]
        job: Id,
    },
}

pub fn run(command: Command, session: &Session) -> Result<()> {
    let rows = match command {
        Command::Ls => session.ask::<Vec<JobRow>>(Request::JobLs)?,
        Command::Show { job } => vec![session.ask(Request::JobShow { job })?],
        Command::Cancel { job } => vec![session.ask(Request::JobCancel { job })?],
    };
    session.screen.rows(&rows, ["id", "kind", "state", "actor", "begun", "ended", "error"], |row| {
        [
            row.id.to_string(),
            row.kind.clone(),
            row.state.clone(),
            row.actor.clone(),
            time(row.created_at_ms),
            row.ended_at_ms.map_or_else(String::new, time),
            row.error.clone().unwrap_or_default(),
        ]
    })
}
