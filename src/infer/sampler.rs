//! What a request asks of the choice of tokens, and what is remembered of it from token to token. Tokens are chosen where
//! the logits lie, by [`sample`]; a draw is a pure function of the request's seed and of the token's place in its
//! answer, so it does not depend on what else is in the batch.

use serde::{Deserialize, Serialize};

use super::runner::Draw;
use crate::{
    base::{Error, Result},
    ops::sample::{self, Settings},
};

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

/// One sequence's settings, its random stream and what penalties need to remember.
#[derive(Debug)]
pub struct Sampler {
    settings: Settings,
    /// `[V]`, see [`sample::IN_PROMPT`]; empty where nothing is penalised.
    history: Vec<u32>,
}

impl Sampler {
    /// `seed` is used where the settings name none.
    pub fn new(sampling: &Sampling, seed: u64, prompt: &[u32], vocabulary: usize) -> Self {
        let mut history = Vec::new();
        if sampling.penalises() {
            history.resize(vocabulary, 0);
            for &token in prompt {
                if let Some(seen) = history.get_mut(token as usize) {
                    *seen = sample::IN_PROMPT;
                }
            }
        }
        let settings = Settings {
            repetition: sampling.repetition_penalty,
            presence: sampling.presence_penalty,
            frequency: sampling.frequency_penalty,
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            seed: sampling.seed.unwrap_or(seed),
            place: 0,
            history: None,
        };
        Self { settings, history }
    }

    /// How the token at `place` (0 for the answer's first) is to be chosen.
    pub fn draw(&self, place: u64) -> Draw<'_> {
        let history = (!self.history.is_empty()).then_some(self.history.as_slice());
        Draw { settings: Settings { place, ..self.settings }, history }
    }

    /// Remembers a chosen token.
    pub fn said(&mut self, token: u32) {
        if let Some(seen) = self.history.get_mut(token as usize) {
            *seen += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 6] = [1.0, 3.0, -2.0, 2.5, 0.0, 2.9];

    fn said(sampling: &Sampling, prompt: &[u32], tokens: u64) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling, 11, prompt, LOGITS.len());
        let mut choose = |place| {
            let token = sampler.draw(place).choose(&LOGITS).token;
            sampler.said(token);
            token
        };
        (0..tokens).map(&mut choose).collect()
    }

    #[test]
    fn a_seed_repeats_and_another_differs() {
        let with = |seed| said(&Sampling { seed: Some(seed), ..Sampling::default() }, &[], 50);
        assert_eq!(with(1), with(1));
        assert_ne!(with(1), with(2));
    }

    #[test]
    fn penalties_push_down_what_was_said() {
        let frequent = Sampling { frequency_penalty: 0.3, ..Sampling::greedy() };
        // 3.0, then 2.9 against 2.7, then 2.7 against 2.6, then 2.6 against 2.5 and 2.4.
        assert_eq!(said(&frequent, &[], 4), [1, 5, 1, 5]);
        let repeated = Sampling { repetition_penalty: 2.0, ..Sampling::greedy() };
        assert_eq!(said(&repeated, &[1, 5], 1), [3]);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
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
}
