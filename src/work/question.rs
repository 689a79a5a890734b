//! What can be asked of a daemon over the admin socket: what the warden answers, and what a daemon knows of itself,
//! sealed or serving. Plain data, as in `request`.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::request::{DeployPolicy, Request};
use crate::base::Error;

/// What can be asked over the admin socket: of the warden, or of the daemon about itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    Warden(Box<Request>),
    /// -> [`DaemonState`]
    State,
    /// Brings one secret towards unsealing. -> [`DaemonState`] as it is then
    Unseal(SecretKind),
    /// Forgets the shares that were given so far -> [`DaemonState`]
    ForgetShares,
}

/// What somebody brings to unseal with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretKind {
    Passphrase,
    KeyFile,
    Share,
}

impl std::fmt::Display for SecretKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Passphrase => "passphrase",
            Self::KeyFile => "key file",
            Self::Share => "share",
        })
    }
}

/// What a daemon is at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum DaemonState {
    Sealed(Sealing),
    /// It has its keys, and makes ready to serve.
    Opening,
    Serving(Bound),
}

/// What it takes to unseal a daemon, and what was given of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealing {
    pub unsealed_by: Vec<String>,
    pub shares_given: u8,
    /// None where shares do not unseal.
    pub shares_needed: Option<u8>,
}

impl Sealing {
    /// What everybody hears who asks a sealed daemon for anything else.
    pub fn refusal(&self) -> Error {
        Error::sealed(format!("the appliance is sealed: it is {self}"))
            .remedy("unseal it with `cloister unseal`")
    }
}

impl std::fmt::Display for Sealing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unsealed by {}", self.unsealed_by.join(" or "))?;
        match self.shares_needed {
            Some(needed) if self.shares_given > 0 => {
                write!(f, ", {} of {needed} shares given", self.shares_given)
            }
            _ => Ok(()),
        }
    }
}

/// Where the API listens, and what a client needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    pub address: SocketAddr,
    /// SHA-256 of the certificate, in hexadecimal with colons.
    pub fingerprint: String,
    /// The public certificate's file.
    pub certificate_pem: PathBuf,
    /// Names of the models that are served.
    pub models: Vec<String>,
    pub policy: DeployPolicy,
}
