//! Containers of office documents: ZIP packages (docx and its siblings) and the older compound files. Every
//! part is unpacked against limits of size and ratio, so that a small file cannot become a large one.

use std::io::{Cursor, Read};

use zip::{ZipArchive, result::ZipError};

use super::Refused;
use crate::corpus::{Format, Reason};

const PARTS_MAX: usize = 20_000;
/// All parts that are read, together.
const UNPACKED_BYTES_MAX: u64 = 128 << 20;
/// Deflate reaches a thousandfold on zeroes; text stays below thirty. Small parts may do as they like.
const RATIO_MAX: u64 = 200;
const RATIO_COUNTS_FROM_BYTES: u64 = 1 << 20;

/// An opened ZIP package whose parts are read by name.
pub struct Package {
    archive: ZipArchive<Cursor<Vec<u8>>>,
    unpacked_bytes: u64,
}

/// Opens a ZIP file that holds a Word document.
///
/// # Errors
/// What it is instead, where that can be told.
pub fn open(source: Vec<u8>) -> Result<Package, Refused> {
    let archive = ZipArchive::new(Cursor::new(source)).map_err(|error| match error {
        ZipError::InvalidArchive(_) => Refused::new(Reason::Truncated, "a ZIP package without its directory"),
        _ => Refused::new(Reason::Malformed, "not a ZIP package after all"),
    })?;
    if archive.len() > PARTS_MAX {
        return Err(Refused::new(Reason::TooMuch, format!("{} files in one package", archive.len())));
    }
    let holds = |part: &str| {
        archive.file_names().flatten().any(|name| name.trim_start_matches('/').starts_with(part))
    };
    if holds("word/") {
        return Ok(Package { archive, unpacked_bytes: 0 });
    }
    let what = match () {
        () if holds("xl/") => "Excel workbook",
        () if holds("ppt/") => "PowerPoint presentation",
        () if holds("META-INF/container.xml") => "EPUB book",
        () if holds("content.xml") => "OpenDocument file",
        () => "ZIP archive",
    };
    Err(Refused::new(Reason::Unsupported, what))
}

impl Package {
    /// The names of all parts, in order.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.archive.file_names().flatten().map(Into::into).collect();
        names.sort_unstable();
        names
    }

    /// A part's bytes; `None` where there is no such part.
    pub fn part(&mut self, name: &str) -> Result<Option<Vec<u8>>, Refused> {
        let part = match self.archive.by_name(name) {
            Ok(part) => part,
            Err(ZipError::FileNotFound) => return Ok(None),
            Err(ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED)) => {
                return Err(Refused::new(Reason::Encrypted, ""));
            }
            Err(_) => {
                return Err(Refused::new(Reason::Malformed, "a part of the package cannot be unpacked"));
            }
        };
        let packed_bytes = part.compressed_size().max(1);
        let allowed = (UNPACKED_BYTES_MAX - self.unpacked_bytes)
            .min((packed_bytes * RATIO_MAX).max(RATIO_COUNTS_FROM_BYTES));
        let mut bytes = Vec::new();
        // Counted as it comes: what the directory says of sizes is only a claim.
        part.take(allowed + 1)
            .read_to_end(&mut bytes)
            .map_err(|_| Refused::new(Reason::Malformed, "a part of the package is damaged"))?;
        if bytes.len() as u64 > allowed {
            return Err(Refused::new(Reason::TooMuch, "a part of the package unfolds without end"));
        }
        self.unpacked_bytes += bytes.len() as u64;
        Ok(Some(bytes))
    }
}

/// What a compound file (the container of Office before 2007) is. The names in its directory are UTF-16.
pub fn refuse_compound(source: &[u8]) -> Refused {
    let holds = |name: &str| {
        let wide: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        source.windows(wide.len()).any(|window| window == wide)
    };
    if holds("EncryptedPackage") {
        return Refused::new(Reason::Encrypted, "").within(Format::Docx);
    }
    let what = match () {
        () if holds("WordDocument") => "Word document of before 2007 (.doc)",
        () if holds("Workbook") || holds("Book") => "Excel workbook of before 2007 (.xls)",
        () if holds("PowerPoint Document") => "PowerPoint presentation of before 2007 (.ppt)",
        () if holds("__substg1.0_") => "Outlook message (.msg)",
        () => "compound file",
    };
    Refused::new(Reason::Unsupported, what)
}
