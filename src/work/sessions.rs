//! Logging in: a name and a password for a token of that user and role, which lives for hours. A wrong name and a wrong
//! password get the same answer after the same work, and a session ends with the password that it came of, also where its
//! own user changes it.

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
    store::{NewToken, Rows, User},
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
        let record = |outcome| self.record(&actor, Action::SessionBegin, Some(token), outcome, &[]);
        record(Outcome::Intent)?;
        let expires_at_ms = self.now_ms() + lifetime.as_millis() as u64;
        match self.add_session(token, &user, expires_at_ms) {
            Ok(token) => {
                record(Outcome::Done)?;
                Ok(Session { token, role, expires_at_ms })
            }
            Err(error) => {
                self.record_failure(&actor, Action::SessionBegin, Some(token), &error);
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

    /// The name of the user whose session a caller's token is.
    ///
    /// # Errors
    /// `Denied` where it is a token that somebody made, or the session has ended.
    pub fn session_user(&self, caller: &Caller) -> Result<String> {
        self.store.read(|rows| self.user_of_session(rows, caller)).map(|user| user.name)
    }

    /// Changes the password of the user whose session a caller's token is. All their sessions end, this one too.
    ///
    /// # Errors
    /// `Denied` where `present` is not their password, or is no more when the next one is written; `Usage` where it is,
    /// and `next` is not one to have; `Unavailable` where the audit log cannot be written.
    pub fn change_password(&self, caller: &Caller, present: &Secret, next: &Secret) -> Result<()> {
        let actor = Actor::Remote(caller.clone());
        let record = |outcome| self.record(&actor, Action::PasswordChange, caller.user, outcome, &[]);
        record(Outcome::Intent)?;
        if let Err(error) = self.replace_password(caller, present, next) {
            self.record_failure(&actor, Action::PasswordChange, caller.user, &error);
            return Err(error);
        }
        record(Outcome::Done)
            .map_err(|error| error.context("it was done, and that could not be recorded"))?;
        Ok(())
    }

    fn replace_password(&self, caller: &Caller, present: &Secret, next: &Secret) -> Result<()> {
        let user = self.store.read(|rows| self.user_of_session(rows, caller))?;
        let (user, _) = self.who_opens(Some(user), present)?;
        let password = Password::read(next)?;
        password.must_be_good_for(&user.name)?;
        if password.is(&Password::read(present)?) {
            return Err(Error::usage("the new password is the present one"));
        }
        let verifier = password.verifier()?;
        self.store.write(|rows| {
            if self.user_of_session(rows, caller)? != user {
                return Err(wrong());
            }
            rows.set_password(user.id, Some(verifier), self.now_ms()).map(|_| ())
        })
    }

    fn user_of_session(&self, rows: &Rows<'_>, caller: &Caller) -> Result<User> {
        let session = rows.token(caller.token)?.filter(|token| token.session);
        let Some((session, user)) = session.and_then(|session| session.user.map(|user| (session, user)))
        else {
            return Err(Error::denied(
                "this token was made for a program: a person logs in, and changes the password with what that gives",
            ));
        };
        if session.revoked_at_ms.is_some() || self.is_revoked(&session) {
            return Err(Error::denied("this session has ended"));
        }
        rows.user(user)
    }

    /// The user of this name and password. Whoever has none, may not log in, or is not there at all costs as much work.
    fn who_knows(&self, name: &str, typed: &Secret) -> Result<(User, Role)> {
        self.who_opens(self.store.read(|rows| rows.user_named(name))?, typed)
    }

    fn who_opens(&self, user: Option<User>, typed: &Secret) -> Result<(User, Role)> {
        let user = user.filter(|user| self.is_active(user));
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
