//! `cloister token`: what an application shows to be let in. The text is printed once and kept nowhere.

use super::session::{Session, time, token_id};
use crate::{
    base::{Id, Result},
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
}

impl From<New> for TokenSpec {
    fn from(new: New) -> Self {
        let scope = Scope {
            actions: (!new.actions.is_empty()).then_some(new.actions),
            models: (!new.models.is_empty()).then_some(new.models),
            requests_a_minute: new.requests_a_minute,
            tokens_a_minute: new.tokens_a_minute,
            answers_at_once: new.answers_at_once,
            answer_tokens_max: new.answer_tokens_max,
        };
        Self { role: new.role, user: new.user, days: new.days, name: new.name, scope }
    }
}

pub fn run(command: Command, session: &Session) -> Result<()> {
    let rows = match command {
        Command::New(new) => {
            let new: NewToken = session.ask(Request::TokenNew(new.into()))?;
            return session.screen.show(&new, |screen, new| screen.line(&new.token));
        }
        Command::Ls => session.ask::<Vec<TokenRow>>(Request::TokenLs)?,
        Command::Revoke { token } => vec![session.ask(Request::TokenRevoke { token })?],
    };
    let headings = ["id", "role", "user", "name", "scope", "state", "since", "last used"];
    session.screen.rows(&rows, headings, |row| {
        [
            row.id.to_string(),
            row.role.clone(),
            row.user.clone().unwrap_or_default(),
            row.name.clone().unwrap_or_default(),
            row.scope.to_string(),
            row.state.clone(),
            time(row.created_at_ms),
            row.last_used_at_ms.map_or("never".to_owned(), time),
        ]
    })
}
