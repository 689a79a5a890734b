//! `cloister key`: what keys there are, newer ones, and another root key under other unsealers.

use std::path::PathBuf;

use serde::Serialize;

use super::{screen::Screen, session::Session};
use crate::{
    base::{Context, Result},
    seal::{Key, split_key},
    vault::Unsealer,
    work::{
        Warden,
        request::{KeyStatus, Request},
    },
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// What unseals the root key, and the versions of the keys under it
    Status,
    /// A new version of the keys that seal; no data is rewritten
    Rotate,
    /// Another root key under other unsealers; the old ones open nothing any more
    Rekey(NewUnsealer),
}

/// What is to open the new root key: one of these, or several.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub struct NewUnsealer {
    /// A key file; it is made if it is not there
    #[arg(long, value_name = "FILE")]
    new_key_file: Option<PathBuf>,
    /// A file whose first line is the new passphrase
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
    /// Make so many shares, shown once, one for each person who is to keep one
    #[arg(long, value_name = "N", requires = "threshold")]
    shares: Option<u8>,
    /// So many of them unseal
    #[arg(long, value_name = "T", requires = "shares")]
    threshold: Option<u8>,
}

#[derive(Serialize)]
struct ShareRow<'a> {
    share: u8,
    of: u8,
    threshold: u8,
    text: &'a str,
}

pub fn run(command: Command, session: &Session) -> Result<()> {
    let status: KeyStatus = match command {
        Command::Status => session.ask(Request::KeyStatus)?,
        Command::Rotate => session.ask(Request::KeyRotate)?,
        Command::Rekey(new) => rekey(new, session)?,
    };
    session.screen.show(&status, draw)
}

/// In this process alone: a root key is never replaced over a socket.
fn rekey(new: NewUnsealer, session: &Session) -> Result<KeyStatus> {
    let warden = Warden::open(&session.settings.site())?;
    let files = new.new_key_file.map(Unsealer::KeyFile).into_iter();
    let mut unsealers: Vec<_> = files.chain(new.new_passphrase_file.map(Unsealer::PassphraseFile)).collect();
    if let (Some(shares), Some(threshold)) = (new.shares, new.threshold) {
        unsealers.push(hand_out(shares, threshold, &session.screen)?);
    }
    warden.rekey(&unsealers)
}

/// Makes shares and shows them: before anything depends on them, since a screen that fails afterwards would lose
/// the vault with them.
pub fn hand_out(of: u8, threshold: u8, screen: &Screen) -> Result<Unsealer> {
    let key = Key::generate()?;
    let shares = split_key(&key, of, threshold)?;
    for share in &shares {
        let text = share.danger_to_text();
        let text = std::str::from_utf8(text.danger_expose()).context("writing a share")?;
        let row = ShareRow { share: share.number(), of, threshold, text };
        screen.show(&row, |screen, row| {
            screen.line(format_args!("share {} of {of}, {threshold} unseal  {}", row.share, row.text))
        })?;
    }
    Ok(Unsealer::Shares { set: shares[0].set(), key })
}

fn draw(screen: &Screen, status: &KeyStatus) -> Result<()> {
    screen.line(format_args!("unsealed by  {}", status.unsealed_by.join(" or ")))?;
    for (purpose, version) in &status.versions {
        screen.line(format_args!("{purpose:<11}  version {version}"))?;
    }
    let KeyStatus { objects, objects_to_rewrap, .. } = status;
    screen.line(format_args!("{objects} objects, the keys of {objects_to_rewrap} under an older version"))
}
