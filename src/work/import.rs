//! The import job: a model directory in Hugging Face's form becomes a sealed model and a sealed tokenizer.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    base::{Context, Error, Id, IdKind, Monitor, Result},
    model::{Config, import::Import},
    text::{ChatTemplate, Tokenizer},
    vault::Depot,
};

/// What to import.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportSpec {
    pub directory: PathBuf,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportOutcome {
    pub model: Id,
    pub tokenizer: Id,
    pub parameters: u64,
    pub vocab_size: u64,
    pub config: Config,
    pub chat_template: Option<String>,
}

/// Checks the whole directory before a byte is sealed.
///
/// # Errors
/// What [`Import::open`] refuses, a tokenizer that does not read, or one with more tokens than the model.
pub(super) fn run(spec: &ImportSpec, depot: &dyn Depot, monitor: &dyn Monitor) -> Result<ImportOutcome> {
    let import = Import::open(&spec.directory)?;
    let tokenizer =
        Tokenizer::from_json(import.tokenizer_json()).context("reading the model's tokenizer.json")?;
    let config = import.config();
    if tokenizer.vocab_size() > config.vocab_size {
        return Err(Error::usage(format!(
            "the tokenizer has {} tokens and the model {}",
            tokenizer.vocab_size(),
            config.vocab_size
        )));
    }
    let chat_template = chat_template(&spec.directory)?;
    if monitor.stop_requested() {
        return Err(Error::interrupted("stopped before anything was imported"));
    }
    let mut sealed = depot.create(IdKind::Tokenizer, import.tokenizer_json().len() as u64)?;
    sealed.write_all(import.tokenizer_json()).context("sealing the tokenizer")?;
    let tokenizer_id = depot.commit(sealed)?;
    let mut weights = depot.create(IdKind::Model, import.len_bytes())?;
    import.write(&mut weights)?;
    Ok(ImportOutcome {
        model: depot.commit(weights)?,
        tokenizer: tokenizer_id,
        parameters: import.parameters(),
        vocab_size: tokenizer.vocab_size() as u64,
        config: config.clone(),
        chat_template,
    })
}

/// The template that came with the tokenizer, if one did and it parses.
fn chat_template(directory: &Path) -> Result<Option<String>> {
    #[derive(Deserialize)]
    struct Fields {
        chat_template: Option<String>,
    }
    let path = directory.join("tokenizer_config.json");
    let Ok(bytes) = std::fs::read(&path) else { return Ok(None) };
    let reading = || format!("reading {}", path.display());
    let fields: Fields = serde_json::from_slice(&bytes).with_context(reading)?;
    if let Some(template) = &fields.chat_template {
        ChatTemplate::parse(template).with_context(reading)?;
    }
    Ok(fields.chat_template)
}
