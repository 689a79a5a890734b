//! What a daemon holds as long as it lives, sealed or not: the lock on its data directory, the admin socket and the
//! API's address. Sealing replaces the process by a fresh one that knows no key; all three pass to it over its standard
//! input, so that nobody else can take one of them in between.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::{admin::Listener, lock::Lock, warden::Warden};
use crate::base::{Context, Error, ErrorKind, Result, error::IntoCause};

/// Goes with the descriptors: whatever else lies on a standard input is not taken for them.
const MARK: &[u8] = b"cloister doors v1\n";
const DESCRIPTORS: usize = 3;

pub struct Doors {
    lock: Arc<Lock>,
    admin: Listener,
    /// None once newcomers are refused.
    api: Mutex<Option<TcpListener>>,
    address: SocketAddr,
}

impl Warden {
    /// What a daemon needs to be spoken to.
    pub fn doors(&self, listen: SocketAddr) -> Result<Doors> {
        Doors::open(Arc::clone(&self.lock), &self.data_dir, listen)
    }
}

impl Doors {
    /// # Errors
    /// An address that cannot be had, an admin socket that cannot be made.
    pub(super) fn open(lock: Arc<Lock>, data_dir: &Path, listen: SocketAddr) -> Result<Self> {
        let api = TcpListener::bind(listen)
            .with_context(|| format!("listening on {listen}"))
            .map_err(|error| error.remedy("choose another place with --listen ADDRESS:PORT"))?;
        Self::of(lock, Listener::bind(data_dir)?, api)
    }

    fn of(lock: Arc<Lock>, admin: Listener, api: TcpListener) -> Result<Self> {
        api.set_nonblocking(true).context("preparing to listen")?;
        let address = api.local_addr().context("asking for the address")?;
        Ok(Self { lock, admin, api: Mutex::new(Some(api)), address })
    }

    pub fn admin(&self) -> &Listener {
        &self.admin
    }

    /// Where the API listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The API's listener, for as long as one phase of the daemon goes.
    pub fn api(&self) -> Result<TcpListener> {
        let api = self.api.lock().unwrap_or_else(PoisonError::into_inner);
        let api = api.as_ref().ok_or_else(|| Error::interrupted("the API's address was given up"))?;
        api.try_clone().context("preparing to listen")
    }

    /// Refuses newcomers, as soon as the phase that goes on lets go of its own listener.
    pub fn close_api(&self) {
        self.api.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Becomes `next`, a process that knows nothing of this one's and goes on with its doors. Returns where that
    /// failed, and only then.
    pub fn hand_over(self, mut next: Command) -> Error {
        let error = match self.packed() {
            Ok(packed) => next.stdin(packed).exec().into_cause().context("starting again"),
            Err(error) => error,
        };
        error
            .with_kind(ErrorKind::Sealed)
            .context("no key is in use any more, and this daemon ends")
            .remedy("start it again with `cloister serve --sealed`")
    }

    /// The descriptors, on their way through a socket.
    fn packed(&self) -> Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair().context("making a socket")?;
        let api = self.api()?;
        let descriptors: [_; DESCRIPTORS] = [self.lock.as_fd(), self.admin.as_fd(), api.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut message = SendAncillaryBuffer::new(&mut space);
        message.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&ours, &[IoSlice::new(MARK)], &mut message, SendFlags::empty())
            .map_err(std::io::Error::from)
            .context("handing the doors over")?;
        Ok(theirs.into())
    }

    /// What an earlier life of this process handed over.
    ///
    /// # Errors
    /// `Usage` where nothing was.
    pub(super) fn handed_over(data_dir: &Path) -> Result<(Arc<Lock>, Self)> {
        let nothing = || Error::usage("nothing was handed over").remedy("leave --handed-over to the daemon");
        let [lock, admin, api] = unpacked(std::io::stdin()).ok_or_else(nothing)?;
        let lock = Arc::new(Lock::from(lock));
        let doors = Self::of(Arc::clone(&lock), Listener::handed_over(admin.into(), data_dir), api.into())?;
        Ok((lock, doors))
    }
}

fn unpacked(from: impl AsFd) -> Option<[OwnedFd; DESCRIPTORS]> {
    let mut mark = [0; MARK.len()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    recvmsg(from, &mut [IoSliceMut::new(&mut mark)], &mut message, flags).ok()?;
    let mut descriptors = Vec::new();
    for part in message.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            descriptors.extend(rights);
        }
    }
    if mark != MARK { None } else { descriptors.try_into().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::lock::{Attempt, try_lock};

    #[test]
    fn what_is_handed_over_holds_on_though_the_first_owner_is_gone() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let Attempt::Held(lock) = try_lock(directory.path()).expect("tries") else { panic!("taken") };
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let doors = Doors::open(Arc::new(lock), directory.path(), listen).expect("doors");
        let address = doors.address();
        let packed = doors.packed().expect("packed");
        drop(doors);
        assert!(matches!(try_lock(directory.path()).expect("tries"), Attempt::Taken { .. }));
        assert!(TcpListener::bind(address).is_err(), "the address is still taken");
        let [lock, _admin, api] = unpacked(&packed).expect("three descriptors");
        assert_eq!(TcpListener::from(api).local_addr().expect("an address"), address);
        assert!(matches!(try_lock(directory.path()).expect("tries"), Attempt::Taken { .. }));
        drop(lock);
        assert!(matches!(try_lock(directory.path()).expect("tries"), Attempt::Held(_)));
        assert!(unpacked(&packed).is_none(), "they come once");
    }

    #[test]
    fn what_is_no_handing_over_is_not_taken_for_one() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        assert!(unpacked(&theirs).is_none(), "nothing came");
        std::io::Write::write_all(&mut &ours, MARK).expect("sent");
        assert!(unpacked(&theirs).is_none(), "a mark alone");
        let file = std::fs::File::open("/dev/null").expect("a file");
        assert!(unpacked(&file).is_none(), "no socket");
    }
}
