//! HTML to plain text, by the tree that a browser would build: blocks stand apart, inline marks join, and
//! what a reader of the page would not call its text (scripts, styles, menus, forms) is left out.

use html5ever::{parse_document, tendril::TendrilSink};
use markup5ever_rcdom::{Handle, NodeData, RcDom};

use super::markdown::Blocks;

/// Elements without text of their own.
const LEFT_OUT: &[&str] = &[
    "script", "style", "noscript", "template", "svg", "math", "iframe", "object", "embed", "canvas", "audio",
    "video", "button", "select", "option", "input", "textarea", "dialog", "head",
];
/// Elements that hold what stands on every page of a site.
const AROUND: &[&str] = &["nav", "footer", "aside"];
const BLOCKS: &[&str] = &[
    "p",
    "div",
    "section",
    "article",
    "main",
    "header",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "ul",
    "ol",
    "dl",
    "table",
    "blockquote",
    "pre",
    "figure",
    "fieldset",
    "address",
    "hr",
    "details",
    "center",
    "body",
];
const LINES: &[&str] = &["br", "tr", "dt", "dd", "summary", "caption", "figcaption", "legend"];
/// The same by landmark (ARIA).
const AROUND_ROLES: &[&str] = &["navigation", "banner", "contentinfo", "search", "dialog", "menu"];

/// Where less than this share of a page's words is left without its surroundings, they were not surroundings.
const SHARE_LEFT_MIN: f64 = 0.2;

/// The text of a page.
pub fn to_text(html: &str) -> String {
    let dom = parse_document(RcDom::default(), html5ever::ParseOpts::default()).one(html);
    let inner = body_text(&dom.document, false);
    let whole = body_text(&dom.document, true);
    let body = if (inner.len() as f64) < SHARE_LEFT_MIN * whole.len() as f64 { whole } else { inner };
    let mut out = Blocks::default();
    if let Some(title) = title(&dom.document) {
        out.words(&title);
        out.block();
    }
    out.words(&body);
    out.finish()
}

fn body_text(document: &Handle, with_surroundings: bool) -> String {
    let mut out = Blocks::default();
    // An explicit stack: a page may nest deeper than ours reaches.
    let mut pending = vec![Step::Enter(document.clone(), false)];
    while let Some(step) = pending.pop() {
        match step {
            Step::Enter(node, preformatted) => {
                enter(&node, preformatted, with_surroundings, &mut out, &mut pending);
            }
            Step::EndBlock => out.block(),
            Step::EndLine => out.line(),
        }
    }
    out.finish()
}

enum Step {
    /// With whether white space counts there.
    Enter(Handle, bool),
    EndBlock,
    EndLine,
}

fn enter(
    node: &Handle,
    mut preformatted: bool,
    with_surroundings: bool,
    out: &mut Blocks,
    pending: &mut Vec<Step>,
) {
    match &node.data {
        NodeData::Text { contents } if preformatted => out.words(&contents.borrow()),
        NodeData::Text { contents } => flowing(&contents.borrow(), out),
        NodeData::Element { name, .. } => {
            let name = name.local.as_ref();
            if LEFT_OUT.contains(&name) || is_hidden(node) {
                return;
            }
            if !with_surroundings && (AROUND.contains(&name) || is_landmark_around(node)) {
                return;
            }
            preformatted |= name == "pre";
            match name {
                "li" => {
                    out.item();
                    pending.push(Step::EndLine);
                }
                "td" | "th" => out.cell(),
                _ if BLOCKS.contains(&name) => {
                    out.block();
                    pending.push(Step::EndBlock);
                }
                _ if LINES.contains(&name) => {
                    out.line();
                    pending.push(Step::EndLine);
                }
                _ => {}
            }
        }
        NodeData::Document | NodeData::Doctype { .. } => {}
        NodeData::Comment { .. } | NodeData::ProcessingInstruction { .. } => return,
    }
    pending.extend(node.children.borrow().iter().rev().map(|child| Step::Enter(child.clone(), preformatted)));
}

/// Text in which any run of white space is one space.
fn flowing(text: &str, out: &mut Blocks) {
    if text.starts_with(|letter: char| letter.is_ascii_whitespace()) {
        out.space();
    }
    let mut words = text.split_ascii_whitespace().peekable();
    while let Some(word) = words.next() {
        out.words(word);
        if words.peek().is_some() || text.ends_with(|letter: char| letter.is_ascii_whitespace()) {
            out.space();
        }
    }
}

fn is_hidden(node: &Handle) -> bool {
    any_attribute(node, |name, value| match name {
        "hidden" => true,
        "aria-hidden" => value == "true",
        "style" => {
            let style: String = value.chars().filter(|letter| !letter.is_whitespace()).collect();
            style.contains("display:none") || style.contains("visibility:hidden")
        }
        _ => false,
    })
}

fn is_landmark_around(node: &Handle) -> bool {
    any_attribute(node, |name, value| name == "role" && AROUND_ROLES.contains(&value))
}

fn any_attribute(node: &Handle, holds: impl Fn(&str, &str) -> bool) -> bool {
    let NodeData::Element { attrs, .. } = &node.data else { return false };
    let holds = |attribute: &html5ever::Attribute| {
        holds(attribute.name.local.as_ref(), &attribute.value.to_ascii_lowercase())
    };
    attrs.borrow().iter().any(holds)
}

/// The title, where the page does not say it again in its first heading.
fn title(document: &Handle) -> Option<String> {
    let find = |within: &Handle, wanted: &str| {
        let mut pending = vec![within.clone()];
        while let Some(node) = pending.pop() {
            if matches!(&node.data, NodeData::Element { name, .. } if name.local.as_ref() == wanted) {
                return Some(node);
            }
            pending.extend(node.children.borrow().iter().rev().cloned());
        }
        None
    };
    let head = find(document, "head")?;
    let title = words_of(&find(&head, "title")?);
    let heading = find(document, "h1").map(|heading| words_of(&heading));
    (!title.is_empty() && heading.as_ref() != Some(&title)).then_some(title)
}

fn words_of(node: &Handle) -> String {
    let mut words = String::new();
    let mut pending = vec![node.clone()];
    while let Some(node) = pending.pop() {
        if let NodeData::Text { contents } = &node.data {
            words.push_str(&contents.borrow());
        }
        pending.extend(node.children.borrow().iter().rev().cloned());
    }
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separates_blocks_joins_inline_and_leaves_out_what_is_not_text() {
        let html = "<!doctype html><html><head><title>A page</title><style>p{}</style></head><body>\
            <nav><a href=/>Home</a></nav><h1>Heading</h1><p>One <b>bold</b>ly\n   put.<br>Next line.</p>\
            <ul><li>first<li>second</ul><table><tr><th>a<th>b<tr><td>1<td>2</table>\
            <script>steal()</script><!-- secret --><div style='display: none'>hidden</div><pre>x\n  y</pre>\
            <footer>imprint</footer>";
        assert_eq!(
            to_text(html).trim_end(),
            "A page\n\nHeading\n\nOne boldly put.\nNext line.\n\n- first\n- second\n\na\tb\n1\t2\n\nx\n  y"
        );
    }

    #[test]
    fn nesting_beyond_any_stack_is_only_deep() {
        let html = format!("{}deep{}", "<div>".repeat(20_000), "</div>".repeat(20_000));
        assert_eq!(to_text(&html), "deep");
        assert_eq!(to_text(""), "");
        assert_eq!(to_text("<p>open <i>ended"), "open ended");
    }
}
