//! What a person writes about a run: `run.toml`. Nothing but the purpose is required; every other key
//! overrides one number that the dial would have chosen. [`crate::train::plan`] turns it into a plan, in
//! which nothing is left open.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    base::{Context, Error, Result},
    device::Device,
};

/// Who the model is for, what it is for, and what it is not for. Carried into the lineage and the model card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Purpose {
    pub for_whom: String,
    pub for_what: String,
    pub not_for_what: String,
}

const PURPOSE_KEYS: &[&str] = &["for_whom", "for_what", "not_for_what"];

impl Purpose {
    /// What `quickstart` states: true of a trial, and of nothing else.
    pub fn trial() -> Self {
        Self {
            for_whom: "the person who is trying Cloister out".into(),
            for_what: "seeing the whole road once: documents in, a small trained model served".into(),
            not_for_what: "answering anybody's questions: it is trained for minutes on a sample".into(),
        }
    }

    fn check(&self) -> Result<()> {
        let fields = [&self.for_whom, &self.for_what, &self.not_for_what];
        let empty = PURPOSE_KEYS.iter().zip(fields).find(|(_, text)| text.trim().is_empty());
        empty.map_or(Ok(()), |(key, _)| {
            Err(Error::usage(format!("purpose.{key} is empty")).remedy(PURPOSE_REMEDY))
        })
    }
}

const PURPOSE_REMEDY: &str = "state it in the run file:\n\
    [purpose]\n\
    for_whom = \"the clerks of the land registry\"\n\
    for_what = \"drafting answers to routine letters\"\n\
    not_for_what = \"legal advice, or decisions about a person\"";

/// How the learning rate moves after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Half a cosine down to the floor (Loshchilov and Hutter, arXiv:1608.03983).
    Cosine,
    /// Warm-up, stable, decay: flat, then 1 - sqrt down to the floor (Hägele et al., arXiv:2405.18392).
    Wsd,
}

/// What numbers are stored and multiplied in; the rest of the table is in [`crate::train::plan`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    #[default]
    F32,
    Bf16,
}

/// A number of parameters as people write it: `10M`, `1.5B`, `350_000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Params(pub u64);

impl FromStr for Params {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refused = || {
            Error::usage(format!("'{text}' is not a number of parameters"))
                .remedy("write it as 10M, 1.5B or 350000")
        };
        let plain: String = text.trim().chars().filter(|&c| c != '_').collect();
        let (digits, scale) = match plain.chars().last().map(|c| c.to_ascii_lowercase()) {
            Some('k') => (&plain[..plain.len() - 1], 1e3),
            Some('m') => (&plain[..plain.len() - 1], 1e6),
            Some('b' | 'g') => (&plain[..plain.len() - 1], 1e9),
            _ => (plain.as_str(), 1.0),
        };
        let number: f64 = digits.parse().map_err(|_| refused())?;
        let params = number * scale;
        // 10^13 parameters are beyond any machine this runs on, and keep every product below within u64.
        if (1.0..=1e13).contains(&params) { Ok(Self(params.round() as u64)) } else { Err(refused()) }
    }
}

impl fmt::Display for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::base::units::Count(self.0 as f64).fmt(f)
    }
}

impl Serialize for Params {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Params {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(de::Error::custom)
    }
}

macro_rules! run_config {
    ($($(#[doc = $doc:literal])+ $key:ident: $kind:ty,)*) => {
        /// The run file as written: what is None is left to the dial.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct RunConfig {
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub purpose: Option<Purpose>,
            $($(#[doc = $doc])+ #[serde(default, skip_serializing_if = "Option::is_none")] pub $key: Option<$kind>,)*
        }

        /// Every key of the run file beside `purpose`, with what it means: the CLI's help is made from it.
        pub const KEYS: &[(&str, &str)] = &[$((stringify!($key), concat!($($doc),+)),)*];

        impl RunConfig {
            /// What `over` states wins; the rest is kept. Flags go over the file.
            pub fn overlaid(self, over: RunConfig) -> RunConfig {
                RunConfig { purpose: over.purpose.or(self.purpose), $($key: over.$key.or(self.$key),)* }
            }
        }
    };
}

run_config! {
    /// the one dial: about how many parameters ("10M")
    params: Params,
    /// train for about this long: size and steps follow from a measurement of this machine
    minutes: f64,
    /// layers (blocks) of the decoder
    layers: u32,
    /// width of the residual stream, C
    dim: u32,
    /// query heads, H
    heads: u32,
    /// key and value heads; divides heads
    kv_heads: u32,
    /// width of the feed-forward layer, F
    ffn: u32,
    /// tokens the model can look back on, T
    context: u32,
    /// whether the output head is the embedding
    tied: bool,
    /// base of the rotary position embedding
    rope_theta: f64,
    /// tokens per optimizer step
    batch_tokens: u64,
    /// sequences per pass; the rest of a step is gradient accumulation
    micro_batch: u32,
    /// optimizer steps
    steps: u64,
    /// training tokens in all; another way to give steps
    tokens: u64,
    /// passes over the data; another way to give steps
    epochs: f64,
    /// peak learning rate
    learning_rate: f64,
    /// the learning rate at the end, as a share of the peak
    final_share: f64,
    /// "cosine" or "wsd"
    schedule: ScheduleKind,
    /// steps until the learning rate reaches its peak
    warmup_steps: u64,
    /// share of the steps that wsd spends decaying
    decay_share: f64,
    /// AdamW weight decay; matrices only
    weight_decay: f64,
    /// AdamW decay of the first moment
    beta1: f64,
    /// AdamW decay of the second moment
    beta2: f64,
    /// AdamW epsilon
    epsilon: f64,
    /// bound on the global gradient norm; 0 for none
    clip: f64,
    /// seed of initialisation and data order
    seed: u64,
    /// "f32" or "bf16"
    precision: Precision,
    /// recompute activations in the backward pass: less memory, about a third more work
    recompute: bool,
    /// data-parallel ranks
    ranks: u32,
    /// held-out evaluation every so many steps
    evaluate_every: u64,
    /// held-out documents are read up to about this many tokens at intervals; the last evaluation reads all
    evaluate_tokens: u64,
    /// minutes between checkpoints
    checkpoint_minutes: f64,
}

impl RunConfig {
    /// With what suits the device where nothing is stated: on a card bf16, which its matrix units are made for.
    pub fn on(mut self, device: &Device) -> Self {
        if let Device::Cuda(_) = device {
            self.precision.get_or_insert(Precision::Bf16);
        }
        self
    }

    /// Reads a run file.
    ///
    /// # Errors
    /// `Usage`: not TOML, an unknown key (named, with the nearest known one), a value of the wrong type, or no
    /// purpose.
    pub fn from_toml(text: &str) -> Result<Self> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            Error::usage(format!("the run file is not TOML: {}", error.to_string().trim_end()))
        })?;
        let known: Vec<&str> = KEYS.iter().map(|(key, _)| *key).chain(["purpose"]).collect();
        refuse_unknown("", &table, &known)?;
        if let Some(toml::Value::Table(purpose)) = table.get("purpose") {
            refuse_unknown("purpose.", purpose, PURPOSE_KEYS)?;
        }
        let config = Self::deserialize(table)
            .context("reading the run file")
            .map_err(|error| error.with_kind(crate::base::ErrorKind::Usage))?;
        config.stated_purpose()?;
        Ok(config)
    }

    /// The purpose, which every run must state.
    pub fn stated_purpose(&self) -> Result<&Purpose> {
        let purpose = self.purpose.as_ref().ok_or_else(|| {
            Error::usage("the run states no purpose: for whom, for what, and not for what")
                .remedy(PURPOSE_REMEDY)
        })?;
        purpose.check()?;
        Ok(purpose)
    }
}

fn refuse_unknown(prefix: &str, table: &toml::Table, known: &[&str]) -> Result<()> {
    let Some(unknown) = table.keys().find(|key| !known.contains(&key.as_str())) else { return Ok(()) };
    let nearest = known.iter().copied().min_by_key(|key| edit_distance(unknown, key)).unwrap_or_default();
    let refused = Error::usage(format!("the run file has an unknown key '{prefix}{unknown}'"));
    Err(if edit_distance(unknown, nearest) <= unknown.chars().count().max(4) / 2 {
        refused.remedy(format!("did you mean '{prefix}{nearest}'?"))
    } else {
        refused.remedy(format!("known keys: {}", known.join(", ")))
    })
}

/// Levenshtein's distance in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const PURPOSE: &str = "[purpose]\nfor_whom='a'\nfor_what='b'\nnot_for_what='c'\n";

    #[test]
    fn reads_what_is_stated_and_leaves_the_rest_open() {
        let text = format!("params = '10M'\nlearning_rate = 2e-3\nschedule = 'wsd'\n{PURPOSE}");
        let config = RunConfig::from_toml(&text).expect("sound");
        assert_eq!(config.params, Some(Params(10_000_000)));
        assert_eq!((config.learning_rate, config.schedule), (Some(2e-3), Some(ScheduleKind::Wsd)));
        assert_eq!((config.dim, config.steps), (None, None));
        let flags = RunConfig { learning_rate: Some(1e-3), dim: Some(64), ..RunConfig::default() };
        let both = config.overlaid(flags);
        assert_eq!((both.learning_rate, both.dim), (Some(1e-3), Some(64)));
        assert_eq!(both.params, Some(Params(10_000_000)));
    }

    #[test]
    fn refuses_by_name() {
        let cases = [
            ("learning_rat = 1", "learning_rat", "did you mean 'learning_rate'?"),
            ("Dim = 64", "Dim", "'dim'"),
            ("xyzzyqwertyuiop = 1", "xyzzyqwertyuiop", "known keys"),
            ("dim = 'wide'", "dim", ""),
            ("dim = -4", "dim", ""),
            ("dim = 1.5", "dim", ""),
            ("precision = 'f8'", "f8", ""),
            ("schedule = 3", "schedule", ""),
            ("params = '10X'", "10X", ""),
            ("params = '-1M'", "-1M", ""),
            ("params = 0", "'0'", ""),
            ("params = 'NaN'", "NaN", ""),
            ("params = '1e40'", "1e40", ""),
            ("dim = 1\ndim = 2", "dim", ""),
            ("= 3", "not TOML", ""),
        ];
        for (line, named, remedy) in cases {
            let error = RunConfig::from_toml(&format!("{line}\n{PURPOSE}")).unwrap_err();
            assert_eq!(error.kind(), crate::base::ErrorKind::Usage, "{line}");
            assert!(error.to_string().contains(named), "{line}: {error}");
            assert!(error.remedy_text().unwrap_or_default().contains(remedy), "{line}: {error:?}");
        }
    }

    #[test]
    fn a_purpose_is_required_and_must_say_something() {
        for text in [
            "dim = 64",
            "purpose = 'mine'",
            "[purpose]\nfor_whom='a'\nfor_what='b'",
            "[purpose]\nfor_whom='a'\nfor_what='  '\nnot_for_what='c'",
            "[purpose]\nfor_whom='a'\nfor_what='b'\nnot_for_what='c'\nfor_whon='d'",
        ] {
            assert!(RunConfig::from_toml(text).is_err(), "{text}");
        }
        Purpose::trial().check().expect("the trial text says something");
    }

    #[test]
    fn survives_the_socket() {
        let config = RunConfig::from_toml(&format!("params = '1.5B'\nepochs = 2\n{PURPOSE}")).expect("sound");
        let there = serde_json::to_string(&config).expect("plain data");
        assert_eq!(serde_json::from_str::<RunConfig>(&there).expect("back"), config);
        assert_eq!(config.params, Some(Params(1_500_000_000)));
    }

    #[test]
    fn distances_are_levenshtein() {
        for (a, b, distance) in [("", "", 0), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("a", "", 1)] {
            assert_eq!(edit_distance(a, b), distance);
        }
    }
}
