//! Reading entries back, from any number on: for an index, for a page of the log. It trusts the files; whether
//! they deserve it, [`super::verify`] says. Of a running log it may show entries that nobody was told of yet:
//! those from `AuditLog::size` on.

use std::path::{Path, PathBuf};

use super::{
    Entry,
    log::last_segment,
    segment::{first_entry, is_checkpoint, segment_path, split_line},
};
use crate::base::{Context, Error, Result};

/// The entries of the log in `directory` from number `from` on, each with its number.
pub fn read(directory: &Path, from: u64) -> Result<Entries> {
    let mut entries = Entries {
        directory: directory.to_owned(),
        next_segment: 1,
        last_segment: last_segment(directory)?,
        from,
        segment: Vec::new(),
        at: 0,
    };
    // The last segment that begins at or before the wanted entry.
    let mut low = 1;
    let mut high = entries.last_segment;
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if header_first(directory, middle)? <= from { low = middle } else { high = middle - 1 }
    }
    entries.next_segment = low;
    Ok(entries)
}

/// Entries in order; see [`read`].
pub struct Entries {
    directory: PathBuf,
    next_segment: u64,
    last_segment: u64,
    from: u64,
    segment: Vec<u8>,
    at: usize,
}

impl Iterator for Entries {
    type Item = Result<(u64, Entry)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match split_line(&self.segment[self.at..]) {
                Some((line, rest)) => {
                    let entry = (!is_checkpoint(line)).then(|| Entry::from_line(line));
                    self.at = self.segment.len() - rest.len();
                    match entry {
                        Some(Ok((number, _))) if number < self.from => {}
                        Some(entry) => return Some(entry),
                        None => {}
                    }
                }
                None if self.next_segment > self.last_segment => return None,
                None => {
                    if let Err(error) = self.load() {
                        self.next_segment = self.last_segment + 1;
                        return Some(Err(error));
                    }
                }
            }
        }
    }
}

impl Entries {
    fn load(&mut self) -> Result<()> {
        let path = segment_path(&self.directory, self.next_segment);
        self.next_segment += 1;
        self.segment = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let (_, rest) = split_line(&self.segment)
            .ok_or_else(|| Error::integrity(format!("{} has no header", path.display())))?;
        self.at = self.segment.len() - rest.len();
        Ok(())
    }
}

fn header_first(directory: &Path, segment: u64) -> Result<u64> {
    use std::io::{BufRead, BufReader};
    let path = segment_path(directory, segment);
    let mut header = Vec::new();
    std::fs::File::open(&path)
        .and_then(|file| BufReader::new(file).read_until(b'\n', &mut header))
        .with_context(|| format!("reading {}", path.display()))?;
    first_entry(&header)
}
