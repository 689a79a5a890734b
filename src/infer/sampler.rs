//! From logits to a token: penalties, temperature, top-k, top-p, min-p, and a draw that can be repeated.
//! A draw is a pure function of the request's seed and of the token's place in its answer, so it does not
//! depend on what else is in the batch. Temperature 0 takes the best token and draws nothing.

use serde::{Deserialize, Serialize};

use crate::base::{Error, Philox, Result, rng::unit};

/// Above this a softmax is flat for any purpose; the bound keeps the arithmetic finite.
pub const TEMPERATURE_MAX: f32 = 100.0;

/// How tokens are chosen. The filters apply in the order of the fields, after the penalties.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// 0 is greedy; then no other filter has an effect.
    pub temperature: f32,
    /// Only the k most probable tokens; 0 keeps all.
    pub top_k: u32,
    /// Only the smallest set of most probable tokens whose probabilities sum to this; 1 keeps all.
    pub top_p: f32,
    /// Only tokens at least this share as probable as the most probable one; 0 keeps all.
    pub min_p: f32,
    /// Divides positive logits (multiplies negative ones) of tokens in prompt or answer; 1 is none.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens that the answer holds already.
    pub presence_penalty: f32,
    /// Subtracted once for each time that the answer holds the token.
    pub frequency_penalty: f32,
    /// The same seed, prompt and model give the same answer; None draws a seed.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: None,
        }
    }
}

impl Sampling {
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// # Errors
    /// Usage, naming the first value that is out of range.
    pub fn validate(&self) -> Result<()> {
        let ranges = [
            ("temperature", self.temperature, 0.0, TEMPERATURE_MAX),
            ("top_p", self.top_p, f32::MIN_POSITIVE, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("repetition_penalty", self.repetition_penalty, f32::MIN_POSITIVE, 100.0),
            ("presence_penalty", self.presence_penalty, -100.0, 100.0),
            ("frequency_penalty", self.frequency_penalty, -100.0, 100.0),
        ];
        for (name, value, least, most) in ranges {
            // Written so that NaN is refused too.
            if !(least..=most).contains(&value) {
                let least = if least == f32::MIN_POSITIVE { "more than 0".into() } else { least.to_string() };
                return Err(Error::usage(format!("{name} is {value}: it must be from {least} to {most}")));
            }
        }
        Ok(())
    }

    fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

/// A chosen token and how probable the model held it to be, before penalties and filters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    pub token: u32,
    /// Natural logarithm of the model's own probability.
    pub logprob: f32,
}

/// One sequence's sampler: its settings, its random stream and what penalties need to remember.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    draws: Philox,
    seen: Vec<Seen>,
    /// Kept between calls, so that a step allocates nothing.
    candidates: Vec<Candidate>,
}

/// How often a token stands in the prompt and in the answer.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    in_prompt: bool,
    in_answer: u32,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    token: u32,
    /// exp((logit - largest logit) / temperature): the probability but for a common factor.
    weight: f64,
}

impl Sampler {
    /// `seed` is used where the settings name none.
    pub fn new(sampling: Sampling, seed: u64, prompt: &[u32], vocabulary: usize) -> Self {
        let mut seen = Vec::new();
        if sampling.penalises() {
            seen.resize(vocabulary, Seen::default());
            for &token in prompt {
                if let Some(seen) = seen.get_mut(token as usize) {
                    seen.in_prompt = true;
                }
            }
        }
        let draws = Philox::new(sampling.seed.unwrap_or(seed), 0);
        Self { sampling, draws, seen, candidates: Vec::new() }
    }

    /// Chooses the token at `place` (0 for the answer's first) from `logits` `[V]`.
    ///
    /// # Errors
    /// When no logit is a number: the model's weights or its arithmetic are broken.
    pub fn choose(&mut self, logits: &mut [f32], place: u64) -> Result<Choice> {
        let normaliser = log_sum_exp(logits)?;
        let model_logit = |token: u32, logits: &[f32]| logits[token as usize];
        let choice = if self.sampling.penalises() {
            let untouched = logits.to_vec();
            self.penalise(logits);
            let token = self.draw(logits, place);
            Choice { token, logprob: (f64::from(model_logit(token, &untouched)) - normaliser) as f32 }
        } else {
            let token = self.draw(logits, place);
            Choice { token, logprob: (f64::from(model_logit(token, logits)) - normaliser) as f32 }
        };
        if let Some(seen) = self.seen.get_mut(choice.token as usize) {
            seen.in_answer += 1;
        }
        Ok(choice)
    }

    fn penalise(&self, logits: &mut [f32]) {
        let Sampling { repetition_penalty, presence_penalty, frequency_penalty, .. } = self.sampling;
        for (logit, seen) in logits.iter_mut().zip(&self.seen) {
            if seen.in_prompt || seen.in_answer > 0 {
                *logit = if *logit > 0.0 { *logit / repetition_penalty } else { *logit * repetition_penalty };
            }
            if seen.in_answer > 0 {
                *logit -= presence_penalty + frequency_penalty * seen.in_answer as f32;
            }
        }
    }

    fn draw(&mut self, logits: &[f32], place: u64) -> u32 {
        if self.sampling.temperature == 0.0 {
            return argmax(logits);
        }
        self.weigh(logits);
        if self.sampling.top_k > 0 {
            self.keep_top_k();
        }
        if self.sampling.top_p < 1.0 {
            self.keep_top_p();
        }
        if self.sampling.min_p > 0.0 {
            self.keep_min_p();
        }
        pick(&self.candidates, unit(self.draws.at(place)[0]))
    }

    fn weigh(&mut self, logits: &[f32]) {
        let largest = f64::from(logits[argmax(logits) as usize]);
        let temperature = f64::from(self.sampling.temperature);
        self.candidates.clear();
        self.candidates.extend(logits.iter().enumerate().filter(|(_, logit)| !logit.is_nan()).map(
            |(token, &logit)| Candidate {
                token: token as u32,
                weight: ((f64::from(logit) - largest) / temperature).exp(),
            },
        ));
    }

    fn keep_top_k(&mut self) {
        let k = self.sampling.top_k as usize;
        if k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k, more_probable_first);
            self.candidates.truncate(k);
            // The draw walks the candidates in order: selection must leave no trace in it.
            self.candidates.sort_unstable_by_key(|candidate| candidate.token);
        }
    }

    fn keep_top_p(&mut self) {
        let top_p = f64::from(self.sampling.top_p);
        let total: f64 = self.candidates.iter().map(|candidate| candidate.weight).sum();
        // Tokens below the cut hold less than 1 - p together, so the nucleus is among the others:
        // only those need sorting, a few out of a large vocabulary.
        let cut = (1.0 - top_p) * total / self.candidates.len() as f64;
        self.candidates.retain(|candidate| candidate.weight >= cut);
        self.candidates.sort_unstable_by(more_probable_first);
        let mut reached = 0.0;
        let inside = self.candidates.iter().position(|candidate| {
            reached += candidate.weight;
            reached >= top_p * total
        });
        self.candidates.truncate(inside.map_or(self.candidates.len(), |last| last + 1));
        self.candidates.sort_unstable_by_key(|candidate| candidate.token);
    }

    fn keep_min_p(&mut self) {
        let largest = self.candidates.iter().map(|candidate| candidate.weight).fold(0.0, f64::max);
        let least = largest * f64::from(self.sampling.min_p);
        self.candidates.retain(|candidate| candidate.weight >= least);
    }
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

/// Walks the cumulative weights to the share `place` in [0, 1).
fn pick(candidates: &[Candidate], place: f32) -> u32 {
    let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
    let target = f64::from(place) * total;
    let mut reached = 0.0;
    for candidate in candidates {
        reached += candidate.weight;
        if reached > target {
            return candidate.token;
        }
    }
    // Rounding may leave the sum a hair below the target.
    candidates.iter().rev().find(|candidate| candidate.weight > 0.0).map_or(0, |candidate| candidate.token)
}

fn more_probable_first(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
}

fn log_sum_exp(logits: &[f32]) -> Result<f64> {
    let largest = logits.iter().copied().filter(|logit| !logit.is_nan()).fold(f32::NEG_INFINITY, f32::max);
    if !largest.is_finite() {
        return Err(Error::failed("the model computed no usable logit (all are NaN or infinite)").remedy(
            "the weights are damaged or diverged in training: verify the vault, serve an earlier checkpoint",
        ));
    }
    let sum: f64 = logits
        .iter()
        .filter(|logit| !logit.is_nan())
        .map(|&logit| (f64::from(logit) - f64::from(largest)).exp())
        .sum();
    Ok(f64::from(largest) + sum.ln())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        device::Device,
        ops::{Exec, sample},
        tensor::DType,
    };

    const LOGITS: [f32; 6] = [1.0, 3.0, -2.0, 2.5, 0.0, 2.9];

    fn drawn(sampling: Sampling, draws: u64) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling, 11, &[], LOGITS.len());
        (0..draws).map(|place| sampler.draw(&LOGITS, place)).collect()
    }

    fn support(sampling: Sampling) -> Vec<u32> {
        let mut tokens = drawn(sampling, 4000);
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    #[test]
    fn greedy_takes_the_first_of_the_best() {
        assert_eq!(argmax(&[0.0, 4.0, 4.0]), 1);
        assert_eq!(argmax(&[f32::NAN, f32::NEG_INFINITY, -3.0]), 2);
        assert_eq!(drawn(Sampling::greedy(), 3), [1, 1, 1]);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let n = 60_000;
        let tokens = drawn(Sampling { temperature: 2.0, ..Sampling::default() }, n);
        let total: f64 = LOGITS.iter().map(|&l| (f64::from(l) / 2.0).exp()).sum();
        for (token, &logit) in LOGITS.iter().enumerate() {
            let expected = (f64::from(logit) / 2.0).exp() / total;
            let share = tokens.iter().filter(|&&t| t as usize == token).count() as f64 / n as f64;
            assert!((share - expected).abs() < 0.01, "token {token}: {share} against {expected}");
        }
    }

    #[test]
    fn filters_keep_exactly_what_they_say() {
        assert_eq!(support(Sampling { top_k: 2, ..Sampling::default() }), [1, 5]);
        assert_eq!(support(Sampling { top_k: 99, ..Sampling::default() }).len(), 6);
        // By hand: probabilities 0.377 (1), 0.341 (5), 0.229 (3), 0.051 (0) ... so 0.7 needs two, 0.75 three.
        assert_eq!(support(Sampling { top_p: 0.7, ..Sampling::default() }), [1, 5]);
        assert_eq!(support(Sampling { top_p: 0.75, ..Sampling::default() }), [1, 3, 5]);
        assert_eq!(support(Sampling { top_p: 1e-9, ..Sampling::default() }), [1]);
        // 0.229 / 0.377 is 0.607.
        assert_eq!(support(Sampling { min_p: 0.6, ..Sampling::default() }), [1, 3, 5]);
        assert_eq!(support(Sampling { min_p: 0.61, ..Sampling::default() }), [1, 5]);
        assert_eq!(support(Sampling { min_p: 1.0, ..Sampling::default() }), [1]);
    }

    #[test]
    fn a_seed_repeats_and_another_differs() {
        let with = |seed| drawn(Sampling { seed: Some(seed), ..Sampling::default() }, 50);
        assert_eq!(with(1), with(1));
        assert_ne!(with(1), with(2));
    }

    #[test]
    fn penalties_push_down_what_was_said() {
        let sampling = Sampling { frequency_penalty: 0.3, ..Sampling::greedy() };
        let mut sampler = Sampler::new(sampling, 0, &[], LOGITS.len());
        let said: Vec<u32> =
            (0..4).map(|place| sampler.choose(&mut LOGITS.clone(), place).expect("finite").token).collect();
        // 3.0, then 2.9 against 2.7, then 2.7 against 2.6, then 2.6 against 2.5 and 2.4.
        assert_eq!(said, [1, 5, 1, 5]);
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::greedy() };
        let mut sampler = Sampler::new(sampling, 0, &[1, 5], LOGITS.len());
        assert_eq!(sampler.choose(&mut LOGITS.clone(), 0).expect("finite").token, 3);
    }

    #[test]
    fn logprobs_are_the_models_own() {
        let mut sampler = Sampler::new(Sampling { top_k: 1, ..Sampling::default() }, 0, &[], 2);
        let choice = sampler.choose(&mut [0.0, 0.0], 0).expect("finite");
        assert!((choice.logprob - 0.5f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn broken_logits_and_settings_are_refused() {
        let mut sampler = Sampler::new(Sampling::default(), 0, &[], 2);
        assert!(sampler.choose(&mut [f32::NAN, f32::NAN], 0).is_err());
        assert!(sampler.choose(&mut [f32::INFINITY, 0.0], 0).is_err());
        for (name, broken) in [
            ("temperature", Sampling { temperature: f32::NAN, ..Sampling::default() }),
            ("temperature", Sampling { temperature: -0.1, ..Sampling::default() }),
            ("top_p", Sampling { top_p: 0.0, ..Sampling::default() }),
            ("top_p", Sampling { top_p: 1.1, ..Sampling::default() }),
            ("min_p", Sampling { min_p: -1.0, ..Sampling::default() }),
            ("repetition_penalty", Sampling { repetition_penalty: 0.0, ..Sampling::default() }),
        ] {
            assert!(broken.validate().unwrap_err().to_string().starts_with(name));
        }
    }

    #[test]
    fn a_large_vocabulary_gives_the_same_nucleus_as_sorting_everything() {
        let mut rng = Philox::new(5, 0);
        let logits: Vec<f32> = (0..5000).map(|_| rng.normal() * 3.0).collect();
        let mut sampler = Sampler::new(Sampling { top_p: 0.9, ..Sampling::default() }, 0, &[], logits.len());
        sampler.weigh(&logits);
        let mut everything = sampler.candidates.clone();
        everything.sort_unstable_by(more_probable_first);
        let total: f64 = everything.iter().map(|c| c.weight).sum();
        let mut reached = 0.0;
        let mut nucleus: Vec<u32> = Vec::new();
        for candidate in everything {
            nucleus.push(candidate.token);
            reached += candidate.weight;
            if reached >= 0.9f32 as f64 * total {
                break;
            }
        }
        nucleus.sort_unstable();
        sampler.keep_top_p();
        assert_eq!(sampler.candidates.iter().map(|c| c.token).collect::<Vec<_>>(), nucleus);
    }

    /// The operation that chooses where the logits lie has this sampler's semantics.
    #[test]
    fn the_operation_chooses_the_same_tokens() {
        let exec = Exec::new(Device::cpu(Some(2)), 16 << 20, 0).expect("memory");
        let (rows, vocabulary) = (8, 700);
        let settings = |row: usize| Sampling {
            temperature: [1.0, 0.0, 0.7, 3.0][row % 4],
            top_k: [0, 40, 1, 100_000, 5][row % 5],
            top_p: [1.0, 0.9, 0.5][row % 3],
            min_p: [0.0, 0.05][row % 2],
            repetition_penalty: [1.0, 1.3][row / 4],
            presence_penalty: [0.0, 0.4][row / 4],
            frequency_penalty: [0.0, 0.2][row / 4],
            seed: Some(row as u64 + (7 << 40)),
        };
        let prompt: Vec<u32> = (0..50).map(|token| token * 3).collect();
        let mut samplers: Vec<Sampler> =
            (0..rows).map(|row| Sampler::new(settings(row), 0, &prompt, vocabulary)).collect();
        let mut seen = vec![0u32; rows * vocabulary];
        for history in seen.chunks_mut(vocabulary) {
            prompt.iter().for_each(|&token| history[token as usize] = sample::IN_PROMPT);
        }
        let mut histories = exec.upload([rows, vocabulary], &seen).expect("memory");
        let mut rng = Philox::new(3, 0);
        for place in 0..60 {
            let logits: Vec<f32> =
                (0..rows * vocabulary).map(|_| (rng.normal() * 6.0).round() / 2.0).collect();
            let (floats, words): (Vec<_>, Vec<_>) = (0..rows)
                .map(|row| {
                    let Sampling { temperature, top_k, top_p, min_p, seed, .. } = settings(row);
                    let settings = sample::Settings {
                        repetition: settings(row).repetition_penalty,
                        presence: settings(row).presence_penalty,
                        frequency: settings(row).frequency_penalty,
                        temperature,
                        top_k,
                        top_p,
                        min_p,
                        seed: seed.expect("set above"),
                        place,
                        history: samplers[row].sampling.penalises().then_some(row as u32),
                    };
                    settings.to_tables()
                })
                .unzip();
            let floats = exec.upload([rows, sample::FLOATS], &floats.concat()).expect("memory");
            let words = exec.upload([rows, sample::WORDS], &words.concat()).expect("memory");
            let on_device = exec.upload([rows, vocabulary], &logits).expect("memory");
            let mut ids = exec.take([rows], DType::U32).expect("memory");
            let mut logprobs = exec.take([rows], DType::F32).expect("memory");
            let tables = (floats.view(), words.view());
            let (ids_view, logprobs_view) = (ids.view_mut(), logprobs.view_mut());
            let histories = Some(histories.view_mut());
            sample::choose(&exec, on_device.view(), tables, histories, ids_view, logprobs_view);
            let ids = exec.read::<u32>(&ids).expect("it ran");
            let logprobs = exec.read::<f32>(&logprobs).expect("it ran");
            for (row, sampler) in samplers.iter_mut().enumerate() {
                let mut logits = logits[row * vocabulary..][..vocabulary].to_vec();
                let choice = sampler.choose(&mut logits, place).expect("finite");
                assert_eq!((ids[row], logprobs[row]), (choice.token, choice.logprob), "row {row} at {place}");
            }
        }
    }
}
