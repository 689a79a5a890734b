//! The head with its loss, the sums over all gradients, and the optimizer.

use super::{Case, Lab, Outputs, Sizes};
use crate::{
    base::Result,
    ops::{
        Write, adamw,
        cross_entropy::{self, IGNORE},
        elementwise, reduce,
    },
    tensor::DType,
};

/// N rows, C channels, V vocabulary. The last has more rows than logits are held for at once.
const HEADS: &[Sizes] = &[[1, 1, 1, 0, 0], [5, 16, 37, 0, 0], [33, 64, 300, 0, 0], [300, 8, 65_537, 0, 0]];
const BUFFERS: &[Sizes] = &[[1, 0, 0, 0, 0], [100, 0, 0, 0, 0], [70_001, 0, 0, 0, 0]];

pub const CASES: &[Case] = &[
    Case { kernel: "head and cross-entropy", letters: "NCV", shapes: HEADS, run: head },
    Case { kernel: "sums", letters: "N", shapes: BUFFERS, run: sums },
    Case { kernel: "adamw", letters: "N", shapes: BUFFERS, run: optimizer },
];

fn head(lab: &mut Lab, [n, c, v, ..]: Sizes) -> Result<Outputs> {
    let (mut x, w) = (lab.normal([n, c], 1.0)?, lab.normal([v, c], 0.5)?);
    let mut targets: Vec<u32> = (0..n).map(|row| ((row * 7919) % v) as u32).collect();
    // Not where it is the only one: a loss of nothing says nothing.
    if n > 1 {
        targets[n / 2] = IGNORE;
    }
    let targets = lab.exec.upload([n], &targets)?;
    let scale = lab.exec.upload([1], &[1.0 / n as f32])?;
    let (mut losses, mut dw) = (lab.output_accumulator([n])?, lab.output([v, c])?);
    let (losses_view, dw_view) = (losses.view_mut(), Some((dw.view_mut(), Write::Replace)));
    cross_entropy::head(
        &lab.exec,
        x.view_mut(),
        w.view(),
        targets.view(),
        scale.view(),
        losses_view,
        dw_view,
    )?;
    lab.outputs([("losses", &losses), ("dx", &x), ("dw", &dw)])
}

fn sums(lab: &mut Lab, [n, ..]: Sizes) -> Result<Outputs> {
    let x = lab.normal([n], 1.0)?;
    let found = vec![reduce::sum_of_squares(&lab.exec, x.view())?, reduce::sum(&lab.exec, x.view())?];
    Ok(Outputs(vec![("sum of squares, sum", found)]))
}

fn optimizer(lab: &mut Lab, [n, ..]: Sizes) -> Result<Outputs> {
    let (dw, mut w) = (lab.normal([n], 1.0)?, lab.normal([n], 1.0)?);
    let (mut m, roots) = (lab.normal_accumulator([n], 0.1)?, lab.normal_accumulator([n], 0.1)?);
    // A second moment is never negative.
    let mut v = lab.squares(&roots)?;
    let mut master = if lab.is_short() { Some(lab.output_accumulator([n])?) } else { None };
    if let Some(master) = &mut master {
        elementwise::cast(&lab.exec, w.view(), master.view_mut());
    }
    let step = adamw::Step {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        clip: 1.0,
        step: 3,
    };
    let mut numbers = lab.exec.upload([adamw::NUMBERS], &step.to_array())?;
    let mut squares = lab.exec.take([1], DType::F64)?;
    reduce::sum_of_squares_into(&lab.exec, dw.view(), squares.view_mut())?;
    adamw::clip(&lab.exec, squares.view(), numbers.view_mut());
    // All but the last third decays.
    let decays = adamw::decay_table(n, std::iter::once(0..2 * n / 3));
    let decays = lab.exec.upload([decays.len()], &decays)?;
    let (numbers_view, decays) = (numbers.view(), Some(decays.view()));
    let master = master.as_mut().map(|master| master.view_mut());
    adamw::step(&lab.exec, numbers_view, decays, dw.view(), m.view_mut(), v.view_mut(), master, w.view_mut());
    lab.outputs([("w", &w), ("m", &m), ("v", &v), ("numbers", &numbers)])
}
