//! An object file open for reading. As a stream it is double-buffered: a thread opens the next window while the
//! caller is busy with this one.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use super::object::cause;
use crate::{
    base::{Context, Error, Id, Result},
    seal::{Digest, Key, Label, SealReader, WipedVec},
};

/// What is read ahead at once. Three windows fit a core's cache: one in use, one ready, one being opened.
const WINDOW_BYTES: usize = 1 << 20;
/// A request of this much is shared out over threads and opened where the caller wants it.
const READ_DIRECTLY_BYTES: usize = 8 << 20;

/// An object open for reading: as a stream through [`Read`], or at any place through [`ObjectReader::read_at`].
pub struct ObjectReader {
    sealed: Arc<SealReader>,
    /// Where the next window begins.
    position: u64,
    window: WipedVec,
    /// How much of the window was handed out.
    used: usize,
    ahead: Option<Ahead>,
}

impl ObjectReader {
    /// Opens the file at `path`, which must hold the object that `label` and `header_hash` describe.
    ///
    /// # Errors
    /// `Integrity`, naming the object, when the file is missing or holds anything else.
    pub fn open_file(path: &Path, key: &Key, label: Label, header_hash: &Digest) -> Result<Self> {
        let object = label.object;
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Error::integrity(format!("object {object} is missing: {} is not there", path.display()))
                    .remedy("restore the object from a backup")
            }
            _ => cause(error).context(format!("opening {}", path.display())),
        })?;
        let sealed = SealReader::open(file, key, label)?;
        if sealed.header().hash != *header_hash {
            return Err(Error::integrity(format!(
                "object {object} was replaced: its header is authentic, but not the one that was committed"
            )));
        }
        Ok(Self { sealed: Arc::new(sealed), position: 0, window: WipedVec::default(), used: 0, ahead: None })
    }

    pub fn id(&self) -> Id {
        self.sealed.header().label.object
    }

    pub fn len_bytes(&self) -> u64 {
        self.sealed.len_bytes()
    }

    /// Fills `out` from `offset`; several threads may do so at once, and a large range is itself read by several.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.sealed.read_at(offset, out)
    }

    /// How much ciphertext of other keys it carries.
    pub fn carried_bytes(&self) -> u64 {
        self.sealed.carried_bytes()
    }

    /// Fills `out` with what it carries, from `offset` on, as it is.
    pub fn read_carried_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.sealed.read_carried_at(offset, out)
    }

    /// Whether what it carries is what was written, by its hash.
    pub fn verify_carried(&self, buffer: &mut [u8]) -> Result<()> {
        self.sealed.verify_carried(buffer)
    }

    /// The whole object in memory.
    pub fn read_all(&self) -> Result<Vec<u8>> {
        self.sealed.read_all()
    }

    fn left_bytes(&self) -> usize {
        usize::try_from(self.len_bytes() - self.position).unwrap_or(usize::MAX)
    }

    /// Straight from the object, past the window; the stream goes on behind it.
    fn read_directly(&mut self, out: &mut [u8]) -> Result<()> {
        self.ahead = None;
        self.sealed.read_at(self.position, out)?;
        self.position += out.len() as u64;
        Ok(())
    }

    fn next_window(&mut self) -> Result<()> {
        // Should this fail, nothing of the old window is left to hand out.
        let mut window = std::mem::take(&mut self.window);
        self.used = 0;
        if self.ahead.is_none() && self.left_bytes() <= 2 * WINDOW_BYTES {
            // Not worth a thread.
            window = WipedVec::zeroed(self.left_bytes().min(WINDOW_BYTES));
            self.sealed.read_at(self.position, &mut window)?;
        } else {
            if self.ahead.is_none() {
                self.ahead = Some(Ahead::start(self.sealed.clone(), self.position)?);
            }
            window = self.ahead.as_mut().expect("started just above").next(window)?;
        }
        self.position += window.len() as u64;
        self.window = window;
        Ok(())
    }
}

const _: () = {
    const fn shared_by_threads<T: Send + Sync>() {}
    shared_by_threads::<ObjectReader>();
};

impl Read for ObjectReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.used == self.window.len() {
            let whole = out.len().min(self.left_bytes());
            if whole >= READ_DIRECTLY_BYTES || whole == 0 {
                self.read_directly(&mut out[..whole]).map_err(io::Error::other)?;
                return Ok(whole);
            }
            self.next_window().map_err(io::Error::other)?;
        }
        let taken = out.len().min(self.window.len() - self.used);
        out[..taken].copy_from_slice(&self.window[self.used..][..taken]);
        self.used += taken;
        Ok(taken)
    }

    /// Straight to its place, by several threads.
    fn read_to_end(&mut self, out: &mut Vec<u8>) -> io::Result<usize> {
        if out.is_empty() && self.position == 0 {
            *out = self.read_all().map_err(io::Error::other)?;
            self.position = self.len_bytes();
            return Ok(out.len());
        }
        let begin = out.len();
        out.extend_from_slice(&self.window[self.used..]);
        self.used = self.window.len();
        let direct = out.len();
        out.resize(direct + self.left_bytes(), 0);
        self.read_directly(&mut out[direct..]).map_err(io::Error::other)?;
        Ok(out.len() - begin)
    }
}

/// The thread that opens windows before they are asked for. It ends when the object does or nobody listens.
struct Ahead {
    /// The lock is never taken: it lets threads share the reader for reading at places.
    windows: Mutex<mpsc::Receiver<Result<WipedVec>>>,
    used: mpsc::Sender<WipedVec>,
}

impl Ahead {
    fn start(sealed: Arc<SealReader>, mut position: u64) -> Result<Self> {
        let (ready, windows) = mpsc::sync_channel(1);
        let (used, returned) = mpsc::channel::<WipedVec>();
        let work = move || {
            while position < sealed.len_bytes() {
                let length = (sealed.len_bytes() - position).min(WINDOW_BYTES as u64) as usize;
                let again = returned.try_recv().ok().filter(|window| window.len() == length);
                let mut window = again.unwrap_or_else(|| WipedVec::zeroed(length));
                let read = sealed.read_at(position, &mut window).map(|()| window);
                let failed = read.is_err();
                if ready.send(read).is_err() || failed {
                    return;
                }
                position += length as u64;
            }
        };
        thread::Builder::new().name("read-ahead".into()).spawn(work).context("starting to read ahead")?;
        Ok(Self { windows: Mutex::new(windows), used })
    }

    /// The next window; `used` is one that the caller is done with.
    fn next(&mut self, used: WipedVec) -> Result<WipedVec> {
        // A thread that has read all it needs no more windows.
        let _ = self.used.send(used);
        let windows = self.windows.get_mut().unwrap_or_else(PoisonError::into_inner);
        windows.recv().unwrap_or_else(|_| Err(Error::failed("reading ahead ended before the object did")))
    }
}
