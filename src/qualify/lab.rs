//! Where one operation is tried: a device, a type, and inputs that are the same wherever they are made.

use half::bf16;

use super::DTYPES;
use crate::{
    base::{Philox, Result},
    device::Device,
    ops::Exec,
    tensor::{Buf, DType, Shape},
};

/// More than any case takes.
const PASS_BYTES: usize = 192 << 20;

/// A device with memory of its own, and the type that is tried. Inputs are drawn in turn from one seed, rounded to the
/// type that is tried, and held in the type that is computed in: f64 where the reference is made.
pub struct Lab {
    pub exec: Exec,
    tried: DType,
    computed: DType,
    rng: Philox,
}

impl Lab {
    pub fn new(device: &Device, tried: DType) -> Result<Self> {
        debug_assert!(DTYPES.contains(&tried));
        Self::with(device.clone(), tried, tried)
    }

    /// The processor in f64, on the inputs that `tried` can hold.
    pub fn reference(tried: DType) -> Result<Self> {
        Self::with(Device::cpu(None), tried, DType::F64)
    }

    fn with(device: Device, tried: DType, computed: DType) -> Result<Self> {
        let exec = Exec::new(device, PASS_BYTES, 0)?;
        Ok(Self { exec, tried, computed, rng: Philox::new(20_261_125, 0) })
    }

    /// The same with the kernels that every card runs.
    pub fn portable(&mut self) -> &mut Self {
        self.exec.portable = true;
        self
    }

    /// The type of sums, statistics and moments.
    pub fn accumulator(&self) -> DType {
        self.computed.accumulator()
    }

    /// Whether weights need a master copy of more digits.
    pub fn is_short(&self) -> bool {
        self.computed != self.accumulator()
    }

    /// Normal numbers of this spread.
    pub fn normal(&mut self, shape: impl Into<Shape>, spread: f32) -> Result<Buf> {
        let shape = shape.into();
        let numbers: Vec<f32> = (0..shape.count()).map(|_| spread * self.rng.normal()).collect();
        let tried = self.tried;
        self.put(shape, self.computed, numbers.iter().map(|&number| rounded(number, tried)))
    }

    /// The same in the accumulator's type, all digits of f32.
    pub fn normal_accumulator(&mut self, shape: impl Into<Shape>, spread: f32) -> Result<Buf> {
        let shape = shape.into();
        let numbers: Vec<f32> = (0..shape.count()).map(|_| spread * self.rng.normal()).collect();
        self.put(shape, self.accumulator(), numbers.into_iter())
    }

    /// Numbers that are given, as every type holds them.
    pub fn exactly(&self, numbers: &[f32]) -> Result<Buf> {
        self.put([numbers.len()].into(), self.accumulator(), numbers.iter().copied())
    }

    /// One normal number.
    pub fn draw(&mut self) -> f32 {
        self.rng.normal()
    }

    /// Whole numbers below `below`.
    pub fn ids(&mut self, count: usize, below: usize) -> Result<Buf> {
        let ids: Vec<u32> = (0..count).map(|_| self.rng.below(below as u64) as u32).collect();
        self.exec.upload([count], &ids)
    }

    /// Where a result goes; NaN until it is written.
    pub fn output(&self, shape: impl Into<Shape>) -> Result<Buf> {
        self.poisoned(shape.into(), self.computed)
    }

    pub fn output_accumulator(&self, shape: impl Into<Shape>) -> Result<Buf> {
        self.poisoned(shape.into(), self.accumulator())
    }

    fn poisoned(&self, shape: Shape, dtype: DType) -> Result<Buf> {
        self.put(shape, dtype, std::iter::repeat_n(f32::NAN, shape.count()))
    }

    fn put(&self, shape: Shape, dtype: DType, numbers: impl Iterator<Item = f32>) -> Result<Buf> {
        match dtype {
            DType::F64 => self.exec.upload(shape, &numbers.map(f64::from).collect::<Vec<_>>()),
            DType::Bf16 => self.exec.upload(shape, &numbers.map(bf16::from_f32).collect::<Vec<_>>()),
            _ => self.exec.upload(shape, &numbers.collect::<Vec<_>>()),
        }
    }

    fn read(&self, buf: &Buf) -> Result<Vec<f64>> {
        Ok(match buf.dtype() {
            DType::F64 => self.exec.read::<f64>(buf)?,
            DType::F32 => self.exec.read::<f32>(buf)?.into_iter().map(f64::from).collect(),
            DType::Bf16 => self.exec.read::<bf16>(buf)?.into_iter().map(f64::from).collect(),
            DType::U32 => self.exec.read::<u32>(buf)?.into_iter().map(f64::from).collect(),
        })
    }

    /// The squares of `x`, computed here so that they are the same everywhere.
    pub fn squares(&self, x: &Buf) -> Result<Buf> {
        let squares: Vec<f32> = self.read(x)?.into_iter().map(|x| (x * x) as f32).collect();
        self.put(x.shape(), x.dtype(), squares.into_iter())
    }

    /// Reads what an operation gave.
    pub fn outputs<const N: usize>(&self, named: [(&'static str, &Buf); N]) -> Result<Outputs> {
        named.into_iter().map(|(name, buf)| Ok((name, self.read(buf)?))).collect::<Result<_>>().map(Outputs)
    }
}

/// As `tried` holds it.
fn rounded(number: f32, tried: DType) -> f32 {
    if tried == DType::Bf16 { bf16::from_f32(number).to_f32() } else { number }
}

/// What an operation gave, by name.
pub struct Outputs(pub Vec<(&'static str, Vec<f64>)>);

impl Outputs {
    /// The first output that holds what is no number.
    pub fn not_a_number(&self) -> Option<&'static str> {
        self.0.iter().find(|(_, numbers)| numbers.iter().any(|x| x.is_nan())).map(|(name, _)| *name)
    }

    /// Whether any bit differs.
    pub fn differ(&self, other: &Self) -> bool {
        let bits = |outputs: &Self| -> Vec<u64> {
            outputs.0.iter().flat_map(|(_, numbers)| numbers.iter().map(|x| x.to_bits())).collect()
        };
        bits(self) != bits(other)
    }

    /// Of the output furthest from its reference: the norm of the difference over the norm of the reference.
    pub fn error_against(&self, reference: &Self) -> f64 {
        let errors = self.0.iter().zip(&reference.0).map(|((_, found), (_, due))| relative(found, due));
        errors.fold(0.0, |worst, error| if worst > error || worst.is_nan() { worst } else { error })
    }
}

fn relative(found: &[f64], due: &[f64]) -> f64 {
    let norm = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>().sqrt();
    let apart = norm(&mut found.iter().zip(due).map(|(found, due)| found - due));
    let size = norm(&mut due.iter().copied());
    if apart == 0.0 { 0.0 } else { apart / size }
}
