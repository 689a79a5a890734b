//! What a file is, by its content: first bytes where a format has them, otherwise what its text looks like.

use encoding_rs::Encoding;

use super::{Options, Refused, encoding, office, table};
use crate::corpus::{Format, Reason};

/// How much of a text is looked at to tell what it is.
const HEAD_BYTES: usize = 64 << 10;

/// A file with the reader it needs, already decoded where that reader takes text.
pub enum Kind {
    Pdf(Vec<u8>),
    Docx(office::Package),
    Html(String),
    Markdown(String),
    /// With its delimiter.
    Table(String, u8),
    Json(String),
    Text(String),
}

impl Kind {
    pub fn format(&self) -> Format {
        match self {
            Self::Pdf(_) => Format::Pdf,
            Self::Docx(_) => Format::Docx,
            Self::Html(_) => Format::Html,
            Self::Markdown(_) => Format::Md,
            Self::Table(..) => Format::Csv,
            Self::Json(_) => Format::Jsonl,
            Self::Text(_) => Format::Txt,
        }
    }
}

/// # Errors
/// What is not read here, by name; `Binary` where nothing is known of it.
pub fn detect(source: Vec<u8>, options: &Options) -> Result<Kind, Refused> {
    let head = &source[..source.len().min(1024)];
    if head.windows(5).any(|five| five == b"%PDF-") {
        return Ok(Kind::Pdf(source));
    }
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        return office::open(source).map(Kind::Docx);
    }
    if head.starts_with(b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1") {
        return Err(office::refuse_compound(&source));
    }
    if let Some((_, name)) = KNOWN.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(Refused::new(Reason::Unsupported, *name));
    }
    if options.extension == "pdf" || options.extension == "docx" {
        let detail = format!("it does not begin as a {} file", options.extension);
        let format = if options.extension == "pdf" { Format::Pdf } else { Format::Docx };
        return Err(Refused::new(Reason::Malformed, detail).within(format));
    }
    let named = encoding_named_inside(head);
    let text = encoding::decode(source, named)?;
    of_text(text, options)
}

fn of_text(text: String, options: &Options) -> Result<Kind, Refused> {
    let head = &text[..text.floor_char_boundary(HEAD_BYTES)];
    let start = head.trim_start_matches(['\u{FEFF}', ' ', '\t', '\r', '\n']);
    if looks_like_html(start, options) {
        return Ok(Kind::Html(text));
    }
    if start.starts_with("<?xml") {
        return Err(Refused::new(Reason::Unsupported, "XML"));
    }
    let is_named_mail = matches!(options.extension.as_str(), "eml" | "mbox" | "mht" | "mhtml" | "emlx");
    // A message that somebody keeps as .txt is read as the text it is.
    if is_named_mail || (options.extension != "txt" && looks_like_mail(start)) {
        return Err(Refused::new(Reason::Unsupported, "e-mail"));
    }
    if looks_like_json(start) {
        return Ok(Kind::Json(text));
    }
    if let Some(delimiter) = table::delimiter(head, text.len() > head.len(), options) {
        return Ok(Kind::Table(text, delimiter));
    }
    if looks_like_markdown(head, options) {
        return Ok(Kind::Markdown(text));
    }
    Ok(Kind::Text(text))
}

/// First bytes of formats that people keep beside their documents.
const KNOWN: &[(&[u8], &str)] = &[
    (b"{\\rtf", "RTF"),
    (b"\x89PNG", "PNG image"),
    (b"\xFF\xD8\xFF", "JPEG image"),
    (b"GIF8", "GIF image"),
    (b"II*\0", "TIFF image"),
    (b"MM\0*", "TIFF image"),
    (b"RIFF", "RIFF media"),
    (b"OggS", "Ogg media"),
    (b"ID3", "MP3 audio"),
    (b"\x1F\x8B", "gzip archive"),
    (b"BZh", "bzip2 archive"),
    (b"\xFD7zXZ\0", "xz archive"),
    (b"\x28\xB5\x2F\xFD", "zstd archive"),
    (b"7z\xBC\xAF\x27\x1C", "7-Zip archive"),
    (b"Rar!\x1A\x07", "RAR archive"),
    (b"\x7FELF", "program"),
    (b"MZ", "Windows program"),
    (b"\xCA\xFE\xBA\xBE", "program"),
    (b"SQLite format 3\0", "SQLite database"),
    (b"PAR1", "Parquet table"),
    (b"GGUF", "GGUF model"),
    (b"WARC/1.", "WARC archive"),
    (b"%!PS", "PostScript"),
];

/// The encoding that an HTML or XML head names.
fn encoding_named_inside(head: &[u8]) -> Option<&'static Encoding> {
    let head = head.to_ascii_lowercase();
    let label = ["charset=", "encoding="].iter().find_map(|key| {
        let at = head.windows(key.len()).position(|window| window == key.as_bytes())?;
        let rest = &head[at + key.len()..];
        let rest = rest.strip_prefix(b"\"").or_else(|| rest.strip_prefix(b"'")).unwrap_or(rest);
        let end =
            rest.iter().position(|&byte| !(byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'))?;
        Some(rest[..end].to_vec())
    })?;
    if !head.contains(&b'<') {
        return None;
    }
    Encoding::for_label(&label)
}

fn looks_like_html(start: &str, options: &Options) -> bool {
    let opening = start[..start.floor_char_boundary(2048)].to_ascii_lowercase();
    if !opening.contains('<') {
        return false;
    }
    let begins = ["<!doctype html", "<html", "<head", "<body", "<title", "<meta", "<!--"];
    begins.iter().take(6).any(|tag| opening.starts_with(tag))
        || opening.contains("<html")
        // A fragment: its elements end, which the marks of other trades (SEC filings, say) do not.
        || (opening.starts_with('<')
            && ["</p>", "</div>", "</h1>", "</td>", "<body"].iter().any(|tag| opening.contains(tag)))
        || (matches!(options.extension.as_str(), "html" | "htm" | "xhtml") && opening.contains("</"))
}

fn looks_like_mail(start: &str) -> bool {
    const HEADERS: [&str; 10] = [
        "from:",
        "to:",
        "subject:",
        "date:",
        "received:",
        "message-id:",
        "mime-version:",
        "return-path:",
        "content-type:",
        "delivered-to:",
    ];
    let mut found = 0;
    for (number, line) in start.lines().take(60).enumerate() {
        if number == 0 && line.starts_with("From ") && line.contains('@') {
            found += 1;
            continue;
        }
        if line.is_empty() {
            break;
        }
        let is_folded = line.starts_with([' ', '\t']);
        let Some((name, _)) = line.split_once(':') else { if is_folded { continue } else { return false } };
        if !is_folded && !name.chars().all(|letter| letter.is_ascii_graphic()) {
            return false;
        }
        let name = format!("{}:", name.to_ascii_lowercase());
        found += usize::from(HEADERS.contains(&name.as_str()));
    }
    found >= 3
}

/// A JSON object or array of them at the beginning; prose in brackets does not go on like that.
fn looks_like_json(start: &str) -> bool {
    let mut rest = start.trim_start();
    if let Some(inside) = rest.strip_prefix('[') {
        rest = inside.trim_start();
    }
    let Some(inside) = rest.strip_prefix('{') else { return false };
    let inside = inside.trim_start();
    inside.starts_with('"') || inside.starts_with('}')
}

fn looks_like_markdown(head: &str, options: &Options) -> bool {
    if matches!(options.extension.as_str(), "md" | "markdown" | "mkd" | "mdown") {
        return true;
    }
    let mut headings = 0;
    let mut others = 0;
    for line in head.lines().take(2000) {
        let hashes = line.bytes().take_while(|&byte| byte == b'#').count();
        let after = &line[hashes..];
        headings += usize::from((1..=6).contains(&hashes) && after.starts_with(' ') && after.len() > 2);
        others += usize::from(line.contains("](") || line.starts_with("```") || line.contains("**"));
    }
    headings >= 2 && others >= 2
}
