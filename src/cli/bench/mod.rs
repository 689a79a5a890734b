//! `cloister bench`: how fast this machine trains and generates, with a model of any shape and random weights,
//! as numbers and as a share of what the machine can do at most. It needs no data directory and leaves nothing.

mod attention;
mod generate;
mod pretrain;
mod sealing;

use std::time::{Duration, Instant};

use clap::{Subcommand, ValueEnum};
use serde::Serialize;

use super::{screen::Screen, session::Session};
use crate::{
    base::{
        Result,
        units::{Bytes, Count},
    },
    device::Device,
    tensor::DType,
    train::{self, Precision, machine},
};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Whole training steps: forward, backward, clipping, AdamW
    Pretrain(pretrain::Args),
    /// Reading a prompt
    Prefill(generate::Args),
    /// Writing an answer, one token after the other
    Decode(generate::Args),
    /// Attention alone, forward or backward
    Attention(attention::Args),
    /// Reading and writing through the vault, beside plain files
    Sealing(sealing::Args),
}

pub fn run(command: Command, session: &Session) -> Result<()> {
    let device = session.settings.device.open(session.settings.threads.map(usize::from))?;
    let report = match command {
        Command::Pretrain(args) => pretrain::run(&args, &device)?,
        Command::Prefill(args) => generate::prefill(&args, &device)?,
        Command::Decode(args) => generate::decode(&args, &device)?,
        Command::Attention(args) => attention::run(&args, &device)?,
        Command::Sealing(args) => return sealing::run(&args, session),
    };
    session.screen.show(&report, draw)
}

/// The shape of the model, in the names of `model pretrain`.
#[derive(Clone, Copy, Debug)]
struct ModelShape {
    dim: u32,
    layers: u32,
    heads: u32,
    kv_heads: Option<u32>,
    ffn: u32,
    vocab: u32,
    context: u32,
}

impl ModelShape {
    /// # Errors
    /// `Usage` where the numbers make no model.
    fn settle(self) -> Result<train::Shape> {
        let Self { dim, layers, heads, kv_heads, ffn, vocab, context } = self;
        let config = train::RunConfig {
            dim: Some(dim),
            layers: Some(layers),
            heads: Some(heads),
            kv_heads: Some(kv_heads.unwrap_or(heads)),
            ffn: Some(ffn),
            context: Some(context),
            tied: Some(false),
            ..train::RunConfig::default()
        };
        // Every dial is set: the number of parameters asked for decides nothing.
        train::Shape::choose(&config, 1_000_000, u64::from(vocab))
    }
}

/// The type of weights and activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Dtype {
    F32,
    Bf16,
}

impl Dtype {
    fn precision(self) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::Bf16 => Precision::Bf16,
        }
    }

    fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::Bf16,
        }
    }
}

/// What a benchmark found. Scripts rely on the first four numbers.
#[derive(Debug, Serialize)]
struct Report {
    tokens_per_s: f64,
    /// Matrix products alone, a multiply and an add being two.
    flops_per_s: f64,
    /// What must be moved at least: the weights of every pass, what AdamW reads and writes, the KV cache.
    bytes_per_s: f64,
    /// On a processor the highest that this process has stood, program and all; on a card what was taken of it.
    peak_memory_bytes: u64,
    bench: &'static str,
    dtype: Dtype,
    device: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<u64>,
    /// Of one step, pass or token.
    median_s: f64,
    /// What this machine reached beside it: matrix products of this type, and reading memory.
    machine_flops_per_s: f64,
    machine_read_bytes_per_s: f64,
    /// What the card could reach by its clocks, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak: Option<Peak>,
    /// Of step number `--steps` of all that were made.
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<f64>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Peak {
    flops_per_s: f64,
    bytes_per_s: f64,
}

impl Peak {
    fn of(device: &Device, dtype: Dtype) -> Option<Self> {
        let Device::Cuda(cuda) = device else { return None };
        let info = cuda.info();
        let flops_per_s = info.matrix_flops_per_s(dtype.dtype())?;
        Some(Self { flops_per_s, bytes_per_s: info.memory_bytes_per_s })
    }
}

/// What a benchmark does once: so many tokens, FLOPs and bytes.
struct Work {
    bench: &'static str,
    dtype: Dtype,
    parameters: Option<u64>,
    tokens: f64,
    flops: f64,
    bytes: f64,
    /// What it takes of the device's memory at its highest.
    memory_bytes: u64,
}

impl Work {
    /// The report for this work, done in the median of `seconds`.
    fn report(self, device: &Device, mut seconds: Vec<f64>, loss: Option<f64>) -> Result<Report> {
        let Self { bench, dtype, parameters, tokens, flops, bytes, memory_bytes } = self;
        // Before the yardsticks take memory of their own.
        let peak_memory_bytes = match device {
            Device::Cpu(_) => peak_memory_bytes(),
            Device::Cuda(_) => memory_bytes,
        };
        seconds.sort_by(f64::total_cmp);
        let median_s = seconds[seconds.len() / 2];
        Ok(Report {
            tokens_per_s: tokens / median_s,
            flops_per_s: flops / median_s,
            bytes_per_s: bytes / median_s,
            peak_memory_bytes,
            bench,
            dtype,
            device: device.to_string(),
            parameters,
            median_s,
            machine_flops_per_s: machine::matrix_flops_per_s(device, dtype.dtype())?,
            machine_read_bytes_per_s: machine::read_bytes_per_s(device)?,
            peak: Peak::of(device, dtype),
            loss,
        })
    }
}

/// Runs `once` before the clock counts, at least twice: memory is touched for the first time, graphs are made; and for a
/// moment, in which a card's clocks rise. Then `times` times; returns the seconds that each of the latter says it took.
fn timed(times: usize, mut once: impl FnMut() -> Result<f64>) -> Result<Vec<f64>> {
    let began = Instant::now();
    for warm_up in 0.. {
        if warm_up >= WARM_UP_TIMES && (began.elapsed() >= WARM_UP || warm_up >= WARM_UP_TIMES_MAX) {
            break;
        }
        once()?;
    }
    (0..times).map(|_| once()).collect()
}

/// The seconds that `work` took.
fn clocked(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work().map(|()| start.elapsed().as_secs_f64())
}

const WARM_UP: Duration = Duration::from_millis(400);
const WARM_UP_TIMES: usize = 2;
const WARM_UP_TIMES_MAX: usize = 1000;

/// What the kernel counts as this process's highest resident memory; zero where it does not say.
fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn draw(screen: &Screen, report: &Report) -> Result<()> {
    let Report { bench, dtype, device, parameters, peak, .. } = report;
    let parameters =
        parameters.map(|count| format!("{} parameters, ", Count(count as f64))).unwrap_or_default();
    screen.line(format_args!("{bench}: {parameters}{dtype:?}, {device}"))?;
    screen.line(format_args!(
        "  {:>10} tokens/s ({:.2} ms each time)",
        Count(report.tokens_per_s),
        1e3 * report.median_s
    ))?;
    let line = |rate: f64, unit: &str, reached: f64, what: &str, peak: Option<f64>| {
        let share = |whole: f64| 100.0 * rate / whole;
        let peak =
            peak.map(|peak| format!(", {:.0}% of the {} that its clocks allow", share(peak), Count(peak)));
        screen.line(format_args!(
            "  {:>10} {unit}, {:.0}% of the {} that {what} reaches here{}",
            Count(rate),
            share(reached),
            Count(reached),
            peak.unwrap_or_default()
        ))
    };
    let peaks = peak.map(|peak| (peak.flops_per_s, peak.bytes_per_s)).unzip();
    line(report.flops_per_s, "FLOP/s", report.machine_flops_per_s, "multiplying matrices", peaks.0)?;
    line(report.bytes_per_s, "B/s", report.machine_read_bytes_per_s, "reading memory", peaks.1)?;
    screen.line(format_args!("  {:>10} of memory at most", Bytes(report.peak_memory_bytes).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tiny_model_is_measured_in_every_way() {
        let device = Device::cpu(Some(2));
        let shape = ["--dim", "32", "--layers", "1", "--heads", "2", "--ffn", "48", "--vocab", "80"];
        for dtype in ["f32", "bf16"] {
            for (bench, sizes) in [
                ("pretrain", ["--ctx", "8", "--batch", "2", "--steps", "2"]),
                ("prefill", ["--tokens", "16", "--times", "2", "--context", "32"]),
                ("decode", ["--tokens", "4", "--times", "3", "--context", "32"]),
                ("attention", ["--ctx", "8", "--batch", "2", "--times", "2"]),
                ("attention", ["--ctx", "8", "--backward", "--times", "2", "--batch=2"]),
            ] {
                let shape =
                    if bench == "attention" { &["--heads", "2", "--head-dim", "16"] } else { &shape[..] };
                let words = [["bench", bench, "--dtype", dtype].as_slice(), shape, &sizes].concat();
                let command = Arguments::parse_from(words).command;
                let report = match command {
                    Command::Pretrain(args) => pretrain::run(&args, &device),
                    Command::Prefill(args) => generate::prefill(&args, &device),
                    Command::Decode(args) => generate::decode(&args, &device),
                    Command::Attention(args) => attention::run(&args, &device),
                    Command::Sealing(_) => unreachable!("not among the words"),
                }
                .expect("a small model runs");
                for number in [report.tokens_per_s, report.flops_per_s, report.bytes_per_s] {
                    assert!(number.is_finite() && number > 0.0, "{bench} {dtype}: {report:?}");
                }
                // ln 80 = 4.38: random weights know nothing, and two steps teach little.
                assert!(report.loss.is_none_or(|loss| (3.5..5.0).contains(&loss)), "{report:?}");
            }
        }
    }

    #[test]
    fn a_shape_that_makes_no_model_is_refused() {
        for wrong in [["--dim", "0"], ["--heads", "7"], ["--kv-heads", "4"], ["--vocab", "0"]] {
            let words = [["bench", "pretrain"], wrong].concat();
            let Command::Pretrain(args) = Arguments::parse_from(words).command else { panic!("pretrain") };
            let error = pretrain::run(&args, &Device::cpu(Some(1))).expect_err("refused");
            assert_eq!(error.kind(), crate::base::ErrorKind::Usage, "{wrong:?}: {error}");
        }
    }

    #[derive(clap::Parser)]
    struct Arguments {
        #[command(subcommand)]
        command: Command,
    }

    use clap::Parser;
}
