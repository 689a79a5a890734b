//! Markdown to plain text: the words and the order stay, the marks go. Headings and paragraphs stand apart,
//! list items keep a dash, code keeps its lines, links and images keep their words.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// The text of a Markdown document.
pub fn to_text(markdown: &str) -> String {
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS;
    let mut out = Blocks::default();
    let mut skipping = false;
    for event in Parser::new_ext(markdown, options) {
        match event {
            Event::Start(Tag::MetadataBlock(_)) => skipping = true,
            Event::End(TagEnd::MetadataBlock(_)) => skipping = false,
            _ if skipping => {}
            Event::Start(Tag::Item) => out.item(),
            Event::Start(Tag::TableCell) => out.cell(),
            Event::End(TagEnd::TableRow | TagEnd::TableHead | TagEnd::Item) => out.line(),
            Event::Start(tag) if is_block(&tag) => out.block(),
            Event::End(end) if ends_block(end) => out.block(),
            Event::Text(text) | Event::Code(text) | Event::InlineMath(text) | Event::DisplayMath(text) => {
                out.words(&text);
            }
            Event::Html(html) | Event::InlineHtml(html) if html.starts_with("<br") => out.line(),
            Event::SoftBreak | Event::HardBreak => out.line(),
            Event::Rule => out.block(),
            _ => {}
        }
    }
    out.finish()
}

fn is_block(tag: &Tag) -> bool {
    matches!(
        tag,
        Tag::Paragraph
            | Tag::Heading { .. }
            | Tag::BlockQuote(_)
            | Tag::CodeBlock(_)
            | Tag::Table(_)
            | Tag::FootnoteDefinition(_)
    )
}

fn ends_block(end: TagEnd) -> bool {
    matches!(
        end,
        TagEnd::Paragraph
            | TagEnd::Heading(_)
            | TagEnd::BlockQuote(_)
            | TagEnd::CodeBlock
            | TagEnd::List(_)
            | TagEnd::Table
            | TagEnd::FootnoteDefinition
    )
}

/// Text in blocks that stand one empty line apart; shared with the other formats that know blocks.
#[derive(Default)]
pub struct Blocks {
    text: String,
    /// Line ends that are due before the next word.
    due: usize,
    /// A list item's dash has just been written: its paragraph goes on the same line.
    after_dash: bool,
    /// Words stand on this line already.
    within_row: bool,
}

impl Blocks {
    /// What follows stands in a block of its own.
    pub fn block(&mut self) {
        if !self.after_dash {
            self.due = 2;
        }
        self.within_row = false;
    }

    /// What follows stands on a line of its own.
    pub fn line(&mut self) {
        self.due = self.due.max(1);
        self.after_dash = false;
        self.within_row = false;
    }

    pub fn item(&mut self) {
        self.line();
        self.words("- ");
        self.after_dash = true;
    }

    /// What follows is a further cell of a table's row.
    pub fn cell(&mut self) {
        if self.within_row && self.due == 0 {
            self.text.push('\t');
        }
        self.within_row = true;
        self.after_dash = false;
    }

    pub fn words(&mut self, words: &str) {
        if words.is_empty() {
            return;
        }
        if !self.text.is_empty() {
            self.text.extend(std::iter::repeat_n('\n', self.due));
        }
        self.due = 0;
        self.after_dash = false;
        self.text.push_str(words);
    }

    /// A space, unless white space stands there already.
    pub fn space(&mut self) {
        if self.due == 0 && !self.text.is_empty() && !self.text.ends_with([' ', '\n', '\t']) {
            self.text.push(' ');
        }
    }

    pub fn finish(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_words_and_drops_the_marks() {
        let markdown = "---\ntitle: x\n---\n# Title *one*\n\nA [link](http://x) and `code`.\nSecond line.\n\n\
            - first\n- second\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```rust\nlet x = 1;\n```\n\n> quoted\n";
        let text = to_text(markdown);
        assert_eq!(
            text.trim_end(),
            "Title one\n\nA link and code.\nSecond line.\n\n- first\n- second\n\na\tb\n1\t2\n\nlet x = 1;\n\n\nquoted"
        );
    }
}
