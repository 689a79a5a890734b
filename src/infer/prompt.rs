//! Prompts as people give them, and as the model reads them: beginning the way every document did in training.

use serde::{Deserialize, Serialize};

use crate::{
    base::Result,
    text::{ChatTemplate, Message, Special, Tokenizer},
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    Chat(Vec<Message>),
    Text(String),
    /// Taken as they are.
    Tokens(Vec<u32>),
}

impl Prompt {
    /// # Errors
    /// A conversation that the template refuses.
    pub fn encode(&self, tokenizer: &Tokenizer, template: &ChatTemplate) -> Result<Vec<u32>> {
        match self {
            Self::Tokens(tokens) => Ok(tokens.clone()),
            Self::Chat(messages) => template.encode(tokenizer, messages, true),
            Self::Text(text) => {
                let mut tokens: Vec<u32> = tokenizer.special(Special::Bos).into_iter().collect();
                tokens.extend(tokenizer.encode(text)?);
                Ok(tokens)
            }
        }
    }
}

impl Prompt {
    /// Tokens that it has at the least, found without encoding it: a bound that is cheap where the exact number
    /// would take seconds and hundreds of megabytes.
    pub fn tokens_at_least(&self, longest_piece_bytes: usize) -> usize {
        let bytes = match self {
            Self::Tokens(tokens) => return tokens.len(),
            Self::Text(text) => text.len(),
            Self::Chat(messages) => messages.iter().map(|message| message.content.len()).sum(),
        };
        bytes / longest_piece_bytes.max(1)
    }
}

/// The tokens with which a model may end its answer: ours, and those of the families that are imported.
pub fn end_tokens(tokenizer: &Tokenizer) -> Vec<u32> {
    const FOREIGN: [&str; 5] = ["<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "</s>"];
    let ours = [Special::Eos.text(), Special::End.text()];
    ours.iter().chain(&FOREIGN).filter_map(|text| tokenizer.id_of(text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::testkit::tokenizer;

    #[test]
    fn text_begins_as_documents_do_and_tokens_are_left_alone() {
        let (tokenizer, template) = (tokenizer(), ChatTemplate::default());
        let bos = tokenizer.special(Special::Bos).expect("it has one");
        let text = Prompt::Text("the <|eos|>".into()).encode(&tokenizer, &template).expect("encodes");
        assert_eq!(text[0], bos);
        assert_eq!(tokenizer.decode(&text[1..]), "the <|eos|>", "text never becomes a special token");
        assert_eq!(Prompt::Tokens(vec![5]).encode(&tokenizer, &template), Ok(vec![5]));
        let empty = Prompt::Text(String::new()).encode(&tokenizer, &template).expect("encodes");
        assert_eq!(empty, [bos], "no prompt at all is the beginning of a document");
        let longest = tokenizer.summary().longest_piece_bytes;
        for prompt in ["", "a", "the controller shall notify", "\u{1F600}\u{1F600}"] {
            let prompt = Prompt::Text(prompt.into());
            let exact = prompt.encode(&tokenizer, &template).expect("encodes").len();
            assert!(prompt.tokens_at_least(longest) <= exact);
        }
        assert!(Prompt::Text("x".repeat(1000)).tokens_at_least(longest) >= 1000 / longest);
        let ends = end_tokens(&tokenizer);
        assert_eq!(ends.len(), 2);
        assert!(ends.iter().all(|&token| tokenizer.is_special(token)));
    }
}
