//! The safetensors container: eight bytes of length, a JSON header, the numbers.

use std::collections::{BTreeMap, HashMap};

use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};

use super::Source;
use crate::{
    base::{Context, Error, ErrorKind, Result},
    into_cause,
    model::Config,
    tensor::Shape,
};

into_cause!(safetensors::SafeTensorError);

const LENGTH_BYTES: u64 = 8;
/// What a damaged length can make us take; the largest published models' headers are a few hundred KiB.
const HEADER_BYTES_MAX: u64 = 100_000_000;
const CONFIG_KEY: &str = "config";

/// A header that is to be written.
pub struct Header {
    bytes: Vec<u8>,
    data_bytes: u64,
}

impl Header {
    /// For tensors that follow in this order.
    pub fn new<'a>(config: &Config, tensors: impl Iterator<Item = (&'a str, Dtype, Shape)>) -> Result<Self> {
        let config = serde_json::to_string(config).context("writing the configuration")?;
        // `format` is what transformers looks for.
        let metadata = HashMap::from([("format".into(), "pt".into()), (CONFIG_KEY.to_owned(), config)]);
        let mut end = 0;
        let tensors = tensors.map(|(name, dtype, shape)| {
            let start = end;
            end += shape.count() * dtype.bitsize() / 8;
            let info = TensorInfo { dtype, shape: shape.dims().to_vec(), data_offsets: (start, end) };
            (name.to_owned(), info)
        });
        let metadata = Metadata::new(Some(metadata), tensors.collect()).context("describing the weights")?;
        // By way of a value, whose keys are sorted: the same weights make the same file.
        let value = serde_json::to_value(&metadata).context("describing the weights")?;
        let mut json = value.to_string().into_bytes();
        json.resize(json.len().next_multiple_of(LENGTH_BYTES as usize), b' ');
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json);
        Ok(Self { bytes, data_bytes: end as u64 })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn file_len_bytes(&self) -> u64 {
        self.bytes.len() as u64 + self.data_bytes
    }
}

/// A file of weights, its header read and checked.
pub struct WeightsFile<S> {
    pub(super) source: S,
    tensors: BTreeMap<String, TensorInfo>,
    config: Option<String>,
    data_start: u64,
}

impl<S: Source> WeightsFile<S> {
    /// # Errors
    /// `Integrity` if it is not whole safetensors.
    pub fn open(source: S) -> Result<Self> {
        let mut length = [0; LENGTH_BYTES as usize];
        source.read_at(0, &mut length).context("reading the length of the weights' header")?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_BYTES_MAX || length > source.len_bytes() {
            return Err(Error::integrity(format!("the weights' header claims {length} bytes")));
        }
        let mut json = vec![0; length as usize];
        source.read_at(LENGTH_BYTES, &mut json).context("reading the weights' header")?;
        let metadata: Metadata = serde_json::from_slice(&json)
            .map_err(|error| Error::integrity(format!("the weights' header is not safetensors: {error}")))?;
        let data_start = LENGTH_BYTES + length;
        let (expected, found) = (data_start + metadata.data_len() as u64, source.len_bytes());
        if expected != found {
            return Err(Error::integrity(format!(
                "weights of {found} bytes, where the header means {expected}"
            )));
        }
        let config = metadata.metadata().as_ref().and_then(|metadata| metadata.get(CONFIG_KEY)).cloned();
        let tensors = metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        Ok(Self { source, tensors, config, data_start })
    }

    /// The configuration that [`save`](super::save) put there.
    ///
    /// # Errors
    /// `Integrity` if there is none, as in files from elsewhere, or it makes no model.
    pub fn config(&self) -> Result<Config> {
        let json =
            self.config.as_ref().ok_or_else(|| Error::integrity("the weights carry no configuration"))?;
        let config: Config = serde_json::from_str(json)
            .map_err(|error| Error::integrity(format!("the weights' configuration: {error}")))?;
        config.validate().map_err(|error| error.with_kind(ErrorKind::Integrity))?;
        Ok(config)
    }

    /// Names, types and shapes.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// Where in the source a tensor's numbers begin.
    pub(super) fn offset_of(&self, info: &TensorInfo) -> u64 {
        self.data_start + info.data_offsets.0 as u64
    }
}
