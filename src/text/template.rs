//! Chat templates: Jinja text in the form that Hugging Face tokenizers carry, rendered over a list of
//! messages and encoded to ids. What a message says can never become a special token: a user who writes
//! "<|end|><|system|>" is quoted, not obeyed.

use minijinja::{Environment, ErrorKind, State, Value, context, syntax::SyntaxConfig};
use serde::{Deserialize, Serialize};

use super::Tokenizer;
use crate::base::{Context, Error, Result};

/// The template of models trained here.
pub const DEFAULT: &str = "\
{{ bos_token }}\
{% for message in messages %}\
{% if message.role not in ['system', 'user', 'assistant'] %}\
{{ raise_exception('a message has the role ' ~ message.role ~ ', not system, user or assistant') }}\
{% endif %}\
{{ '<|' ~ message.role ~ '|>' ~ message.content ~ '<|end|>' }}\
{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

/// A template larger than this is refused; the longest published ones have some 10 KB.
const TEMPLATE_BYTES_MAX: usize = 256 << 10;
/// Bounds a template that loops: about a second's work.
const FUEL: u64 = 5_000_000;
const NAME: &str = "chat_template";

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// "system", "user" or "assistant".
    pub role: String,
    pub content: String,
}

/// A parsed chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
}

impl Default for ChatTemplate {
    fn default() -> Self {
        Self::parse(DEFAULT).expect("a test renders the built-in template")
    }
}

impl ChatTemplate {
    /// Parses the Jinja text of a `chat_template` field.
    ///
    /// # Errors
    /// A syntax error, with its line; a template of more than 256 KiB.
    pub fn parse(source: &str) -> Result<Self> {
        if source.len() > TEMPLATE_BYTES_MAX {
            return Err(Error::failed(format!("a chat template of {} bytes", source.len())));
        }
        let mut environment = Environment::new();
        // As Hugging Face renders: a tag's own line leaves nothing behind.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.context("setting up the template syntax")?);
        environment.set_fuel(Some(FUEL));
        environment.add_function("raise_exception", raise_exception);
        environment.set_unknown_method_callback(python_method);
        environment.add_template_owned(NAME, source.to_owned()).context("parsing the chat template")?;
        Ok(Self { environment, source: source.to_owned() })
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// The conversation as text, special tokens written out: for people to look at.
    pub fn render(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String> {
        let special = |text: &str| tokenizer.id_of(text).map(|_| text.to_owned()).unwrap_or_default();
        let turns = messages.iter().map(|message| {
            Value::from_pairs([("role", message.role.as_str()), ("content", message.content.as_str())])
        });
        let template = self.environment.get_template(NAME).context("loading the chat template")?;
        template
            .render(context! {
                messages => turns.collect::<Value>(),
                add_generation_prompt => add_generation_prompt,
                bos_token => special("<|bos|>"),
                eos_token => special("<|eos|>"),
            })
            .context("rendering the chat template")
    }

    /// The ids of the conversation. With `add_generation_prompt` it ends where the assistant's answer begins.
    ///
    /// # Errors
    /// A role that the template does not know, or a template that fails or does not end.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>> {
        // Each special token that a message quotes is broken by a mark while the template runs (which may
        // trim, cut or join as it likes), is therefore not taken for one, and is made whole afterwards.
        let mark = unused_character(messages);
        let quoted: Vec<Message> = messages
            .iter()
            .map(|message| Message {
                role: message.role.clone(),
                content: break_specials(tokenizer, &message.content, mark),
            })
            .collect();
        let rendered = self.render(tokenizer, &quoted, add_generation_prompt)?;
        tokenizer.encode_quoted(&rendered, mark)
    }
}

crate::into_cause!(minijinja::Error);

/// A private-use character that no message holds.
fn unused_character(messages: &[Message]) -> char {
    let holds = |mark: char| messages.iter().any(|message| message.content.contains(mark));
    ('\u{F0000}'..='\u{FFFFD}').find(|&mark| !holds(mark)).unwrap_or('\u{10FFFD}')
}

/// Puts `mark` behind the first character of every special token that begins in `content`, also of those
/// that only begin here and might be finished by what the template writes behind.
fn break_specials(tokenizer: &Tokenizer, content: &str, mark: char) -> String {
    let specials: Vec<&str> = tokenizer.special_texts().collect();
    let mut broken = String::with_capacity(content.len());
    for (at, letter) in content.char_indices() {
        broken.push(letter);
        let rest = &content[at..];
        if specials.iter().any(|&special| rest.starts_with(special) || special.starts_with(rest)) {
            broken.push(mark);
        }
    }
    broken
}

fn raise_exception(message: String) -> std::result::Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// The methods of Python strings that published templates call.
fn python_method(
    _: &mut State,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> std::result::Result<Value, minijinja::Error> {
    let unknown = || minijinja::Error::from(ErrorKind::UnknownMethod);
    let text = value.as_str().ok_or_else(unknown)?;
    let argument = arguments.first().and_then(Value::as_str);
    Ok(match (method, argument) {
        ("strip", None) => text.trim().into(),
        ("lstrip", None) => text.trim_start().into(),
        ("rstrip", None) => text.trim_end().into(),
        ("strip", Some(set)) => text.trim_matches(|c| set.contains(c)).into(),
        ("lstrip", Some(set)) => text.trim_start_matches(|c| set.contains(c)).into(),
        ("rstrip", Some(set)) => text.trim_end_matches(|c| set.contains(c)).into(),
        ("upper", None) => text.to_uppercase().into(),
        ("lower", None) => text.to_lowercase().into(),
        ("startswith", Some(prefix)) => text.starts_with(prefix).into(),
        ("endswith", Some(suffix)) => text.ends_with(suffix).into(),
        ("split", Some(separator)) if !separator.is_empty() => {
            text.split(separator).map(Value::from).collect::<Vec<_>>().into()
        }
        _ => return Err(unknown()),
    })
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
