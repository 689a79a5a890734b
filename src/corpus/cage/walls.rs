//! The two walls that the kernel builds around the caged child. The first lets through the few system calls
//! that turning bytes into text takes: none of them opens a file, reaches a network or starts a program, so
//! that wall is required. The second, landlock, forbids files and networks once more, by another part of the
//! kernel; a kernel without it still cages, and `doctor` says so. `unsafe` because asking the kernel what it
//! has is a bare system call.
#![allow(unsafe_code)]

use std::collections::BTreeMap;

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, Scope};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use serde::{Deserialize, Serialize};

use crate::base::{Error, Result};

/// What landlock is asked to forbid; an older kernel forbids what it knows of it.
const LANDLOCK: ABI = ABI::V6;

/// Which walls there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walls {
    /// System calls are let through by a list (seccomp).
    pub filter: bool,
    pub landlock: bool,
}

impl Walls {
    /// What this kernel can build.
    pub fn of_this_kernel() -> Self {
        let kills = libc::SECCOMP_RET_KILL_PROCESS;
        // SAFETY: the call reads one integer that outlives it.
        let filter =
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const kills) }
                == 0;
        const ASK_VERSION: u32 = 1;
        let none = std::ptr::null::<u8>();
        // SAFETY: with this flag the call takes no memory and answers with a number.
        let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, ASK_VERSION) };
        Self { filter, landlock: version > 0 }
    }

    /// # Errors
    /// `Unavailable` where the required wall cannot be built and nobody allowed to go without.
    pub fn must_hold(self, allow_weak: bool) -> Result<()> {
        if self.filter || allow_weak {
            return Ok(());
        }
        Err(Error::unavailable("this kernel cannot cage the process that reads documents: it has no seccomp")
            .remedy(
                "use a kernel with CONFIG_SECCOMP_FILTER; or trust every document, and say so with \
                 --allow-weak-sandbox, which the audit log records",
            ))
    }
}

/// What people and the audit log are told.
impl std::fmt::Display for Walls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match (self.filter, self.landlock) {
            (true, true) => "seccomp, landlock",
            (true, false) => "seccomp",
            (false, true) => "landlock alone",
            (false, false) => "limits alone",
        })
    }
}

/// Builds both walls around this process, as far as it can. It cannot be undone.
///
/// # Errors
/// When the required wall does not stand, unless `allow_weak`.
pub(super) fn raise(allow_weak: bool) -> Result<()> {
    forbid_files_and_networks()?;
    let filtered = filter();
    if allow_weak { Ok(()) } else { filtered }
}

/// Best effort by its nature: what it lacks is in [`Walls`].
pub(super) fn forbid_files_and_networks() -> Result<()> {
    let landlock = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(LANDLOCK)))
        .and_then(|rules| rules.scope(Scope::from_all(LANDLOCK)))
        .and_then(|rules| rules.create()?.restrict_self());
    landlock.map_err(|error| cannot("forbid files and networks", &error))?;
    Ok(())
}

/// Of two filters the stricter answer holds: one kills for what no reader does, the other refuses what
/// libraries try in good faith.
fn filter() -> Result<()> {
    let process = u64::from(std::process::id());
    for program in [refusing()?, killing(process)?] {
        seccompiler::apply_filter_all_threads(&program)
            .map_err(|error| cannot("filter system calls", &error))?;
    }
    Ok(())
}

/// What the standard library or a parser's library may try without being taken over: it hears no.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_openat,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_getcwd,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_sched_getaffinity,
    libc::SYS_ioctl,
    libc::SYS_prctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
];

/// What reading a document takes, whatever the arguments: descriptors that it holds, its own memory, its own
/// threads' locks, the time, randomness for hash tables, and its end.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

fn refusing() -> Result<BpfProgram> {
    let mut rules: BTreeMap<_, _> = REFUSED.iter().map(|&call| (call, vec![])).collect();
    // Giving up privileges is what the next filter begins with.
    let wanted =
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, libc::PR_SET_NO_NEW_PRIVS as u64);
    let rule = wanted.and_then(|other| SeccompRule::new(vec![other]));
    rules.insert(libc::SYS_prctl, vec![rule.map_err(|error| cannot("write a filter", &error))?]);
    compile(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EACCES as u32))
}

fn killing(process: u64) -> Result<BpfProgram> {
    use SeccompCmpArgLen::{Dword, Qword};
    use SeccompCmpOp::{Eq, MaskedEq};
    let mut rules: BTreeMap<_, _> = ALLOWED.iter().chain(REFUSED).map(|&call| (call, vec![])).collect();
    let not_executable = || SeccompCondition::new(2, Dword, MaskedEq(libc::PROT_EXEC as u64), 0);
    // Over the socket that it holds, to and from nobody else.
    let without_address = || SeccompCondition::new(4, Qword, Eq, 0);
    let conditions = [
        (libc::SYS_mmap, vec![not_executable()]),
        (libc::SYS_mprotect, vec![not_executable()]),
        (libc::SYS_sendto, vec![without_address()]),
        (libc::SYS_recvfrom, vec![without_address()]),
        // A signal to itself alone: `abort`.
        (libc::SYS_tgkill, vec![SeccompCondition::new(0, Dword, Eq, process)]),
        // Its own processor time, which is measured out document by document.
        (
            libc::SYS_prlimit64,
            vec![
                SeccompCondition::new(0, Dword, Eq, 0),
                SeccompCondition::new(1, Dword, Eq, u64::from(libc::RLIMIT_CPU)),
            ],
        ),
    ];
    for (call, wanted) in conditions {
        let wanted = wanted.into_iter().collect::<std::result::Result<_, _>>();
        let rule = wanted.and_then(SeccompRule::new).map_err(|error| cannot("write a filter", &error))?;
        rules.insert(call, vec![rule]);
    }
    compile(rules, SeccompAction::KillProcess, SeccompAction::Allow)
}

fn compile(
    rules: BTreeMap<libc::c_long, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram> {
    let machine = std::env::consts::ARCH.try_into();
    machine
        .and_then(|machine| SeccompFilter::new(rules, otherwise, listed, machine)?.try_into())
        .map_err(|error| cannot("write a filter", &error))
}

fn cannot(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::unavailable(format!("cannot {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    #[test]
    fn a_kernel_without_the_required_wall_is_refused_unless_that_is_allowed() {
        let walls = |filter, landlock| Walls { filter, landlock };
        for landlock in [false, true] {
            let refused = walls(false, landlock).must_hold(false).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Unavailable);
            assert!(refused.remedy_text().is_some_and(|text| text.contains("--allow-weak-sandbox")));
            assert!(walls(false, landlock).must_hold(true).is_ok());
            assert!(walls(true, landlock).must_hold(false).is_ok());
        }
    }

    #[test]
    fn no_call_is_both_free_and_refused_and_none_of_them_opens_a_way_out() {
        assert!(REFUSED.iter().all(|call| !ALLOWED.contains(call)));
        for way_out in [
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_execve,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_ptrace,
            libc::SYS_openat2,
            libc::SYS_io_uring_setup,
            libc::SYS_sendmsg,
            libc::SYS_recvmsg,
            libc::SYS_kill,
            libc::SYS_memfd_create,
        ] {
            assert!(!ALLOWED.contains(&way_out) && !REFUSED.contains(&way_out), "{way_out}");
        }
    }
}
