//! A directory as Hugging Face has it: `config.json`, `tokenizer.json`, weights in one safetensors file or in
//! several with an index. Everything is checked against the model that the configuration describes before a byte
//! is copied; then tensors are streamed into our form, in the number type they came in.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::Path,
};

use serde::Deserialize;

use super::{
    Config, Decoder, Options,
    weights::{OpenFile, Transcript, WeightsFile},
};
use crate::{
    base::{Context, Error, Result},
    device::Device,
    ops::Exec,
    tensor::DType,
};

const ONE_FILE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A model that stands ready to be copied.
pub struct Import {
    config: Config,
    files: Vec<WeightsFile<OpenFile>>,
    transcript: Transcript,
    tokenizer_json: Vec<u8>,
    parameters: u64,
}

/// The index of a sharded model: which file holds which tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Import {
    /// Reads and checks everything but the numbers.
    ///
    /// # Errors
    /// `Usage` for what cannot be computed here, `Integrity` for files that do not fit together.
    pub fn open(directory: &Path) -> Result<Self> {
        Self::open_checked(directory).with_context(|| format!("importing {}", directory.display()))
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// `tokenizer.json` as it is.
    pub fn tokenizer_json(&self) -> &[u8] {
        &self.tokenizer_json
    }

    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// The bytes that [`Import::write`] will write.
    pub fn len_bytes(&self) -> u64 {
        self.transcript.len_bytes()
    }

    /// Streams the weights in the form that [`weights::load`](super::weights::load) reads.
    pub fn write(&self, to: &mut impl Write) -> Result<()> {
        self.transcript.write(&self.files, to)
    }

    fn open_checked(directory: &Path) -> Result<Self> {
        let config = Config::from_hugging_face(&read(directory, "config.json")?)?;
        let tokenizer_json = read(directory, "tokenizer.json")?;
        let files = weights_files(directory)?;
        let table = {
            let options = Options { dtype: DType::F32, recompute: false, positions: 1 };
            Decoder::new(&Exec::dry(Device::cpu(Some(1))), &config, options)?.table().clone()
        };
        let transcript = Transcript::new(&config, &table, &files)?;
        Ok(Self { config, files, transcript, tokenizer_json, parameters: table.count() as u64 })
    }
}

fn read(directory: &Path, name: &str) -> Result<Vec<u8>> {
    std::fs::read(directory.join(name)).with_context(|| format!("reading {name}")).map_err(|error| {
        error
            .remedy("a model to import is a directory with config.json, tokenizer.json and model.safetensors")
    })
}

fn weights_files(directory: &Path) -> Result<Vec<WeightsFile<OpenFile>>> {
    let open = |name: &str| {
        let file = OpenFile::open(&directory.join(name)).and_then(WeightsFile::open);
        file.with_context(|| format!("opening {name}"))
    };
    if !directory.join(INDEX).exists() {
        return Ok(vec![open(ONE_FILE)?]);
    }
    let index: Index =
        serde_json::from_slice(&read(directory, INDEX)?).with_context(|| format!("reading {INDEX}"))?;
    let names: BTreeSet<_> = index.weight_map.into_values().collect();
    if let Some(name) = names.iter().find(|name| Path::new(name).file_name() != Some(name.as_ref())) {
        return Err(Error::integrity(format!("{INDEX} names {name}, which is not a file beside it")));
    }
    names.iter().map(|name| open(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_a_directory_lacks() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let error = Import::open(directory.path()).err().expect("an empty directory");
        assert!(error.to_string().contains("config.json") && error.remedy_text().is_some(), "{error}");
    }

    #[test]
    fn an_index_cannot_point_outside() {
        let directory = tempfile::tempdir().expect("temporary directory");
        for outside in ["../secret", "/etc/passwd", "sub/model.safetensors", ""] {
            let index = serde_json::json!({"weight_map": {"a": outside}}).to_string();
            std::fs::write(directory.path().join(INDEX), index).expect("written");
            let error = weights_files(directory.path()).err().expect(outside);
            assert!(error.to_string().contains("not a file beside it"), "{error}");
        }
    }
}
