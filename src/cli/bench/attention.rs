//! `cloister bench attention`: the operation alone, causal, over whole sequences of random numbers.

use super::{Dtype, Report, Work, clocked, timed};
use crate::{
    base::{Error, Result},
    device::Device,
    nn::Batch,
    ops::{
        Exec,
        attention::{self, Heads, Mask, Scope},
        elementwise,
    },
    tensor::{Buf, DType},
    train::machine,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Query heads
    #[arg(long, default_value_t = 12, value_name = "H", value_parser = clap::value_parser!(u32).range(1..=1024))]
    heads: u32,
    /// Key and value heads [default: as many as query heads]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=1024))]
    kv_heads: Option<u32>,
    /// Width of a head
    #[arg(long, default_value_t = 64, value_name = "D", value_parser = clap::value_parser!(u32).range(2..=1024))]
    head_dim: u32,
    /// Tokens of a sequence
    #[arg(long, default_value_t = 1024, value_name = "T", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    ctx: u32,
    /// Sequences
    #[arg(long, default_value_t = 16, value_name = "B", value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    batch: u32,
    /// Time the gradients instead
    #[arg(long)]
    backward: bool,
    /// Passes to time
    #[arg(long, default_value_t = 6, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// Type of queries, keys and values
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    dtype: Dtype,
}

pub fn run(args: &Args, device: &Device) -> Result<Report> {
    let heads = args.heads()?;
    attention::check(device, heads)?;
    let dry = Exec::dry(device.clone());
    Tensors::new(&dry, args, heads)?.timed_pass(&dry, heads, args.backward)?;
    let exec = Exec::new(device.clone(), dry.arena.peak_bytes(), 0)?;
    let mut tensors = Tensors::new(&exec, args, heads)?;
    let seconds = timed(args.times as usize, || tensors.timed_pass(&exec, heads, args.backward))?;
    let (tokens, seen) = (f64::from(args.batch) * f64::from(args.ctx), f64::from(args.ctx) / 2.0);
    let products = if args.backward { 5.0 } else { 2.0 };
    let rows = if args.backward { 2 * heads.row_count() } else { heads.row_count() };
    let numbers = rows + (if args.backward { 2 } else { 1 }) * heads.query * heads.dim;
    let work = Work {
        bench: if args.backward { "attention backward" } else { "attention forward" },
        dtype: args.dtype,
        parameters: None,
        tokens,
        flops: products * 2.0 * tokens * seen * (heads.query * heads.dim) as f64,
        bytes: tokens * (numbers * args.dtype.dtype().size_bytes()) as f64,
        memory_bytes: exec.arena.peak_bytes() as u64,
    };
    work.report(device, seconds, None)
}

impl Args {
    fn heads(&self) -> Result<Heads> {
        let (query, key_value) = (self.heads as usize, self.kv_heads.unwrap_or(self.heads) as usize);
        if !query.is_multiple_of(key_value) {
            return Err(Error::usage(format!(
                "{query} query heads do not share {key_value} key and value heads evenly"
            ))
            .remedy("choose --kv-heads that divides --heads"));
        }
        Ok(Heads { query, key_value, dim: self.head_dim as usize })
    }
}

/// Letters as in [`attention`]: N is the tokens of all sequences.
struct Tensors {
    batch: Batch,
    /// `[N,(H+2K)*D]`, and where backward writes its gradient over it.
    qkv: Buf,
    copy: Buf,
    /// `[N,H*D]`
    o: Buf,
    dout: Buf,
    /// `[N,H]`
    lse: Buf,
}

impl Tensors {
    fn new(exec: &Exec, args: &Args, heads: Heads) -> Result<Self> {
        let (lengths, dtype) = (vec![args.ctx as usize; args.batch as usize], args.dtype.dtype());
        let rows = lengths.iter().sum();
        let batch = Batch::packed(exec, &vec![0; rows], &lengths)?;
        let normal = |columns| -> Result<Buf> {
            let mut buf = exec.take([rows, columns], dtype)?;
            machine::fill_normal(exec, buf.view_mut())?;
            Ok(buf)
        };
        let row = heads.query * heads.dim;
        Ok(Self {
            batch,
            qkv: normal(heads.row_count())?,
            copy: exec.take([rows, heads.row_count()], dtype)?,
            o: exec.take([rows, row], dtype)?,
            dout: normal(row)?,
            lse: exec.take([rows, heads.query], DType::F32)?,
        })
    }

    /// Seconds of one pass, forward or backward.
    fn timed_pass(&mut self, exec: &Exec, heads: Heads, backward: bool) -> Result<f64> {
        let wait = || match &exec.device {
            Device::Cpu(_) => Ok(()),
            Device::Cuda(cuda) => cuda.synchronize(),
        };
        if backward {
            self.forward(exec, heads)?;
            elementwise::cast(exec, self.qkv.view(), self.copy.view_mut());
        }
        wait()?;
        clocked(|| {
            match backward {
                true => self.backward(exec, heads)?,
                false => self.forward(exec, heads)?,
            }
            wait()
        })
    }

    fn forward(&mut self, exec: &Exec, heads: Heads) -> Result<()> {
        let Self { batch, qkv, o, lse, .. } = self;
        attention::forward(exec, qkv.view(), heads, scope(batch), o.view_mut(), lse.view_mut())
    }

    fn backward(&mut self, exec: &Exec, heads: Heads) -> Result<()> {
        let Self { batch, copy, o, dout, lse, .. } = self;
        attention::backward(exec, dout.view(), o.view(), lse.view(), copy.view_mut(), heads, scope(batch))
    }
}

fn scope(batch: &Batch) -> Scope<'_> {
    Scope { bounds: batch.bounds(), mask: Mask::CAUSAL, pages: None }
}
