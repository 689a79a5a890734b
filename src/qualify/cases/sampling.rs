//! Choosing tokens where the logits lie.

use super::{Case, Lab, Outputs, Sizes};
use crate::{
    base::Result,
    ops::sample::{self, Settings},
    tensor::DType,
};

/// S rows, V vocabulary.
const SHAPES: &[Sizes] = &[[1, 1, 0, 0, 0], [3, 37, 0, 0, 0], [5, 1000, 0, 0, 0], [2, 40_001, 0, 0, 0]];

pub const CASES: &[Case] = &[Case { kernel: "sampling", letters: "SV", shapes: SHAPES, run: choose }];

/// Logits are in f32 whatever the model is in, so the reference chooses from the same numbers and, far enough from a
/// draw's edge, the same tokens: their number is part of the output.
fn choose(lab: &mut Lab, [s, v, ..]: Sizes) -> Result<Outputs> {
    let logits: Vec<f32> = (0..s * v).map(|_| (lab.draw() * 8.0).round() / 2.0).collect();
    let logits = lab.exec.upload([s, v], &logits)?;
    let history: Vec<u32> = (0..s * v).map(|place| [0, 2, sample::IN_PROMPT][place % 3]).collect();
    let history = lab.exec.upload([s, v], &history)?;
    let settings = |row: usize| Settings {
        repetition: 1.2,
        presence: 0.3,
        frequency: 0.1,
        temperature: [0.0, 0.8, 1.5][row % 3],
        top_k: [0, 40][row % 2],
        top_p: [1.0, 0.9][row % 2],
        min_p: [0.0, 0.02][row % 2],
        seed: 5,
        place: row as u64,
        history: Some(row as u32),
    };
    let (floats, words): (Vec<_>, Vec<_>) = (0..s).map(|row| settings(row).to_tables()).unzip();
    let floats = lab.exec.upload([s, sample::FLOATS], &floats.concat())?;
    let words = lab.exec.upload([s, sample::WORDS], &words.concat())?;
    let (mut ids, mut logprobs) = (lab.exec.take([s], DType::U32)?, lab.exec.take([s], DType::F32)?);
    let (tables, histories) = ((floats.view(), words.view()), Some(history.view()));
    let (ids_view, logprobs_view) = (ids.view_mut(), logprobs.view_mut());
    sample::choose(&lab.exec, logits.view(), tables, histories, ids_view, logprobs_view);
    lab.outputs([("tokens", &ids), ("logprobs", &logprobs)])
}
