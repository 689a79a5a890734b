//! `cloister token`: what an application shows to be let in. The text is printed once and kept nowhere.

use super::session::{Session, time, token_id};
use crate::{
    base::{Id, Result},
    work::request::{NewToken, Request, TokenRow},
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a token and print it, this once
    New {
        /// What its bearer may do
        #[arg(long, value_name = "ROLE")]
        role: String,
        /// On whose behalf
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// For so many days [default: until revoked]
        #[arg(long, value_name = "DAYS")]
        days: Option<u32>,
    },
    /// List the tokens; their text is not known any more
    Ls,
    /// End a token
    Revoke {
        #[arg(value_parser = token_id, value_name = "ID")]
        token: Id,
    },
}

pub fn run(command: Command, session: &Session) -> Result<()> {
    let rows = match command {
        Command::New { role, user, days } => {
            let new: NewToken = session.ask(Request::TokenNew { role, user, days })?;
            return session.screen.show(&new, |screen, new| screen.line(&new.token));
        }
        Command::Ls => session.ask::<Vec<TokenRow>>(Request::TokenLs)?,
        Command::Revoke { token } => vec![session.ask(Request::TokenRevoke { token })?],
    };
    session.screen.rows(&rows, ["id", "role", "user", "state", "since"], |row| {
        let user = row.user.clone().unwrap_or_default();
        [row.id.to_string(), row.role.clone(), user, row.state.clone(), time(row.created_at_ms)]
    })
}
