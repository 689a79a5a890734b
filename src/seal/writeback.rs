//! A file that begins to go to the disk while it is still being written, so that the sync at the end finds
//! little left to do.
#![allow(unsafe_code)] // sync_file_range, which std does not offer

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsRawFd,
};

/// Small enough to keep the disk busy from early on, large enough for the disk to be fast.
const STEP_BYTES: u64 = 8 << 20;

/// A file that is written from its start to its end.
pub struct Writeback {
    file: File,
    written_bytes: u64,
    begun_bytes: u64,
}

impl Writeback {
    pub fn new(file: File) -> Self {
        Self { file, written_bytes: 0, begun_bytes: 0 }
    }

    pub fn into_file(self) -> File {
        self.file
    }

    /// Lets the disk begin with all of `file` that it does not have yet.
    pub fn begin(file: &File) {
        begin(file, 0, 0);
    }
}

impl Write for Writeback {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.written_bytes += written as u64;
        let ready = self.written_bytes - self.begun_bytes;
        if ready >= STEP_BYTES {
            begin(&self.file, self.begun_bytes, ready);
            self.begun_bytes = self.written_bytes;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A hint: where the file system does not take it, the sync at the end does the work. A length of 0 is up to the end.
fn begin(file: &File, from: u64, len_bytes: u64) {
    let (from, length) = (from as libc::off64_t, len_bytes as libc::off64_t);
    // SAFETY: a call with a descriptor that is open and three numbers.
    unsafe { libc::sync_file_range(file.as_raw_fd(), from, length, libc::SYNC_FILE_RANGE_WRITE) };
}
