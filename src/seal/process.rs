//! What a process that holds keys asks of the system when it starts.
#![allow(unsafe_code)] // two system calls

use crate::base::{Error, Result};

/// Forbids core dumps and reading this process's memory by others of the same user (`ptrace`, `/proc/PID/mem`).
/// Called first thing by whoever will hold a key; the limit is inherited by children, the ban on reading is not.
pub fn forbid_core_dumps() -> Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid structure, and a call that takes numbers alone.
    let forbidden = unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &none) == 0 && libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
    };
    if forbidden {
        return Ok(());
    }
    Err(Error::failed(format!("forbidding core dumps: {}", std::io::Error::last_os_error())))
}
