//! What models are built from: parameters and their gradients, the batch, and layers with explicit forward and
//! backward. A layer knows which parameters it uses and what backward needs; it owns no numbers. Which layers
//! make a model is left to `model`, what is done with gradients to `train`.

mod attention;
mod batch;
mod block;
mod ctx;
mod embedding;
mod grads;
mod head;
mod kv;
mod linear;
mod mlp;
mod norm;
mod params;

pub use attention::{Attention, AttentionSaved, Rope};
pub use batch::{Batch, Sequence};
pub use block::{Block, Keep, Recompute, Residual, Stack};
pub use ctx::Ctx;
pub use embedding::Embedding;
pub use grads::{Contributions, GradReady, Grads};
pub use head::Head;
pub use kv::PagedKv;
pub use linear::Linear;
pub use mlp::{Mlp, MlpSaved};
pub use norm::{Norm, NormSaved};
pub use params::{Init, Param, ParamId, ParamTable, Params};
