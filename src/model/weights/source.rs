//! Where weights are read from.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use crate::{
    base::{Context, Error, Result},
    vault::ObjectReader,
};

/// Bytes that can be read at any place.
pub trait Source: Sync {
    fn len_bytes(&self) -> u64;
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()>;
}

impl Source for ObjectReader {
    fn len_bytes(&self) -> u64 {
        self.len_bytes()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.read_at(offset, out)
    }
}

impl Source for [u8] {
    fn len_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let start = usize::try_from(offset).ok();
        let bytes = start.and_then(|start| self.get(start..start.checked_add(out.len())?));
        out.copy_from_slice(bytes.ok_or_else(|| Error::integrity("the weights end too early"))?);
        Ok(())
    }
}

impl<S: Source + ?Sized> Source for &S {
    fn len_bytes(&self) -> u64 {
        (**self).len_bytes()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        (**self).read_at(offset, out)
    }
}

/// A plain file.
pub struct OpenFile {
    file: File,
    len_bytes: u64,
}

impl OpenFile {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let len_bytes = file.metadata().with_context(|| format!("looking at {}", path.display()))?.len();
        Ok(Self { file, len_bytes })
    }
}

impl Source for OpenFile {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(out, offset).context("reading weights")
    }
}
