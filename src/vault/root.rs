//! The root key and what unseals it. `keys/root.json` holds the installation's identifier and one wrap of the
//! root key per unsealer; a further kind of unsealer (a TPM) is a further kind of wrap of the same key.

use std::{
    borrow::Borrow,
    fs,
    path::{Path, PathBuf},
};

use base64ct::{Base64, Encoding};
use serde::{Deserialize, Serialize};

use super::{
    keyring::{unwrap, wrap},
    secret_file,
};
use crate::{
    base::{Context, Error, ErrorKind, Id, IdKind, Result, fs::write_atomic},
    seal::{
        Key, PassphraseParams, SET_BYTES, Secret, Share, ShareSet, hmac, join_shares, new_id, random_bytes,
        verify_hmac,
    },
};

const FORMAT: &str = "cloister root key v1";
const PASSPHRASE_BYTES_MIN: usize = 8;

/// What opens the root key.
#[derive(Debug)]
pub enum Unsealer {
    /// A file that holds a key; made if it is not there when the vault is made.
    KeyFile(PathBuf),
    /// What a key file holds, brought by somebody who can read it.
    Key(Secret),
    /// A file whose first line is a passphrase.
    PassphraseFile(PathBuf),
    Passphrase(Secret),
    /// The key that a set of shares gives.
    Shares {
        set: ShareSet,
        key: Key,
    },
    /// Files whose first lines are shares, as many as it takes.
    ShareFiles(Vec<PathBuf>),
}

/// The key above all keys of one installation.
#[derive(Debug)]
pub struct RootKey {
    install: Id,
    key: Key,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RootFile {
    format: String,
    install: Id,
    unsealers: Vec<Wrap>,
    /// HMAC over the rest under the root key: nobody but its holder adds an unsealer or moves the key file.
    mac: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Wrap {
    KeyFile { path: PathBuf, wrapped: String },
    Passphrase { argon2id: PassphraseParams, salt: String, wrapped: String },
    Shares { set: String, threshold: u8, wrapped: String },
}

/// What somebody must bring to unseal. Read from a file that only the root key proves: good for asking the right
/// question, and for nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnsealedBy {
    KeyFile(PathBuf),
    Passphrase,
    Shares(ShareSet),
}

impl std::fmt::Display for UnsealedBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::KeyFile(path) => write!(f, "the key file {}", path.display()),
            Self::Passphrase => f.write_str("a passphrase"),
            Self::Shares(set) => write!(f, "{} shares", set.threshold),
        }
    }
}

impl RootKey {
    /// A new installation's root key.
    pub fn generate() -> Result<Self> {
        Ok(Self { install: new_id(IdKind::Install)?, key: Key::generate()? })
    }

    /// Another root key for the same installation.
    pub(super) fn successor(&self) -> Result<Self> {
        Ok(Self { install: self.install, key: Key::generate()? })
    }

    pub fn install(&self) -> Id {
        self.install
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// The root file's text, with this key wrapped by each of `unsealers`.
    ///
    /// # Errors
    /// `Usage` when there is none, a passphrase is too short or a key file too small to hold a key.
    pub(super) fn wrapped_by(&self, unsealers: &[Unsealer]) -> Result<String> {
        if unsealers.is_empty() {
            return Err(Error::usage("the root key needs something that unseals it"));
        }
        let mut file = RootFile {
            format: FORMAT.into(),
            install: self.install,
            unsealers: unsealers.iter().map(|unsealer| self.wrap_by(unsealer)).collect::<Result<_>>()?,
            mac: String::new(),
        };
        file.mac = Base64::encode_string(&hmac(&self.mac_key()?, &file.without_mac()?));
        serde_json::to_string_pretty(&file).context("writing the root file")
    }

    /// Writes the root file with this key wrapped by each of `unsealers`.
    pub(super) fn store(&self, path: &Path, unsealers: &[Unsealer]) -> Result<()> {
        write_atomic(path, self.wrapped_by(unsealers)?.as_bytes())
    }

    /// What opens the root key of the root file at `path`.
    pub(super) fn unsealed_by(path: &Path) -> Result<Vec<UnsealedBy>> {
        RootFile::read(path)?.unsealed_by()
    }

    /// Opens the root key from the root file at `path`. With no unsealer, the key file whose place is
    /// remembered there is used.
    ///
    /// # Errors
    /// `NotFound` when there is no root file, `Sealed` when the unsealer does not open it, `Integrity` when it
    /// opens and the file was altered around it.
    pub fn unseal(path: &Path, unsealer: Option<&Unsealer>) -> Result<Self> {
        let file = RootFile::read(path)?;
        let key = match unsealer {
            Some(unsealer) => file.unwrap_with(unsealer)?,
            None => file.unwrap_with(&Unsealer::KeyFile(file.remembered_key_file()?))?,
        };
        let root = Self { install: file.install, key };
        let mac = decode(&file.mac)?;
        if !verify_hmac(&root.mac_key()?, &file.without_mac()?, &mac) {
            return Err(Error::integrity(format!("{} was altered", path.display()))
                .remedy("restore the whole data directory from one backup"));
        }
        Ok(root)
    }

    /// Why what `unsealer` names cannot be read here; None where it can, whether or not it is the right one. With
    /// no unsealer, the question is of the key file whose place is remembered.
    pub(super) fn out_of_reach(path: &Path, unsealer: Option<&Unsealer>) -> Result<Option<Error>> {
        let files = match unsealer {
            None => match RootFile::read(path)?.remembered_key_file() {
                Ok(path) => vec![path],
                Err(none) if none.kind() == ErrorKind::Sealed => return Ok(Some(none)),
                Err(error) => return Err(error),
            },
            Some(Unsealer::KeyFile(path) | Unsealer::PassphraseFile(path)) => vec![path.clone()],
            Some(Unsealer::ShareFiles(paths)) => paths.clone(),
            Some(Unsealer::Key(_) | Unsealer::Passphrase(_) | Unsealer::Shares { .. }) => Vec::new(),
        };
        let unreadable = |path: &PathBuf| {
            let error = fs::File::open(path).err()?;
            Some(Error::sealed(format!("{} cannot be read: {error}", path.display())))
        };
        Ok(files.iter().find_map(unreadable))
    }

    fn wrap_by(&self, unsealer: &Unsealer) -> Result<Wrap> {
        match unsealer {
            Unsealer::KeyFile(path) => {
                if !path.exists() || secret_file::is_unfinished(path)? {
                    secret_file::make_key_file(path, self.install)?;
                }
                let named = format!("the key file {}", path.display());
                let key = secret_file::key_of(&secret_file::read_key_file(path)?, &named)?;
                let path = fs::canonicalize(path).with_context(|| format!("finding {}", path.display()))?;
                let wrapped = wrap(&key, &self.aad("key file"), &self.key)?;
                Ok(Wrap::KeyFile { path, wrapped: Base64::encode_string(&wrapped) })
            }
            Unsealer::PassphraseFile(path) => {
                self.wrap_by_passphrase(&secret_file::read_line(path, "passphrase file")?)
            }
            Unsealer::Passphrase(passphrase) => self.wrap_by_passphrase(passphrase),
            Unsealer::Shares { set, key } => Ok(Wrap::Shares {
                set: Base64::encode_string(&set.set),
                threshold: set.threshold,
                wrapped: Base64::encode_string(&wrap(key, &self.aad("shares"), &self.key)?),
            }),
            Unsealer::Key(_) | Unsealer::ShareFiles(_) => {
                Err(Error::usage("keys and shares are made here, and not brought along")
                    .remedy("give --key-file F, or --shares N and --threshold T; the shares are shown once"))
            }
        }
    }

    fn wrap_by_passphrase(&self, passphrase: &Secret) -> Result<Wrap> {
        if passphrase.len() < PASSPHRASE_BYTES_MIN {
            return Err(Error::usage(format!(
                "the passphrase has {} bytes, and {PASSPHRASE_BYTES_MIN} are the least",
                passphrase.len()
            ))
            .remedy("use several words that nobody would guess together"));
        }
        let (argon2id, salt) = (PassphraseParams::RECOMMENDED, random_bytes()?);
        let wrapped = wrap(&argon2id.key(passphrase, &salt)?, &self.aad("passphrase"), &self.key)?;
        Ok(Wrap::Passphrase {
            argon2id,
            salt: Base64::encode_string(&salt),
            wrapped: Base64::encode_string(&wrapped),
        })
    }

    fn aad(&self, kind: &str) -> Vec<u8> {
        wrap_aad(self.install, kind)
    }

    fn mac_key(&self) -> Result<Key> {
        self.key.derive("root file", b"")
    }
}

impl RootFile {
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::not_found(format!("there is no root key file {}", path.display())).remedy(
                    "make a data directory with `cloister init`, or name the right one with --data-dir",
                )
            }
            _ => super::object::cause(error).context(format!("reading {}", path.display())),
        })?;
        let broken = |why: String| {
            Error::integrity(format!("{} is not a root file of this version: {why}", path.display()))
                .remedy("restore the whole data directory from one backup")
        };
        let file: Self = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
        if file.format != FORMAT {
            return Err(broken(format!("it says '{}'", file.format)));
        }
        Ok(file)
    }

    fn without_mac(&self) -> Result<Vec<u8>> {
        let rest = Self { mac: String::new(), ..self.clone() };
        serde_json::to_vec(&rest).context("writing the root file")
    }

    fn unsealed_by(&self) -> Result<Vec<UnsealedBy>> {
        let by = |wrap: &Wrap| {
            Ok(match wrap {
                Wrap::KeyFile { path, .. } => UnsealedBy::KeyFile(path.clone()),
                Wrap::Passphrase { .. } => UnsealedBy::Passphrase,
                Wrap::Shares { set, threshold, .. } => {
                    UnsealedBy::Shares(ShareSet { set: share_set(set)?, threshold: *threshold })
                }
            })
        };
        self.unsealers.iter().map(by).collect()
    }

    fn remembered_key_file(&self) -> Result<PathBuf> {
        let key_file = self.unsealers.iter().find_map(|wrap| match wrap {
            Wrap::KeyFile { path, .. } => Some(path.clone()),
            Wrap::Passphrase { .. } | Wrap::Shares { .. } => None,
        });
        match key_file {
            Some(path) => Ok(path),
            None => Err(self.without("key file")?),
        }
    }

    /// There is no unsealer of the kind that was brought.
    fn without(&self, brought: &str) -> Result<Error> {
        let by = self.unsealed_by()?;
        let known: Vec<String> = by.iter().map(UnsealedBy::to_string).collect();
        let bring = match by.first() {
            Some(UnsealedBy::KeyFile(_)) => "name it with --key-file or CLOISTER_KEY_FILE",
            Some(UnsealedBy::Shares(_)) => "give each with --share-file F",
            Some(UnsealedBy::Passphrase) | None => "give it with --passphrase-file F",
        };
        let sealed = Error::sealed(format!(
            "this installation has no {brought}: it is unsealed by {}",
            known.join(" or ")
        ));
        Ok(sealed.remedy(bring))
    }

    fn unwrap_with(&self, unsealer: &Unsealer) -> Result<Key> {
        match unsealer {
            Unsealer::KeyFile(path) => {
                let named = format!("the key file {}", path.display());
                self.unwrap_with_key_file(&named, || secret_file::read_key_file(path))
            }
            Unsealer::Key(bytes) => self.unwrap_with_key_file("this key file", || Ok(bytes)),
            Unsealer::PassphraseFile(path) => {
                self.unwrap_with_passphrase(&secret_file::read_line(path, "passphrase file")?)
            }
            Unsealer::Passphrase(passphrase) => self.unwrap_with_passphrase(passphrase),
            Unsealer::Shares { set, key } => self.unwrap_with_shares(set, key),
            Unsealer::ShareFiles(paths) => {
                let shares = paths.iter().map(|path| read_share(path)).collect::<Result<Vec<Share>>>()?;
                let key = join_shares(&shares)?;
                self.unwrap_with_shares(&shares[0].set(), &key)
            }
        }
    }

    fn unwrap_with_shares(&self, given: &ShareSet, key: &Key) -> Result<Key> {
        let mut asked = false;
        for wrap in &self.unsealers {
            let Wrap::Shares { set, threshold, wrapped } = wrap else { continue };
            asked = true;
            if (share_set(set)?, *threshold) == (given.set, given.threshold) {
                return unwrap(key, &wrap_aad(self.install, "shares"), &decode(wrapped)?).map_err(|_| {
                    Error::sealed("these shares do not open this vault").remedy(
                        "one of them is not what was handed out; try others of the same set, nothing was changed",
                    )
                });
            }
        }
        if !asked {
            return Err(self.without("shares")?);
        }
        Err(Error::sealed("these shares are of another set than this vault's").remedy(
            "shares that were handed out before a rekey, or for another installation, open nothing here",
        ))
    }

    fn unwrap_with_key_file<S: Borrow<Secret>>(
        &self,
        named: &str,
        read: impl FnOnce() -> Result<S>,
    ) -> Result<Key> {
        let wraps: Vec<_> = self
            .unsealers
            .iter()
            .filter_map(|wrap| match wrap {
                Wrap::KeyFile { wrapped, .. } => Some(wrapped),
                Wrap::Passphrase { .. } | Wrap::Shares { .. } => None,
            })
            .collect();
        if wraps.is_empty() {
            return Err(self.without("key file")?);
        }
        let bytes = read()?;
        let key = secret_file::key_of(bytes.borrow(), named)?;
        for wrapped in wraps {
            if let Ok(root) = unwrap(&key, &wrap_aad(self.install, "key file"), &decode(wrapped)?) {
                return Ok(root);
            }
        }
        let whose = secret_file::install_of(bytes.borrow()).filter(|&install| install != self.install);
        Err(match whose {
            Some(other) => Error::sealed(format!(
                "{named} was made for installation {other}; this data directory is {}",
                self.install
            )),
            None => Error::sealed(format!("{named} does not open this vault")),
        }
        .remedy(
            "name the right key file with CLOISTER_KEY_FILE, or the right data directory with --data-dir",
        ))
    }

    fn unwrap_with_passphrase(&self, passphrase: &Secret) -> Result<Key> {
        let mut asked = false;
        for wrap in &self.unsealers {
            let Wrap::Passphrase { argon2id, salt, wrapped } = wrap else { continue };
            asked = true;
            let salt = decode(salt)?
                .try_into()
                .map_err(|_| Error::integrity("the root file has a salt of the wrong length"))?;
            let key = argon2id.key(passphrase, &salt)?;
            if let Ok(root) = unwrap(&key, &wrap_aad(self.install, "passphrase"), &decode(wrapped)?) {
                return Ok(root);
            }
        }
        if !asked {
            return Err(self.without("passphrase")?);
        }
        Err(Error::sealed("the passphrase does not open this vault")
            .remedy("check the passphrase file and --data-dir; nothing was changed"))
    }
}

fn wrap_aad(install: Id, kind: &str) -> Vec<u8> {
    [b"cloister root wrap v1 ", kind.as_bytes(), &install.to_bytes()[..]].concat()
}

fn share_set(text: &str) -> Result<[u8; SET_BYTES]> {
    let damaged = |_| Error::integrity("the root file names a set of shares that cannot be read");
    decode(text)?.try_into().map_err(damaged)
}

fn decode(text: &str) -> Result<Vec<u8>> {
    Base64::decode_vec(text).map_err(|error| Error::integrity(format!("the root file is damaged: {error}")))
}

/// The share on the first line of the file.
fn read_share(path: &Path) -> Result<Share> {
    let line = secret_file::read_line(path, "share file")?;
    Share::parse(line.danger_expose()).with_context(|| format!("reading the share in {}", path.display()))
}
