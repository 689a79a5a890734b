use half::bf16;

use super::*;

multiversion! {
    fn exp_row(row: &mut [f32]) {
        for x in row {
            *x = exp::<FMA>(*x);
        }
    }
}

trait Widen: Copy + Into<f64> {}
impl Widen for f32 {}

multiversion! {
    fn doubled<T: Widen, U: From<f64>>(x: T) -> U {
        U::from(x.into() * f64::from(1 + u8::from(FMA || x.into() > 0.0)))
    }
}

#[test]
fn generic_functions_are_dispatched_too() {
    assert_eq!(doubled::<f32, f64>(1.5), 3.0);
}

#[test]
fn exp_is_close_to_the_double_precision_one_over_its_whole_range() {
    let inputs: Vec<f32> = (0..200_000).map(|i| -86.6 + i as f32 * (175.3 / 200_000.0)).collect();
    let mut row = inputs.clone();
    exp_row(&mut row);
    for (x, y) in inputs.iter().zip(&row) {
        let exact = f64::from(*x).exp();
        let plain = exp::<false>(*x);
        assert!((f64::from(*y) - exact).abs() <= 2e-7 * exact, "exp({x}) = {y}, not {exact}");
        assert!((f64::from(plain) - exact).abs() <= 3e-7 * exact, "exp({x}) = {plain} without FMA");
    }
}

#[test]
fn exp_at_the_edges() {
    let mut row = [f32::NEG_INFINITY, -1e30, -100.0, 0.0, -0.0, 88.73, 1e30, f32::INFINITY, f32::NAN];
    exp_row(&mut row);
    assert_eq!(row[..5], [0.0, 0.0, 0.0, 1.0, 1.0]);
    assert_eq!(row[5..8], [f32::INFINITY; 3]);
    assert!(row[8].is_nan());
    assert_eq!(sigmoid::<true>(0.0), 0.5);
    assert_eq!(sigmoid::<true>(-200.0), 0.0);
    assert_eq!(sigmoid::<true>(200.0), 1.0);
}

#[test]
fn rows_of_every_length_against_doubles() {
    for len in (0..200).chain([1000, 4097]) {
        let a: Vec<f32> = (0..len).map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0).collect();
        let b: Vec<f32> = (0..len).map(|i| ((i * 53 % 97) as f32 - 48.0) / 13.0).collect();
        let exact = |f: fn(f64, f64) -> f64| -> f64 {
            a.iter().zip(&b).map(|(a, b)| f(f64::from(*a), f64::from(*b))).sum()
        };
        let near = |got: f32, want: f64| {
            let scale = exact(|a, b| (a * b).abs() + a * a + a.abs());
            assert!((f64::from(got) - want).abs() <= 1e-6 * scale + 1e-12, "{got} for {want} over {len}");
        };
        near(sum(&a), exact(|a, _| a));
        near(sum_of_squares(&a), exact(|a, _| a * a));
        near(dot(&a, &b), exact(|a, b| a * b));
        assert_eq!(max(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let mut y = b.clone();
        axpy(0.5, &a, &mut y);
        add(&a, &mut y);
        scale(2.0, &mut y);
        for ((y, a), b) in y.iter().zip(&a).zip(&b) {
            assert!((y - (b + 1.5 * a) * 2.0).abs() < 1e-5);
        }
    }
}

#[test]
fn bf16_rounds_as_the_half_crate_does() {
    let mut values: Vec<f32> = (0..=u16::MAX).map(|bits| bf16::from_bits(bits).to_f32()).collect();
    let between: Vec<f32> = values.iter().map(|x| f32::from_bits(x.to_bits() | 0x8000)).collect();
    values.extend(between);
    values.extend([f32::from_bits(0x7f80_0001), f32::MAX, -f32::MAX, f32::MIN_POSITIVE / 4.0, 1.000_01]);
    let mut rounded = vec![bf16::ZERO; values.len()];
    to_bf16(&values, &mut rounded);
    let mut back = vec![0.0; values.len()];
    to_f32(&rounded, &mut back);
    for ((value, rounded), back) in values.iter().zip(&rounded).zip(&back) {
        if value.is_nan() {
            assert!(rounded.is_nan() && back.is_nan());
        } else {
            assert_eq!(*rounded, bf16::from_f32(*value), "rounding {value}");
            assert_eq!(*back, rounded.to_f32());
        }
    }
}
