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
/// Tiles times key-value heads that a launch may have there.
const ARRIVALS: usize = 1 << 14;
const DELTA_WARPS: usize = 8;
const PLACE_THREADS: usize = 256;
const WARP: usize = 32;
/// What a kernel notes for each row of a block: the first and the last key it sees.
const SPAN_BYTES: usize = 8;

/// Which kernels compute.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kernels {
    /// Those that every card runs.
    Portable,
    /// Those of `attention_hopper.cu`: bf16 and heads up to 128 wide.
    Hopper,
}

impl Kernels {
    fn of(exec: &Exec, cuda: &Cuda, width: Width, dtype: DType) -> Self {
        let is_made = dtype == DType::Bf16 && !matches!(width, Width::W256);
        if is_made && !exec.portable && cuda.runs_hopper_kernels() { Self::Hopper } else { Self::Portable }
    }
}

/// How a kernel cuts its work, for one head width and type.
#[derive(Clone, Copy)]
struct Tiles {
    warps: usize,
    /// Rows of a block: (stacked) queries, or keys where their gradients are made.
    rows: usize,
    /// Of the rows that go by, those in shared memory at once: keys and values, or (stacked) queries and gradients.
    ring: usize,
}

/// What there are no kernels for.
const NONE: Tiles = tiles(0, 0, 0);

const fn tiles(warps: usize, rows: usize, ring: usize) -> Tiles {
    Tiles { warps, rows, ring }
}

impl Tiles {
    /// Blocks of these tiles, see [`tile_count`], for each head.
    fn grid(self, (n, sequences): (usize, usize), items: usize, heads: usize, shared_bytes: usize) -> Grid {
        let blocks = tile_count((n, sequences), items, self.rows);
        let mut grid = Grid::linear(blocks, (self.warps * WARP) as u32);
        grid.blocks[1] = heads as u32;
        grid.with_shared_bytes(shared_bytes)
    }
}

/// Blocks for N rows of S sequences, `items` to a row: what `find_part` needs.
fn tile_count((n, sequences): (usize, usize), items: usize, tile_rows: usize) -> usize {
    n * items / tile_rows + sequences
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

    fn forward(self, kernels: Kernels, dtype: DType) -> Tiles {
        match (kernels, dtype) {
            (Kernels::Hopper, _) => self.pick(tiles(8, 128, 8 * 64), tiles(12, 192, 8 * 64), NONE),
            (_, DType::Bf16) => self.pick(tiles(4, 128, 2 * 64), tiles(4, 128, 2 * 48), tiles(4, 64, 2 * 64)),
            _ => self.pick(tiles(4, 64, 2 * 64), tiles(4, 64, 2 * 32), tiles(4, 64, 2 * 16)),
        }
    }

    fn decode(self, dtype: DType) -> Tiles {
        let warps = self.pick(4, 4, 2);
        let keys = if dtype == DType::Bf16 { 16 } else { 8 };
        tiles(warps, DECODE_ROWS, 4 * warps * keys)
    }

    /// Of the pass for keys and values, over queries.
    fn keys_backward(self, kernels: Kernels, dtype: DType) -> Tiles {
        match kernels {
            Kernels::Hopper => self.pick(tiles(4, 64, 4 * 64), tiles(4, 64, 4 * 64), NONE),
            Kernels::Portable => self.portable_backward(dtype),
        }
    }

    /// Of the pass for queries, over keys.
    fn queries_backward(self, kernels: Kernels, dtype: DType) -> Tiles {
        match kernels {
            Kernels::Hopper => self.pick(tiles(8, 128, 8 * 64), tiles(8, 128, 4 * 96), NONE),
            Kernels::Portable => self.portable_backward(dtype),
        }
    }

    fn portable_backward(self, dtype: DType) -> Tiles {
        match dtype {
            DType::Bf16 => self.pick(tiles(4, 128, 4 * 32), tiles(4, 64, 4 * 32), tiles(4, 64, 4 * 16)),
            _ => self.pick(tiles(4, 64, 4 * 32), tiles(4, 64, 4 * 16), tiles(2, 32, 4 * 8)),
        }
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
    let has_few_rows = qkv.rows() <= sequences
        && tile_count((qkv.rows(), sequences), heads.group(), DECODE_ROWS) * heads.key_value <= ARRIVALS;
    if scope.pages.is_some() && has_few_rows {
        return decode(exec, cuda, qkv, heads, scope, o, lse);
    }
    if exec.is_dry() || qkv.rows() == 0 {
        return Ok(());
    }
    let width = Width::of(heads);
    let kernels = Kernels::of(exec, cuda, width, qkv.dtype());
    let tiles = width.forward(kernels, qkv.dtype());
    let row_bytes = width.columns() * qkv.dtype().size_bytes();
    let shared_bytes = (tiles.rows + tiles.ring) * row_bytes + tiles.rows * SPAN_BYTES;
    let grid = tiles.grid((qkv.rows(), sequences), heads.group(), heads.key_value, shared_bytes);
    let [of_64, of_128] = match (kernels, scope.pages) {
        (Kernels::Portable, _) => ["attention_forward_64", "attention_forward_128"],
        (Kernels::Hopper, None) => ["attention_hopper_forward_64", "attention_hopper_forward_128"],
        (Kernels::Hopper, Some(_)) => {
            ["attention_hopper_forward_paged_64", "attention_hopper_forward_paged_128"]
        }
    };
    let name = width.pick(of_64, of_128, "attention_forward_256");
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
    let shared_bytes = (tiles.rows + tiles.ring) * row_bytes + tiles.rows * SPAN_BYTES;
    let mut grid = tiles.grid((n, sequences), heads.group(), heads.key_value, shared_bytes);
    grid.blocks[2] = chunks as u32;
    let name = width.pick("attention_decode_64", "attention_decode_128", "attention_decode_256");
    let [keys, values, tables, contexts, slots, page_len, pages] = paging(heads, scope);
    let mut args = vec![qkv.into(), scope.bounds.into(), keys, values, tables, contexts];
    args.extend([Arg::from(sums.view()), totals.view().into(), (&o).into(), (&lse).into(), sequences.into()]);
    args.extend(ending(heads, scope));
    args.extend([slots, page_len, pages]);
    cuda.launch(name, qkv.dtype(), grid, &args);
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
    // As many lanes share a row as it has packs of 16 bytes, rounded up to a power of two.
    let lanes = (heads.dim * dtype.size_bytes() / 16).next_power_of_two().min(WARP);
    let grid = Grid::linear(rows.div_ceil(DELTA_WARPS * WARP / lanes), (DELTA_WARPS * WARP) as u32);
    let args = [dout.into(), o.into(), delta.into(), rows.into(), heads.dim.into()];
    cuda.launch("attention_delta", dtype, grid, &args);

    let width = Width::of(heads);
    let kernels = Kernels::of(exec, cuda, width, dtype);
    let row_bytes = width.columns() * dtype.size_bytes();
    // Two tiles that stay, what each of their rows sees, and two that go by.
    let shared_bytes = |tiles: Tiles| (2 * tiles.rows + tiles.ring) * row_bytes + tiles.rows * SPAN_BYTES;
    let tiles = width.keys_backward(kernels, dtype);
    // For each query that goes by, beside its gradient, a logarithm and a delta.
    let numbers_bytes = tiles.ring * DType::F32.size_bytes();
    let grid = tiles.grid((n, sequences), 1, heads.key_value, shared_bytes(tiles) + numbers_bytes);
    let mut args = vec![dout.into(), lse.into(), delta.into(), Arg::from(&qkv), scope.bounds.into()];
    args.extend([Arg::from(keys_values), sequences.into()]);
    args.extend(ending(heads, scope));
    let names: &[&'static str] = match kernels {
        Kernels::Portable => width.pick(
            &["attention_backward_keys_values_64"],
            &["attention_backward_keys_values_128"],
            &["attention_backward_keys_256", "attention_backward_values_256"],
        ),
        Kernels::Hopper => width.pick(
            &["attention_hopper_backward_keys_values_64"],
            &["attention_hopper_backward_keys_values_128"],
            &[],
        ),
    };
    for name in names {
        cuda.launch(name, dtype, grid, &args);
    }

    let tiles = width.queries_backward(kernels, dtype);
    let grid = tiles.grid((n, sequences), heads.group(), heads.key_value, shared_bytes(tiles));
    let mut args = vec![dout.into(), lse.into(), delta.into(), Arg::from(&qkv), scope.bounds.into()];
    args.push(sequences.into());
    args.extend(ending(heads, scope));
    let [of_64, of_128] = match kernels {
        Kernels::Portable => ["attention_backward_queries_64", "attention_backward_queries_128"],
        Kernels::Hopper => ["attention_hopper_backward_queries_64", "attention_hopper_backward_queries_128"],
    };
    let name = width.pick(of_64, of_128, "attention_backward_queries_256");
    cuda.launch(name, dtype, grid, &args);

    let packs = keys_values.count() * dtype.size_bytes() / 16;
    let grid = Grid::linear(packs.div_ceil(PLACE_THREADS), PLACE_THREADS as u32);
    let [query, key_value, dim, ..] = ending(heads, scope);
    let args = [keys_values.into(), Arg::from(&qkv), n.into(), query, key_value, dim];
    cuda.launch("attention_place", dtype, grid, &args);
    Ok(())
}
