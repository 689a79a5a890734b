//! Products with a weight.

use super::{Case, Lab, Outputs, Sizes};
use crate::{
    base::Result,
    ops::{Write, matmul},
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

pub const CASES: &[Case] = &[
    Case { kernel: "matmul forward", letters: "NIO", shapes: SHAPES, run: forward },
    Case { kernel: "matmul forward, f32 out", letters: "NIO", shapes: SHAPES, run: forward_accumulator },
    Case { kernel: "matmul backward, input", letters: "NIO", shapes: SHAPES, run: backward_input },
    Case { kernel: "matmul backward, weight", letters: "NIO", shapes: WEIGHT_SHAPES, run: backward_weight },
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
