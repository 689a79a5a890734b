//! What a run needs to go on bit for bit: the state as one JSON value and the numbers as they are. The format
//! is safetensors with the state among its metadata, so that the weights can be read by any tool once they
//! are unsealed; the bytes pass through the vault, never through a file of their own.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use serde::{Deserialize, Serialize};

use super::{pretrain::CurvePoint, recipe::Recipe};
use crate::base::{Context, Error, Id, Result};

/// Everything of a run but the numbers of its model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    pub run: Id,
    pub recipe: Recipe,
    pub tokenizer: Id,
    pub shards: Vec<Id>,
    /// Optimizer steps done. Learning rate, data position and every random draw follow from it and the recipe.
    pub step: u64,
    /// Nats summed over `loss_tokens` tokens since the last point of the curve.
    pub loss_sum: f64,
    pub loss_tokens: u64,
    /// The lowest held-out loss so far and its step.
    pub best: Option<(f64, u64)>,
    pub curve: Vec<CurvePoint>,
    /// Seconds spent training up to here, in all processes.
    pub elapsed_s: f64,
}

/// One named block of numbers, borrowed or to be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named<'a> {
    pub name: &'a str,
    pub shape: &'a [usize],
}

/// A copy of a run at one moment, ready to be sealed while the run goes on.
pub struct Copied {
    pub step: u64,
    header: Vec<u8>,
    numbers: Vec<f32>,
}

const STATE_KEY: &str = "cloister.run_state";
/// The state and a few hundred tensor names are some KiB; this bounds what a damaged length can make us take.
const HEADER_BYTES_MAX: u64 = 64 << 20;
const FORMAT: &str = "cloister-checkpoint-1";

impl Copied {
    /// Copies what `append` gives of `tensors`, in their order, about `count` numbers.
    pub fn new<'a, T>(
        state: &RunState,
        count: usize,
        tensors: impl Iterator<Item = (Named<'a>, T)>,
        append: impl Fn(T, &mut Vec<f32>) -> Result<()>,
    ) -> Result<Self> {
        let (mut names, mut numbers) = (Vec::new(), Vec::with_capacity(count));
        for (named, tensor) in tensors {
            let before = numbers.len();
            append(tensor, &mut numbers)?;
            debug_assert_eq!(named.shape.iter().product::<usize>(), numbers.len() - before);
            names.push(named);
        }
        Ok(Self { step: state.step, header: header(state, &names)?, numbers })
    }

    pub fn len_bytes(&self) -> u64 {
        (self.header.len() + 4 * self.numbers.len()) as u64
    }

    pub fn write(&self, to: &mut impl Write) -> Result<()> {
        to.write_all(&self.header).context("writing a checkpoint's header")?;
        to.write_all(bytemuck::cast_slice(&self.numbers)).context("writing a checkpoint's numbers")
    }
}

#[derive(Serialize, Deserialize)]
struct Stretch {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// Length, JSON, spaces up to a multiple of eight, as safetensors has it.
fn header(state: &RunState, names: &[Named]) -> Result<Vec<u8>> {
    let state = serde_json::to_string(state).context("writing the run's state")?;
    let mut entries = serde_json::Map::new();
    entries.insert("__metadata__".into(), serde_json::json!({ "format": FORMAT, STATE_KEY: state }));
    let mut offset = 0u64;
    for named in names {
        let end = offset + 4 * named.shape.iter().product::<usize>() as u64;
        let stretch =
            Stretch { dtype: "F32".into(), shape: named.shape.to_vec(), data_offsets: [offset, end] };
        let value = serde_json::to_value(stretch).context("writing a checkpoint's header")?;
        if entries.insert(named.name.into(), value).is_some() {
            return Err(Error::failed(format!("two tensors of a checkpoint are called '{}'", named.name)));
        }
        offset = end;
    }
    let mut json = serde_json::to_vec(&entries).context("writing a checkpoint's header")?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json);
    Ok(bytes)
}

/// A checkpoint being read: the state first, then the numbers in the order they were written.
pub struct Reading<R> {
    from: R,
    pub state: RunState,
    stretches: BTreeMap<String, Stretch>,
    read_bytes: u64,
}

impl<R: Read> Reading<R> {
    /// # Errors
    /// `Integrity` where this is no checkpoint, or one of another format.
    pub fn begin(mut from: R) -> Result<Self> {
        let mut length = [0; 8];
        from.read_exact(&mut length).context("reading a checkpoint's header")?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_BYTES_MAX {
            return Err(Error::integrity(format!("a checkpoint's header claims {length} bytes")));
        }
        let mut json = vec![0; length as usize];
        from.read_exact(&mut json).context("reading a checkpoint's header")?;
        let (state, stretches) = parse(&json).map_err(|error| {
            error.with_kind(crate::base::ErrorKind::Integrity).context("reading a checkpoint's header")
        })?;
        Ok(Self { from, state, stretches, read_bytes: 0 })
    }

    /// Fills `into` with the tensor `named`, which must be the next.
    pub fn fill(&mut self, named: Named, into: &mut [f32]) -> Result<()> {
        let stretch = self.stretches.get(named.name).ok_or_else(|| {
            Error::integrity(format!("the checkpoint has no tensor called '{}'", named.name))
        })?;
        let end = self.read_bytes + 4 * into.len() as u64;
        if stretch.shape != named.shape || stretch.data_offsets != [self.read_bytes, end] {
            return Err(Error::integrity(format!(
                "tensor '{}' of the checkpoint is {:?} at {:?}, not {:?} at byte {}",
                named.name, stretch.shape, stretch.data_offsets, named.shape, self.read_bytes
            )));
        }
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(into);
        self.from.read_exact(bytes).with_context(|| format!("reading tensor '{}'", named.name))?;
        self.read_bytes = end;
        Ok(())
    }
}

fn parse(json: &[u8]) -> Result<(RunState, BTreeMap<String, Stretch>)> {
    #[derive(Deserialize)]
    struct Header {
        __metadata__: BTreeMap<String, String>,
        #[serde(flatten)]
        stretches: BTreeMap<String, Stretch>,
    }
    let header: Header = serde_json::from_slice(json).context("parsing it")?;
    match header.__metadata__.get("format") {
        Some(format) if format == FORMAT => {}
        other => return Err(Error::integrity(format!("its format is {other:?}, not {FORMAT}"))),
    }
    let state = header.__metadata__.get(STATE_KEY).ok_or_else(|| Error::integrity("it has no run state"))?;
    Ok((serde_json::from_str(state).context("parsing the run state")?, header.stretches))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::IdKind;
    use crate::train::{DataFacts, Purpose, RunConfig};

    fn state() -> RunState {
        let config = RunConfig { purpose: Some(Purpose::trial()), ..RunConfig::default() };
        let data = DataFacts { vocab: 300, train_tokens: 9999, heldout_tokens: 99, heldout_bytes: 300 };
        RunState {
            run: Id::from_parts(IdKind::Run, 1, [1; 10]),
            recipe: Recipe::settle(&config, &data, None).expect("sound"),
            tokenizer: Id::from_parts(IdKind::Tokenizer, 1, [2; 10]),
            shards: vec![Id::from_parts(IdKind::Shard, 1, [3; 10])],
            step: 41,
            loss_sum: 0.1 + 0.2,
            loss_tokens: 7,
            best: Some((1.0 / 3.0, 40)),
            curve: vec![],
            elapsed_s: 12.5,
        }
    }

    const TENSORS: [(&str, &[usize], &[f32]); 2] = [
        ("b.weight", &[2, 2], &[1.0, -0.0, f32::MIN_POSITIVE / 2.0, 3e38]),
        ("a.weight", &[3], &[0.1, 0.2, 0.3]),
    ];

    fn append(values: &[f32], to: &mut Vec<f32>) -> Result<()> {
        to.extend_from_slice(values);
        Ok(())
    }

    fn written() -> Vec<u8> {
        let tensors = TENSORS.iter().map(|&(name, shape, values)| (Named { name, shape }, values));
        let copied = Copied::new(&state(), 0, tensors, append).expect("sound");
        let mut bytes = Vec::new();
        copied.write(&mut bytes).expect("in memory");
        assert_eq!(bytes.len() as u64, copied.len_bytes());
        bytes
    }

    #[test]
    fn gives_back_every_bit() {
        let bytes = written();
        let mut reading = Reading::begin(bytes.as_slice()).expect("own bytes");
        assert_eq!(reading.state, state());
        for (name, shape, values) in TENSORS {
            let mut read = vec![0.0f32; values.len()];
            reading.fill(Named { name, shape }, &mut read).expect("own bytes");
            assert!(read.iter().zip(values).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
        }
    }

    #[test]
    fn other_tools_read_it() {
        let bytes = written();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("the published format");
        let a = tensors.tensor("a.weight").expect("there");
        assert_eq!((a.shape(), a.data()), (&[3][..], bytemuck::cast_slice(TENSORS[1].2)));
    }

    #[test]
    fn refuses_what_is_not_one() {
        let sound = written();
        let cut = |from: usize| Reading::begin(&sound[..from]).err();
        assert!(cut(0).is_some() && cut(7).is_some() && cut(200).is_some());
        let mut huge = sound.clone();
        huge[7] = 0xFF;
        assert_eq!(
            Reading::begin(huge.as_slice()).err().map(|e| e.kind()),
            Some(crate::base::ErrorKind::Integrity)
        );
        let text = String::from_utf8_lossy(&sound).replace("checkpoint-1", "checkpoint-9");
        assert!(Reading::begin(text.as_bytes()).is_err());
        let (name, shape, _) = TENSORS[0];
        let fill = |bytes: &[u8], named: Named, len: usize| {
            Reading::begin(bytes).and_then(|mut reading| reading.fill(named, &mut vec![0.0; len]))
        };
        assert!(fill(&sound, Named { name: "c.weight", shape }, 4).is_err());
        assert!(fill(&sound, Named { name, shape: &[4] }, 4).is_err());
        assert!(fill(&sound, Named { name: "a.weight", shape: &[3] }, 3).is_err(), "out of order");
        assert!(fill(&sound[..sound.len() - 20], Named { name, shape }, 4).is_err(), "cut short");
    }

    #[test]
    fn two_tensors_of_one_name_are_refused() {
        let twice = [TENSORS[0], TENSORS[0]];
        let tensors = twice.iter().map(|&(name, shape, values)| (Named { name, shape }, values));
        assert!(Copied::new(&state(), 0, tensors, append).is_err());
    }
}
