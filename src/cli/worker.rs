//! `cloister worker`, which nobody types: the warden starts it. It must be entered before anything else of the
//! process exists, for the extraction cage closes every descriptor that it did not bring along.

use std::{ffi::OsString, process::ExitCode};

use crate::{corpus::cage, work};

/// Runs a worker if that is what this process was started as.
pub fn enter(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    if arguments.nth(1)? != "worker" {
        return None;
    }
    Some(match arguments.next() {
        // Its socket hears how it ended; a code is all that is left to say.
        Some(what) if what == "extract" => {
            let allow_weak = arguments.next().is_some_and(|walls| walls == cage::ALLOW_WEAK);
            ExitCode::from(u8::from(cage::child_main(allow_weak).is_err()))
        }
        _ => work::worker::main(),
    })
}
