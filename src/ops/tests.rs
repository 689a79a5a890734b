//! Every operation's backward against central differences of its forward, in f64, over ragged shapes.

use super::{
    attention::{Heads, Mask, Scope},
    cross_entropy::IGNORE,
    gelu::Formula,
    glu::Activation,
    rope::{Angles, Direction},
    *,
};
use crate::{
    base::Philox,
    device::{Device, host},
    tensor::{Buf, DType, Shape, Tensor},
};

const STEP: f64 = 1e-5;
const TOLERANCE: f64 = 1e-7;

fn exec() -> Exec {
    Exec::new(Device::cpu(Some(3)), 256 << 20, 1 << 20).expect("memory")
}

fn random(exec: &Exec, seed: u64, shape: impl Into<Shape>) -> Buf {
    let shape = shape.into();
    let mut rng = Philox::new(seed, 0);
    let numbers: Vec<f64> = (0..shape.count()).map(|_| f64::from(rng.normal())).collect();
    exec.upload(shape, &numbers).expect("memory")
}

fn empty(exec: &Exec, shape: impl Into<Shape>) -> Buf {
    exec.take(shape, DType::F64).expect("memory")
}

fn numbers(buf: &Buf) -> Vec<f64> {
    host::slice(buf.view()).to_vec()
}

/// The scalar that is differentiated: a weighted sum of the output, whose gradient is the weights.
fn weighted(y: &Buf, dy: &Buf) -> f64 {
    host::slice::<f64>(y.view()).iter().zip(host::slice::<f64>(dy.view())).map(|(y, dy)| y * dy).sum()
}

/// Checks `gradient` of `value` with respect to `x` at some of its elements.
fn check(what: &str, x: &mut Buf, gradient: &[f64], value: impl Fn(Tensor) -> f64) {
    assert_eq!(x.shape().count(), gradient.len());
    let mut rng = Philox::new(99, 0);
    for _ in 0..40 {
        let index = rng.below(gradient.len() as u64) as usize;
        let mut at = |change: f64| {
            host::slice_mut::<f64>(x.view_mut())[index] += change;
            value(x.view())
        };
        let (above, below) = (at(STEP), at(-2.0 * STEP));
        at(STEP);
        let expected = (above - below) / (2.0 * STEP);
        let found = gradient[index];
        let close = (found - expected).abs() <= TOLERANCE * (1.0 + expected.abs());
        assert!(close, "{what}[{index}]: {found} against {expected}");
    }
}

#[test]
fn matmul_backward() {
    let exec = exec();
    for (n, i, o) in [(1, 1, 1), (5, 7, 3), (70, 33, 65)] {
        let (mut x, mut w) = (random(&exec, 1, [n, i]), random(&exec, 2, [o, i]));
        let dy = random(&exec, 3, [n, o]);
        let forward = |x: Tensor, w: Tensor| {
            let mut y = empty(&exec, [n, o]);
            matmul::forward(&exec, x, w, y.view_mut());
            weighted(&y, &dy)
        };
        let (mut dx, mut dw) = (empty(&exec, [n, i]), random(&exec, 4, [o, i]));
        let before = numbers(&dw);
        matmul::backward_input(&exec, dy.view(), w.view(), dx.view_mut(), Write::Replace);
        matmul::backward_weight(&exec, dy.view(), x.view(), dw.view_mut(), Write::Add);
        let dw: Vec<f64> = numbers(&dw).iter().zip(before).map(|(after, before)| after - before).collect();
        let fixed = random(&exec, 2, [o, i]);
        check("dx", &mut x, &numbers(&dx), |x| forward(x, fixed.view()));
        let fixed = random(&exec, 1, [n, i]);
        check("dw", &mut w, &dw, |w| forward(fixed.view(), w));
    }
}

/// Two layers with biases and GELU between them, by either formula.
#[test]
fn matmul_with_bias_and_gelu_backward() {
    let exec = exec();
    for (n, i, f, o) in [(1, 1, 1, 1), (5, 7, 3, 4), (70, 9, 13, 6)] {
        let shapes: [Shape; 5] = [[n, i].into(), [f, i].into(), [f].into(), [o, f].into(), [o].into()];
        let inputs = || [1, 2, 3, 4, 5].map(|seed| random(&exec, seed, shapes[seed as usize - 1]));
        let dz = random(&exec, 6, [n, o]);
        for formula in [Formula::Tanh, Formula::Exact] {
            let forward = |[x, w, b, w2, b2]: [Tensor; 5]| {
                let [mut pre, mut y, mut z] = [[n, f], [n, f], [n, o]].map(|shape| empty(&exec, shape));
                matmul::forward_bias_gelu(&exec, x, w, b, formula, pre.view_mut(), y.view_mut());
                matmul::forward_bias(&exec, y.view(), w2, b2, z.view_mut());
                (pre, y, z)
            };
            let kept = inputs();
            let [x, w, b, w2, b2] = kept.each_ref().map(Buf::view);
            let (pre, y, _) = forward([x, w, b, w2, b2]);
            let mut gradients = shapes.map(|shape| empty(&exec, shape));
            let [dx, dw, db, dw2, db2] = gradients.each_mut().map(Buf::view_mut);
            let mut dpre = empty(&exec, [n, f]);
            matmul::backward_bias(&exec, dz.view(), db2, Write::Replace).expect("memory");
            matmul::backward_weight(&exec, dz.view(), y.view(), dw2, Write::Replace);
            matmul::backward_input_gelu(&exec, dz.view(), w2, pre.view(), formula, dpre.view_mut());
            matmul::backward_bias(&exec, dpre.view(), db, Write::Replace).expect("memory");
            matmul::backward_weight(&exec, dpre.view(), x, dw, Write::Replace);
            matmul::backward_input(&exec, dpre.view(), w, dx, Write::Replace);
            let names = ["dx", "dw", "db", "dw2", "db2"];
            for (place, (mut changed, gradient)) in inputs().into_iter().zip(&gradients).enumerate() {
                check(names[place], &mut changed, &numbers(gradient), |changed| {
                    let mut all = kept.each_ref().map(Buf::view);
                    all[place] = changed;
                    weighted(&forward(all).2, &dz)
                });
            }
        }
    }
}

#[test]
fn a_biass_gradient_is_added_to_what_is_there() {
    let exec = exec();
    let (dy, mut db) = (random(&exec, 1, [700, 50]), random(&exec, 2, [50]));
    let before = numbers(&db);
    matmul::backward_bias(&exec, dy.view(), db.view_mut(), Write::Add).expect("memory");
    for (column, (after, before)) in numbers(&db).into_iter().zip(before).enumerate() {
        let sum: f64 = numbers(&dy).iter().skip(column).step_by(50).sum();
        assert!((after - before - sum).abs() < 1e-12, "{column}: {after}");
    }
}

#[test]
fn rmsnorm_backward() {
    let exec = exec();
    for (n, c) in [(1, 1), (3, 17), (2000, 40)] {
        let (mut sum, mut w) = (random(&exec, 1, [n, c]), random(&exec, 2, [c]));
        let (branch, dy) = (numbers(&random(&exec, 3, [n, c])), random(&exec, 4, [n, c]));
        let forward = |sum: Tensor, w: Tensor| {
            let (mut y, mut rstd) = (empty(&exec, [n, c]), empty(&exec, [n]));
            let mut x = exec.upload([n, c], &branch).expect("memory");
            rmsnorm::forward(&exec, sum, Some(x.view_mut()), w, 1e-3, y.view_mut(), rstd.view_mut());
            (weighted(&y, &dy), x, rstd)
        };
        let (_, x, rstd) = forward(sum.view(), w.view());
        let expected: Vec<f64> = numbers(&sum).iter().zip(&branch).map(|(a, b)| a + b).collect();
        assert_eq!(numbers(&x), expected, "the settled sum");
        let (mut dx, mut dw) = (random(&exec, 5, [n, c]), empty(&exec, [c]));
        let downstream = numbers(&dx);
        let (dx_view, dw_view) = ((dx.view_mut(), Write::Add), (dw.view_mut(), Write::Replace));
        rmsnorm::backward(&exec, dy.view(), x.view(), rstd.view(), w.view(), dx_view, dw_view)
            .expect("memory");
        let dx: Vec<f64> = numbers(&dx).iter().zip(downstream).map(|(a, b)| a - b).collect();
        let fixed = random(&exec, 2, [c]);
        check("dx", &mut sum, &dx, |sum| forward(sum, fixed.view()).0);
        let fixed = random(&exec, 1, [n, c]);
        check("dw", &mut w, &numbers(&dw), |w| forward(fixed.view(), w).0);
    }
}

#[test]
fn glu_backward() {
    let exec = exec();
    let [tanh, exact] = [Formula::Tanh, Formula::Exact].map(Activation::Gelu);
    for activation in [Activation::Silu, tanh, exact] {
        for (n, f) in [(1, 1), (3, 5), (300, 77)] {
            let mut gate_up = random(&exec, 1, [n, 2 * f]);
            let dy = random(&exec, 2, [n, f]);
            let forward = |gate_up: Tensor| {
                let mut y = empty(&exec, [n, f]);
                glu::forward(&exec, gate_up, activation, y.view_mut());
                y
            };
            let (mut gradient, mut y) = (random(&exec, 1, [n, 2 * f]), empty(&exec, [n, f]));
            glu::backward(&exec, dy.view(), gradient.view_mut(), activation, y.view_mut());
            assert_eq!(numbers(&y), numbers(&forward(gate_up.view())), "what forward gave");
            check("dgate_up", &mut gate_up, &numbers(&gradient), |x| weighted(&forward(x), &dy));
        }
    }
}

#[test]
fn layernorm_backward() {
    let exec = exec();
    for (n, c) in [(1, 2), (3, 17), (900, 40)] {
        let (mut sum, mut w, mut b) =
            (random(&exec, 1, [n, c]), random(&exec, 2, [c]), random(&exec, 3, [c]));
        let (branch, dy) = (numbers(&random(&exec, 4, [n, c])), random(&exec, 5, [n, c]));
        let forward = |sum: Tensor, w: Tensor, b: Tensor| {
            let (mut y, mut mean, mut rstd) = (empty(&exec, [n, c]), empty(&exec, [n]), empty(&exec, [n]));
            let mut x = exec.upload([n, c], &branch).expect("memory");
            let moments = (mean.view_mut(), rstd.view_mut());
            layernorm::forward(&exec, sum, Some(x.view_mut()), (w, b), 1e-3, y.view_mut(), moments);
            (weighted(&y, &dy), x, mean, rstd)
        };
        let (_, x, mean, rstd) = forward(sum.view(), w.view(), b.view());
        let (mut dx, mut dw, mut db) = (random(&exec, 6, [n, c]), empty(&exec, [c]), empty(&exec, [c]));
        let downstream = numbers(&dx);
        let moments = layernorm::Moments { mean: mean.view(), rstd: rstd.view() };
        let parameters = (dw.view_mut(), db.view_mut(), Write::Replace);
        let dx_view = (dx.view_mut(), Write::Add);
        layernorm::backward(&exec, dy.view(), x.view(), moments, w.view(), dx_view, parameters)
            .expect("memory");
        let dx: Vec<f64> = numbers(&dx).iter().zip(downstream).map(|(a, b)| a - b).collect();
        let (w_now, b_now) = (random(&exec, 2, [c]), random(&exec, 3, [c]));
        check("dx", &mut sum, &dx, |sum| forward(sum, w_now.view(), b_now.view()).0);
        let fixed = random(&exec, 1, [n, c]);
        check("dw", &mut w, &numbers(&dw), |w| forward(fixed.view(), w, b_now.view()).0);
        check("db", &mut b, &numbers(&db), |b| forward(fixed.view(), w_now.view(), b).0);
    }
}

#[test]
fn gelu_has_its_known_values_and_its_backward() {
    let exec = exec();
    let x = exec.upload([5], &[-3.0, -0.5, 0.0, 1.0, 2.0f64]).expect("memory");
    // Of x = 1 the first is Phi(1) as tables have it, the second what the formula gives in f64.
    for (formula, at_one) in [(Formula::Exact, 0.841_344_746_068_542_9), (Formula::Tanh, 0.841_191_990_608_3)]
    {
        let mut y = empty(&exec, [5]);
        gelu::forward(&exec, x.view(), formula, y.view_mut());
        assert!((numbers(&y)[3] - at_one).abs() < 1e-9 && numbers(&y)[2] == 0.0, "{:?}", numbers(&y));
        for count in [1, 5, 40_000] {
            let (mut x, dy) = (random(&exec, 1, [count]), random(&exec, 2, [count]));
            let mut dx = exec.upload([count], &numbers(&dy)).expect("memory");
            gelu::backward(&exec, x.view(), formula, dx.view_mut());
            check("dx", &mut x, &numbers(&dx), |x| {
                let mut y = empty(&exec, [count]);
                gelu::forward(&exec, x, formula, y.view_mut());
                weighted(&y, &dy)
            });
        }
    }
}

#[test]
fn dropout_keeps_the_mean_and_takes_the_same_elements_from_the_gradient() {
    let exec = exec();
    let count = 100_003;
    let rng = exec.upload([4], &dropout::stream(9, 1 << 40)).expect("memory");
    let apply = |number: f64| {
        let mut x = exec.upload([count], &vec![number; count]).expect("memory");
        dropout::apply(&exec, x.view_mut(), 0.25, rng.view());
        numbers(&x)
    };
    let (x, gradient) = (apply(1.0), apply(3.0));
    assert!(
        x.iter().zip(&gradient).all(|(x, d)| (*x == 0.0 || (x - 4.0 / 3.0).abs() < 1e-12) && *d == 3.0 * x)
    );
    let mean = x.iter().sum::<f64>() / count as f64;
    assert!((mean - 1.0).abs() < 0.01, "{mean}");
    // Word 1 of block 20000 decides over element 80001.
    let word = Philox::new(9, 1 << 40).at(20_000)[1];
    assert_eq!(x[80_001] == 0.0, crate::base::rng::unit(word) < 0.25);
}

#[test]
fn embedding_backward() {
    let exec = exec();
    let (v, c) = (150, 6);
    let mut rng = Philox::new(5, 0);
    // Some ids come often, most never.
    let ids: Vec<u32> = (0..400).map(|_| rng.below(30) as u32 * 5).collect();
    let ids = exec.upload([ids.len()], &ids).expect("memory");
    let (mut w, dy) = (random(&exec, 1, [v, c]), random(&exec, 2, [400, c]));
    let mut dw = empty(&exec, [v, c]);
    embedding::backward(&exec, dy.view(), ids.view(), dw.view_mut(), Write::Replace).expect("memory");
    let once = numbers(&dw);
    check("dw", &mut w, &once, |w| {
        let mut y = empty(&exec, [400, c]);
        embedding::forward(&exec, ids.view(), w, y.view_mut());
        weighted(&y, &dy)
    });
    embedding::backward(&exec, dy.view(), ids.view(), dw.view_mut(), Write::Add).expect("memory");
    assert!(numbers(&dw).iter().zip(once).all(|(twice, once)| (twice - 2.0 * once).abs() < 1e-12));
}

#[test]
fn rotation_keeps_lengths_and_turns_back() {
    let exec = exec();
    let (n, heads, d) = (40, 3, 8);
    let x = random(&exec, 1, [n, (heads + 1) * d]);
    let positions: Vec<u32> = (0..n as u32).map(|row| row * 7 % 64).collect();
    let positions = exec.upload([n], &positions).expect("memory");
    let table = exec.upload([64, d], &rope::table(64, d, 100.0)).expect("memory");
    let mut turned = exec.upload([n, (heads + 1) * d], &numbers(&x)).expect("memory");
    let angles = Angles { positions: positions.view(), table: table.view() };
    rope::rotate(&exec, turned.view_mut(), heads, angles, Direction::Forward);
    for (row, (x, turned)) in
        numbers(&x).chunks((heads + 1) * d).zip(numbers(&turned).chunks((heads + 1) * d)).enumerate()
    {
        assert_eq!(x[heads * d..], turned[heads * d..], "values stay");
        // Channel 1 of head 2 turns with channel 1 + d/2 by position * theta^(-2/d).
        let angle = (row as f64 * 7.0 % 64.0) * 100f64.powf(-2.0 / d as f64);
        let expected = x[2 * d + 1] * angle.cos() - x[2 * d + 1 + d / 2] * angle.sin();
        assert!((turned[2 * d + 1] - expected).abs() < 1e-12);
    }
    rope::rotate(&exec, turned.view_mut(), heads, angles, Direction::Backward);
    assert!(numbers(&turned).iter().zip(numbers(&x)).all(|(a, b)| (a - b).abs() < 1e-12));
}

/// Attention by its definition, one query and head at a time.
fn plain_attention(qkv: &[f64], heads: Heads, mask: Mask, bounds: &[u32]) -> Vec<f64> {
    let d = heads.dim;
    let row = |row: usize| &qkv[row * heads.row_count()..][..heads.row_count()];
    let mut o = Vec::new();
    for bounds in bounds.windows(2) {
        let (first, end) = (bounds[0] as usize, bounds[1] as usize);
        let sees = |query: usize, key: usize| {
            let near = mask.window.is_none_or(|window| query.abs_diff(key) < window);
            near && (key <= query || !mask.causal)
        };
        for query in first..end {
            let keys: Vec<usize> = (first..end).filter(|&key| sees(query, key)).collect();
            for head in 0..heads.query {
                let (q, kv) = (&row(query)[head * d..][..d], head / heads.group());
                let scores = keys.iter().map(|&key| {
                    let k = &row(key)[heads.key_at(kv)..][..d];
                    (q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() / (d as f64).sqrt()).exp()
                });
                let scores: Vec<f64> = scores.collect();
                let total: f64 = scores.iter().sum();
                o.extend((0..d).map(|channel| {
                    let values = keys.iter().zip(&scores);
                    values.map(|(&key, p)| p * row(key)[heads.value_at(kv) + channel]).sum::<f64>() / total
                }));
            }
        }
    }
    o
}

#[test]
fn attention_is_its_definition_forward_and_backward() {
    let cases = [
        (Heads { query: 1, key_value: 1, dim: 2 }, vec![0, 1]),
        (Heads { query: 4, key_value: 2, dim: 6 }, vec![0, 5, 6, 30]),
        // Longer than a tile, and more query heads to a group than fit into a block of rows evenly.
        (Heads { query: 6, key_value: 2, dim: 4 }, vec![0, 64, 129, 259]),
        (Heads { query: 3, key_value: 3, dim: 4 }, vec![0, 0, 70]),
    ];
    for (heads, bounds) in &cases {
        attention_is_its_definition(*heads, Mask::CAUSAL, bounds);
    }
    let (heads, bounds) = (Heads { query: 4, key_value: 2, dim: 2 }, [0, 150, 153]);
    for window in [None, Some(1), Some(20), Some(70)] {
        attention_is_its_definition(heads, Mask { causal: false, window }, &bounds);
        attention_is_its_definition(heads, Mask { causal: true, window }, &bounds);
    }
}

fn attention_is_its_definition(heads: Heads, mask: Mask, bounds: &[u32]) {
    let exec = exec();
    let n = *bounds.last().expect("bounds") as usize;
    let mut qkv = random(&exec, 1, [n, heads.row_count()]);
    let dy = random(&exec, 2, [n, heads.query * heads.dim]);
    let bounds_buf = exec.upload([bounds.len()], bounds).expect("memory");
    let scope = Scope { bounds: bounds_buf.view(), mask, pages: None };
    let forward = |qkv: Tensor| {
        let (mut o, mut lse) = (empty(&exec, [n, heads.query * heads.dim]), empty(&exec, [n, heads.query]));
        attention::forward(&exec, qkv, heads, scope, o.view_mut(), lse.view_mut()).expect("memory");
        (o, lse)
    };
    let (o, lse) = forward(qkv.view());
    let expected = plain_attention(&numbers(&qkv), heads, mask, bounds);
    assert!(numbers(&o).iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{heads:?} {mask:?}");
    let mut gradient = random(&exec, 1, [n, heads.row_count()]);
    attention::backward(&exec, dy.view(), o.view(), lse.view(), gradient.view_mut(), heads, scope)
        .expect("memory");
    check("dqkv", &mut qkv, &numbers(&gradient), |qkv| weighted(&forward(qkv).0, &dy));
}

/// The losses of `head`, and with `gradients` those of half their sum: (losses, dx, dw).
fn head(
    exec: &Exec,
    x: Tensor,
    w: Tensor,
    targets: &[u32],
    gradients: bool,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (n, (v, c)) = (x.rows(), (w.rows(), w.row_count()));
    let ids = exec.upload([n], targets).expect("memory");
    let scale = exec.upload([1], &[0.5f32]).expect("memory");
    let mut x = exec.upload([n, c], host::slice::<f64>(x)).expect("memory");
    let (mut losses, mut dw) = (empty(exec, [n]), empty(exec, [v, c]));
    let dw_view = gradients.then(|| (dw.view_mut(), Write::Replace));
    cross_entropy::head(exec, x.view_mut(), w, ids.view(), scale.view(), losses.view_mut(), dw_view)
        .expect("memory");
    (numbers(&losses), numbers(&x), numbers(&dw))
}

#[test]
fn cross_entropy_backward() {
    let exec = exec();
    let (n, v, c) = (20, 37, 6);
    let (mut x, mut w) = (random(&exec, 1, [n, c]), random(&exec, 2, [v, c]));
    let mut targets: Vec<u32> = (0..n as u32).map(|row| row * 11 % v as u32).collect();
    targets[3] = IGNORE;
    let (losses, dx, dw) = head(&exec, x.view(), w.view(), &targets, true);
    assert_eq!(losses, head(&exec, x.view(), w.view(), &targets, false).0);
    let (x_now, w_now) = (numbers(&x), numbers(&w));
    for (row, x) in x_now.chunks(c).enumerate().filter(|(row, _)| *row != 3) {
        let logit = |w: &[f64]| w.iter().zip(x).map(|(a, b)| a * b).sum::<f64>();
        let total: f64 = w_now.chunks(c).map(|w| logit(w).exp()).sum();
        let expected = total.ln() - logit(&w_now[targets[row] as usize * c..][..c]);
        assert!((losses[row] - expected).abs() < 1e-12, "row {row}");
    }
    assert!(losses[3] == 0.0 && dx[3 * c..4 * c].iter().all(|&dx| dx == 0.0), "an ignored target");
    let total = |x: Tensor, w: Tensor| 0.5 * head(&exec, x, w, &targets, false).0.iter().sum::<f64>();
    let fixed = random(&exec, 2, [v, c]);
    check("dx", &mut x, &dx, |x| total(x, fixed.view()));
    let fixed = random(&exec, 1, [n, c]);
    check("dw", &mut w, &dw, |w| total(fixed.view(), w));
}

#[test]
fn cross_entropy_in_chunks_is_the_sum_of_its_parts() {
    let exec = exec();
    // A vocabulary so wide that the rows do not fit into one chunk.
    let (n, v, c) = (150, 70_000, 3);
    assert!(cross_entropy::chunk_rows(&exec.device, n, v) < n);
    let (x, w) = (random(&exec, 1, [n, c]), random(&exec, 2, [v, c]));
    let targets: Vec<u32> = (0..n as u32).map(|row| row * 461).collect();
    let (losses, dx, dw) = head(&exec, x.view(), w.view(), &targets, true);
    let part = |rows: std::ops::Range<usize>| {
        head(&exec, x.view().slice_rows(rows.clone()), w.view(), &targets[rows], true)
    };
    let (first, last) = (part(0..70), part(70..n));
    let close = |a: &f64, b: &f64| (a - b).abs() < 1e-12;
    assert!(losses.iter().zip(first.0.iter().chain(&last.0)).all(|(a, b)| close(a, b)));
    assert!(dx.iter().zip(first.1.iter().chain(&last.1)).all(|(a, b)| close(a, b)));
    assert!(dw.iter().zip(first.2.iter().zip(&last.2)).all(|(dw, (a, b))| close(dw, &(a + b))));
}

/// Two steps worked out by hand from the paper's algorithm 2, gradients clipped to half their norm.
#[test]
fn adamw_follows_the_paper() {
    let exec = exec();
    let (learning_rate, beta1, beta2, eps, weight_decay) = (0.1, 0.9, 0.99, 1e-3, 0.5);
    // Of 96 elements the middle 32 decay.
    let count = 96;
    let decays = exec.upload([1], &adamw::decay_table(count, std::iter::once(32..64))).expect("memory");
    let full = |number: f64| exec.upload([count], &vec![number; count]).expect("memory");
    let (mut w, mut m, mut v) = (full(2.0), full(0.0), full(0.0));
    let (mut theta, mut first, mut second) = ([2.0f64; 2], 0.0f64, 0.0f64);
    for (step, gradient) in [(1, 3.0f64), (2, -1.0)] {
        let dw = full(gradient);
        let norm = gradient.abs() * (count as f64).sqrt();
        let numbers =
            adamw::Step { learning_rate, beta1, beta2, eps, weight_decay, clip: 0.5 * norm, step }.to_array();
        let mut numbers = exec.upload([adamw::NUMBERS], &numbers).expect("memory");
        let mut squares = exec.take([1], DType::F64).expect("memory");
        reduce::sum_of_squares_into(&exec, dw.view(), squares.view_mut()).expect("memory");
        adamw::clip(&exec, squares.view(), numbers.view_mut());
        assert!((exec.read::<f64>(&numbers).expect("on the host")[adamw::NORM] / norm - 1.0).abs() < 1e-14);
        let (m, v) = (m.view_mut(), v.view_mut());
        let decays = Some(decays.view());
        adamw::step(&exec, numbers.view(), decays, dw.view(), m, v, None, w.view_mut());
        let g = 0.5 * gradient;
        first = beta1 * first + (1.0 - beta1) * g;
        second = beta2 * second + (1.0 - beta2) * g * g;
        let corrected = |moment: f64, beta: f64| moment / (1.0 - beta.powi(step as i32));
        let moved = learning_rate * corrected(first, beta1) / (corrected(second, beta2).sqrt() + eps);
        theta = [theta[0] - moved, theta[1] - learning_rate * weight_decay * theta[1] - moved];
        for (place, found) in exec.read::<f64>(&w).expect("on the host").into_iter().enumerate() {
            let theta = theta[usize::from((32..64).contains(&place))];
            assert!((found - theta).abs() < 1e-14, "step {step}, {place}: {found} against {theta}");
        }
    }
}

#[test]
fn a_gradient_that_is_no_number_changes_nothing() {
    let exec = exec();
    for broken in [f32::NAN, f32::INFINITY] {
        let numbers = adamw::Step {
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.1,
            clip: 1.0,
            step: 1,
        };
        let mut numbers = exec.upload([adamw::NUMBERS], &numbers.to_array()).expect("memory");
        let full = |number: f32| exec.upload([40], &[number; 40]).expect("memory");
        let (dw, mut w, mut m, mut v) = (full(broken), full(1.0), full(2.0), full(3.0));
        let mut squares = exec.take([1], DType::F64).expect("memory");
        reduce::sum_of_squares_into(&exec, dw.view(), squares.view_mut()).expect("memory");
        adamw::clip(&exec, squares.view(), numbers.view_mut());
        let (m_view, v_view, w_view) = (m.view_mut(), v.view_mut(), w.view_mut());
        adamw::step(&exec, numbers.view(), None, dw.view(), m_view, v_view, None, w_view);
        for (buf, before) in [(&w, 1.0), (&m, 2.0), (&v, 3.0)] {
            assert_eq!(exec.read::<f32>(buf).expect("on the host"), [before; 40]);
        }
        assert!(!exec.read::<f64>(&numbers).expect("on the host")[adamw::NORM].is_finite());
    }
}

#[test]
fn a_short_types_master_keeps_what_the_copy_rounds_away() {
    let exec = exec();
    let one = half::bf16::ONE;
    let mut w = exec.upload([1], &[one]).expect("memory");
    let mut master = exec.upload([1], &[1.0f32]).expect("memory");
    let (mut m, mut v) =
        (exec.upload([1], &[0.0f32]).expect("memory"), exec.upload([1], &[0.0f32]).expect("memory"));
    for step in 1..=100 {
        let numbers = adamw::Step {
            learning_rate: 1e-4,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.0,
            clip: 0.0,
            step,
        };
        let dw = exec.upload([1], &[one]).expect("memory");
        let numbers = exec.upload([adamw::NUMBERS], &numbers.to_array()).expect("memory");
        let master = Some(master.view_mut());
        let (m, v) = (m.view_mut(), v.view_mut());
        adamw::step(&exec, numbers.view(), None, dw.view(), m, v, master, w.view_mut());
    }
    // A step of 1e-4 is far below bf16's spacing near 1, and yet a hundred of them arrive.
    let found = exec.read::<f32>(&master).expect("on the host")[0];
    assert!((found - 0.99).abs() < 1e-5, "{found}");
    assert_eq!(exec.read::<half::bf16>(&w).expect("on the host")[0], half::bf16::from_f32(found));
}

#[test]
fn sums_do_not_depend_on_threads_and_casts_round() {
    let numbers: Vec<f32> = (0..300_000).map(|i| ((i * 37 % 1000) as f32).sqrt()).collect();
    let sums = |threads| {
        let exec = Exec::new(Device::cpu(Some(threads)), 8 << 20, 0).expect("memory");
        let x = exec.upload([numbers.len()], &numbers).expect("memory");
        let mut short = exec.take([numbers.len()], DType::Bf16).expect("memory");
        elementwise::cast(&exec, x.view(), short.view_mut());
        assert_eq!(
            exec.read::<half::bf16>(&short).expect("on the host")[37],
            half::bf16::from_f32(numbers[37])
        );
        (
            reduce::sum(&exec, x.view()).expect("memory"),
            reduce::sum_of_squares(&exec, x.view()).expect("memory"),
        )
    };
    let (sum, squares) = sums(1);
    assert_eq!(sums(3), (sum, squares));
    // i * 37 % 1000 runs through 0..1000 three hundred times.
    assert!((squares / (300.0 * 499_500.0) - 1.0).abs() < 1e-5, "{squares}");
}
