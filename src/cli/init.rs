//! `cloister init`: makes a data directory, its root key under a key file or a passphrase, its certificate.

use super::session::Session;
use crate::{
    base::{Error, Result},
    serve,
    work::{Warden, request::Installed},
};

#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_: Args, session: &Session) -> Result<()> {
    if session.settings.unsealer.is_none() {
        return Err(Error::usage("what should the root key be kept under?")
            .remedy("give --key-file FILE (made if it is not there) or --passphrase-file FILE"));
    }
    let made = make(session)?;
    session.screen.show(&made, |screen, made| {
        screen.line(format_args!("data directory  {}", made.data_dir.display()))?;
        screen.line(format_args!("installation    {}", made.install))?;
        screen.line(format_args!("certificate     {}", made.certificate.display()))?;
        screen.line(format_args!("fingerprint     SHA-256 {}", made.fingerprint))
    })
}

/// Makes the data directory with what the settings unseal it by.
pub fn make(session: &Session) -> Result<Installed> {
    let warden = Warden::init(&session.settings.site())?;
    let identity = serve::identity(&warden)?;
    Ok(Installed {
        install: warden.install(),
        data_dir: session.settings.data_dir.clone(),
        certificate: identity.certificate_pem,
        fingerprint: identity.fingerprint,
    })
}
