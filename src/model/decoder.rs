//! The llama-like decoder: embedding, layers of attention and gated feed-forward with norms before them, a last
//! norm, the head. Queries, keys and values have biases where the family has them.

use std::sync::Arc;

use super::Config;
use crate::{
    base::Result,
    nn::{
        Attention, AttentionSaved, Batch, Block, Contributions, Ctx, Embedding, Grads, Head, Init, Linear,
        Mlp, MlpSaved, Norm, NormSaved, PagedKv, ParamTable, Params, Recompute, Residual, Rope, Stack,
    },
    ops::{
        Exec,
        attention::{self, Mask},
    },
    tensor::{Buf, DType},
};

/// What is chosen beside the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The type of weights, activations and gradients.
    pub dtype: DType,
    /// Activation checkpointing: keeps only each layer's input for backward.
    pub recompute: bool,
    /// Sequences are never longer than this.
    pub positions: usize,
}

pub struct Decoder {
    config: Config,
    options: Options,
    table: Arc<ParamTable>,
    embedding: Embedding,
    layers: Layers,
    norm: Norm,
    head: Head,
}

/// What [`Decoder::backward`] needs.
pub struct Saved {
    layers: LayersSaved,
    norm: NormSaved,
    /// `[N,C]`: the gradient of what went into the head.
    dy: Buf,
}

impl Decoder {
    /// The structure alone; `exec` gives memory for the table of rotations.
    ///
    /// # Errors
    /// If the configuration makes no model, or memory is short.
    pub fn new(exec: &Exec, config: &Config, options: Options) -> Result<Self> {
        config.validate()?;
        let mut table = ParamTable::default();
        let heads = config.heads();
        attention::check(&exec.device, heads)?;
        let rope = Rope::new(exec, options.positions, heads.dim, config.rope_theta, options.dtype)?;
        let embedding =
            Embedding { w: table.add("model.embed_tokens.weight", config.embedding(), config.init()) };
        let rope = Arc::new(rope);
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::new(&mut table, config, index, rope.clone()))
            .collect();
        let norm = config.norm(&mut table, "model.norm.weight".to_owned());
        let head = match config.tie_word_embeddings {
            true => embedding.w,
            false => table.add("lm_head.weight", config.embedding(), config.init()),
        };
        let layers = Layers::new(layers, options.recompute);
        let (config, head, table) = (config.clone(), Head { w: head }, Arc::new(table));
        Ok(Self { config, options, table, embedding, layers, norm, head })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn options(&self) -> Options {
        self.options
    }

    pub fn table(&self) -> &Arc<ParamTable> {
        &self.table
    }

    /// Room for the weights, zeros.
    pub fn new_params(&self, exec: &Exec) -> Result<Params> {
        Params::new(exec, &self.table, self.options.dtype)
    }

    /// KV pages for all layers.
    pub fn new_kv(&self, exec: &Exec, pages: usize, page_len: usize) -> Result<PagedKv> {
        let layers = self.config.num_hidden_layers;
        PagedKv::new(exec, layers, self.config.heads(), pages, page_len, self.options.dtype)
    }

    /// The losses of a batch with targets, `[N]` in nats, and what backward needs. The head's own gradient is
    /// contributed here, see [`Head::loss`].
    ///
    /// # Panics
    /// If `cx` keeps no gradients, or the batch has no targets.
    pub fn forward_loss(&self, cx: &mut Ctx, batch: &Batch) -> Result<(Buf, Saved)> {
        assert!(cx.grads.is_some(), "without gradients there is loss()");
        let x = self.embed(cx, batch)?;
        let (x, layers) = self.layers.forward(cx, batch, x)?;
        let (_, mut y, norm) = self.norm.forward(cx, x)?;
        let losses = self.head.loss(cx, batch, &mut y)?;
        Ok((losses, Saved { layers, norm, dy: y }))
    }

    /// Completes the gradients that [`Decoder::forward_loss`] began.
    pub fn backward(&self, cx: &mut Ctx, batch: &Batch, saved: Saved) -> Result<()> {
        let Saved { layers, norm, dy } = saved;
        let dx = self.norm.backward_last(cx, norm, dy.view())?;
        drop(dy);
        let dx = self.layers.backward(cx, batch, layers, dx)?;
        self.embedding.backward(cx, batch, dx)
    }

    /// The losses of a batch with targets, `[N]` in nats; nothing is learnt.
    pub fn loss(&self, cx: &mut Ctx, batch: &Batch) -> Result<Buf> {
        assert!(cx.grads.is_none(), "gradients are completed by forward_loss and backward");
        let mut y = self.run(cx, batch)?;
        self.head.loss(cx, batch, &mut y)
    }

    /// The logits of the rows that the batch asks for, `[R,V]` in the accumulator's type.
    pub fn logits(&self, cx: &mut Ctx, batch: &Batch) -> Result<Buf> {
        let y = self.run(cx, batch)?;
        self.head.logits(cx, batch, y)
    }

    /// Runs a batch for its keys and values alone.
    pub fn read(&self, cx: &mut Ctx, batch: &Batch) -> Result<()> {
        self.run(cx, batch).map(drop)
    }

    /// How often each gradient is contributed to in a pass, found by a dry run.
    pub fn contributions(&self, exec: &Exec) -> Result<Contributions> {
        let dry = Exec::dry(exec.device.clone());
        let twin = Self::new(&dry, &self.config, self.options)?;
        let params = twin.new_params(&dry)?;
        let mut grads = Grads::new(&dry, &params)?;
        let batch = Batch::packed(&dry, &[0], &[1])?.with_targets(&dry, &[0], 1.0)?;
        let mut cx = Ctx::new(&dry, &params).with_grads(&mut grads);
        let (_, saved) = twin.forward_loss(&mut cx, &batch)?;
        twin.backward(&mut cx, &batch, saved)?;
        Ok(grads.contributions())
    }

    fn embed(&self, cx: &mut Ctx, batch: &Batch) -> Result<Residual> {
        Ok(Residual { sum: Arc::new(self.embedding.forward(cx, batch)?), branch: None })
    }

    /// Forward up to what goes into the head, keeping nothing.
    fn run(&self, cx: &mut Ctx, batch: &Batch) -> Result<Buf> {
        let x = self.embed(cx, batch)?;
        let x = self.layers.infer(cx, batch, x)?;
        Ok(self.norm.forward(cx, x)?.1)
    }
}

impl Config {
    fn embedding(&self) -> [usize; 2] {
        [self.vocab_size, self.hidden_size]
    }

    fn init(&self) -> Init {
        Init::Normal { std: self.initializer_range }
    }

    /// Projections back into the residual stream begin smaller, for the number of them that add up (GPT-2).
    fn init_out(&self) -> Init {
        Init::Normal { std: self.initializer_range / (2.0 * self.num_hidden_layers as f64).sqrt() }
    }

    fn norm(&self, table: &mut ParamTable, name: String) -> Norm {
        Norm { w: table.add(name, [self.hidden_size], Init::Ones), eps: self.rms_norm_eps }
    }
}

/// One layer: attention and feed-forward, each behind a norm and added to the stream.
struct Layer {
    norm1: Norm,
    attention: Attention,
    norm2: Norm,
    mlp: Mlp,
}

struct LayerSaved {
    norm1: NormSaved,
    attention: AttentionSaved,
    norm2: NormSaved,
    mlp: MlpSaved,
}

impl Layer {
    fn new(table: &mut ParamTable, config: &Config, layer: usize, rope: Arc<Rope>) -> Self {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let (c, f, heads) = (config.hidden_size, config.intermediate_size, config.heads());
        let (q, kv) = (heads.query * heads.dim, heads.key_value * heads.dim);
        let qkv = |kind: &str| {
            let named = |(part, rows)| (format!("model.layers.{layer}.self_attn.{part}.{kind}"), rows);
            [("q_proj", q), ("k_proj", kv), ("v_proj", kv)].map(named).to_vec()
        };
        let (qkv_w, qkv_b) = (qkv("weight"), config.has_qkv_bias().then(|| qkv("bias")));
        let gate_up = vec![(name("mlp.gate_proj"), f), (name("mlp.up_proj"), f)];
        Self {
            norm1: config.norm(table, name("input_layernorm")),
            attention: Attention {
                qkv: Linear {
                    w: table.add_fused(qkv_w, [heads.row_count(), c], config.init()),
                    b: qkv_b.map(|parts| table.add_fused(parts, [heads.row_count()], Init::Zeros)),
                },
                out: Linear { w: table.add(name("self_attn.o_proj"), [c, q], config.init_out()), b: None },
                heads,
                mask: Mask::CAUSAL,
                rope,
                layer,
            },
            norm2: config.norm(table, name("post_attention_layernorm")),
            mlp: Mlp {
                gate_up: Linear { w: table.add_fused(gate_up, [2 * f, c], config.init()), b: None },
                down: Linear { w: table.add(name("mlp.down_proj"), [c, f], config.init_out()), b: None },
            },
        }
    }
}

impl Block for Layer {
    type Stream = Residual;
    /// `[N,C]`
    type Gradient = Buf;
    type Saved = LayerSaved;

    fn forward(&self, cx: &mut Ctx, batch: &Batch, s: Residual) -> Result<(Residual, LayerSaved)> {
        let (sum, y, norm1) = self.norm1.forward(cx, s)?;
        let (branch, attention) = self.attention.forward(cx, batch, y)?;
        let (sum, y, norm2) = self.norm2.forward(cx, Residual { sum, branch: Some(branch) })?;
        let (branch, mlp) = self.mlp.forward(cx, y)?;
        Ok((Residual { sum, branch: Some(branch) }, LayerSaved { norm1, attention, norm2, mlp }))
    }

    fn infer(&self, cx: &mut Ctx, batch: &Batch, s: Residual) -> Result<Residual> {
        let (sum, y, _) = self.norm1.forward(cx, s)?;
        let (branch, _) = self.attention.forward(cx, batch, y)?;
        let (sum, y, _) = self.norm2.forward(cx, Residual { sum, branch: Some(branch) })?;
        let branch = self.mlp.infer(cx, y)?;
        Ok(Residual { sum, branch: Some(branch) })
    }

    fn backward(&self, cx: &mut Ctx, batch: &Batch, saved: LayerSaved, mut ds: Buf) -> Result<Buf> {
        let dy = self.mlp.backward(cx, saved.mlp, ds.view())?;
        self.norm2.backward(cx, saved.norm2, dy.view(), &mut ds)?;
        drop(dy);
        let dy = self.attention.backward(cx, batch, saved.attention, ds.view())?;
        self.norm1.backward(cx, saved.norm1, dy.view(), &mut ds)?;
        Ok(ds)
    }
}

/// The layers, with activation checkpointing or without.
enum Layers {
    Kept(Stack<Layer>),
    Recomputed(Stack<Recompute<Layer>>),
}

enum LayersSaved {
    Kept(Vec<LayerSaved>),
    Recomputed(Vec<Residual>),
}

impl Layers {
    fn new(layers: Vec<Layer>, recompute: bool) -> Self {
        match recompute {
            true => Self::Recomputed(Stack(layers.into_iter().map(Recompute).collect())),
            false => Self::Kept(Stack(layers)),
        }
    }

    fn infer(&self, cx: &mut Ctx, batch: &Batch, x: Residual) -> Result<Residual> {
        match self {
            Self::Kept(stack) => stack.infer(cx, batch, x),
            Self::Recomputed(stack) => stack.infer(cx, batch, x),
        }
    }

    fn forward(&self, cx: &mut Ctx, batch: &Batch, x: Residual) -> Result<(Residual, LayersSaved)> {
        Ok(match self {
            Self::Kept(stack) => {
                let (x, saved) = stack.forward(cx, batch, x)?;
                (x, LayersSaved::Kept(saved))
            }
            Self::Recomputed(stack) => {
                let (x, saved) = stack.forward(cx, batch, x)?;
                (x, LayersSaved::Recomputed(saved))
            }
        })
    }

    fn backward(&self, cx: &mut Ctx, batch: &Batch, saved: LayersSaved, dx: Buf) -> Result<Buf> {
        match (self, saved) {
            (Self::Kept(stack), LayersSaved::Kept(saved)) => stack.backward(cx, batch, saved, dx),
            (Self::Recomputed(stack), LayersSaved::Recomputed(saved)) => stack.backward(cx, batch, saved, dx),
            _ => unreachable!("what is saved comes from these layers"),
        }
    }
}
