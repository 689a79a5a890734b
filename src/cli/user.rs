//! `cloister user`: the people who may do something here.

use super::session::{Session, time};
use crate::{
    base::Result,
    work::request::{Request, UserRow},
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Add a person
    Add {
        #[arg(value_name = "NAME")]
        name: String,
        /// What the person may do
        #[arg(long, value_name = "ROLE")]
        role: String,
    },
    /// List the people
    Ls,
    /// Take a person's access away; what the person did stays on record
    Disable {
        #[arg(value_name = "NAME")]
        name: String,
    },
}

pub fn run(command: Command, session: &Session) -> Result<()> {
    let rows = match command {
        Command::Add { name, role } => vec![session.ask(Request::UserAdd { name, role })?],
        Command::Disable { name } => vec![session.ask(Request::UserDisable { name })?],
        Command::Ls => session.ask::<Vec<UserRow>>(Request::UserLs)?,
    };
    session.screen.rows(&rows, ["id", "name", "role", "state", "since"], |row| {
        [row.id.to_string(), row.name.clone(), row.role.clone(), row.state.clone(), time(row.created_at_ms)]
    })
}
