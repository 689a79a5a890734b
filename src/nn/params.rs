//! The parameters of a model: a table of names and shapes, and one buffer that holds all their numbers.

use std::sync::Arc;

use crate::{
    base::{Philox, Result},
    device::{Device, host},
    ops::{Exec, Float, Real, adamw, with_float},
    tensor::{Buf, DType, Shape, Tensor, TensorMut},
};

/// Parameters begin at multiples of this many elements: of a cache line in every type.
const ALIGNMENT: usize = 32;
const _: () = assert!(ALIGNMENT.is_multiple_of(adamw::DECAY_BLOCK));
/// Elements drawn from one stream of the random generator.
const INIT_CHUNK: usize = 1 << 16;

/// A parameter's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(u32);

impl ParamId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// How a parameter begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    Zeros,
    Ones,
    Normal { std: f64 },
}

/// One parameter. A fused one consists of named parts, stacked along its rows, so that files and peers see the
/// names they know.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    pub shape: Shape,
    /// Name and rows of each part, in order; together all rows.
    pub parts: Vec<(String, usize)>,
    pub init: Init,
    /// First element in the buffer of all parameters.
    pub start: usize,
}

impl Param {
    /// Whether weight decay applies: to matrices, not to norms.
    pub fn decays(&self) -> bool {
        self.shape.dims().len() >= 2
    }
}

/// All parameters of a model in a fixed order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParamTable {
    params: Vec<Param>,
    len: usize,
}

impl ParamTable {
    /// Adds a parameter of one part.
    pub fn add(&mut self, name: impl Into<String>, shape: impl Into<Shape>, init: Init) -> ParamId {
        let shape = shape.into();
        self.add_fused(vec![(name.into(), shape.rows())], shape, init)
    }

    /// Adds a parameter whose rows are several named matrices.
    pub fn add_fused(&mut self, parts: Vec<(String, usize)>, shape: impl Into<Shape>, init: Init) -> ParamId {
        let shape = shape.into();
        assert_eq!(parts.iter().map(|part| part.1).sum::<usize>(), shape.rows(), "the parts are all rows");
        let start = self.len;
        self.len = (start + shape.count()).next_multiple_of(ALIGNMENT);
        self.params.push(Param { shape, parts, init, start });
        ParamId(self.params.len() as u32 - 1)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ParamId, &Param)> {
        self.params.iter().enumerate().map(|(index, param)| (ParamId(index as u32), param))
    }

    /// Every named matrix or vector: name, parameter, first row, shape.
    pub fn parts(&self) -> impl Iterator<Item = (&str, ParamId, usize, Shape)> {
        self.iter().flat_map(|(id, param)| {
            let mut first = 0;
            param.parts.iter().map(move |(name, rows)| {
                first += rows;
                (name.as_str(), id, first - rows, param.shape.with_rows(*rows))
            })
        })
    }

    /// Elements of a buffer that holds one number for each parameter's element, gaps included.
    pub fn buffer_len(&self) -> usize {
        self.len
    }

    /// Which elements of such a buffer decay, as [`adamw::step`] reads it.
    pub fn decay_table(&self) -> Vec<u32> {
        let decaying = self.params.iter().filter(|param| param.decays());
        adamw::decay_table(self.len, decaying.map(|param| param.start..param.start + param.shape.count()))
    }

    /// The number of parameters in the sense of "a 10M model".
    pub fn count(&self) -> usize {
        self.params.iter().map(|param| param.shape.count()).sum()
    }
}

impl std::ops::Index<ParamId> for ParamTable {
    type Output = Param;

    fn index(&self, id: ParamId) -> &Param {
        &self.params[id.index()]
    }
}

/// The weights.
pub struct Params {
    table: Arc<ParamTable>,
    device: Device,
    flat: Buf,
}

impl Params {
    /// Zeros in persistent memory.
    pub fn new(exec: &Exec, table: &Arc<ParamTable>, dtype: DType) -> Result<Self> {
        let flat = exec.take_zeros([table.buffer_len()], dtype)?;
        Ok(Self { table: table.clone(), device: exec.device.clone(), flat })
    }

    /// Draws the initial weights. The same seed gives the same weights in every type, but for rounding.
    pub fn init(&mut self, exec: &Exec, seed: u64) {
        if exec.is_dry() {
            return;
        }
        with_float!(self.dtype(), T => self.init_host::<T>(exec, seed));
    }

    fn init_host<T: Float>(&mut self, exec: &Exec, seed: u64) {
        let table = self.table.clone();
        for (id, param) in table.iter() {
            let draw = |chunk: usize, weights: &mut [T]| match param.init {
                Init::Zeros => weights.fill(T::default()),
                Init::Ones => weights.fill(T::down(T::Acc::ONE)),
                Init::Normal { std } => {
                    let mut rng = Philox::new(seed, (id.index() as u64) << 32 | chunk as u64);
                    weights.fill_with(|| T::down(<T::Acc as Real>::from_f64(std * f64::from(rng.normal()))));
                }
            };
            host::with_slice_mut(&exec.device, self.view_mut(id), |weights| {
                exec.pool().chunks_mut(weights, INIT_CHUNK, draw);
            });
        }
    }

    pub fn table(&self) -> &Arc<ParamTable> {
        &self.table
    }

    /// Where the numbers are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn dtype(&self) -> DType {
        self.flat.dtype()
    }

    pub fn view(&self, id: ParamId) -> Tensor<'_> {
        let param = &self.table[id];
        self.flat.view().window(param.start, param.shape)
    }

    pub fn view_mut(&mut self, id: ParamId) -> TensorMut<'_> {
        let param = &self.table[id];
        self.flat.view_mut().window(param.start, param.shape)
    }

    /// All parameters in one row, see [`Param::start`].
    pub fn flat(&self) -> Tensor<'_> {
        self.flat.view()
    }

    pub fn flat_mut(&mut self) -> TensorMut<'_> {
        self.flat.view_mut()
    }
}
