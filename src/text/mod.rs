//! Text to token ids and back: byte-level BPE in the Hugging Face `tokenizer.json` format, decoding that
//! never cuts a character, and chat templates. Any text survives encode and decode unchanged, and text never
//! becomes a special token. Which documents are read, and what is done to them first, is `corpus`'s matter.

pub mod bytes;
pub mod stream;
pub mod template;
pub mod tokenizer;
pub mod train;
mod words;

pub use stream::StreamDecoder;
pub use template::{ChatTemplate, Message};
pub use tokenizer::{Special, Tokenizer};
pub use train::vocab_size_for;
pub use words::pieces;
