//! Users, their passwords, and API tokens.

use std::collections::HashMap;

use serde_json::Value;

use super::Performed;
use crate::{
    base::{Error, Id, IdKind, Result},
    seal::{PasswordVerifier, Secret, new_id},
    store::{ApiToken, Rows, User},
    work::{
        password::Password,
        people::scope_of,
        policy::{Action, Role},
        request::{NewToken, TokenRow, TokenSpec, UserRow},
        warden::Warden,
    },
};

const MS_PER_DAY: u64 = 24 * 60 * 60 * 1000;
/// A name is a word for people, not a document.
const NAME_BYTES_MAX: usize = 200;

pub(super) fn add_user(warden: &Warden, name: &str, role: &str) -> Result<Performed> {
    must_be_a_name("a user's", name)?;
    let user = User {
        id: new_id(IdKind::User)?,
        name: name.to_owned(),
        role: Role::parse(role)?.as_str().to_owned(),
        active: true,
        created_at_ms: warden.now_ms(),
        password: None,
    };
    warden.store.write(|rows| rows.add_user(&user))?;
    let id = user.id;
    Ok(Performed::new(&user_row(warden, user))?.made(id))
}

fn must_be_a_name(whose: &str, name: &str) -> Result<()> {
    if name.trim().is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(Error::usage(format!("{whose} name is 1 to 200 bytes of printable text")));
    }
    Ok(())
}

pub(super) fn users(warden: &Warden) -> Result<Performed> {
    let users = warden.store.read(|rows| rows.users())?;
    Performed::new(&users.into_iter().map(|user| user_row(warden, user)).collect::<Vec<_>>())
}

pub(super) fn disable_user(warden: &Warden, name: &str) -> Result<Performed> {
    let (user, mut gone) = warden.store.write(|rows| {
        let user = rows.user_named(name)?.ok_or_else(|| no_user(name))?;
        rows.disable_user(user.id, warden.now_ms())?;
        let theirs = rows.tokens()?.into_iter().filter(|token| token.user == Some(user.id) && !token.session);
        Ok((User { active: false, password: None, ..user }, theirs.map(|token| token.id).collect::<Vec<_>>()))
    })?;
    let id = user.id;
    gone.push(id);
    warden.make_final(&gone)?;
    Ok(Performed::new(&user_row(warden, user))?.made(id))
}

pub(super) fn set_password(warden: &Warden, name: &str, typed: &Secret) -> Result<Performed> {
    let user = warden.store.read(|rows| rows.user_named(name))?.ok_or_else(|| no_user(name))?;
    if !warden.is_active(&user) {
        return Err(Error::usage(format!("user '{name}' is disabled")));
    }
    if !Role::parse(&user.role)?.may(Action::SessionBegin) {
        return Err(Error::usage(format!("user '{name}' has the role {}, which does not log in", user.role))
            .remedy("`cloister token new` lets a program in"));
    }
    let password = Password::read(typed)?;
    password.must_be_good_for(name)?;
    keep_password(warden, user.id, Some(password.verifier()?), "set")
}

pub(super) fn remove_password(warden: &Warden, name: &str) -> Result<Performed> {
    let user = warden.store.read(|rows| rows.user_named(name))?.ok_or_else(|| no_user(name))?;
    keep_password(warden, user.id, None, "removed")
}

fn keep_password(
    warden: &Warden,
    user: Id,
    verifier: Option<PasswordVerifier>,
    what: &str,
) -> Result<Performed> {
    let row = warden.store.write(|rows| rows.set_password(user, verifier, warden.now_ms()))?;
    Ok(Performed::new(&user_row(warden, row))?.made(user).detail("password", what))
}

pub(super) fn new_token(warden: &Warden, spec: &TokenSpec) -> Result<Performed> {
    let TokenSpec { role, user, days, name, scope, certificate } = spec;
    let role = Role::parse(role)?;
    scope.must_fit(role)?;
    if let Some(name) = name {
        must_be_a_name("a token's", name)?;
    }
    let whose = |rows: &Rows<'_>| -> Result<Option<Id>> {
        let Some(name) = user else { return Ok(None) };
        let found = rows.user_named(name)?.ok_or_else(|| no_user(name))?;
        if !warden.is_active(&found) {
            return Err(Error::usage(format!("user '{name}' is disabled")));
        }
        if found.role != role.as_str() {
            return Err(Error::denied(format!("user '{name}' has the role {}, not {role}", found.role)));
        }
        Ok(Some(found.id))
    };
    let expires_at_ms = days.map(|days| warden.now_ms() + u64::from(days) * MS_PER_DAY);
    let (id, token) = warden.issue_token(role, whose, expires_at_ms, name.as_deref(), scope, *certificate)?;
    let answer = NewToken { id, token, role: role.to_string(), expires_at_ms };
    let made = Performed::new(&answer)?.made(id).detail("token_role", role.as_str());
    let made = match certificate {
        Some(bound) => made.detail("certificate", bound.to_string()),
        None => made,
    };
    Ok(match &scope.actions {
        Some(actions) => {
            let names: Vec<Value> = actions.iter().map(|action| action.as_str().into()).collect();
            made.detail("actions", names)
        }
        None => made,
    })
}

/// Sessions that ended are left out: they come by the day, and the audit log has them.
pub(super) fn tokens(warden: &Warden) -> Result<Performed> {
    let mut rows = token_rows(warden)?;
    rows.retain(|row| !row.session || row.state == "active");
    Performed::new(&rows)
}

pub(super) fn revoke_token(warden: &Warden, token: Id) -> Result<Performed> {
    warden.store.write(|rows| rows.revoke_token(token, warden.now_ms()))?;
    warden.make_final(&[token])?;
    let row = token_rows(warden)?.into_iter().find(|row| row.id == token);
    Performed::new(&row.ok_or_else(|| Error::not_found(format!("there is no token {token}")))?)
}

fn token_rows(warden: &Warden) -> Result<Vec<TokenRow>> {
    warden.keep_last_uses()?;
    let now = warden.now_ms();
    warden.store.read(|rows| {
        let names: HashMap<Id, String> = rows.users()?.into_iter().map(|user| (user.id, user.name)).collect();
        rows.tokens()?.into_iter().map(|token| token_row(warden, token, &names, now)).collect()
    })
}

fn token_row(warden: &Warden, token: ApiToken, names: &HashMap<Id, String>, now: u64) -> Result<TokenRow> {
    Ok(TokenRow {
        scope: scope_of(&token)?,
        state: match (token.revoked_at_ms, token.expires_at_ms) {
            (Some(_), _) => "revoked",
            _ if warden.is_revoked(&token) => "revoked",
            (None, Some(expires)) if expires <= now => "expired",
            _ => "active",
        }
        .to_owned(),
        id: token.id,
        role: token.role,
        user: token.user.and_then(|user| names.get(&user).cloned()),
        name: token.name,
        session: token.session,
        certificate: token.certificate,
        created_at_ms: token.created_at_ms,
        expires_at_ms: token.expires_at_ms,
        last_used_at_ms: token.last_used_at_ms,
    })
}

fn user_row(warden: &Warden, user: User) -> UserRow {
    UserRow {
        state: if warden.is_active(&user) { "active" } else { "disabled" }.to_owned(),
        id: user.id,
        name: user.name,
        role: user.role,
        password: user.password.is_some(),
        created_at_ms: user.created_at_ms,
    }
}

fn no_user(name: &str) -> Error {
    Error::not_found(format!("there is no user '{name}'")).remedy("`cloister user ls` shows them")
}
