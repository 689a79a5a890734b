//! The documents that ship with cloister, for a first run without documents of one's own: they are part of
//! the binary and are read from it, so that a trial needs neither a network nor a folder, and leaves nothing
//! unsealed on the disk. `packaging/sample/README.md` says what they are and whose.

use std::io::{Cursor, Read};

use zip::ZipArchive;

use crate::base::{Context, Error, Result};

/// The licence that the sample documents stand under.
pub const LICENCE: &str = "CC BY-SA 4.0, LexPredict (ContraxSuite samples); texts from SEC EDGAR";

static ARCHIVE: &[u8] = include_bytes!("../../packaging/sample/documents.zip");

/// One file of the sample.
pub struct SampleFile {
    /// `sample/licences/001-….txt`
    pub name: String,
    pub source: Vec<u8>,
}

/// All files of the sample, in the order of their names.
pub fn files() -> Result<Vec<SampleFile>> {
    let mut archive = ZipArchive::new(Cursor::new(ARCHIVE)).map_err(broken)?;
    let mut files = Vec::with_capacity(archive.len());
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).map_err(broken)?;
        let name = file.name().map_err(broken)?.into_owned();
        let mut source = Vec::new();
        file.read_to_end(&mut source).context("unpacking the sample documents")?;
        files.push(SampleFile { name: format!("sample/{name}"), source });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn broken(error: zip::result::ZipError) -> Error {
    Error::failed(format!("the sample documents in this binary cannot be unpacked: {error}"))
}
