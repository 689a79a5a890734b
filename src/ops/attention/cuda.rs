//! Attention on the card: what `kernels/attention_*.cu` are launched with. The constants here repeat the ones there.

use super::{Heads, Scope};
use crate::{
    base::Result,
    device::{
        Cuda,
        cuda::{Arg, Grid},
    },
    ops::Exec,
    tensor::{DType, Tensor, TensorMut},
};

/// Chunks of keys that a sequence is split into at most, and the fewest keys of a chunk, where rows are few.
const CHUNKS_MAX: usize = 32;
const CHUNK_KEYS: usize = 128;
/// Stacked query rows of a block there.
const DECODE_ROWS: usize = 16;
const COMBINE_WARPS: usize = 4;
const DELTA_WARPS: usize = 8;
const PLACE_THREADS: usize = 256;
const WARP: usize = 32;
/// What a kernel notes for each row of a block: the first and the last key it sees.
const SPAN_BYTES: usize = 8;

/// How a kernel cuts its work, for one head width and type.
#[derive(Clone, Copy)]
struct Tiles {
    warps: usize,
    /// Rows of a block: (stacked) queries, or keys where their gradients are made.
    rows: usize,
    /// Rows that go by in a step: keys, or (stacked) queries.
    step: usize,
}

impl Tiles {
    /// `blocks` of these tiles over N rows of S sequences, `items` to a row: what `find_part` needs.
    fn grid(self, (n, sequences): (usize, usize), items: usize, heads: usize, shared_bytes: usize) -> Grid {
        let mut grid = Grid::linear(n * items / self.rows + sequences, (self.warps * WARP) as u32);
        grid.blocks[1] = heads as u32;
        grid.with_shared_bytes(shared_bytes)
    }
}

/// Whether there are kernels for heads of this width.
pub fn has_width(dim: usize) -> bool {
    dim.is_multiple_of(8) && dim <= 256
}

/// The widths that kernels are made for: the head width is rounded up to one.
#[derive(Clone, Copy)]
enum Width {
    W64,
    W128,
    W256,
}

impl Width {
    /// # Panics
    /// If there are no kernels for this width.
    fn of(heads: Heads) -> Self {
        let dim = heads.dim;
        assert!(has_width(dim), "head width {dim}: refused when the model was made");
        match dim {
            ..=64 => Self::W64,
            65..=128 => Self::W128,
            _ => Self::W256,
        }
    }

    fn columns(self) -> usize {
        match self {
            Self::W64 => 64,
            Self::W128 => 128,
            Self::W256 => 256,
        }
    }

    fn pick<T>(self, of_64: T, of_128: T, of_256: T) -> T {
        match self {
            Self::W64 => of_64,
            Self::W128 => of_128,
            Self::W256 => of_256,
        }
    }

    fn forward(self, dtype: DType) -> Tiles {
        let (rows, step) = match dtype {
            DType::Bf16 => self.pick((128, 64), (128, 48), (64, 64)),
            _ => self.pick((64, 64), (64, 32), (64, 16)),
        };
        Tiles { warps: 4, rows, step }
    }

    fn decode(self, dtype: DType) -> Tiles {
        let warps = self.pick(4, 4, 2);
        let keys = if dtype == DType::Bf16 { 16 } else { 8 };
        Tiles { warps, rows: DECODE_ROWS, step: warps * keys }
    }

    /// Of both passes: keys over queries, and queries over keys.
    fn backward(self, dtype: DType) -> Tiles {
        let (warps, rows, step) = match dtype {
            DType::Bf16 => self.pick((4, 128, 32), (4, 64, 32), (4, 64, 16)),
            _ => self.pick((4, 64, 32), (4, 64, 16), (2, 32, 8)),
        };
        Tiles { warps, rows, step }
    }
}

/// What every kernel is told last: the heads, the scale of scores, and the mask.
fn ending(heads: Heads, scope: Scope) -> [Arg; 6] {
    let scale = (heads.dim as f64).powf(-0.5) as f32;
    [
        heads.query.into(),
        heads.key_value.into(),
        heads.dim.into(),
        scale.into(),
        scope.mask.before().into(),
        scope.mask.after().into(),
    ]
}

pub fn forward(
    exec: &Exec,
    cuda: &Cuda,
    qkv: Tensor,
    heads: Heads,
    scope: Scope,
    o: TensorMut,
    lse: TensorMut,
) -> Result<()> {
    let sequences = scope.bounds.count() - 1;
    if scope.pages.is_some() && qkv.rows() <= sequences {
        return decode(exec, cuda, qkv, heads, scope, o, lse);
    }
    if exec.is_dry() || qkv.rows() == 0 {
        return Ok(());
    }
    let width = Width::of(heads);
    let tiles = width.forward(qkv.dtype());
    let row_bytes = width.columns() * qkv.dtype().size_bytes();
    let shared_bytes = (tiles.rows + 2 * tiles.step) * row_bytes + tiles.rows * SPAN_BYTES;
    let grid = tiles.grid((qkv.rows(), sequences), heads.group(), heads.key_value, shared_bytes);
    let name = width.pick("attention_forward_64", "attention_forward_128", "attention_forward_256");
    let [keys, values, tables, contexts, slots, page_len, pages] = paging(heads, scope);
    let mut args = vec![qkv.into(), scope.bounds.into(), keys, values, tables, contexts];
    args.extend([Arg::from(&o), (&lse).into(), sequences.into()]);
    args.extend(ending(heads, scope));
    args.extend([slots, page_len, pages]);
    cuda.launch(name, qkv.dtype(), grid, &args);
    Ok(())
}

/// Keys, values, tables, contexts, slots, page length, pages of a table.
fn paging(heads: Heads, scope: Scope) -> [Arg; 7] {
    let Some(pages) = scope.pages else {
        return [Arg::NULL, Arg::NULL, Arg::NULL, Arg::NULL, 0u32.into(), 1u32.into(), 0u32.into()];
    };
    [
        pages.keys.into(),
        pages.values.into(),
        pages.tables.into(),
        pages.contexts.into(),
        (pages.keys.row_count() / heads.dim).into(),
        pages.page_len.into(),
        pages.tables.row_count().into(),
    ]
}

/// Forward where no sequence brings more than a row, as a rule: keys are split among blocks.
fn decode(
    exec: &Exec,
    cuda: &Cuda,
    qkv: Tensor,
    heads: Heads,
    scope: Scope,
    o: TensorMut,
    lse: TensorMut,
) -> Result<()> {
    let (n, sequences) = (qkv.rows(), scope.bounds.count() - 1);
    let tokens_max = scope.pages.map_or(0, |pages| pages.tables.row_count() * pages.page_len);
    let chunks = tokens_max.div_ceil(CHUNK_KEYS).clamp(1, CHUNKS_MAX);
    let sums = exec.take([n * heads.query, chunks * heads.dim], DType::F32)?;
    let totals = exec.take([n * heads.query, chunks * 2], DType::F32)?;
    if exec.is_dry() || n == 0 {
        return Ok(());
    }
    let width = Width::of(heads);
    let tiles = width.decode(qkv.dtype());
    let row_bytes = width.columns() * qkv.dtype().size_bytes();
    let shared_bytes = (tiles.rows + 4 * tiles.step) * row_bytes + tiles.rows * SPAN_BYTES;
    let mut grid = tiles.grid((n, sequences), heads.group(), heads.key_value, shared_bytes);
    grid.blocks[2] = chunks as u32;
    let grid = grid.early();
    let name = width.pick("attention_decode_64", "attention_decode_128", "attention_decode_256");
    let [keys, values, tables, contexts, slots, page_len, pages] = paging(heads, scope);
    let mut args = vec![qkv.into(), scope.bounds.into(), keys, values, tables, contexts];
    args.extend([Arg::from(sums.view()), totals.view().into(), sequences.into()]);
    args.extend(ending(heads, scope));
    args.extend([slots, page_len, pages]);
    cuda.launch(name, qkv.dtype(), grid, &args);

    let mut grid = Grid::linear(n, (COMBINE_WARPS * WARP) as u32);
    grid.blocks[1] = heads.query.div_ceil(COMBINE_WARPS) as u32;
    let grid = grid.early();
    let [query, _, dim, scale, ..] = ending(heads, scope);
    let mut args = vec![sums.view().into(), totals.view().into(), scope.bounds.into(), contexts];
    args.extend([Arg::from(&o), (&lse).into(), sequences.into(), query, chunks.into(), dim, scale]);
    cuda.launch("attention_combine", qkv.dtype(), grid, &args);
    Ok(())
}

pub fn backward(
    exec: &Exec,
    cuda: &Cuda,
    dout: Tensor,
    (o, lse): (Tensor, Tensor),
    qkv: TensorMut,
    heads: Heads,
    scope: Scope,
) -> Result<()> {
    let (n, sequences, dtype) = (qkv.rows(), scope.bounds.count() - 1, qkv.dtype());
    let delta = exec.take([n, heads.query], DType::F32)?;
    let keys_values = exec.take([n, 2 * heads.key_value * heads.dim], dtype)?;
    if exec.is_dry() || n == 0 {
        return Ok(());
    }
    let (delta, keys_values) = (delta.view(), keys_values.view());
    let rows = n * heads.query;
    let grid = Grid::linear(rows.div_ceil(DELTA_WARPS), (DELTA_WARPS * WARP) as u32);
    let args = [dout.into(), o.into(), delta.into(), rows.into(), heads.dim.into()];
    cuda.launch("attention_delta", dtype, grid, &args);

    let width = Width::of(heads);
    let row_bytes = width.columns() * dtype.size_bytes();
    let tiles = width.backward(dtype);
    // Two tiles that stay, and two stages of two tiles; for each query that goes by, a logarithm and a delta.
    let tiles_bytes = 2 * tiles.rows * row_bytes + tiles.rows * SPAN_BYTES + 4 * tiles.step * row_bytes;
    let shared_bytes = tiles_bytes + 4 * tiles.step * DType::F32.size_bytes();
    let grid = tiles.grid((n, sequences), 1, heads.key_value, shared_bytes);
    let mut args = vec![dout.into(), lse.into(), delta.into(), Arg::from(&qkv), scope.bounds.into()];
    args.extend([Arg::from(keys_values), sequences.into()]);
    args.extend(ending(heads, scope));
    let names: &[&'static str] = width.pick(
        &["attention_backward_keys_values_64"],
        &["attention_backward_keys_values_128"],
        &["attention_backward_keys_256", "attention_backward_values_256"],
    );
    for name in names {
        cuda.launch(name, dtype, grid, &args);
    }

    let grid = tiles.grid((n, sequences), heads.group(), heads.key_value, tiles_bytes);
    let mut args = vec![dout.into(), lse.into(), delta.into(), Arg::from(&qkv), scope.bounds.into()];
    args.push(sequences.into());
    args.extend(ending(heads, scope));
    let name = width.pick(
        "attention_backward_queries_64",
        "attention_backward_queries_128",
        "attention_backward_queries_256",
    );
    cuda.launch(name, dtype, grid, &args);

    let packs = keys_values.count() * dtype.size_bytes() / 16;
    let grid = Grid::linear(packs.div_ceil(PLACE_THREADS), PLACE_THREADS as u32);
    let [query, key_value, dim, ..] = ending(heads, scope);
    let args = [keys_values.into(), Arg::from(&qkv), n.into(), query, key_value, dim];
    cuda.launch("attention_place", dtype, grid, &args);
    Ok(())
}
