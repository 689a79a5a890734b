//! `cloister serve`: the daemon. It holds the data directory until it is told to stop, and finishes what is
//! running before it does.

use std::{net::SocketAddr, sync::Arc};

use super::{session::Session, signals};
use crate::{
    base::Result,
    serve::{self, Allowance, Bound, Limits, ServeOptions},
    work::Warden,
};

pub const LISTEN_DEFAULT: &str = "127.0.0.1:8443";

// Flattened into the arguments of quickstart: both would be a group of the same name.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", env = "CLOISTER_LISTEN", default_value = LISTEN_DEFAULT)]
    pub listen: SocketAddr,
    /// Requests that one token may make a minute
    #[arg(long, value_name = "N", default_value_t = Allowance::default().requests_a_minute)]
    pub requests_a_minute: u64,
    /// Tokens, read and written, that one token may use a minute
    #[arg(long, value_name = "N", default_value_t = Allowance::default().tokens_a_minute)]
    pub tokens_a_minute: u64,
    /// Answers that one token may be given at once
    #[arg(long, value_name = "N", default_value_t = Allowance::default().answers_at_once)]
    pub answers_at_once: u64,
    /// Tokens that one answer may have
    #[arg(long, value_name = "N", default_value_t = Allowance::default().answer_tokens_max)]
    pub answer_tokens_max: u64,
}

impl Args {
    fn limits(&self) -> Limits {
        let each = Allowance {
            requests_a_minute: self.requests_a_minute,
            tokens_a_minute: self.tokens_a_minute,
            answers_at_once: self.answers_at_once,
            answer_tokens_max: self.answer_tokens_max,
        };
        Limits { each, ..Limits::default() }
    }
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
        limits: args.limits(),
        ..ServeOptions::default()
    };
    let mut announced = Ok(());
    serve::run(warden, options, stop, |bound| announced = ready(bound))?;
    announced
}
