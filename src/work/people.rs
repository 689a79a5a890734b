//! API tokens: `clst_<role letters>_<secret><checksum>`. The checksum tells a mistyped token from a wrong one
//! before any key is touched; the database holds the HMAC alone, so that whoever reads it can ask nothing.

use std::sync::{Arc, PoisonError};

use serde::Deserialize;

use super::{
    fingerprint::Fingerprint,
    policy::{Caller, Role},
    scope::Scope,
    warden::Warden,
};
use crate::{
    base::{Context, Error, Id, Result},
    seal::{self, random_bytes},
    store::{ApiToken, Rows, User},
};

const PREFIX: &str = "clst";
/// 160 random bits.
const SECRET_BYTES: usize = 20;
const SECRET_LETTERS: usize = SECRET_BYTES * 8 / 5;
const CHECK_LETTERS: usize = 6;
/// Crockford's base 32 in lower case: survives being read aloud.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A fresh token for a role.
pub(super) fn new_token(role: Role) -> Result<String> {
    let mut random = random_bytes::<SECRET_BYTES>()?;
    let body = format!("{PREFIX}_{}_{}", kind(role), letters(&random));
    seal::wipe(&mut random);
    let check = checksum(&body);
    Ok(format!("{body}{check}"))
}

/// The word in a token that tells people what it is.
fn kind(role: Role) -> String {
    role.as_str().replace('_', "")
}

fn checksum(body: &str) -> String {
    letters(&seal::sha256(body.as_bytes()))[..CHECK_LETTERS].to_owned()
}

/// Five bits a letter; a rest of fewer than five is left out.
fn letters(bytes: &[u8]) -> String {
    let bit = |at: usize| usize::from(bytes[at / 8] >> (7 - at % 8) & 1);
    let letter = |first: usize| ALPHABET[(first..first + 5).fold(0, |value, at| value << 1 | bit(at))];
    (0..bytes.len() * 8 / 5).map(|number| char::from(letter(5 * number))).collect()
}

/// Whether a text can be one of our tokens at all.
fn is_well_formed(token: &str) -> bool {
    let Some((head, secret)) = token.rsplit_once('_') else { return false };
    let lengths = secret.len() == SECRET_LETTERS + CHECK_LETTERS && secret.is_ascii();
    let known = Role::ALL.iter().any(|role| head == format!("{PREFIX}_{}", kind(*role)));
    lengths && known && {
        let (body, check) = token.split_at(token.len() - CHECK_LETTERS);
        checksum(body) == check
    }
}

/// What a token may do of what its role may.
pub(super) fn scope_of(token: &ApiToken) -> Result<Scope> {
    if token.scope.is_null() {
        return Ok(Scope::default());
    }
    Scope::deserialize(&token.scope).with_context(|| format!("reading the scope of token {}", token.id))
}

impl Warden {
    /// What a token is known by, under the newest key first.
    pub(super) fn token_macs(&self, token: &str) -> Vec<[u8; 32]> {
        let keys = self.tokens_keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.iter().map(|key| seal::hmac(key, token.as_bytes())).collect()
    }

    /// Who stands behind a bearer token that came over a connection with this certificate of the client's. It is looked
    /// up by its HMAC, so no comparison of secrets takes time that tells anything.
    ///
    /// # Errors
    /// `Denied`, in the same words whatever is wrong with it, except that an expired one is called so.
    pub fn authenticate(&self, bearer: &str, certificate: Option<Fingerprint>) -> Result<Caller> {
        let refused = || {
            Error::denied("the API token is not valid")
                .remedy("check that it was copied whole; `cloister token new` makes another")
        };
        if !is_well_formed(bearer) {
            return Err(refused());
        }
        let macs = self.token_macs(bearer);
        let token = self.store.read(|rows| {
            let found =
                macs.iter().map(|mac| rows.token_by_mac(mac)).find(|found| !matches!(found, Ok(None)));
            found.unwrap_or(Ok(None))
        })?;
        let token = token.ok_or_else(refused)?;
        let bound = token.certificate.as_deref().map(Fingerprint::parse).transpose()?;
        let is_revoked = token.revoked_at_ms.is_some() || self.is_revoked(&token);
        if is_revoked || bound.is_some() && bound != certificate {
            return Err(refused());
        }
        if token.expires_at_ms.is_some_and(|expires| expires <= self.now_ms()) {
            return Err(
                Error::denied("the API token has expired").remedy("`cloister token new` makes another")
            );
        }
        let now_ms = self.now_ms();
        self.tokens_used.lock().unwrap_or_else(PoisonError::into_inner).insert(token.id, now_ms);
        Ok(Caller {
            token: token.id,
            user: token.user,
            role: Role::parse(&token.role)?,
            scope: Arc::new(scope_of(&token)?),
            from: None,
        })
    }

    /// Whether a token or its user was revoked, whatever their rows say by now.
    pub(super) fn is_revoked(&self, token: &ApiToken) -> bool {
        [Some(token.id), token.user].into_iter().flatten().any(|id| self.vault.is_revoked(id))
    }

    pub(super) fn is_active(&self, user: &User) -> bool {
        user.active && !self.vault.is_revoked(user.id)
    }

    /// Makes a revocation, which the database has already, one that no row that is put back undoes.
    pub(super) fn make_final(&self, ids: &[Id]) -> Result<()> {
        self.vault.revoke(ids)?;
        // Where the keyring itself was put back the log tells of that, and has no further root.
        if self.keyring_must_stand().is_ok() { self.bear_witness() } else { Ok(()) }
    }

    /// At a start: the keyring learns of revocations that the database alone has, since they were cut off or an older
    /// version made them. Returns what was undone in the database.
    pub(super) fn keep_revocations(&self) -> Result<Vec<String>> {
        let known = self.vault.revoked();
        let rows = self.store.read(|rows| rows.shut_out())?;
        let new: Vec<Id> =
            rows.iter().filter(|(id, out)| *out && !known.contains(id)).map(|row| row.0).collect();
        if !new.is_empty() {
            self.vault.revoke(&new)?;
        }
        self.undone_revocations()
    }

    /// Each revoked token and user that its row in the database says to be valid.
    pub(super) fn undone_revocations(&self) -> Result<Vec<String>> {
        let known = self.vault.revoked();
        let rows = self.store.read(|rows| rows.shut_out())?;
        let undone = rows.into_iter().filter(|(id, out)| !out && known.contains(id));
        Ok(undone
            .map(|(id, _)| {
                format!("{id} was revoked, and its row in the database was put back to before that: it opens nothing")
            })
            .collect())
    }

    /// Writes down when tokens were last used. Called now and then: a write for each request would cost more than
    /// the request.
    pub fn keep_last_uses(&self) -> Result<()> {
        let used = std::mem::take(&mut *self.tokens_used.lock().unwrap_or_else(PoisonError::into_inner));
        if used.is_empty() {
            return Ok(());
        }
        self.store.write(|rows| used.into_iter().try_for_each(|(token, at_ms)| rows.token_used(token, at_ms)))
    }

    /// Makes a token and records it. Whose it is, is found out as it is written: whoever is shut out meanwhile gets none.
    pub(super) fn issue_token(
        &self,
        role: Role,
        whose: impl FnOnce(&Rows<'_>) -> Result<Option<Id>>,
        expires_at_ms: Option<u64>,
        name: Option<&str>,
        scope: &Scope,
        certificate: Option<Fingerprint>,
    ) -> Result<(Id, String)> {
        let scope = serde_json::to_value(scope).context("writing a token's scope")?;
        let id = seal::new_id(crate::base::IdKind::Token)?;
        let token = new_token(role)?;
        self.store.write(|rows| {
            rows.add_token(&crate::store::NewToken {
                id,
                mac: self.token_macs(&token)[0],
                user: whose(rows)?,
                role: role.as_str(),
                created_at_ms: self.now_ms(),
                expires_at_ms,
                name,
                scope: &scope,
                session: false,
                certificate: certificate.map(|bound| bound.to_string()).as_deref(),
            })
        })?;
        Ok((id, token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_what_it_is_and_survives_no_change() {
        for &role in Role::ALL {
            let token = new_token(role).unwrap();
            assert!(token.starts_with(&format!("clst_{}_", kind(role))), "{token}");
            assert!(is_well_formed(&token));
            for at in 0..token.len() {
                let mut changed = token.clone().into_bytes();
                changed[at] = if changed[at] == b'7' { b'8' } else { b'7' };
                assert!(!is_well_formed(std::str::from_utf8(&changed).unwrap()), "changed at {at}");
                assert!(!is_well_formed(&token[..at]), "cut at {at}");
            }
        }
        assert_ne!(new_token(Role::User).unwrap(), new_token(Role::User).unwrap());
        for text in ["", "clst", "clst__", "clst_user_", "sk-abcdef", "ü_ü_ü", &"_".repeat(60)] {
            assert!(!is_well_formed(text), "{text}");
        }
    }

    #[test]
    fn letters_are_crockfords() {
        // 0xF8 0x3E: 11111 00000 11111 0, by hand.
        assert_eq!(letters(&[0xF8, 0x3E]), "z0z");
    }
}
