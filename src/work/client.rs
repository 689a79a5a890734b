//! How a command reaches the warden: over the admin socket where a daemon holds the data directory, else by
//! becoming the warden for as long as the command takes. Question and answer are the same either way.

use std::path::PathBuf;

use serde_json::Value;

use super::{admin, policy::Actor, request::Request, warden::Warden};
use crate::{
    base::{Monitor, Result},
    device::Choice,
};

/// Which data directory, and what opens it.
#[derive(Clone, Debug)]
pub struct Site {
    pub data_dir: PathBuf,
    /// None: the key file that `init` remembered.
    pub unsealer: Option<Unsealer>,
    /// What computes.
    pub device: Choice,
    /// Threads that compute; None takes every core.
    pub threads: Option<usize>,
}

/// Where the secret that unwraps the root key is read from. Never the secret itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsealer {
    KeyFile(PathBuf),
    PassphraseFile(PathBuf),
}

/// Asks the daemon, or does it here: the same question, the same answer.
pub fn run(site: &Site, request: Request, monitor: &dyn Monitor) -> Result<Value> {
    if let Some(daemon) = admin::connect(&site.data_dir)? {
        return admin::ask(daemon, request, monitor);
    }
    let warden = Warden::open(site)?;
    warden.notices().for_each(|notice| monitor.note(notice));
    warden.execute(Actor::this_process(), request, monitor)
}
