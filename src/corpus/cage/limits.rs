//! What the kernel holds the caged child to: memory, processor time, no files, no new privileges, no core
//! dump. `unsafe` because each limit is a bare system call that std does not offer.
#![allow(unsafe_code)]

use std::{
    io::{Error, Result},
    time::Duration,
};

/// Address space of the child, its own code included.
const MEMORY_BYTES_MAX: u64 = 512 << 20;
/// Standard descriptors, the socket and a few that the runtime opens for a moment.
const OPEN_FILES_MAX: u64 = 16;

pub fn memory_words() -> String {
    crate::base::units::Bytes(MEMORY_BYTES_MAX).to_string()
}

/// Gives up everything that reading a document does not need. It cannot be undone by this process.
pub fn lock_in() -> Result<()> {
    close_inherited()?;
    limit(libc::RLIMIT_AS, MEMORY_BYTES_MAX)?;
    limit(libc::RLIMIT_CORE, 0)?;
    // Not one byte to any file.
    limit(libc::RLIMIT_FSIZE, 0)?;
    limit(libc::RLIMIT_NOFILE, OPEN_FILES_MAX)?;
    yield_to_others()?;
    control(libc::PR_SET_DUMPABLE, 0)?;
    control(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    // When the parent is killed, so are we.
    control(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)
}

/// Lets the process run for `more` of processor time from now on; the kernel ends it afterwards.
pub fn allow_processor_time(more: Duration) -> Result<()> {
    let until = used_processor_s()? + more.as_secs() + 1;
    let limits = libc::rlimit { rlim_cur: until, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limits` is a valid rlimit that outlives the call, which only reads it.
    checked(unsafe { libc::setrlimit(libc::RLIMIT_CPU, &raw const limits) })
}

fn used_processor_s() -> Result<u64> {
    // SAFETY: rusage is plain integers, for which all zeroes is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a valid rusage that outlives the call, which only writes it.
    checked(unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) })?;
    Ok((usage.ru_utime.tv_sec + usage.ru_stime.tv_sec).unsigned_abs())
}

/// Closes whatever else the parent had open: a descriptor is a right.
fn close_inherited() -> Result<()> {
    // SAFETY: nothing in this process owns a descriptor above the standard three yet.
    checked(unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) } as i32)
}

fn limit(resource: libc::__rlimit_resource_t, value: u64) -> Result<()> {
    let limits = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: `limits` is a valid rlimit that outlives the call, which only reads it.
    checked(unsafe { libc::setrlimit(resource, &raw const limits) })
}

/// Takes of a processor what nobody else wants: whoever is served does not wait for a document.
fn yield_to_others() -> Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: `parameters` is a valid sched_param that outlives the call, which only reads it.
    checked(unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) })
}

fn control(option: i32, value: libc::c_ulong) -> Result<()> {
    const UNUSED: libc::c_ulong = 0;
    // SAFETY: these options take integers alone, and no memory of ours.
    checked(unsafe { libc::prctl(option, value, UNUSED, UNUSED, UNUSED) })
}

fn checked(outcome: i32) -> Result<()> {
    if outcome == -1 { Err(Error::last_os_error()) } else { Ok(()) }
}
