//! The caged side: lock the door behind oneself, then read documents until the parent hangs up.

use std::{
    io::Write,
    os::{fd::AsFd, unix::net::UnixStream},
    panic::AssertUnwindSafe,
};

use super::{
    cage_error, limits, walls,
    wire::{self, Answer},
};
use crate::{
    base::{Context, Result},
    corpus::{
        Format, Reason,
        extract::{self, Options},
        refusal::Refused,
    },
};

/// What the hidden subcommand `cloister worker extract` runs: standard input is the parent's socket.
///
/// # Errors
/// When a limit cannot be set or a wall does not stand: reading documents without is not an option, unless
/// `allow_weak` says that the walls may be missing.
pub fn child_main(allow_weak: bool) -> Result<()> {
    limits::lock_in().context("locking the cage")?;
    // The default hook would print the panic's message, which may quote a document.
    std::panic::set_hook(Box::new(|_| {}));
    let socket: UnixStream =
        std::io::stdin().as_fd().try_clone_to_owned().context("taking the socket")?.into();
    walls::raise(allow_weak).context("building the cage")?;
    let mut socket = std::io::BufWriter::with_capacity(1 << 18, socket);
    loop {
        let request = wire::receive_request(socket.get_ref());
        let Some((request, source)) =
            request.map_err(|()| cage_error("the cage was not spoken to as expected"))?
        else {
            return Ok(());
        };
        limits::allow_processor_time(super::WALL_MAX).context("setting the processor time")?;
        let answer = match read(source, &request.options, &mut socket) {
            Ok(format) => Answer::Done(format),
            Err(refused) => Answer::Refused(refused),
        };
        wire::send_answer(&mut socket, &answer).and_then(|()| socket.flush()).context("answering")?;
    }
}

fn read(source: Vec<u8>, options: &Options, socket: &mut impl Write) -> std::result::Result<Format, Refused> {
    let mut sink = |event| {
        wire::send_answer(&mut *socket, &Answer::Event(event))
            .map_err(|error| Refused::new(Reason::Crashed, error.to_string()))
    };
    std::panic::catch_unwind(AssertUnwindSafe(|| extract::extract(source, options, &mut sink)))
        .unwrap_or_else(|_| Err(Refused::new(Reason::Crashed, "the reader panicked")))
}
