//! What a pass launches on a card. Generating lasts as long as its kernels take to start, so their number is a figure to keep.

use std::fs;

use super::reference::{has_kernels, run};

/// Of each layer, where sequences bring one token each.
const LAYER: [&str; 8] = [
    "rmsnorm_forward_bf16",
    "gemm_rows8_bf16",
    "paged_kv_extend_bf16",
    "attention_decode_64_bf16",
    "gemm_rows8_bf16",
    "rmsnorm_forward_bf16",
    "gemm_rows8_gated_bf16",
    "gemm_rows8_bf16",
];
/// Before and after the layers: tokens to vectors, vectors of the rows that are asked for to logits.
const BEGIN: [&str; 1] = ["embedding_forward_bf16"];
const END: [&str; 3] = ["rmsnorm_forward_bf16", "embedding_forward_bf16", "gemm_rows8_bf16"];

#[test]
fn a_token_takes_eight_kernels_a_layer() {
    if !has_kernels() {
        return;
    }
    for batch in [1, 3] {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("launches");
        // More tokens than one chunk of keys, so that chunks are put together.
        let bench = "bench decode --dtype bf16 --dim 64 --layers 2 --heads 2 --kv-heads 1 --ffn 96 --vocab 301 \
                     --context 300 --tokens 200 --times 3";
        let wish = ("CUDA_ON_CPU_LOG", log.to_str().expect("a name"));
        run(&format!("{bench} --batch {batch}"), "cuda:0", &[wish]).done();
        let text = fs::read_to_string(&log).expect("a log of launches");
        let before_choice = text.rsplit_once("sample_choose_f32").expect("a token was chosen").0;
        let (_, pass) = before_choice.rsplit_once("memcpy to the card").expect("tokens were copied");
        let expected = [&BEGIN[..], &LAYER, &LAYER, &END].concat();
        assert_eq!(pass.split_whitespace().collect::<Vec<_>>(), expected, "batch {batch}");
    }
}
