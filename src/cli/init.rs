//! `cloister init`: makes a data directory, its root key under a key file or a passphrase, its certificate.

use super::session::Session;
use crate::{
    base::{Error, Result},
    work::Warden,
};

#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_: Args, session: &Session) -> Result<()> {
    if session.settings.unsealer.is_none() {
        return Err(Error::usage("what should the root key be kept under?")
            .remedy("give --key-file FILE (made if it is not there) or --passphrase-file FILE"));
    }
    let warden = Warden::init(&session.settings.site())?;
    session.screen.show(&warden.install(), |screen, install| {
        screen.line(format_args!("data directory  {}", session.settings.data_dir.display()))?;
        screen.line(format_args!("installation    {install}"))
    })
}
