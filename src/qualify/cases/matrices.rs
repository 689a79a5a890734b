//! Products with a weight.

use super::{Case, Lab, Outputs, Sizes};
use crate::{
    base::Result,
    ops::{
        Write,
        gelu::Formula,
        glu::{self, Activation},
        matmul,
    },
};

/// One row; fewer than any tile; ragged in every direction; a decode step's few rows; whole tiles and a bit.
const SHAPES: &[Sizes] = &[
    [1, 1, 1, 0, 0],
    [5, 7, 3, 0, 0],
    [1, 256, 512, 0, 0],
    [7, 200, 130, 0, 0],
    [70, 33, 65, 0, 0],
    [129, 136, 264, 0, 0],
    [257, 512, 96, 0, 0],
];

/// The same, and sums that are split where C has fewer tiles than the card has multiprocessors: with a remainder, and
/// into slices of one length.
const WEIGHT_SHAPES: &[Sizes] = &[
    [1, 1, 1, 0, 0],
    [5, 7, 3, 0, 0],
    [1, 256, 512, 0, 0],
    [7, 200, 130, 0, 0],
    [70, 33, 65, 0, 0],
    [129, 136, 264, 0, 0],
    [257, 512, 96, 0, 0],
    [2203, 33, 65, 0, 0],
    [2304, 130, 24, 0, 0],
];

const ROWS: &[Sizes] =
    &[[1, 1, 0, 0, 0], [7, 5, 0, 0, 0], [33, 384, 0, 0, 0], [130, 1000, 0, 0, 0], [9001, 24, 0, 0, 0]];
const FORMULAS: [Formula; 2] = [Formula::Tanh, Formula::Exact];

/// Few rows as each kernel for them takes them, ragged columns, columns that begin on no 16 bytes; many rows.
const GATED: &[Sizes] = &[
    [1, 8, 1, 0, 0],
    [3, 7, 5, 0, 0],
    [1, 256, 512, 0, 0],
    [8, 264, 93, 0, 0],
    [13, 64, 40, 0, 0],
    [32, 520, 17, 0, 0],
    [33, 64, 100, 0, 0],
];

pub const CASES: &[Case] = &[
    Case { kernel: "matmul forward", letters: "NIO", shapes: SHAPES, run: forward },
    Case { kernel: "matmul forward, f32 out", letters: "NIO", shapes: SHAPES, run: forward_accumulator },
    Case { kernel: "matmul forward, gated", letters: "NIF", shapes: GATED, run: forward_gated },
    Case { kernel: "matmul backward, input", letters: "NIO", shapes: SHAPES, run: backward_input },
    Case { kernel: "matmul backward, weight", letters: "NIO", shapes: WEIGHT_SHAPES, run: backward_weight },
    Case { kernel: "matmul forward, bias", letters: "NIO", shapes: SHAPES, run: forward_bias },
    Case { kernel: "matmul forward, bias and gelu", letters: "NIO", shapes: SHAPES, run: forward_bias_gelu },
    Case { kernel: "matmul backward, input, gelu", letters: "NIO", shapes: SHAPES, run: backward_input_gelu },
    Case { kernel: "matmul backward, bias", letters: "NO", shapes: ROWS, run: backward_bias },
    // Where cuBLASLt does not do both at once: a product, and kernels of our own.
    Case {
        kernel: "matmul forward, bias, portable",
        letters: "NIO",
        shapes: SHAPES,
        run: |lab, sizes| forward_bias(lab.portable(), sizes),
    },
    Case {
        kernel: "matmul forward, bias and gelu, portable",
        letters: "NIO",
        shapes: SHAPES,
        run: |lab, sizes| forward_bias_gelu(lab.portable(), sizes),
    },
    Case {
        kernel: "matmul backward, input, gelu, portable",
        letters: "NIO",
        shapes: SHAPES,
        run: |lab, sizes| backward_input_gelu(lab.portable(), sizes),
    },
];

fn forward(lab: &mut Lab, [n, i, o, ..]: Sizes) -> Result<Outputs> {
    let (x, w, mut y) = (lab.normal([n, i], 1.0)?, lab.normal([o, i], 0.1)?, lab.output([n, o])?);
    matmul::forward(&lab.exec, x.view(), w.view(), y.view_mut());
    lab.outputs([("y", &y)])
}

fn forward_accumulator(lab: &mut Lab, [n, i, o, ..]: Sizes) -> Result<Outputs> {
    let (x, w, mut y) = (lab.normal([n, i], 1.0)?, lab.normal([o, i], 0.1)?, lab.output_accumulator([n, o])?);
    matmul::forward(&lab.exec, x.view(), w.view(), y.view_mut());
    lab.outputs([("y", &y)])
}

fn forward_gated(lab: &mut Lab, [n, i, f, ..]: Sizes) -> Result<Outputs> {
    let (x, w, mut y) = (lab.normal([n, i], 1.0)?, lab.normal([2 * f, i], 0.1)?, lab.output([n, f])?);
    glu::project(&lab.exec, x.view(), w.view(), Activation::Silu, y.view_mut())?;
    let (mut gate_up, mut two_steps) = (lab.output([n, 2 * f])?, lab.output([n, f])?);
    matmul::forward(&lab.exec, x.view(), w.view(), gate_up.view_mut());
    glu::forward(&lab.exec, gate_up.view(), Activation::Silu, two_steps.view_mut());
    let mut outputs = lab.outputs([("y", &y), ("y in two steps", &two_steps)])?;
    // Not a bit of difference, on any device.
    let difference = outputs.0[0].1.iter().zip(&outputs.0[1].1).map(|(once, twice)| once - twice).collect();
    outputs.0.push(("difference", difference));
    Ok(outputs)
}

fn backward_input(lab: &mut Lab, [n, i, o, ..]: Sizes) -> Result<Outputs> {
    let (dy, w) = (lab.normal([n, o], 1.0)?, lab.normal([o, i], 0.1)?);
    let (mut replaced, mut added) = (lab.output([n, i])?, lab.normal([n, i], 1.0)?);
    matmul::backward_input(&lab.exec, dy.view(), w.view(), replaced.view_mut(), Write::Replace);
    matmul::backward_input(&lab.exec, dy.view(), w.view(), added.view_mut(), Write::Add);
    lab.outputs([("dx", &replaced), ("dx, added", &added)])
}

fn backward_weight(lab: &mut Lab, [n, i, o, ..]: Sizes) -> Result<Outputs> {
    let (dy, x) = (lab.normal([n, o], 1.0)?, lab.normal([n, i], 1.0)?);
    let (mut replaced, mut added) = (lab.output([o, i])?, lab.normal([o, i], 1.0)?);
    matmul::backward_weight(&lab.exec, dy.view(), x.view(), replaced.view_mut(), Write::Replace);
    matmul::backward_weight(&lab.exec, dy.view(), x.view(), added.view_mut(), Write::Add);
    lab.outputs([("dw", &replaced), ("dw, added", &added)])
}

fn forward_bias(lab: &mut Lab, [n, i, o, ..]: Sizes) -> Result<Outputs> {
    let (x, w, b) = (lab.normal([n, i], 1.0)?, lab.normal([o, i], 0.1)?, lab.normal([o], 1.0)?);
    let mut y = lab.output([n, o])?;
    matmul::forward_bias(&lab.exec, x.view(), w.view(), b.view(), y.view_mut());
    lab.outputs([("y", &y)])
}

fn forward_bias_gelu(lab: &mut Lab, [n, i, o, ..]: Sizes) -> Result<Outputs> {
    let (x, w, b) = (lab.normal([n, i], 1.0)?, lab.normal([o, i], 0.1)?, lab.normal([o], 1.0)?);
    let mut all = Vec::new();
    for formula in FORMULAS {
        let (mut pre, mut y) = (lab.output([n, o])?, lab.output([n, o])?);
        let (x, w, b) = (x.view(), w.view(), b.view());
        matmul::forward_bias_gelu(&lab.exec, x, w, b, formula, pre.view_mut(), y.view_mut());
        all.extend(lab.outputs([("pre", &pre), ("y", &y)])?.0);
    }
    Ok(Outputs(all))
}

fn backward_input_gelu(lab: &mut Lab, [n, i, o, ..]: Sizes) -> Result<Outputs> {
    let (dy, w, pre) = (lab.normal([n, o], 1.0)?, lab.normal([o, i], 0.1)?, lab.normal([n, i], 1.0)?);
    let mut all = Vec::new();
    for formula in FORMULAS {
        let mut dpre = lab.output([n, i])?;
        let (dy, w, pre) = (dy.view(), w.view(), pre.view());
        matmul::backward_input_gelu(&lab.exec, dy, w, pre, formula, dpre.view_mut());
        all.extend(lab.outputs([("dpre", &dpre)])?.0);
    }
    Ok(Outputs(all))
}

fn backward_bias(lab: &mut Lab, [n, o, ..]: Sizes) -> Result<Outputs> {
    let (dy, mut replaced, mut added) = (lab.normal([n, o], 1.0)?, lab.output([o])?, lab.normal([o], 1.0)?);
    matmul::backward_bias(&lab.exec, dy.view(), replaced.view_mut(), Write::Replace)?;
    matmul::backward_bias(&lab.exec, dy.view(), added.view_mut(), Write::Add)?;
    lab.outputs([("db", &replaced), ("db, added", &added)])
}
