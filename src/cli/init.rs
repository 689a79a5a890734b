//! `cloister init`: makes a data directory, its root key under a key file, a passphrase or shares, its
//! certificate.

use super::{key::hand_out, session::Session};
use crate::{
    base::{Error, Result},
    serve,
    work::{Warden, request::Installed},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Keep the root key under so many shares, shown once, one for each person who is to keep one
    #[arg(long, value_name = "N", requires = "threshold", conflicts_with_all = ["key_file", "passphrase_file"])]
    shares: Option<u8>,
    /// So many of them unseal
    #[arg(long, value_name = "T", requires = "shares")]
    threshold: Option<u8>,
}

pub fn run(args: Args, session: &Session) -> Result<()> {
    let shared = args.shares.zip(args.threshold);
    if session.settings.unsealer.is_none() && shared.is_none() {
        return Err(Error::usage("what should the root key be kept under?").remedy(
            "give --key-file FILE (made if it is not there), --passphrase-file FILE, or --shares N",
        ));
    }
    let made = match shared {
        Some((shares, threshold)) => {
            let unsealer = hand_out(shares, threshold, &session.screen)?;
            described(&Warden::init_under(&session.settings.site(), &unsealer)?, session)?
        }
        None => make(session)?,
    };
    session.screen.show(&made, |screen, made| {
        screen.line(format_args!("data directory  {}", made.data_dir.display()))?;
        screen.line(format_args!("installation    {}", made.install))?;
        screen.line(format_args!("certificate     {}", made.certificate.display()))?;
        screen.line(format_args!("fingerprint     SHA-256 {}", made.fingerprint))
    })
}

/// Makes the data directory with what the settings unseal it by.
pub fn make(session: &Session) -> Result<Installed> {
    described(&Warden::init(&session.settings.site())?, session)
}

fn described(warden: &Warden, session: &Session) -> Result<Installed> {
    let identity = serve::identity(warden)?;
    Ok(Installed {
        install: warden.install(),
        data_dir: session.settings.data_dir.clone(),
        certificate: identity.certificate_pem,
        fingerprint: identity.fingerprint,
    })
}
