//! What is done row by row or element by element.

use super::{Case, Lab, Outputs, Sizes};
use crate::{
    base::Result,
    ops::{
        Write,
        attention::Heads,
        dropout, elementwise, embedding,
        gelu::{self, Formula},
        glu::{self, Activation},
        layernorm::{self, Moments},
        paged_kv, rmsnorm,
        rope::{self, Angles, Direction},
    },
    tensor::Buf,
};

const ROWS: &[Sizes] =
    &[[1, 1, 0, 0, 0], [3, 5, 0, 0, 0], [7, 64, 0, 0, 0], [33, 384, 0, 0, 0], [130, 1000, 0, 0, 0]];
/// A row of one channel is normalised to a constant: its gradient is nothing but rounding.
const WIDE_ROWS: &[Sizes] =
    &[[1, 5, 0, 0, 0], [3, 5, 0, 0, 0], [7, 64, 0, 0, 0], [33, 384, 0, 0, 0], [130, 1000, 0, 0, 0]];
const GATES: &[Sizes] = &[[1, 1, 0, 0, 0], [5, 3, 0, 0, 0], [33, 172, 0, 0, 0], [64, 1024, 0, 0, 0]];
/// N rows, C channels, V ids.
const TABLES: &[Sizes] = &[[1, 1, 1, 0, 0], [40, 7, 3, 0, 0], [64, 64, 1000, 0, 0], [300, 96, 17, 0, 0]];
/// N rows, H query and K key-value heads, D wide.
const HEADS: &[Sizes] = &[[1, 1, 1, 2, 0], [5, 3, 1, 8, 0], [17, 4, 2, 64, 0], [33, 6, 6, 128, 0]];

pub const CASES: &[Case] = &[
    Case { kernel: "rmsnorm forward", letters: "NC", shapes: ROWS, run: norm_forward },
    Case { kernel: "rmsnorm forward, residual", letters: "NC", shapes: ROWS, run: norm_forward_residual },
    Case { kernel: "rmsnorm backward", letters: "NC", shapes: WIDE_ROWS, run: norm_backward },
    Case { kernel: "rope", letters: "NHKD", shapes: HEADS, run: rotate },
    Case { kernel: "rope into pages", letters: "NHKD", shapes: HEADS, run: extend_pages },
    Case { kernel: "layernorm forward", letters: "NC", shapes: WIDE_ROWS, run: layer_forward },
    Case { kernel: "layernorm backward", letters: "NC", shapes: WIDE_ROWS, run: layer_backward },
    Case { kernel: "gated units forward", letters: "NF", shapes: GATES, run: gate_forward },
    Case { kernel: "gated units backward", letters: "NF", shapes: GATES, run: gate_backward },
    Case { kernel: "gelu", letters: "NC", shapes: ROWS, run: bend },
    Case { kernel: "dropout", letters: "NC", shapes: ROWS, run: drop_out },
    Case { kernel: "embedding forward", letters: "NCV", shapes: TABLES, run: embed },
    Case { kernel: "embedding backward", letters: "NCV", shapes: TABLES, run: embed_backward },
    Case { kernel: "add, zero, cast", letters: "NC", shapes: ROWS, run: elements },
];

const EPS: f64 = 1e-5;

fn norm_forward(lab: &mut Lab, [n, c, ..]: Sizes) -> Result<Outputs> {
    let (x, w) = (lab.normal([n, c], 1.0)?, lab.normal([c], 1.0)?);
    let (mut y, mut rstd) = (lab.output([n, c])?, lab.output_accumulator([n])?);
    rmsnorm::forward(&lab.exec, x.view(), None, w.view(), EPS, y.view_mut(), rstd.view_mut());
    lab.outputs([("y", &y), ("rstd", &rstd)])
}

fn norm_forward_residual(lab: &mut Lab, [n, c, ..]: Sizes) -> Result<Outputs> {
    let (sum, mut branch, w) = (lab.normal([n, c], 1.0)?, lab.normal([n, c], 1.0)?, lab.normal([c], 1.0)?);
    let (mut y, mut rstd) = (lab.output([n, c])?, lab.output_accumulator([n])?);
    let x = Some(branch.view_mut());
    rmsnorm::forward(&lab.exec, sum.view(), x, w.view(), EPS, y.view_mut(), rstd.view_mut());
    lab.outputs([("x", &branch), ("y", &y), ("rstd", &rstd)])
}

fn norm_backward(lab: &mut Lab, [n, c, ..]: Sizes) -> Result<Outputs> {
    let (dy, x, w) = (lab.normal([n, c], 1.0)?, lab.normal([n, c], 1.0)?, lab.normal([c], 1.0)?);
    let (mut y, mut rstd) = (lab.output([n, c])?, lab.output_accumulator([n])?);
    rmsnorm::forward(&lab.exec, x.view(), None, w.view(), EPS, y.view_mut(), rstd.view_mut());
    let (mut dx, mut dw) = (lab.output([n, c])?, lab.output([c])?);
    let (mut dx_added, mut dw_added) = (lab.normal([n, c], 1.0)?, lab.normal([c], 1.0)?);
    for (dx, dw, write) in [(&mut dx, &mut dw, Write::Replace), (&mut dx_added, &mut dw_added, Write::Add)] {
        let (dx, dw) = ((dx.view_mut(), write), (dw.view_mut(), write));
        rmsnorm::backward(&lab.exec, dy.view(), x.view(), rstd.view(), w.view(), dx, dw)?;
    }
    lab.outputs([("dx", &dx), ("dw", &dw), ("dx, added", &dx_added), ("dw, added", &dw_added)])
}

/// Positions of a table of rotations.
const POSITIONS: usize = 40;

/// Some positions for N rows, and the table for heads D wide.
fn rotation(lab: &mut Lab, n: usize, d: usize) -> Result<[Buf; 2]> {
    let table: Vec<f32> = rope::table(POSITIONS, d, 1e4).into_iter().map(|x| x as f32).collect();
    Ok([lab.ids(n, POSITIONS)?, lab.exactly(&table)?])
}

fn angles([positions, table]: &[Buf; 2], d: usize) -> Angles<'_> {
    Angles { positions: positions.view(), table: table.view().window(0, [POSITIONS, d]) }
}

fn rotate(lab: &mut Lab, [n, h, k, d, _]: Sizes) -> Result<Outputs> {
    let heads = Heads { query: h, key_value: k, dim: d };
    let rotation = rotation(lab, n, d)?;
    let (mut forward, mut backward) =
        (lab.normal([n, heads.row_count()], 1.0)?, lab.normal([n, heads.row_count()], 1.0)?);
    for (x, direction) in [(&mut forward, Direction::Forward), (&mut backward, Direction::Backward)] {
        rope::rotate(&lab.exec, x.view_mut(), h + k, angles(&rotation, d), direction);
    }
    lab.outputs([("forward", &forward), ("backward", &backward)])
}

fn extend_pages(lab: &mut Lab, [n, h, k, d, _]: Sizes) -> Result<Outputs> {
    let heads = Heads { query: h, key_value: k, dim: d };
    let (rotation, mut qkv) = (rotation(lab, n, d)?, lab.normal([n, heads.row_count()], 1.0)?);
    // Every second slot, the last row first.
    let slots: Vec<u32> = (0..n as u32).rev().map(|row| 2 * row + 1).collect();
    let slots = lab.exec.upload([n], &slots)?;
    let (mut keys, mut values) = (lab.normal([k, 2 * n, d], 1.0)?, lab.normal([k, 2 * n, d], 1.0)?);
    let pages = (keys.view_mut(), values.view_mut());
    paged_kv::extend(&lab.exec, qkv.view_mut(), heads, angles(&rotation, d), slots.view(), pages);
    lab.outputs([("qkv", &qkv), ("keys", &keys), ("values", &values)])
}

fn layer_forward(lab: &mut Lab, [n, c, ..]: Sizes) -> Result<Outputs> {
    let (sum, mut branch) = (lab.normal([n, c], 1.0)?, lab.normal([n, c], 1.0)?);
    let (w, b) = (lab.normal([c], 1.0)?, lab.normal([c], 1.0)?);
    let mut y = lab.output([n, c])?;
    let (mut mean, mut rstd) = (lab.output_accumulator([n])?, lab.output_accumulator([n])?);
    let (x, moments) = (Some(branch.view_mut()), (mean.view_mut(), rstd.view_mut()));
    layernorm::forward(&lab.exec, sum.view(), x, (w.view(), b.view()), EPS, y.view_mut(), moments);
    lab.outputs([("x", &branch), ("y", &y), ("rstd", &rstd)])
}

fn layer_backward(lab: &mut Lab, [n, c, ..]: Sizes) -> Result<Outputs> {
    let (dy, x) = (lab.normal([n, c], 1.0)?, lab.normal([n, c], 1.0)?);
    let (w, b, mut y) = (lab.normal([c], 1.0)?, lab.normal([c], 1.0)?, lab.output([n, c])?);
    let (mut mean, mut rstd) = (lab.output_accumulator([n])?, lab.output_accumulator([n])?);
    let moments = (mean.view_mut(), rstd.view_mut());
    layernorm::forward(&lab.exec, x.view(), None, (w.view(), b.view()), EPS, y.view_mut(), moments);
    let moments = Moments { mean: mean.view(), rstd: rstd.view() };
    let (mut dx, mut dw, mut db) = (lab.output([n, c])?, lab.output([c])?, lab.output([c])?);
    let into = (dx.view_mut(), Write::Replace);
    let parameters = (dw.view_mut(), db.view_mut(), Write::Replace);
    layernorm::backward(&lab.exec, dy.view(), x.view(), moments, w.view(), into, parameters)?;
    lab.outputs([("dx", &dx), ("dw", &dw), ("db", &db)])
}

const ACTIVATIONS: [(&str, Activation); 3] = [
    ("silu", Activation::Silu),
    ("gelu, tanh", Activation::Gelu(Formula::Tanh)),
    ("gelu, exact", Activation::Gelu(Formula::Exact)),
];

fn gate_forward(lab: &mut Lab, [n, f, ..]: Sizes) -> Result<Outputs> {
    let gate_up = lab.normal([n, 2 * f], 2.0)?;
    let mut all = Vec::new();
    for (name, activation) in ACTIVATIONS {
        let mut y = lab.output([n, f])?;
        glu::forward(&lab.exec, gate_up.view(), activation, y.view_mut());
        all.extend(lab.outputs([(name, &y)])?.0);
    }
    Ok(Outputs(all))
}

fn gate_backward(lab: &mut Lab, [n, f, ..]: Sizes) -> Result<Outputs> {
    let dy = lab.normal([n, f], 1.0)?;
    let mut all = Vec::new();
    for (name, activation) in ACTIVATIONS {
        let (mut gate_up, mut y) = (lab.normal([n, 2 * f], 2.0)?, lab.output([n, f])?);
        glu::backward(&lab.exec, dy.view(), gate_up.view_mut(), activation, y.view_mut());
        all.extend(lab.outputs([(name, &gate_up), (name, &y)])?.0);
    }
    Ok(Outputs(all))
}

fn bend(lab: &mut Lab, [n, c, ..]: Sizes) -> Result<Outputs> {
    let x = lab.normal([n, c], 2.0)?;
    let mut all = Vec::new();
    for formula in [Formula::Tanh, Formula::Exact] {
        let (mut y, mut dx) = (lab.output([n, c])?, lab.normal([n, c], 1.0)?);
        gelu::forward(&lab.exec, x.view(), formula, y.view_mut());
        gelu::backward(&lab.exec, x.view(), formula, dx.view_mut());
        all.extend(lab.outputs([("y", &y), ("dx", &dx)])?.0);
    }
    Ok(Outputs(all))
}

/// The same elements fall away on every device: one that did not would be an error of its own size.
fn drop_out(lab: &mut Lab, [n, c, ..]: Sizes) -> Result<Outputs> {
    let mut x = lab.normal([n, c], 1.0)?;
    let rng = lab.exec.upload([4], &dropout::stream(7, 1 << 33))?;
    dropout::apply(&lab.exec, x.view_mut(), 0.25, rng.view());
    lab.outputs([("x", &x)])
}

fn embed(lab: &mut Lab, [n, c, v, ..]: Sizes) -> Result<Outputs> {
    let (ids, w, mut y) = (lab.ids(n, v)?, lab.normal([v, c], 1.0)?, lab.output([n, c])?);
    embedding::forward(&lab.exec, ids.view(), w.view(), y.view_mut());
    lab.outputs([("y", &y)])
}

fn embed_backward(lab: &mut Lab, [n, c, v, ..]: Sizes) -> Result<Outputs> {
    let (dy, ids) = (lab.normal([n, c], 1.0)?, lab.ids(n, v)?);
    let (mut replaced, mut added) = (lab.output([v, c])?, lab.normal([v, c], 1.0)?);
    embedding::backward(&lab.exec, dy.view(), ids.view(), replaced.view_mut(), Write::Replace)?;
    embedding::backward(&lab.exec, dy.view(), ids.view(), added.view_mut(), Write::Add)?;
    lab.outputs([("dw", &replaced), ("dw, added", &added)])
}

fn elements(lab: &mut Lab, [n, c, ..]: Sizes) -> Result<Outputs> {
    let (x, mut sum) = (lab.normal([n, c], 1.0)?, lab.normal([n, c], 1.0)?);
    elementwise::add(&lab.exec, x.view(), sum.view_mut());
    let mut zeros = lab.output([n, c])?;
    elementwise::zero(&lab.exec, zeros.view_mut());
    let (mut wide, mut narrow) = (lab.output_accumulator([n, c])?, lab.output([n, c])?);
    elementwise::cast(&lab.exec, x.view(), wide.view_mut());
    elementwise::cast(&lab.exec, wide.view(), narrow.view_mut());
    lab.outputs([("sum", &sum), ("zeros", &zeros), ("wide", &wide), ("narrow", &narrow)])
}
