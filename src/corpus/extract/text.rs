//! Plain text: one document a file.

use super::{Event, Format, Piece, Refused, encoding};

pub fn read(source: Vec<u8>, sink: &mut dyn FnMut(Event) -> Result<(), Refused>) -> Result<(), Refused> {
    sink(Event::Piece(Piece::whole(Format::Txt, encoding::decode(source))))
}
