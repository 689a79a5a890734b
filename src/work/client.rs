//! How a command reaches the warden: over the admin socket where a daemon holds the data directory, else by
//! becoming the warden for as long as the command takes. Question and answer are the same either way.

use std::path::PathBuf;

/// Which data directory, and what opens it.
#[derive(Clone, Debug)]
pub struct Site {
    pub data_dir: PathBuf,
    /// None: the key file that `init` remembered.
    pub unsealer: Option<Unsealer>,
    /// Threads that compute; None takes every core.
    pub threads: Option<usize>,
}

/// Where the secret that unwraps the root key is read from. Never the secret itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsealer {
    KeyFile(PathBuf),
    PassphraseFile(PathBuf),
}
