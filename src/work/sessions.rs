//! Logging in: a name and a password for a token of that user and role, which lives for hours. A wrong name and a wrong
//! password get the same answer after the same work, and a session ends with the password that it came of.

use std::{net::IpAddr, sync::Arc, time::Duration};

use serde_json::Value;

use super::{
    password::Password,
    people::new_token,
    policy::{Action, Actor, Caller, Role},
    warden::Warden,
};
use crate::{
    auditlog::Outcome,
    base::{Error, Id, IdKind, Result},
    seal::{PasswordVerifier, Secret, new_id},
    store::{NewToken, User},
};

/// The only time that a session's token is seen.
#[derive(Debug)]
pub struct Session {
    pub token: String,
    pub role: Role,
    pub expires_at_ms: u64,
}

impl Warden {
    /// # Errors
    /// `Denied`, in the same words whatever is wrong with name and password; `Unavailable` where the audit log cannot
    /// be written.
    pub fn log_in(
        &self,
        name: &str,
        typed: &Secret,
        from: Option<IpAddr>,
        lifetime: Duration,
    ) -> Result<Session> {
        let (user, role) = self.who_knows(name, typed)?;
        let token = new_id(IdKind::Token)?;
        let actor = Actor::Remote(Caller { token, user: Some(user.id), role, scope: Arc::default(), from });
        let record = |outcome, detail: &[(&str, Value)]| {
            self.record(&actor, Action::SessionBegin, Some(token), outcome, detail)
        };
        record(Outcome::Intent, &[])?;
        let expires_at_ms = self.now_ms() + lifetime.as_millis() as u64;
        match self.add_session(token, &user, expires_at_ms) {
            Ok(token) => {
                record(Outcome::Done, &[])?;
                Ok(Session { token, role, expires_at_ms })
            }
            Err(error) => {
                let kind = format!("{:?}", error.kind()).to_lowercase();
                // The failure itself is what the asker must hear, whether or not the log takes it.
                let _ = record(Outcome::Failed, &[("error", kind.into())]);
                Err(error)
            }
        }
    }

    /// Ends the session that a caller's token is.
    ///
    /// # Errors
    /// `NotFound` where it is a token that somebody made.
    pub fn log_out(&self, caller: &Caller) -> Result<()> {
        self.store.write(|rows| {
            if !rows.token(caller.token)?.is_some_and(|token| token.session) {
                return Err(Error::not_found("this token is no session")
                    .remedy("`cloister token revoke` ends a token that was made for a program"));
            }
            rows.revoke_token(caller.token, self.now_ms())
        })
    }

    /// The user of this name and password. Whoever has none, may not log in, or is not there at all costs as much work.
    fn who_knows(&self, name: &str, typed: &Secret) -> Result<(User, Role)> {
        let user = self.store.read(|rows| rows.user_named(name))?.filter(|user| self.is_active(user));
        let nobody = PasswordVerifier::of_nobody();
        let verifier = user.as_ref().and_then(|user| user.password.as_ref()).unwrap_or(&nobody);
        let password = Password::read(typed).unwrap_or_else(|_| Password::of_nobody());
        let opens = password.opens(verifier)?;
        let user = user.filter(|_| opens).ok_or_else(wrong)?;
        let role = Role::parse(&user.role)?;
        if role.may(Action::SessionBegin) { Ok((user, role)) } else { Err(wrong()) }
    }

    /// Fails where the user was shut out, or got another password, since it was looked at.
    fn add_session(&self, id: Id, user: &User, expires_at_ms: u64) -> Result<String> {
        let token = new_token(Role::parse(&user.role)?)?;
        self.store.write(|rows| {
            if rows.user_named(&user.name)?.as_ref() != Some(user) {
                return Err(wrong());
            }
            rows.add_token(&NewToken {
                id,
                mac: self.token_macs(&token)[0],
                user: Some(user.id),
                role: &user.role,
                created_at_ms: self.now_ms(),
                expires_at_ms: Some(expires_at_ms),
                name: None,
                scope: &Value::Null,
                session: true,
                certificate: None,
            })
        })?;
        Ok(token)
    }
}

fn wrong() -> Error {
    Error::denied("the name or the password is wrong")
}
