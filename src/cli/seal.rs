//! `cloister unseal` and `cloister seal`: what people do to a running daemon so that it has its keys, or no longer has.

use std::path::Path;

use serde::Serialize;

use super::{progress::Line, screen::Screen, serve, session::Session, settings::Unsealer, terminal};
use crate::{
    base::Result,
    seal::{Secret, Share},
    vault::{UnsealedBy, Vault, secret_file},
    work::{
        client,
        question::{DaemonState, SecretKind},
    },
};

#[derive(Debug, clap::Args)]
pub struct UnsealArgs {
    /// Forget the shares that were given so far
    #[arg(long)]
    reset: bool,
}

#[derive(Debug, clap::Args)]
pub struct SealArgs {}

/// No daemon runs, and none is held off any more.
#[derive(Serialize)]
struct Lifted {
    state: &'static str,
}

pub fn unseal(args: UnsealArgs, session: &Session) -> Result<()> {
    let data_dir = &session.settings.data_dir;
    if !args.reset && client::lift_seal(&session.settings.site(), || brought(session), &Line::new())? {
        return session.screen.show(&Lifted { state: "unsealed" }, |screen, _| {
            screen.line("unsealed: commands and the next `cloister serve` open it with what is at hand")
        });
    }
    let mut state =
        if args.reset { client::forget_shares(data_dir)? } else { client::state_of_daemon(data_dir)? };
    if !args.reset && matches!(state, DaemonState::Sealed(_)) {
        for (kind, secret) in brought(session)? {
            state = client::unseal(data_dir, kind, &secret, &Line::new())?;
        }
    }
    session.screen.show(&state, draw)
}

pub fn seal(_: SealArgs, session: &Session) -> Result<()> {
    let state = client::seal(&session.settings.data_dir, &Line::new())?;
    session.screen.show(&state, draw)
}

/// What the settings name; else the key file that is remembered, if it is there; else what somebody types.
fn brought(session: &Session) -> Result<Vec<(SecretKind, Secret)>> {
    let data_dir = &session.settings.data_dir;
    let share = |path: &Path| Ok((SecretKind::Share, secret_file::read_line(path, "share file")?));
    match &session.settings.unsealer {
        Some(Unsealer::KeyFile(path)) => key_file(path),
        Some(Unsealer::PassphraseFile(path)) => {
            Ok(vec![(SecretKind::Passphrase, secret_file::read_line(path, "passphrase file")?)])
        }
        Some(Unsealer::ShareFiles(paths)) => paths.iter().map(|path| share(path)).collect(),
        None => at_hand(&Vault::unsealed_by(data_dir)?),
    }
}

fn at_hand(by: &[UnsealedBy]) -> Result<Vec<(SecretKind, Secret)>> {
    let can = |unsealed_by: fn(&UnsealedBy) -> bool| by.iter().any(unsealed_by);
    let by_passphrase = can(|by| matches!(by, UnsealedBy::Passphrase));
    let by_shares = can(|by| matches!(by, UnsealedBy::Shares(_)));
    let remembered = by.iter().find_map(|by| match by {
        UnsealedBy::KeyFile(path) => Some(path),
        UnsealedBy::Passphrase | UnsealedBy::Shares(_) => None,
    });
    if let Some(path) = remembered.filter(|path| path.exists() || !(by_passphrase || by_shares)) {
        return key_file(path);
    }
    let prompt = match (by_passphrase, by_shares) {
        (true, true) => "passphrase, or one share",
        (_, true) => "one share",
        (_, false) => "passphrase",
    };
    let instead = "give it with --passphrase-file F, --key-file F or --share-file F";
    let typed = terminal::ask_secret(prompt, instead)?;
    let is_share = by_shares && (!by_passphrase || Share::parse(typed.danger_expose()).is_ok());
    Ok(vec![(if is_share { SecretKind::Share } else { SecretKind::Passphrase }, typed)])
}

fn key_file(path: &Path) -> Result<Vec<(SecretKind, Secret)>> {
    Ok(vec![(SecretKind::KeyFile, secret_file::read_key_file(path)?)])
}

fn draw(screen: &Screen, state: &DaemonState) -> Result<()> {
    match state {
        DaemonState::Sealed(sealing) => match sealing.shares_needed {
            Some(needed) => screen.line(format_args!("sealed; {} of {needed} shares", sealing.shares_given)),
            None => screen.line(format_args!("sealed; {sealing}")),
        },
        DaemonState::Opening => screen.line("it has its keys, and makes ready to serve"),
        DaemonState::Serving(bound) => serve::draw(screen, bound),
    }
}
