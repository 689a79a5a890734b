//! Word documents: paragraphs, tables, lists, footnotes, endnotes, headers and footers, in the order in which
//! they are read. Deleted text (tracked changes), field codes and the fallback of a drawing are left out.
//! Elements are matched by their local names, so that strict and transitional files read alike; entities
//! beyond XML's own are not resolved, so that none can multiply or fetch.

use quick_xml::{
    Reader,
    events::{BytesStart, Event},
};

use super::{Refused, markdown::Blocks, office::Package};
use crate::corpus::Reason;

const DEPTH_MAX: usize = 512;

/// The text of the document.
pub fn read(mut package: Package) -> Result<String, Refused> {
    let names = package.names();
    let main = main_part(&mut package, &names)?;
    let mut out = Blocks::default();
    let beside = |kind: &str| -> Vec<String> {
        let is_kind = |name: &&String| name.starts_with(&format!("word/{kind}")) && name.ends_with(".xml");
        names.iter().filter(is_kind).cloned().collect()
    };
    // The same header stands in several parts when sections repeat it.
    let mut said: Vec<String> = Vec::new();
    for name in beside("header") {
        once(&mut package, &name, &mut said, &mut out)?;
    }
    let body =
        package.part(&main)?.ok_or_else(|| Refused::new(Reason::Malformed, "its main part is missing"))?;
    append(&body, &mut out)?;
    for kind in ["footnotes", "endnotes", "footer"] {
        for name in beside(kind) {
            once(&mut package, &name, &mut said, &mut out)?;
        }
    }
    Ok(out.finish())
}

fn once(package: &mut Package, name: &str, said: &mut Vec<String>, out: &mut Blocks) -> Result<(), Refused> {
    let Some(part) = package.part(name)? else { return Ok(()) };
    let mut own = Blocks::default();
    append(&part, &mut own)?;
    let text = own.finish().trim().to_owned();
    if !text.is_empty() && !said.contains(&text) {
        out.block();
        out.words(&text);
        out.block();
        said.push(text);
    }
    Ok(())
}

/// The part that the package's relations name as its document; nearly always `word/document.xml`.
fn main_part(package: &mut Package, names: &[String]) -> Result<String, Refused> {
    const USUAL: &str = "word/document.xml";
    if names.iter().any(|name| name == USUAL) {
        return Ok(USUAL.to_owned());
    }
    let relations = package.part("_rels/.rels")?.unwrap_or_default();
    let mut reader = Reader::from_reader(&relations[..]);
    let mut buffer = Vec::new();
    while let Ok(event) = reader.read_event_into(&mut buffer) {
        match event {
            Event::Eof => break,
            Event::Start(tag) | Event::Empty(tag)
                if attribute(&tag, "Type").is_some_and(|kind| kind.ends_with("/officeDocument")) =>
            {
                let target = attribute(&tag, "Target").unwrap_or_default();
                return Ok(target.trim_start_matches('/').to_owned());
            }
            _ => {}
        }
        buffer.clear();
    }
    Err(Refused::new(Reason::Malformed, "it names no main part"))
}

fn attribute(tag: &BytesStart, name: &str) -> Option<String> {
    let found = tag.attributes().flatten().find(|attribute| attribute.key.local_name().as_ref() == name)?;
    Some(found.value.into_owned())
}

/// Appends the text of one part.
fn append(part: &[u8], out: &mut Blocks) -> Result<(), Refused> {
    let mut reader = Reader::from_reader(part);
    reader.config_mut().check_end_names = false;
    let mut buffer = Vec::new();
    let mut place = Place::default();
    loop {
        let event = reader
            .read_event_into(&mut buffer)
            .map_err(|_| Refused::new(Reason::Malformed, "its XML breaks off"))?;
        match event {
            Event::Eof => return Ok(()),
            Event::Start(tag) => place.enter(tag.local_name().as_ref(), out)?,
            Event::Empty(tag) => {
                place.enter(tag.local_name().as_ref(), out)?;
                place.leave(tag.local_name().as_ref(), out);
            }
            Event::End(tag) => place.leave(tag.local_name().as_ref(), out),
            Event::Text(text) if place.is_text() => {
                out.words(&text);
            }
            Event::GeneralRef(entity) if place.is_text() => {
                if let Some(letter) = entity_letter(&entity) {
                    out.words(letter.encode_utf8(&mut [0; 4]));
                }
            }
            Event::DocType(_) => {
                return Err(Refused::new(Reason::Malformed, "it declares entities of its own"));
            }
            _ => {}
        }
        buffer.clear();
    }
}

/// One of XML's five entities, or a character by number.
fn entity_letter(entity: &quick_xml::events::BytesRef) -> Option<char> {
    if let Ok(Some(letter)) = entity.resolve_char_ref() {
        return Some(letter);
    }
    match &**entity {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => None,
    }
}

/// Where in the tree the reader stands, as far as text depends on it.
#[derive(Default)]
struct Place {
    depth: usize,
    /// Within `w:t`.
    in_text: usize,
    /// Within something that is not the document's text.
    left_out: usize,
    in_cell: usize,
    /// Paragraphs begun in the cell.
    in_cell_paragraphs: usize,
}

impl Place {
    fn is_text(&self) -> bool {
        self.in_text > 0 && self.left_out == 0
    }

    fn enter(&mut self, name: &str, out: &mut Blocks) -> Result<(), Refused> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Refused::new(Reason::TooMuch, "its XML nests without end"));
        }
        match name {
            "t" => self.in_text += 1,
            "Fallback" | "del" | "moveFrom" | "instrText" => self.left_out += 1,
            "tab" if self.left_out == 0 && self.in_cell == 0 => out.words("\t"),
            "tab" => out.space(),
            "br" | "cr" if self.left_out == 0 => out.line(),
            "noBreakHyphen" if self.left_out == 0 => out.words("-"),
            "tbl" => out.block(),
            "tc" => {
                self.in_cell += 1;
                self.in_cell_paragraphs = 0;
                out.cell();
            }
            "p" if self.in_cell > 0 => {
                self.in_cell_paragraphs += 1;
                if self.in_cell_paragraphs > 1 {
                    out.space();
                }
            }
            "p" if self.left_out == 0 => out.block(),
            _ => {}
        }
        Ok(())
    }

    fn leave(&mut self, name: &str, out: &mut Blocks) {
        self.depth = self.depth.saturating_sub(1);
        match name {
            "t" => self.in_text = self.in_text.saturating_sub(1),
            "Fallback" | "del" | "moveFrom" | "instrText" => self.left_out = self.left_out.saturating_sub(1),
            // A text box ends within the paragraph that it is anchored in.
            "p" if self.in_cell == 0 => out.block(),
            "tr" => out.line(),
            "tc" => self.in_cell = self.in_cell.saturating_sub(1),
            "tbl" => out.block(),
            _ => {}
        }
    }
}
