//! Users and API tokens. Of a token only its HMAC is here, of a password only what verifies it, sealed; whoever reads the
//! database cannot make one.

use rusqlite::params;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Rows, Writes,
    cell::{Place, get},
};
use crate::{
    base::{Error, Id, Result},
    seal::PasswordVerifier,
};

/// A person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub id: Id,
    pub name: String,
    pub role: String,
    /// False once the user was shut out.
    pub active: bool,
    pub created_at_ms: u64,
    /// None: nobody logs in under this name.
    pub password: Option<PasswordVerifier>,
}

/// An API token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiToken {
    pub id: Id,
    pub user: Option<Id>,
    pub role: String,
    pub created_at_ms: u64,
    pub expires_at_ms: Option<u64>,
    pub revoked_at_ms: Option<u64>,
    /// To the minute.
    pub last_used_at_ms: Option<u64>,
    /// What people call it.
    pub name: Option<String>,
    /// What it may do of what its role may; null where that is not narrowed.
    pub scope: Value,
    /// Whether it came of a log-in.
    pub session: bool,
    /// Of the client's certificate that it is good with alone.
    pub certificate: Option<String>,
}

/// A token to be recorded.
#[derive(Clone, Debug)]
pub struct NewToken<'a> {
    pub id: Id,
    pub mac: [u8; 32],
    pub user: Option<Id>,
    pub role: &'a str,
    pub created_at_ms: u64,
    pub expires_at_ms: Option<u64>,
    pub name: Option<&'a str>,
    pub scope: &'a Value,
    pub session: bool,
    pub certificate: Option<&'a str>,
}

/// What a user is worth stands here once more, where it cannot be altered.
#[derive(Serialize, Deserialize)]
struct UserContent {
    name: String,
    /// None in a row from before this was sealed.
    #[serde(default)]
    role: Option<String>,
    #[serde(default)]
    password: Option<PasswordVerifier>,
}

/// What a token is worth stands here once more, where it cannot be altered.
#[derive(Serialize, Deserialize)]
struct TokenContent {
    name: Option<String>,
    scope: Value,
    role: String,
    user: Option<Id>,
    expires_at_ms: Option<u64>,
    #[serde(default)]
    session: bool,
    #[serde(default)]
    certificate: Option<String>,
}

impl UserContent {
    fn of(user: &User) -> Self {
        Self { name: user.name.clone(), role: Some(user.role.clone()), password: user.password.clone() }
    }
}

impl Rows<'_> {
    /// Oldest first.
    pub fn users(&self) -> Result<Vec<User>> {
        self.all("SELECT * FROM users ORDER BY id", [], |row| self.user_row(row))
    }

    pub fn user_named(&self, name: &str) -> Result<Option<User>> {
        let hash = self.keyed_hash("user name", name.as_bytes());
        self.one("SELECT * FROM users WHERE name_hash = ?1", [hash], |row| self.user_row(row))
    }

    /// Oldest first, the revoked ones too.
    pub fn tokens(&self) -> Result<Vec<ApiToken>> {
        self.all("SELECT * FROM tokens ORDER BY id", [], |row| self.token_row(row))
    }

    /// The token with this HMAC. The caller checks expiry and revocation.
    pub fn token_by_mac(&self, mac: &[u8; 32]) -> Result<Option<ApiToken>> {
        self.one("SELECT * FROM tokens WHERE mac = ?1", [mac], |row| self.token_row(row))
    }

    pub fn token(&self, id: Id) -> Result<Option<ApiToken>> {
        self.one("SELECT * FROM tokens WHERE id = ?1", [id], |row| self.token_row(row))
    }

    /// # Errors
    /// `NotFound` where there is none.
    pub fn user(&self, id: Id) -> Result<User> {
        let found = self.one("SELECT * FROM users WHERE id = ?1", [id], |row| self.user_row(row))?;
        found.ok_or_else(|| Error::not_found(format!("there is no {id}")))
    }

    /// Every user and every token, sessions aside, and whether it was shut out or revoked.
    pub fn shut_out(&self) -> Result<Vec<(Id, bool)>> {
        let sql = "SELECT id, revoked_at_ms IS NOT NULL AS out FROM tokens WHERE session = 0
                   UNION ALL SELECT id, state <> 'active' FROM users";
        self.all(sql, [], |row| Ok((get(row, "id")?, get(row, "out")?)))
    }

    fn user_row(&self, row: &rusqlite::Row<'_>) -> Result<User> {
        let id: Id = get(row, "id")?;
        let role: String = get(row, "role")?;
        let sealed: UserContent = self.content_of("users", &id.to_string(), row)?;
        if sealed.role.is_some_and(|sealed| sealed != role) {
            return Err(Error::integrity(format!("user {id} was altered in the database"))
                .remedy("find out who did; `cloister audit ls` shows when the user was made"));
        }
        Ok(User {
            id,
            name: sealed.name,
            role,
            active: get::<String>(row, "state")? == "active",
            created_at_ms: get(row, "created_at_ms")?,
            password: sealed.password,
        })
    }
}

impl Rows<'_> {
    fn token_row(&self, row: &rusqlite::Row<'_>) -> Result<ApiToken> {
        let id: Id = get(row, "id")?;
        let mut token = ApiToken {
            id,
            user: get(row, "user")?,
            role: get(row, "role")?,
            created_at_ms: get(row, "created_at_ms")?,
            expires_at_ms: get(row, "expires_at_ms")?,
            revoked_at_ms: get(row, "revoked_at_ms")?,
            last_used_at_ms: get(row, "last_used_at_ms")?,
            name: None,
            scope: Value::Null,
            session: get(row, "session")?,
            certificate: None,
        };
        if get::<u32>(row, "version")? == 0 {
            // From before this was sealed: whatever the row says, it ended then.
            token.revoked_at_ms.get_or_insert(token.created_at_ms);
            return Ok(token);
        }
        let sealed: TokenContent = self.content_of("tokens", &id.to_string(), row)?;
        let worth = (&sealed.role, sealed.user, sealed.expires_at_ms, sealed.session);
        if worth != (&token.role, token.user, token.expires_at_ms, token.session) {
            return Err(Error::integrity(format!("token {id} was altered in the database"))
                .remedy("find out who did; `cloister audit ls` shows when and for whom it was made"));
        }
        (token.name, token.scope, token.certificate) = (sealed.name, sealed.scope, sealed.certificate);
        Ok(token)
    }
}

impl Writes<'_> {
    /// # Errors
    /// `Usage` where the name is taken.
    pub fn add_user(&self, new: &User) -> Result<()> {
        if self.user_named(&new.name)?.is_some() {
            return Err(Error::usage(format!("there is already a user named '{}'", new.name)));
        }
        let place = Place { table: "users", row: &new.id.to_string(), version: 1 };
        let sealed = self.seal_cell(&place, &UserContent::of(new))?;
        self.execute(
            "INSERT INTO users (id, name_hash, role, state, created_at_ms, version, content)
             VALUES (?1, ?2, ?3, 'active', ?4, 1, ?5)",
            params![
                new.id,
                self.keyed_hash("user name", new.name.as_bytes()),
                new.role,
                new.created_at_ms,
                sealed
            ],
        )?;
        Ok(())
    }

    /// Sets a user's password, or takes it away. What was logged in with the former one ends.
    pub fn set_password(&self, id: Id, password: Option<PasswordVerifier>, now_ms: u64) -> Result<User> {
        let user = User { password, ..self.user(id)? };
        self.reseal("users", id, &UserContent::of(&user))?;
        self.execute(
            "UPDATE tokens SET revoked_at_ms = ?2 WHERE user = ?1 AND session = 1 AND revoked_at_ms IS NULL",
            params![id, now_ms],
        )?;
        Ok(user)
    }

    /// Shuts a user out: the password goes, and the tokens made for them are revoked with them.
    pub fn disable_user(&self, id: Id, now_ms: u64) -> Result<()> {
        self.set_password(id, None, now_ms)?;
        self.execute_one(&id, "UPDATE users SET state = 'disabled' WHERE id = ?1", [id])?;
        self.execute(
            "UPDATE tokens SET revoked_at_ms = ?2 WHERE user = ?1 AND revoked_at_ms IS NULL",
            params![id, now_ms],
        )?;
        Ok(())
    }

    pub fn add_token(&self, new: &NewToken<'_>) -> Result<()> {
        let place = Place { table: "tokens", row: &new.id.to_string(), version: 1 };
        let content = TokenContent {
            name: new.name.map(str::to_owned),
            scope: new.scope.clone(),
            role: new.role.to_owned(),
            user: new.user,
            expires_at_ms: new.expires_at_ms,
            session: new.session,
            certificate: new.certificate.map(str::to_owned),
        };
        let sealed = self.seal_cell(&place, &content)?;
        self.execute(
            "INSERT INTO tokens (id, mac, user, role, created_at_ms, expires_at_ms, session, version, content)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1, ?8)",
            params![
                new.id,
                new.mac,
                new.user,
                new.role,
                new.created_at_ms,
                new.expires_at_ms,
                new.session,
                sealed
            ],
        )?;
        Ok(())
    }

    /// Keeps when a token was last used, unless something later is kept.
    pub fn token_used(&self, id: Id, at_ms: u64) -> Result<()> {
        self.execute(
            "UPDATE tokens SET last_used_at_ms = max(coalesce(last_used_at_ms, 0), ?2) WHERE id = ?1",
            params![id, at_ms],
        )?;
        Ok(())
    }

    /// Holds at once: the next request with this token is refused.
    pub fn revoke_token(&self, id: Id, now_ms: u64) -> Result<()> {
        self.execute_one(
            &id,
            "UPDATE tokens SET revoked_at_ms = coalesce(revoked_at_ms, ?2) WHERE id = ?1",
            params![id, now_ms],
        )
    }
}
