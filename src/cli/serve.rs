//! `cloister serve`: the daemon. It holds the data directory until it is told to stop, and finishes what is
//! running before it does. Where nothing unseals the directory it starts sealed, and waits for `cloister unseal`.

use std::{net::SocketAddr, path::PathBuf, process::Command, sync::Arc, time::Duration};

use super::{screen::Screen, session::Session, settings::Settings, signals};
use crate::{
    base::Result,
    serve::{self, Allowance, Ended, Limits, News, ServeOptions, Start},
    work::{Sealed, question::Bound},
};

pub const LISTEN_DEFAULT: &str = "127.0.0.1:8443";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Start sealed, though something could unseal it
    #[arg(long)]
    sealed: bool,
    /// Go on behind the doors of the daemon that this process was
    #[arg(long, hide = true, requires = "sealed")]
    handed_over: bool,
    #[command(flatten)]
    api: ApiArgs,
}

/// How the API is served, by `serve` and at the end of `quickstart`.
#[derive(Debug, clap::Args)]
pub struct ApiArgs {
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
    /// Hours that a log-in holds, 24 at most
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u64).range(1..=24))]
    pub session_hours: u64,
    /// Let nobody connect without a certificate that one of this file signed
    #[arg(long, value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
}

impl ApiArgs {
    fn limits(&self) -> Limits {
        let each = Allowance {
            requests_a_minute: self.requests_a_minute,
            tokens_a_minute: self.tokens_a_minute,
            answers_at_once: self.answers_at_once,
            answer_tokens_max: self.answer_tokens_max,
        };
        let session_time = Duration::from_secs(self.session_hours * 60 * 60);
        Limits { each, session_time, ..Limits::default() }
    }

    /// The command line that says the same.
    fn repeat(&self, listen: SocketAddr, command: &mut Command) {
        let Self {
            listen: _,
            requests_a_minute,
            tokens_a_minute,
            answers_at_once,
            answer_tokens_max,
            session_hours,
            client_ca,
        } = self;
        command.arg("--listen").arg(listen.to_string());
        for (flag, value) in [
            ("--requests-a-minute", requests_a_minute),
            ("--tokens-a-minute", tokens_a_minute),
            ("--answers-at-once", answers_at_once),
            ("--answer-tokens-max", answer_tokens_max),
            ("--session-hours", session_hours),
        ] {
            command.arg(flag).arg(value.to_string());
        }
        if let Some(path) = client_ca {
            command.arg("--client-ca").arg(path);
        }
    }
}

pub fn run(args: Args, session: &Session) -> Result<()> {
    signals::listen();
    let start = start(&args, session)?;
    until_stopped(start, &args.api, session, |bound| draw(&session.screen, bound))
}

/// Sealed where that was asked for, or where nothing at hand could unseal it; what is at hand and does not open it is
/// an error.
fn start(args: &Args, session: &Session) -> Result<Start> {
    let site = session.settings.site();
    if args.handed_over {
        let (sealed, doors) = Sealed::handed_over(&site)?;
        return Ok(Start::HandedOver(sealed, doors));
    }
    let sealed = Sealed::hold(&site)?;
    if args.sealed {
        return Ok(Start::Sealed(sealed));
    }
    if let Some(why) = sealed.out_of_reach()? {
        eprintln!("starting sealed: {why}");
        return Ok(Start::Sealed(sealed));
    }
    Ok(Start::Open(Arc::new(sealed.open_with_what_is_at_hand()?)))
}

/// Serves until Ctrl-C or SIGTERM; `ready` is called once requests are taken. A daemon that is sealed becomes another
/// process, and this does not return.
pub fn until_stopped(
    start: Start,
    args: &ApiArgs,
    Session { settings, screen }: &Session,
    mut ready: impl FnMut(&Bound) -> Result<()>,
) -> Result<()> {
    let stop = signals::listen();
    let options = ServeOptions {
        listen: args.listen,
        device: settings.device,
        threads: settings.site().threads,
        limits: args.limits(),
        client_ca: args.client_ca.clone(),
        ..ServeOptions::default()
    };
    let mut announced = Ok(());
    let ended = serve::run(start, &options, &stop, |news| {
        announced = match news {
            News::Serving(bound) => ready(bound),
            News::Sealed { address, sealing } => screen
                .line(format_args!("sealed       https://{address}"))
                .and_then(|()| screen.line(format_args!("{sealing}; `cloister unseal` opens it"))),
        };
    })?;
    match ended {
        Ended::Stopped => announced,
        Ended::Sealed(doors) => {
            let mut next = next_life(settings);
            args.repeat(doors.address(), &mut next);
            Err(doors.hand_over(next))
        }
    }
}

/// This daemon again, with the same settings and sealed. What unseals it is left out: it is to be brought anew.
fn next_life(settings: &Settings) -> Command {
    let Settings { data_dir, json, device, threads, unsealer: _, log } = settings;
    let mut next = Command::new(program());
    next.arg("--data-dir").arg(data_dir).args(["--log", log, "--device", &device.to_string()]);
    if let Some(threads) = threads {
        next.args(["--threads", &threads.to_string()]);
    }
    if *json {
        next.arg("--json");
    }
    next.args(["serve", "--sealed", "--handed-over"]);
    next
}

/// The path that this program was started from, so that the process keeps its name; where another lies there by now,
/// the one that runs.
fn program() -> PathBuf {
    let path = std::env::current_exe().ok().filter(|path| path.exists());
    path.unwrap_or_else(|| "/proc/self/exe".into())
}

pub fn draw(screen: &Screen, bound: &Bound) -> Result<()> {
    screen.line(format_args!("serving      https://{}", bound.address))?;
    screen.line(format_args!("models       {}", bound.models.join(", ")))?;
    screen.line(format_args!("certificate  {}", bound.certificate_pem.display()))?;
    screen.line(format_args!("fingerprint  SHA-256 {}", bound.fingerprint))
}
