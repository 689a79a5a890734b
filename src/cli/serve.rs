//! `cloister serve`: the daemon. It holds the data directory until it is told to stop, and finishes what is
//! running before it does.

use std::{net::SocketAddr, sync::Arc};

use super::{session::Session, signals};
use crate::{
    base::Result,
    serve::{self, Bound, ServeOptions},
    work::Warden,
};

pub const LISTEN_DEFAULT: &str = "127.0.0.1:8443";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", env = "CLOISTER_LISTEN", default_value = LISTEN_DEFAULT)]
    pub listen: SocketAddr,
}

pub fn run(args: Args, session: &Session) -> Result<()> {
    until_stopped(&args, session, |bound| {
        session.screen.line(format_args!("serving      https://{}", bound.address))?;
        session.screen.line(format_args!("models       {}", bound.models.join(", ")))?;
        session.screen.line(format_args!("certificate  {}", bound.certificate_pem.display()))?;
        session.screen.line(format_args!("fingerprint  SHA-256 {}", bound.fingerprint))
    })
}

/// Serves until Ctrl-C or SIGTERM; `ready` is called once requests are taken.
pub fn until_stopped(args: &Args, session: &Session, ready: impl FnOnce(&Bound) -> Result<()>) -> Result<()> {
    let stop = signals::listen();
    let site = session.settings.site();
    let warden = Arc::new(Warden::open(&site)?);
    let options = ServeOptions {
        listen: args.listen,
        device: site.device,
        threads: site.threads,
        ..ServeOptions::default()
    };
    let mut announced = Ok(());
    serve::run(warden, options, stop, |bound| announced = ready(bound))?;
    announced
}
