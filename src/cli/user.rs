//! `cloister user`: the people who may do something here, and what they log in with.

use std::path::{Path, PathBuf};

use super::{
    session::{Session, time},
    terminal::ask_secret,
};
use crate::{
    base::{Error, Result},
    seal::{Secret, same_bytes},
    vault::secret_file,
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
    /// Set what a person logs in with over the API; whatever was logged in ends
    Password {
        #[arg(value_name = "NAME")]
        name: String,
        /// A file whose first line is the password, instead of asking for it
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// Take the password away: the person cannot log in
        #[arg(long, conflicts_with = "password_file")]
        remove: bool,
    },
}

pub fn run(command: Command, session: &Session) -> Result<()> {
    let rows = match command {
        Command::Add { name, role } => vec![session.ask(Request::UserAdd { name, role })?],
        Command::Disable { name } => vec![session.ask(Request::UserDisable { name })?],
        Command::Password { name, remove: true, .. } => {
            vec![session.ask(Request::UserPasswordRemove { name })?]
        }
        Command::Password { name, password_file, .. } => {
            let password = password(&name, password_file.as_deref())?;
            vec![session.ask_with(Request::UserPassword { name }, &password)?]
        }
        Command::Ls => session.ask::<Vec<UserRow>>(Request::UserLs)?,
    };
    session.screen.rows(&rows, ["id", "name", "role", "state", "password", "since"], |row| {
        [
            row.id.to_string(),
            row.name.clone(),
            row.role.clone(),
            row.state.clone(),
            if row.password { "set" } else { "none" }.to_owned(),
            time(row.created_at_ms),
        ]
    })
}

fn password(name: &str, file: Option<&Path>) -> Result<Secret> {
    if let Some(path) = file {
        if !path.exists() {
            return Err(Error::not_found(format!("the password file {} is not there", path.display())));
        }
        return secret_file::read_line(path, "password file");
    }
    let instead = "give it with --password-file FILE";
    let password = ask_secret(&format!("new password of {name}"), instead)?;
    let again = ask_secret("once more", instead)?;
    if !same_bytes(password.danger_expose(), again.danger_expose()) {
        return Err(Error::usage("the two are not the same").remedy("begin anew; nothing was changed"));
    }
    Ok(password)
}
