//! The guarantee on which greedy answers rest, on any device: a token's logits have the same bits whoever shares its pass.

use cloister::{
    model::{Config, Decoder, Options},
    nn::{Batch, Ctx, PagedKv, Params, Sequence},
    ops::Exec,
    tensor::DType,
};

use super::device;

const PAGE_LEN: usize = 16;
const OTHERS_MAX: usize = 31;
const VOCABULARY: usize = 310;

/// Sums long enough for their order to show.
fn config() -> Config {
    Config {
        architectures: vec!["LlamaForCausalLM".to_owned()],
        vocab_size: VOCABULARY,
        hidden_size: 96,
        intermediate_size: 272,
        num_hidden_layers: 2,
        num_attention_heads: 6,
        num_key_value_heads: 2,
        head_dim: 16,
        max_position_embeddings: 512,
        rms_norm_eps: 1e-5,
        rope_theta: 10000.0,
        tie_word_embeddings: true,
        initializer_range: 0.2,
    }
}

struct Model {
    exec: Exec,
    decoder: Decoder,
    params: Params,
    kv: PagedKv,
}

impl Model {
    /// Random weights in the type in which cards serve, and so many pages.
    fn new(pages: usize) -> Self {
        let exec = Exec::new(device(), 16 << 20, 16 << 20).expect("memory");
        let options = Options { dtype: DType::Bf16, recompute: false, positions: 512 };
        let decoder = Decoder::new(&exec, &config(), options).expect("valid");
        let mut params = decoder.new_params(&exec).expect("memory");
        params.init(&exec, 3);
        let kv = decoder.new_kv(&exec, pages, PAGE_LEN).expect("memory");
        Self { exec, decoder, params, kv }
    }

    /// The bits of the logits of one row of a pass. They are made for all rows, so that the head has company too.
    fn logits(&mut self, sequences: &[Sequence], row: usize) -> Vec<u32> {
        let Self { exec, decoder, params, kv } = self;
        let batch = Batch::paged(exec, sequences, PAGE_LEN).expect("memory");
        let logits = decoder.logits(&mut Ctx::new(exec, params).with_kv(kv), &batch).expect("forward");
        let logits: Vec<f32> = exec.read(&logits).expect("a sound pass");
        assert!(logits.iter().all(|logit| logit.is_finite()));
        logits[row * VOCABULARY..][..VOCABULARY].iter().map(|logit| logit.to_bits()).collect()
    }
}

/// The next token of a sequence so long that its keys are split, beside others that are short.
#[test]
fn a_token_has_the_same_logits_in_any_company() {
    let prompt: Vec<u32> = (0..300).map(|place| place * 7 % VOCABULARY as u32).collect();
    let pages: Vec<u32> = (0..=prompt.len() as u32 / PAGE_LEN as u32).rev().collect();
    let others: Vec<[u32; 1]> = (0..OTHERS_MAX).map(|other| [(pages.len() + other) as u32]).collect();
    let mut model = Model::new(pages.len() + OTHERS_MAX);
    model.logits(&[Sequence { tokens: &prompt, past: 0, pages: &pages }], 0);
    let ours = Sequence { tokens: &[5], past: prompt.len(), pages: &pages };
    let alone = model.logits(&[ours], 0);
    for count in [1, 7, 8, 15, 16, OTHERS_MAX] {
        let other = |pages| Sequence { tokens: &[9], past: 0, pages };
        let mut sequences: Vec<Sequence> = others[..count].iter().map(|pages| other(pages)).collect();
        sequences.insert(count / 2, ours);
        assert!(model.logits(&sequences, count / 2) == alone, "beside {count} others");
    }
}
