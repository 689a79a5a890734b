//! From rows of logits to tokens where the logits lie: penalties, temperature, top-k, top-p, min-p and a draw that can
//! be repeated, for rows with settings of their own. A draw is a pure function of seed and place. Devices choose the
//! same token but where rounding decides.

use super::{Exec, card, lanes::each};
use crate::{
    base::{Philox, rng::unit},
    device::{Device, cuda::Grid, host},
    tensor::{DType, Tensor, TensorMut},
};

/// What is chosen where no logit of a row is usable.
pub const NOTHING: u32 = u32::MAX;
/// In a history: the prompt holds the token. The lower bits say how often the answer does.
pub const IN_PROMPT: u32 = 1 << 31;

/// Numbers of a row's settings in either table.
pub const FLOATS: usize = 6;
pub const WORDS: usize = 6;
const NO_HISTORY: u32 = u32::MAX;
/// Threads of the block that a row is given on a card.
const THREADS: u32 = 1024;

/// How the token of one row is chosen; the filters apply in the order of the fields.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Divides positive logits (multiplies negative ones) of tokens in prompt or answer; 1 is none.
    pub repetition: f32,
    /// Subtracted where the answer holds the token, and once more for each time.
    pub presence: f32,
    pub frequency: f32,
    /// 0 takes the best token, of equals the first, and draws nothing.
    pub temperature: f32,
    /// 0 keeps all, as do a `top_p` of 1 and a `min_p` of 0.
    pub top_k: u32,
    pub top_p: f32,
    pub min_p: f32,
    pub seed: u64,
    /// Of the token in its answer: the counter of the draw.
    pub place: u64,
    /// The row of the histories that penalties read; the chosen token is counted in it.
    pub history: Option<u32>,
}

impl Settings {
    /// As [`choose`] reads them.
    pub fn to_tables(self) -> ([f32; FLOATS], [u32; WORDS]) {
        let [seed, place] = [self.seed, self.place].map(|number| [number as u32, (number >> 32) as u32]);
        (
            [self.temperature, self.top_p, self.min_p, self.repetition, self.presence, self.frequency],
            [self.top_k, seed[0], seed[1], place[0], place[1], self.history.unwrap_or(NO_HISTORY)],
        )
    }

    fn from_tables(floats: &[f32], words: &[u32]) -> Self {
        let whole = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        Self {
            temperature: floats[0],
            top_p: floats[1],
            min_p: floats[2],
            repetition: floats[3],
            presence: floats[4],
            frequency: floats[5],
            top_k: words[0],
            seed: whole(words[1], words[2]),
            place: whole(words[3], words[4]),
            history: (words[5] != NO_HISTORY).then_some(words[5]),
        }
    }
}

/// Chooses a token for each row; its logprob is the model's own, before penalties and filters. No two rows may have
/// one history.
///
/// Shapes: logits `[S,V]` in f32; floats `[S,FLOATS]` and words `[S,WORDS]`, see [`Settings::to_tables`]; histories
/// `[H,V]`, tokens as [`IN_PROMPT`] says; ids, logprobs `[S]`.
pub fn choose(
    exec: &Exec,
    logits: Tensor,
    (floats, words): (Tensor, Tensor),
    histories: Option<TensorMut>,
    ids: TensorMut,
    logprobs: TensorMut,
) {
    let (rows, v) = (logits.rows(), logits.row_count());
    assert_eq!([floats.count(), words.count()], [rows * FLOATS, rows * WORDS]);
    assert_eq!([ids.shape().count(), logprobs.shape().count()], [rows; 2]);
    assert!(histories.as_ref().is_none_or(|histories| histories.row_count() == v));
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => choose_cpu(exec, logits, (floats, words), histories, ids, logprobs),
        Device::Cuda(cuda) => {
            // Without histories no row may name one: any address will do.
            let histories = histories.map_or(logits, TensorMut::freeze);
            let args = [
                logits.into(),
                floats.into(),
                words.into(),
                histories.into(),
                (&ids).into(),
                (&logprobs).into(),
                v.into(),
            ];
            card::launch(cuda, "sample_choose", DType::F32, Grid::linear(rows, THREADS).early(), &args);
        }
    }
}

fn choose_cpu(
    exec: &Exec,
    logits: Tensor,
    (floats, words): (Tensor, Tensor),
    histories: Option<TensorMut>,
    ids: TensorMut,
    logprobs: TensorMut,
) {
    let v = logits.row_count();
    let tables = host::slice::<f32>(floats).chunks_exact(FLOATS).zip(host::slice(words).chunks_exact(WORDS));
    let settings: Vec<Settings> =
        tables.map(|(floats, words)| Settings::from_tables(floats, words)).collect();
    // Each history goes to the row that names it.
    let mut histories: Vec<Option<&mut [u32]>> =
        histories.map_or(Vec::new(), |all| host::slice_mut(all).chunks_exact_mut(v).map(Some).collect());
    let mut history_of = |row: &Settings| {
        row.history.map(|history| histories[history as usize].take().expect("one row names a history"))
    };
    let histories: Vec<_> = settings.iter().map(&mut history_of).collect();
    let chosen = host::slice_mut::<u32>(ids).iter_mut().zip(host::slice_mut::<f32>(logprobs));
    let rows = host::slice::<f32>(logits).chunks_exact(v).zip(settings).zip(histories);
    each(exec.pool(), rows.zip(chosen), |(((logits, settings), history), (id, logprob))| {
        (*id, *logprob) = choose_row(logits, &settings, history);
    });
}

fn choose_row(logits: &[f32], settings: &Settings, mut history: Option<&mut [u32]>) -> (u32, f32) {
    let model = logits.iter().filter(|logit| !logit.is_nan()).map(|&logit| f64::from(logit));
    let largest = model.clone().fold(f64::NEG_INFINITY, f64::max);
    if !largest.is_finite() {
        return (NOTHING, f32::NAN);
    }
    let normaliser = largest + model.map(|logit| (logit - largest).exp()).sum::<f64>().ln();
    let penalised = |token: usize| {
        history.as_ref().map_or(logits[token], |seen| penalise(logits[token], seen[token], settings))
    };
    let mut candidates: Vec<(u32, f64)> = (0..logits.len())
        .map(|token| (token as u32, f64::from(penalised(token))))
        .filter(|(_, logit)| !logit.is_nan())
        .collect();
    candidates.sort_by(|a, b| (b.1 + 0.0).total_cmp(&(a.1 + 0.0)).then(a.0.cmp(&b.0)));
    let token = if settings.temperature == 0.0 { candidates[0].0 } else { draw(candidates, settings) };
    if let Some(seen) = &mut history {
        seen[token as usize] += 1;
    }
    (token, (f64::from(logits[token as usize]) - normaliser) as f32)
}

fn penalise(mut logit: f32, seen: u32, settings: &Settings) -> f32 {
    let in_answer = seen & !IN_PROMPT;
    if seen != 0 {
        logit = if logit > 0.0 { logit / settings.repetition } else { logit * settings.repetition };
    }
    if in_answer != 0 {
        logit -= settings.presence + settings.frequency * in_answer as f32;
    }
    logit
}

/// Draws from tokens and their logits, the most probable first.
fn draw(mut candidates: Vec<(u32, f64)>, settings: &Settings) -> u32 {
    let largest = candidates[0].1;
    for (_, weight) in &mut candidates {
        *weight = ((*weight - largest) / f64::from(settings.temperature)).exp();
    }
    if settings.top_k > 0 {
        candidates.truncate(settings.top_k as usize);
    }
    let sum = |candidates: &[(u32, f64)]| candidates.iter().map(|candidate| candidate.1).sum::<f64>();
    if settings.top_p < 1.0 {
        let target = f64::from(settings.top_p) * sum(&candidates);
        let mut reached = 0.0;
        let last = candidates.iter().position(|candidate| {
            reached += candidate.1;
            reached >= target
        });
        candidates.truncate(last.map_or(candidates.len(), |last| last + 1));
    }
    candidates.retain(|candidate| candidate.1 >= f64::from(settings.min_p));
    candidates.sort_unstable_by_key(|candidate| candidate.0);
    let place = unit(Philox::new(settings.seed, 0).at(settings.place)[0]);
    let target = f64::from(place) * sum(&candidates);
    let mut reached = 0.0;
    let found = candidates.iter().find(|candidate| {
        reached += candidate.1;
        reached > target
    });
    // Rounding may leave the sum a hair below the target.
    found.or(candidates.iter().rev().find(|candidate| candidate.1 > 0.0)).map_or(NOTHING, |found| found.0)
}
