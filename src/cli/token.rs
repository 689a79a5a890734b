//! `cloister token`: what an application shows to be let in. The text is printed once and kept nowhere.

use std::path::PathBuf;

use super::session::{Session, time, token_id};
use crate::{
    base::{Id, Result},
    serve::clients,
    work::{
        Action, Scope,
        request::{NewToken, Request, TokenRow, TokenSpec},
    },
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a token and print it, this once
    New(New),
    /// List the tokens; their text is not known any more
    Ls,
    /// End a token
    Revoke {
        #[arg(value_parser = token_id, value_name = "ID")]
        token: Id,
    },
}

#[derive(Debug, clap::Args)]
pub struct New {
    /// What its bearer may do
    #[arg(long, value_name = "ROLE")]
    role: String,
    /// On whose behalf
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// For so many days [default: until revoked]
    #[arg(long, value_name = "DAYS")]
    days: Option<u32>,
    /// What to call it in lists
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Of what the role may, only this; several times for several actions
    #[arg(long = "only", value_name = "ACTION", value_parser = Action::parse)]
    actions: Vec<Action>,
    /// Only this model; several times for several
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// Requests a minute, instead of what `serve` allows every token
    #[arg(long, value_name = "N")]
    requests_a_minute: Option<u64>,
    /// Tokens a minute, read and written
    #[arg(long, value_name = "N")]
    tokens_a_minute: Option<u64>,
    /// Answers at once
    #[arg(long, value_name = "N")]
    answers_at_once: Option<u64>,
    /// Tokens that one answer may have
    #[arg(long, value_name = "N")]
    answer_tokens_max: Option<u64>,
    /// A client's certificate, in PEM: the token is good over connections alone whose client has its key
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
}

impl New {
    fn spec(self) -> Result<TokenSpec> {
        let certificate = self.certificate.as_deref().map(clients::fingerprint_in).transpose()?;
        let scope = Scope {
            actions: (!self.actions.is_empty()).then_some(self.actions),
            models: (!self.models.is_empty()).then_some(self.models),
            requests_a_minute: self.requests_a_minute,
            tokens_a_minute: self.tokens_a_minute,
            answers_at_once: self.answers_at_once,
            answer_tokens_max: self.answer_tokens_max,
        };
        let Self { role, user, days, name, .. } = self;
        Ok(TokenSpec { role, user, days, name, scope, certificate })
    }
}

pub fn run(command: Command, session: &Session) -> Result<()> {
    let rows = match command {
        Command::New(new) => {
            let new: NewToken = session.ask(Request::TokenNew(new.spec()?))?;
            return session.screen.show(&new, |screen, new| screen.line(&new.token));
        }
        Command::Ls => session.ask::<Vec<TokenRow>>(Request::TokenLs)?,
        Command::Revoke { token } => vec![session.ask(Request::TokenRevoke { token })?],
    };
    let headings = ["id", "role", "user", "name", "scope", "certificate", "state", "since", "last used"];
    session.screen.rows(&rows, headings, |row| {
        [
            row.id.to_string(),
            row.role.clone(),
            row.user.clone().unwrap_or_default(),
            if row.session { "(session)".to_owned() } else { row.name.clone().unwrap_or_default() },
            row.scope.to_string(),
            row.certificate.as_deref().map(beginning).unwrap_or_default(),
            row.state.clone(),
            time(row.created_at_ms),
            row.last_used_at_ms.map_or("never".to_owned(), time),
        ]
    })
}

/// So much of a fingerprint as a list has room for; `--json` shows all of it.
fn beginning(fingerprint: &str) -> String {
    let letters: String = fingerprint.chars().take(11).collect();
    format!("{letters}…")
}
