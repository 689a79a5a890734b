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
    /// The row of the histories that penalties read.
    pub history: Option<u32>,
}

impl Settings {
    /// The best token, whatever was said before.
    pub const GREEDY: Self = Self {
        repetition: 1.0,
        presence: 0.0,
        frequency: 0.0,
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        seed: 0,
        place: 0,
        history: None,
    };

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

/// Chooses a token for each row; its logprob is the model's own, before penalties and filters.
///
/// Shapes: logits `[S,V]` in f32; floats `[S,FLOATS]` and words `[S,WORDS]`, see [`Settings::to_tables`]; histories
/// `[H,V]`, tokens as [`IN_PROMPT`] says; ids, logprobs `[S]`.
pub fn choose(
    exec: &Exec,
    logits: Tensor,
    (floats, words): (Tensor, Tensor),
    histories: Option<Tensor>,
    ids: TensorMut,
    logprobs: TensorMut,
) {
    let (rows, v) = (logits.rows(), logits.row_count());
    assert_eq!([floats.count(), words.count()], [rows * FLOATS, rows * WORDS]);
    assert_eq!([ids.shape().count(), logprobs.shape().count()], [rows; 2]);
    assert!(histories.is_none_or(|histories| histories.row_count() == v));
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => choose_cpu(exec, logits, (floats, words), histories, ids, logprobs),
        Device::Cuda(cuda) => {
            // Without histories no row may name one: any address will do.
            let histories = histories.unwrap_or(logits);
            let args = [
                logits.into(),
                floats.into(),
                words.into(),
                histories.into(),
                (&ids).into(),
                (&logprobs).into(),
                v.into(),
            ];
            card::launch(cuda, "sample_choose", DType::F32, Grid::linear(rows, THREADS), &args);
        }
    }
}

fn choose_cpu(
    exec: &Exec,
    logits: Tensor,
    (floats, words): (Tensor, Tensor),
    histories: Option<Tensor>,
    ids: TensorMut,
    logprobs: TensorMut,
) {
    let v = logits.row_count();
    let tables = host::slice::<f32>(floats).chunks_exact(FLOATS).zip(host::slice(words).chunks_exact(WORDS));
    let histories: &[u32] = histories.map_or(&[], host::slice);
    let chosen = host::slice_mut::<u32>(ids).iter_mut().zip(host::slice_mut::<f32>(logprobs));
    let rows = host::slice::<f32>(logits).chunks_exact(v).zip(tables);
    each(exec.pool(), rows.zip(chosen), |((logits, (floats, words)), (id, logprob))| {
        let settings = Settings::from_tables(floats, words);
        let history = settings.history.map(|row| &histories[row as usize * v..][..v]);
        (*id, *logprob) = choose_row(logits, &settings, history);
    });
}

/// [`choose`] of one row `[V]` in host memory, with its history.
pub fn choose_row(logits: &[f32], settings: &Settings, history: Option<&[u32]>) -> (u32, f32) {
    let model = logits.iter().filter(|logit| !logit.is_nan()).map(|&logit| f64::from(logit));
    let largest = model.clone().fold(f64::NEG_INFINITY, f64::max);
    if !largest.is_finite() {
        return (NOTHING, f32::NAN);
    }
    let normaliser = largest + model.map(|logit| (logit - largest).exp()).sum::<f64>().ln();
    let penalised: Option<Vec<f32>> = history.map(|history| {
        let pairs = logits.iter().zip(history);
        pairs.map(|(&logit, &seen)| penalise(logit, seen, settings)).collect()
    });
    let token = draw(penalised.as_deref().unwrap_or(logits), settings);
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

#[derive(Clone, Copy, Debug)]
struct Candidate {
    token: u32,
    /// exp((logit - largest logit) / temperature): the probability but for a common factor.
    weight: f64,
}

fn draw(logits: &[f32], settings: &Settings) -> u32 {
    let best = argmax(logits);
    if settings.temperature == 0.0 {
        return best;
    }
    let mut candidates = weigh(logits, logits[best as usize], settings.temperature);
    if settings.top_k > 0 {
        keep_top_k(&mut candidates, settings.top_k as usize);
    }
    if settings.top_p < 1.0 {
        keep_top_p(&mut candidates, f64::from(settings.top_p));
    }
    // The most probable token weighs 1.
    candidates.retain(|candidate| candidate.weight >= f64::from(settings.min_p));
    pick(&candidates, unit(Philox::new(settings.seed, 0).at(settings.place)[0]))
}

/// The most probable token; of equals the first.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, &logit) in logits.iter().enumerate() {
        if logit > logits[best] || logits[best].is_nan() {
            best = token;
        }
    }
    best as u32
}

/// In the order of their numbers.
fn weigh(logits: &[f32], largest: f32, temperature: f32) -> Vec<Candidate> {
    let usable = logits.iter().enumerate().filter(|(_, logit)| !logit.is_nan());
    let weight = |logit: f32| ((f64::from(logit) - f64::from(largest)) / f64::from(temperature)).exp();
    usable.map(|(token, &logit)| Candidate { token: token as u32, weight: weight(logit) }).collect()
}

fn keep_top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k, more_probable_first);
        candidates.truncate(k);
        // The draw walks the candidates in order: selection must leave no trace in it.
        candidates.sort_unstable_by_key(|candidate| candidate.token);
    }
}

fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f64) {
    let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
    // Tokens below the cut hold less than 1 - p together, so the nucleus is among the others: only those need sorting, a
    // few out of a large vocabulary.
    let cut = (1.0 - top_p) * total / candidates.len() as f64;
    candidates.retain(|candidate| candidate.weight >= cut);
    candidates.sort_unstable_by(more_probable_first);
    let mut reached = 0.0;
    let inside = candidates.iter().position(|candidate| {
        reached += candidate.weight;
        reached >= top_p * total
    });
    candidates.truncate(inside.map_or(candidates.len(), |last| last + 1));
    candidates.sort_unstable_by_key(|candidate| candidate.token);
}

fn more_probable_first(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
}

/// Walks the cumulative weights to the share `place` in [0, 1).
fn pick(candidates: &[Candidate], place: f32) -> u32 {
    let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
    let target = f64::from(place) * total;
    let mut reached = 0.0;
    let found = candidates.iter().find(|candidate| {
        reached += candidate.weight;
        reached > target
    });
    // Rounding may leave the sum a hair below the target.
    let found = found.or(candidates.iter().rev().find(|candidate| candidate.weight > 0.0));
    found.map_or(NOTHING, |candidate| candidate.token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 6] = [1.0, 3.0, -2.0, 2.5, 0.0, 2.9];

    const PLAIN: Settings = Settings { temperature: 1.0, seed: 11, ..Settings::GREEDY };

    fn drawn(settings: Settings, draws: u64) -> Vec<u32> {
        (0..draws).map(|place| draw(&LOGITS, &Settings { place, ..settings })).collect()
    }

    fn support(settings: Settings) -> Vec<u32> {
        let mut tokens = drawn(settings, 4000);
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    #[test]
    fn greedy_takes_the_first_of_the_best() {
        assert_eq!(argmax(&[0.0, 4.0, 4.0]), 1);
        assert_eq!(argmax(&[f32::NAN, f32::NEG_INFINITY, -3.0]), 2);
        assert_eq!(drawn(Settings { temperature: 0.0, ..PLAIN }, 3), [1, 1, 1]);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let n = 60_000;
        let tokens = drawn(Settings { temperature: 2.0, ..PLAIN }, n);
        let total: f64 = LOGITS.iter().map(|&l| (f64::from(l) / 2.0).exp()).sum();
        for (token, &logit) in LOGITS.iter().enumerate() {
            let expected = (f64::from(logit) / 2.0).exp() / total;
            let share = tokens.iter().filter(|&&t| t as usize == token).count() as f64 / n as f64;
            assert!((share - expected).abs() < 0.01, "token {token}: {share} against {expected}");
        }
    }

    #[test]
    fn filters_keep_exactly_what_they_say() {
        assert_eq!(support(Settings { top_k: 2, ..PLAIN }), [1, 5]);
        assert_eq!(support(Settings { top_k: 99, ..PLAIN }).len(), 6);
        // By hand: probabilities 0.377 (1), 0.341 (5), 0.229 (3), 0.051 (0) ... so 0.7 needs two, 0.75 three.
        assert_eq!(support(Settings { top_p: 0.7, ..PLAIN }), [1, 5]);
        assert_eq!(support(Settings { top_p: 0.75, ..PLAIN }), [1, 3, 5]);
        assert_eq!(support(Settings { top_p: 1e-9, ..PLAIN }), [1]);
        // 0.229 / 0.377 is 0.607.
        assert_eq!(support(Settings { min_p: 0.6, ..PLAIN }), [1, 3, 5]);
        assert_eq!(support(Settings { min_p: 0.61, ..PLAIN }), [1, 5]);
        assert_eq!(support(Settings { min_p: 1.0, ..PLAIN }), [1]);
    }

    #[test]
    fn logprobs_are_the_models_own_and_broken_logits_give_nothing() {
        let (_, logprob) = choose_row(&[0.0, 0.0], &Settings { top_k: 1, ..PLAIN }, None);
        assert!((logprob - 0.5f32.ln()).abs() < 1e-6);
        for broken in [[f32::NAN, f32::NAN], [f32::INFINITY, 0.0], [f32::NEG_INFINITY; 2]] {
            assert_eq!(choose_row(&broken, &PLAIN, None).0, NOTHING);
        }
    }

    #[test]
    fn a_large_vocabulary_gives_the_same_nucleus_as_sorting_everything() {
        let mut rng = Philox::new(5, 0);
        let logits: Vec<f32> = (0..5000).map(|_| rng.normal() * 3.0).collect();
        let mut candidates = weigh(&logits, logits[argmax(&logits) as usize], 1.0);
        let mut everything = candidates.clone();
        everything.sort_unstable_by(more_probable_first);
        let total: f64 = everything.iter().map(|c| c.weight).sum();
        let mut reached = 0.0;
        let mut nucleus: Vec<u32> = Vec::new();
        for candidate in everything {
            nucleus.push(candidate.token);
            reached += candidate.weight;
            if reached >= 0.9 * total {
                break;
            }
        }
        nucleus.sort_unstable();
        keep_top_p(&mut candidates, 0.9);
        assert_eq!(candidates.iter().map(|c| c.token).collect::<Vec<_>>(), nucleus);
    }
}
