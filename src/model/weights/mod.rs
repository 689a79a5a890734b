//! Weights in files: safetensors with Hugging Face's names, the configuration among the metadata. They are streamed
//! part by part to a writer and from a source that is read at any place, so that nothing is in memory twice.

mod file;
mod source;

use std::collections::BTreeMap;
use std::io::Write;

use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorInfo};

pub(super) use file::Header;
pub use file::WeightsFile;
pub use source::{OpenFile, Source};

use super::Config;
use crate::{
    base::{Context, Error, Result},
    device::{Device, host},
    nn::{ParamId, ParamTable, Params},
    ops::{Float, Real, with_float},
    tensor::{DType, Element, Shape, TensorMut},
};

/// Elements that are converted at a time.
const CHUNK: usize = 1 << 20;
/// Elements that are read at a time to where a card's weights are staged.
const STAGED: usize = 64 << 20;
const COPY_BYTES: usize = 1 << 20;

/// The bytes that [`save`] will write.
pub fn len_bytes(params: &Params, config: &Config) -> Result<u64> {
    Ok(header(params, config)?.file_len_bytes())
}

/// Writes all weights in the type they have.
pub fn save(params: &Params, config: &Config, to: &mut impl Write) -> Result<()> {
    to.write_all(header(params, config)?.bytes()).context("writing the header of the weights")?;
    for (name, id, first, shape) in params.table().parts() {
        let part = params.view(id).slice_rows(first..first + shape.rows());
        let mut write = |bytes: &[u8]| to.write_all(bytes);
        with_float!(part.dtype(), T => host::with_slice(params.device(), part, |part: &[T]| write(bytemuck::cast_slice(part))))?
            .with_context(|| format!("writing {name}"))?;
    }
    Ok(())
}

fn header(params: &Params, config: &Config) -> Result<Header> {
    let dtype = match params.dtype() {
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::Bf16 => Dtype::BF16,
        DType::U32 => return Err(Error::failed("weights are never integers")),
    };
    Header::new(config, params.table().parts().map(|(name, _, _, shape)| (name, dtype, shape)))
}

/// Fills `params` from one file or from the several of a sharded model, converting where the types differ.
///
/// # Errors
/// `Integrity` if a weight is missing, of another shape, of a type that is not known, or if a file holds a weight
/// that the model has no place for.
pub fn load<S: Source>(params: &mut Params, files: &[WeightsFile<S>]) -> Result<()> {
    let (table, device) = (params.table().clone(), params.device().clone());
    let longest = if matches!(device, Device::Cpu(_)) { usize::MAX } else { STAGED };
    for stretch in stretches(&locate(&table, files)?, &table, files, longest) {
        let Stretch { name, file, offset, dtype, start, count } = stretch;
        let part = params.flat_mut().window(start, Shape::from([count]));
        fill(&device, part, &files[file].source, offset, dtype).with_context(|| format!("reading {name}"))?;
    }
    Ok(())
}

/// Numbers that lie behind one another both in a file and among the parameters.
struct Stretch<'a> {
    /// Of the part it begins with.
    name: &'a str,
    file: usize,
    offset: u64,
    dtype: Dtype,
    /// Its first element in the buffer of all parameters.
    start: usize,
    count: usize,
}

/// All places, joined where they lie side by side, as in the files that [`save`] writes, and cut after `longest` elements: a
/// large range is read faster than the many small ones of a model.
fn stretches<'a, S: Source>(
    places: &[Place<'a>],
    table: &ParamTable,
    files: &[WeightsFile<S>],
    longest: usize,
) -> Vec<Stretch<'a>> {
    let mut stretches: Vec<Stretch<'a>> = Vec::new();
    for place in places {
        let Place { name, id, first, shape, file, info } = *place;
        let mut start = table[id].start + first * shape.row_count();
        let mut offset = files[file].offset_of(info);
        let mut left = shape.count();
        let size = (info.dtype.bitsize() / 8) as u64;
        if let Some(last) = stretches.last_mut() {
            let follows = (last.file, last.dtype) == (file, info.dtype)
                && last.start + last.count == start
                && last.offset + last.count as u64 * size == offset;
            if follows {
                let more = left.min(longest - last.count);
                (last.count, start, offset, left) =
                    (last.count + more, start + more, offset + more as u64 * size, left - more);
            }
        }
        while left > 0 {
            let count = left.min(longest);
            stretches.push(Stretch { name, file, offset, dtype: info.dtype, start, count });
            (start, offset, left) = (start + count, offset + count as u64 * size, left - count);
        }
    }
    stretches
}

/// A copy from files of weights to our form, checked before it begins. Numbers keep their types.
pub struct Transcript {
    header: Header,
    /// File, offset and length of each tensor, in the order in which they are written.
    stretches: Vec<(usize, u64, u64)>,
}

impl Transcript {
    /// # Errors
    /// As [`load`].
    pub fn new<S: Source>(config: &Config, table: &ParamTable, files: &[WeightsFile<S>]) -> Result<Self> {
        let places = locate(table, files)?;
        let header =
            Header::new(config, places.iter().map(|place| (place.name, place.info.dtype, place.shape)))?;
        let stretch = |place: &Place| {
            let (start, end) = place.info.data_offsets;
            (place.file, files[place.file].offset_of(place.info), (end - start) as u64)
        };
        Ok(Self { header, stretches: places.iter().map(stretch).collect() })
    }

    pub fn len_bytes(&self) -> u64 {
        self.header.file_len_bytes()
    }

    pub fn write<S: Source>(&self, files: &[WeightsFile<S>], to: &mut impl Write) -> Result<()> {
        to.write_all(self.header.bytes()).context("writing the header of the weights")?;
        let mut buffer = vec![0; COPY_BYTES];
        for &(file, offset, len) in &self.stretches {
            for start in (0..len).step_by(COPY_BYTES) {
                let part = &mut buffer[..(len - start).min(COPY_BYTES as u64) as usize];
                files[file].source.read_at(offset + start, part)?;
                to.write_all(part).context("writing weights")?;
            }
        }
        Ok(())
    }
}

/// Where a named part belongs in the model, and where it lies in the files.
struct Place<'a> {
    name: &'a str,
    id: ParamId,
    first: usize,
    shape: Shape,
    file: usize,
    info: &'a TensorInfo,
}

fn locate<'a, S: Source>(table: &'a ParamTable, files: &'a [WeightsFile<S>]) -> Result<Vec<Place<'a>>> {
    let mut found: BTreeMap<&str, (usize, &TensorInfo)> = BTreeMap::new();
    for (index, file) in files.iter().enumerate() {
        for (name, info) in file.tensors() {
            if found.insert(name, (index, info)).is_some() {
                return Err(Error::integrity(format!("{name} is there twice")));
            }
        }
    }
    let mut places = Vec::new();
    for (name, id, first, shape) in table.parts() {
        let (file, info) =
            found.remove(name).ok_or_else(|| Error::integrity(format!("the weights lack {name}")))?;
        if info.shape != shape.dims() {
            return Err(Error::integrity(format!("{name} has shape {:?}, not {shape}", info.shape)));
        }
        if !matches!(info.dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16 | Dtype::F64) {
            return Err(Error::integrity(format!(
                "{name} is of type {:?}, which cannot be read",
                info.dtype
            ))
            .remedy("convert the weights to F32, BF16 or F16 first"));
        }
        places.push(Place { name, id, first, shape, file, info });
    }
    match found.keys().find(|name| !is_redundant(name)) {
        Some(name) => Err(Error::integrity(format!("the model has no place for {name}"))),
        None => Ok(places),
    }
}

/// Tensors that files may carry though they follow from the rest: rotation frequencies, the head of a model whose
/// head is its embedding.
fn is_redundant(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || name == "lm_head.weight"
}

fn fill(device: &Device, part: TensorMut, source: &impl Source, offset: u64, dtype: Dtype) -> Result<()> {
    with_float!(part.dtype(), T => host::with_slice_mut(device, part, |part: &mut [T]| match (dtype, T::DTYPE) {
        (Dtype::F32, DType::F32) | (Dtype::BF16, DType::Bf16) | (Dtype::F64, DType::F64) => {
            source.read_at(offset, bytemuck::cast_slice_mut(part))
        }
        (Dtype::F32, _) => convert(part, source, offset, |x: f32| f64::from(x)),
        (Dtype::BF16, _) => convert(part, source, offset, |x: bf16| x.to_f64()),
        (Dtype::F16, _) => convert(part, source, offset, |x: f16| x.to_f64()),
        (Dtype::F64, _) => convert(part, source, offset, |x: f64| x),
        (other, _) => Err(Error::integrity(format!("it is of type {other:?}"))),
    }))
}

fn convert<T: Float, F: bytemuck::Pod>(
    part: &mut [T],
    source: &impl Source,
    offset: u64,
    widen: impl Fn(F) -> f64,
) -> Result<()> {
    let mut read = vec![F::zeroed(); CHUNK.min(part.len())];
    for (chunk, part) in part.chunks_mut(CHUNK).enumerate() {
        let read = &mut read[..part.len()];
        let offset = offset + (chunk * CHUNK * size_of::<F>()) as u64;
        source.read_at(offset, bytemuck::cast_slice_mut(read))?;
        for (to, from) in part.iter_mut().zip(read) {
            *to = T::down(<T::Acc as Real>::from_f64(widen(*from)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
