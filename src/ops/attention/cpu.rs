//! Attention on the CPU. A task is a key-value head of a sequence (backward) or a block of its queries (forward);
//! the rows of all query heads that share the key-value head are stacked into one matrix, so that a tile of keys is
//! read once for all of them.

#![allow(unsafe_code)] // Tasks write heads, which lie interleaved in rows, through `Split`.

use std::ops::Range;

use super::{Heads, Mask, Scope};
use crate::{
    device::{MatMut, MatRef, Pool, host, simd::multiversion, threads::Split},
    ops::{
        Exec, Float, Real, Write,
        lanes::{dot, max, replace_and_sum, sum2},
    },
    tensor::{Tensor, TensorMut},
};

/// Keys in a tile. Tiles begin at multiples of this from the sequence's first token, whatever part of it is new.
/// What a token gets depends on its own sequence and its cut into passes, never on other sequences.
const TILE_KEYS: usize = 64;
/// Stacked query rows in a block.
const BLOCK_ROWS: usize = 64;
/// So few stacked rows take keys and values from where they lie: copying them into tiles would cost more than
/// multiplying by them.
const DIRECT_ROWS_MAX: usize = 4;

/// Where a sequence's keys and values lie.
enum Keys<'a, T> {
    /// In the rows of qkv from this row on.
    Packed {
        qkv: &'a [T],
        first: usize,
    },
    Paged {
        keys: &'a [T],
        values: &'a [T],
        table: &'a [u32],
        page_len: usize,
    },
}

impl<'a, T> Keys<'a, T> {
    /// Key and value of the sequence's token `index`.
    #[inline(always)]
    fn row(&self, heads: Heads, head: usize, index: usize) -> (&'a [T], &'a [T]) {
        let d = heads.dim;
        match self {
            Self::Packed { qkv, first } => {
                let row = &qkv[(first + index) * heads.row_count()..][..heads.row_count()];
                (&row[heads.key_at(head)..][..d], &row[heads.value_at(head)..][..d])
            }
            Self::Paged { keys, values, table, page_len } => {
                let slot = table[index / page_len] as usize * page_len + index % page_len;
                let slots = keys.len() / (heads.key_value * d);
                let at = (head * slots + slot) * d;
                (&keys[at..][..d], &values[at..][..d])
            }
        }
    }
}

/// A block of query rows of one sequence and key-value head.
struct Block<'a, T> {
    keys: Keys<'a, T>,
    /// Rows of the batch.
    rows: Range<usize>,
    /// Position in the sequence of the first of them.
    position: usize,
    /// Keys of the sequence.
    context: usize,
    mask: Mask,
    head: usize,
}

impl<T> Block<'_, T> {
    /// The keys that the block's query at `offset` sees.
    fn seen(&self, offset: usize) -> Range<usize> {
        self.mask.keys(self.position + offset, self.context)
    }
}

/// What of `range` lies in a tile, counted from the tile's begin.
fn within(tile: &Range<usize>, range: Range<usize>) -> Range<usize> {
    let place = |at: usize| at.clamp(tile.start, tile.end) - tile.start;
    place(range.start)..place(range.end)
}

pub fn forward<T: Float>(exec: &Exec, qkv: Tensor, heads: Heads, scope: Scope, o: TensorMut, lse: TensorMut) {
    let Scope { bounds, mask, pages } = scope;
    let qkv = host::slice::<T>(qkv);
    let block_rows = (BLOCK_ROWS / heads.group()).max(1);
    let mut blocks = Vec::new();
    for (sequence, bounds) in host::slice::<u32>(bounds).windows(2).enumerate() {
        let (first, end) = (bounds[0] as usize, bounds[1] as usize);
        let context =
            pages.map_or(end - first, |pages| host::slice::<u32>(pages.contexts)[sequence] as usize);
        let past = context + first - end;
        for head in 0..heads.key_value {
            for start in (first..end).step_by(block_rows) {
                let keys = match pages {
                    None => Keys::Packed { qkv, first },
                    Some(pages) => Keys::Paged {
                        keys: host::slice(pages.keys),
                        values: host::slice(pages.values),
                        table: host::slice(pages.tables.slice_rows(sequence..sequence + 1)),
                        page_len: pages.page_len,
                    },
                };
                let rows = start..end.min(start + block_rows);
                blocks.push(Block { keys, rows, position: past + start - first, context, mask, head });
            }
        }
    }
    let o = Split::new(host::slice_mut::<T>(o));
    let lse = Split::new(host::slice_mut::<T::Acc>(lse));
    // The longest blocks come last in each head; begun first, they leave no thread waiting at the end.
    exec.pool().run(blocks.len(), |task| {
        forward_block(exec.pool(), qkv, heads, &blocks[blocks.len() - 1 - task], o, lse);
    });
}

fn forward_block<T: Float>(
    pool: &Pool,
    qkv: &[T],
    heads: Heads,
    block: &Block<T>,
    o: Split<T>,
    lse: Split<T::Acc>,
) {
    let (d, group, rows) = (heads.dim, heads.group(), block.rows.len());
    let stacked = group * rows;
    let mut q = vec![T::Acc::ZERO; stacked * d];
    let scale = T::Acc::from_f64((d as f64).powf(-0.5));
    for (index, q) in q.chunks_exact_mut(d).enumerate() {
        let (head, row) = (block.head * group + index / rows, block.rows.start + index % rows);
        raise(&qkv[row * heads.row_count() + head * d..][..d], q);
        q.iter_mut().for_each(|q| *q *= scale);
    }
    let mut tile = Tile::new(d);
    let mut scores = vec![T::Acc::ZERO; stacked * TILE_KEYS];
    let mut sums = vec![T::Acc::ZERO; stacked * d];
    let mut highest = vec![T::Acc::NEG_INFINITY; stacked];
    let mut total = vec![T::Acc::ZERO; stacked];
    let (begin, end) = (block.seen(0).start, block.seen(rows - 1).end);
    for first in (begin / TILE_KEYS * TILE_KEYS..end).step_by(TILE_KEYS) {
        let range = first..end.min(first + TILE_KEYS);
        let keys = range.len();
        let scores = &mut scores[..stacked * keys];
        if stacked <= DIRECT_ROWS_MAX {
            for (q, scores) in q.chunks_exact(d).zip(scores.chunks_exact_mut(keys)) {
                direct_scores::<T>(q, &block.keys, heads, block.head, first, scores);
            }
        } else {
            tile.load(&block.keys, heads, block.head, range.clone());
            let (q, k) = (MatRef::row_major(&q, stacked, d), MatRef::row_major(&tile.k, keys, d));
            T::Acc::multiply(pool, q, k.t(), MatMut::row_major(scores, stacked, keys), Write::Replace);
        }
        for (index, scores) in scores.chunks_exact_mut(keys).enumerate() {
            let seen = within(&range, block.seen(index % rows));
            let sums = &mut sums[index * d..][..d];
            soften(scores, seen, &mut highest[index], &mut total[index], sums);
        }
        if stacked <= DIRECT_ROWS_MAX {
            for (p, sums) in scores.chunks_exact(keys).zip(sums.chunks_exact_mut(d)) {
                direct_sums::<T>(p, &block.keys, heads, block.head, first, sums);
            }
        } else {
            let (p, v) = (MatRef::row_major(scores, stacked, keys), MatRef::row_major(&tile.v, keys, d));
            T::Acc::multiply(pool, p, v, MatMut::row_major(&mut sums, stacked, d), Write::Add);
        }
    }
    for (index, sums) in sums.chunks_exact(d).enumerate() {
        let (head, row) = (block.head * group + index / rows, block.rows.start + index % rows);
        let at = row * heads.query + head;
        // SAFETY: a row and head belong to one block, and a block to one task.
        let (o, lse) = unsafe { (o.slice(at * d..(at + 1) * d), lse.slice(at..at + 1)) };
        lower(sums, T::Acc::ONE / total[index], o);
        lse[0] = highest[index] + total[index].ln();
    }
}

multiversion! {
    /// The scores of one query with the keys from `first` on.
    fn direct_scores<T: Float>(
        q: &[T::Acc], keys: &Keys<T>, heads: Heads, head: usize, first: usize, scores: &mut [T::Acc],
    ) {
        for (index, score) in (first..).zip(scores) {
            *score = sum2(q, keys.row(heads, head, index).0, |q, k| q * k);
        }
    }

    /// Adds the values from `first` on, each times its probability.
    fn direct_sums<T: Float>(
        p: &[T::Acc], keys: &Keys<T>, heads: Heads, head: usize, first: usize, sums: &mut [T::Acc],
    ) {
        for (index, p) in (first..).zip(p) {
            for (sum, value) in sums.iter_mut().zip(keys.row(heads, head, index).1) {
                *sum += *p * value.up();
            }
        }
    }

    /// Turns a row of scores into unnormalised probabilities and rescales what was summed under a lower maximum.
    fn soften<R: Real>(
        scores: &mut [R], seen: Range<usize>, highest: &mut R, total: &mut R, sums: &mut [R],
    ) {
        scores[..seen.start].fill(R::ZERO);
        scores[seen.end..].fill(R::ZERO);
        let seen = &mut scores[seen];
        let now = max(seen, *highest);
        if seen.is_empty() {
            return;
        }
        if now > *highest {
            let faded = (*highest - now).exp();
            sums.iter_mut().for_each(|sum| *sum *= faded);
            *total *= faded;
            *highest = now;
        }
        *total += replace_and_sum(seen, |score| (score - now).fast_exp::<FMA>());
    }

    /// Scores of a row to probabilities, and gradients of probabilities to gradients of scores (before scaling).
    fn differentiate<R: Real>(p: &mut [R], dp: &mut [R], scale: R, lse: R, delta: R) {
        for (p, dp) in p.iter_mut().zip(dp) {
            *p = (*p * scale - lse).fast_exp::<FMA>();
            *dp = *p * (*dp - delta);
        }
    }

    fn raise<T: Float>(from: &[T], to: &mut [T::Acc]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.up();
        }
    }

    /// Multiplies a row and rounds it.
    fn lower<T: Float>(from: &[T::Acc], scale: T::Acc, to: &mut [T]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = T::down(*from * scale);
        }
    }
}

/// A tile's keys and values, in the type that is computed in.
struct Tile<R> {
    k: Vec<R>,
    v: Vec<R>,
}

impl<R: Real> Tile<R> {
    fn new(d: usize) -> Self {
        Self { k: vec![R::ZERO; TILE_KEYS * d], v: vec![R::ZERO; TILE_KEYS * d] }
    }

    /// Loads these keys of the sequence.
    fn load<T: Float<Acc = R>>(&mut self, keys: &Keys<T>, heads: Heads, head: usize, range: Range<usize>) {
        let d = heads.dim;
        let places = self.k.chunks_exact_mut(d).zip(self.v.chunks_exact_mut(d));
        for (index, (k, v)) in range.zip(places) {
            let (key, value) = keys.row(heads, head, index);
            raise(key, k);
            raise(value, v);
        }
    }
}

pub fn backward<T: Float>(
    exec: &Exec,
    dout: Tensor,
    o: Tensor,
    lse: Tensor,
    qkv: TensorMut,
    heads: Heads,
    scope: Scope,
) {
    let (dout, o) = (host::slice::<T>(dout), host::slice::<T>(o));
    let lse = host::slice::<T::Acc>(lse);
    let bounds = host::slice::<u32>(scope.bounds);
    let qkv = Split::new(host::slice_mut::<T>(qkv));
    exec.pool().run((bounds.len() - 1) * heads.key_value, |task| {
        let (sequence, head) = (task / heads.key_value, task % heads.key_value);
        let rows = bounds[sequence] as usize..bounds[sequence + 1] as usize;
        Backward { heads, mask: scope.mask, head, rows, dout, o, lse, qkv }.run(exec.pool());
    });
}

/// The backward pass of one key-value head of one sequence.
struct Backward<'a, T: Float> {
    heads: Heads,
    mask: Mask,
    head: usize,
    rows: Range<usize>,
    dout: &'a [T],
    o: &'a [T],
    lse: &'a [T::Acc],
    /// Read as q, k, v and overwritten with their gradients: this task alone touches these heads in these rows.
    qkv: Split<'a, T>,
}

impl<T: Float> Backward<'_, T> {
    fn run(&self, pool: &Pool) {
        let (d, t) = (self.heads.dim, self.rows.len());
        let scale = T::Acc::from_f64((d as f64).powf(-0.5));
        // Stacked rows are ordered by row and then by head of the group: a block of rows is one stretch.
        let stacked = t * self.heads.group();
        let (mut q, mut dout) = (vec![T::Acc::ZERO; stacked * d], vec![T::Acc::ZERO; stacked * d]);
        let (mut lse, mut delta) = (vec![T::Acc::ZERO; stacked], vec![T::Acc::ZERO; stacked]);
        for index in 0..stacked {
            let at = self.query_at(index);
            raise(self.part(self.qkv_query(index)), &mut q[index * d..][..d]);
            raise(&self.dout[at * d..][..d], &mut dout[index * d..][..d]);
            lse[index] = self.lse[at];
            delta[index] = dot(&self.dout[at * d..][..d], &self.o[at * d..][..d]);
        }
        let mut dq = vec![T::Acc::ZERO; stacked * d];
        for first in (0..t).step_by(TILE_KEYS) {
            let keys = first..t.min(first + TILE_KEYS);
            let seeing = self.mask.queries(first, t).start..self.mask.queries(keys.end - 1, t).end;
            let stacked = seeing.start * self.heads.group()..seeing.end * self.heads.group();
            let queries = Queries {
                group: self.heads.group(),
                mask: self.mask,
                context: t,
                position: seeing.start,
                scale,
                q: &q[stacked.start * d..stacked.end * d],
                dout: &dout[stacked.start * d..stacked.end * d],
                lse: &lse[stacked.clone()],
                delta: &delta[stacked.clone()],
            };
            self.tile(pool, keys, queries, &mut dq[stacked.start * d..stacked.end * d]);
        }
        for (index, dq) in dq.chunks_exact(d).enumerate() {
            self.store(self.qkv_query(index), dq, scale);
        }
    }

    /// Gradients through one tile of keys: its own are finished here, the queries' grow.
    fn tile(&self, pool: &Pool, keys: Range<usize>, queries: Queries<T::Acc>, dq: &mut [T::Acc]) {
        let (d, n) = (self.heads.dim, keys.len());
        let (mut k, mut v) = (vec![T::Acc::ZERO; n * d], vec![T::Acc::ZERO; n * d]);
        for (index, (k, v)) in k.chunks_exact_mut(d).zip(v.chunks_exact_mut(d)).enumerate() {
            let (key, value) = self.qkv_key(keys.start + index);
            raise(self.part(key), k);
            raise(self.part(value), v);
        }
        let (mut dk, mut dv) = (vec![T::Acc::ZERO; n * d], vec![T::Acc::ZERO; n * d]);
        let (k, v) = (MatRef::row_major(&k, n, d), MatRef::row_major(&v, n, d));
        let stacked = queries.lse.len();
        let (mut p, mut dp) = (vec![T::Acc::ZERO; BLOCK_ROWS * n], vec![T::Acc::ZERO; BLOCK_ROWS * n]);
        for start in (0..stacked).step_by(BLOCK_ROWS) {
            let rows = BLOCK_ROWS.min(stacked - start);
            let q = MatRef::row_major(&queries.q[start * d..], rows, d);
            let dout = MatRef::row_major(&queries.dout[start * d..], rows, d);
            let (p, dp) = (&mut p[..rows * n], &mut dp[..rows * n]);
            T::Acc::multiply(pool, q, k.t(), MatMut::row_major(p, rows, n), Write::Replace);
            T::Acc::multiply(pool, dout, v.t(), MatMut::row_major(dp, rows, n), Write::Replace);
            queries.probabilities(start, &keys, p, dp);
            let (p, ds) = (MatRef::row_major(p, rows, n), MatRef::row_major(dp, rows, n));
            T::Acc::multiply(pool, p.t(), dout, MatMut::row_major(&mut dv, n, d), Write::Add);
            T::Acc::multiply(pool, ds.t(), q, MatMut::row_major(&mut dk, n, d), Write::Add);
            T::Acc::multiply(pool, ds, k, MatMut::row_major(&mut dq[start * d..], rows, d), Write::Add);
        }
        for (index, (dk, dv)) in dk.chunks_exact(d).zip(dv.chunks_exact(d)).enumerate() {
            let (key, value) = self.qkv_key(keys.start + index);
            self.store(key, dk, queries.scale);
            self.store(value, dv, T::Acc::ONE);
        }
    }

    /// The place of a stacked row among rows and query heads.
    fn query_at(&self, index: usize) -> usize {
        let group = self.heads.group();
        (self.rows.start + index / group) * self.heads.query + self.head * group + index % group
    }

    fn qkv_query(&self, index: usize) -> usize {
        let group = self.heads.group();
        let row = self.rows.start + index / group;
        row * self.heads.row_count() + (self.head * group + index % group) * self.heads.dim
    }

    fn qkv_key(&self, index: usize) -> (usize, usize) {
        let row = (self.rows.start + index) * self.heads.row_count();
        (row + self.heads.key_at(self.head), row + self.heads.value_at(self.head))
    }

    fn part(&self, at: usize) -> &[T] {
        // SAFETY: a place of this task's heads and rows, which nobody writes while `self` is borrowed here.
        unsafe { self.qkv.slice(at..at + self.heads.dim) }
    }

    fn store(&self, at: usize, from: &[T::Acc], scale: T::Acc) {
        // SAFETY: as in `part`, which lends what it gives only until the copy beside it is made.
        let to = unsafe { self.qkv.slice(at..at + self.heads.dim) };
        lower(from, scale, to);
    }
}

/// The stacked query rows that see any of a tile's keys.
struct Queries<'a, R> {
    group: usize,
    mask: Mask,
    /// Rows of the sequence.
    context: usize,
    /// Position in the sequence of the first of them.
    position: usize,
    scale: R,
    q: &'a [R],
    dout: &'a [R],
    lse: &'a [R],
    delta: &'a [R],
}

impl<R: Real> Queries<'_, R> {
    /// Turns scores into probabilities, and gradients of probabilities into gradients of scores (before scaling).
    fn probabilities(&self, start: usize, keys: &Range<usize>, p: &mut [R], dp: &mut [R]) {
        let rows = p.chunks_exact_mut(keys.len()).zip(dp.chunks_exact_mut(keys.len()));
        for (stacked, (p, dp)) in (start..).zip(rows) {
            let position = self.position + stacked / self.group;
            let seen = within(keys, self.mask.keys(position, self.context));
            let (lse, delta) = (self.lse[stacked], self.delta[stacked]);
            differentiate(&mut p[seen.clone()], &mut dp[seen.clone()], self.scale, lse, delta);
            for row in [p, dp] {
                row[..seen.start].fill(R::ZERO);
                row[seen.end..].fill(R::ZERO);
            }
        }
    }
}
