//! What a file is, by its first bytes.

use super::{Options, Refused};
use crate::corpus::Reason;

/// The reader that a file needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
}

pub fn detect(source: &[u8], _options: &Options) -> Result<Kind, Refused> {
    let head = &source[..source.len().min(4096)];
    if head.contains(&0) && !super::encoding::has_bom(head) {
        return Err(Refused::new(Reason::Binary, ""));
    }
    Ok(Kind::Text)
}
