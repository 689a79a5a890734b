//! `cloister tokenizer`: train one on a collection, see how well it packs text it has not seen.

use super::session::{Session, time, tokenizer_id};
use crate::{
    base::{Id, Result},
    work::request::{Request, TokenizerRow},
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Train a byte-level BPE tokenizer on a collection
    Train {
        /// The collection
        #[arg(long = "data", value_name = "COLLECTION")]
        collection: String,
        /// Entries of the vocabulary [default: chosen from the amount of text]
        #[arg(long, value_name = "N")]
        vocab_size: Option<u32>,
        /// Fold the text to lower case first; recorded in the snapshot
        #[arg(long)]
        lower_case: bool,
    },
    /// Show the tokenizers, or one
    Show {
        #[arg(value_parser = tokenizer_id, value_name = "ID")]
        tokenizer: Option<Id>,
    },
}

pub fn run(command: Command, session: &Session) -> Result<()> {
    match command {
        Command::Train { collection, vocab_size, lower_case } => {
            let row: TokenizerRow =
                session.ask(Request::TokenizerTrain { collection, vocab_size, lower_case })?;
            show(session, &[row])
        }
        Command::Show { tokenizer } => {
            show(session, &session.ask::<Vec<_>>(Request::TokenizerShow { tokenizer })?)
        }
    }
}

fn show(session: &Session, rows: &[TokenizerRow]) -> Result<()> {
    session.screen.rows(rows, ["id", "collection", "vocabulary", "bytes per token", "made"], |row| {
        let packed = row.bytes_per_token.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let made = time(row.created_at_ms);
        [row.id.to_string(), row.collection.clone(), row.vocab_size.to_string(), packed, made]
    })
}
