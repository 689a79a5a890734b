//! The number types that operations are generic over, and the step from a tensor's type to a Rust type.

use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub};

use half::bf16;

use super::Write;
use crate::{
    device::{MatMut, MatRef, Pool, gemm, simd},
    tensor::Element,
};

/// What activations and weights are stored in.
pub trait Float: Element + Default + PartialOrd {
    /// What is computed in.
    type Acc: Real;
    fn up(self) -> Self::Acc;
    fn down(value: Self::Acc) -> Self;
    /// C = A B, or C += A B; the sum is kept in the accumulator's type.
    fn multiply(pool: &Pool, a: MatRef<Self>, b: MatRef<Self>, c: MatMut<Self>, write: Write);
    /// The same with C in the accumulator's type.
    fn multiply_up(pool: &Pool, a: MatRef<Self>, b: MatRef<Self>, c: MatMut<Self::Acc>, write: Write);
}

macro_rules! multiply {
    ($($name:ident -> $out:ty),*) => {$(
        fn $name(pool: &Pool, a: MatRef<Self>, b: MatRef<Self>, c: MatMut<$out>, write: Write) {
            let kept = if write == Write::Add { Self::Acc::ONE } else { Self::Acc::ZERO };
            gemm(pool, Self::Acc::ONE, a, b, kept, c);
        }
    )*};
}

/// What is computed in: f32, or f64 when gradients are checked.
pub trait Real:
    Float<Acc = Self>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + MulAssign
    + std::iter::Sum
{
    const ZERO: Self;
    const ONE: Self;
    const NEG_INFINITY: Self;
    fn from_f64(value: f64) -> Self;
    fn to_f64(self) -> f64;
    fn exp(self) -> Self;
    /// [`Real::exp`] without a branch, for vector loops: relative error below 2e-7 in f32, exact rounding in f64.
    fn fast_exp<const FMA: bool>(self) -> Self;
    fn ln(self) -> Self;
    fn sqrt(self) -> Self;
    fn max(self, other: Self) -> Self;
    /// The share of the standard normal distribution below this.
    fn normal_share(self) -> Self;
}

macro_rules! real {
    ($type:ty, $fast_exp:expr) => {
        impl Float for $type {
            type Acc = Self;
            #[inline(always)]
            fn up(self) -> Self {
                self
            }
            #[inline(always)]
            fn down(value: Self) -> Self {
                value
            }
            multiply!(multiply -> Self, multiply_up -> Self);
        }

        impl Real for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NEG_INFINITY: Self = <$type>::NEG_INFINITY;
            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as $type
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn exp(self) -> Self {
                <$type>::exp(self)
            }
            #[inline(always)]
            fn fast_exp<const FMA: bool>(self) -> Self {
                $fast_exp(self)
            }
            #[inline(always)]
            fn ln(self) -> Self {
                <$type>::ln(self)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                <$type>::sqrt(self)
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                <$type>::max(self, other)
            }
            #[inline(always)]
            fn normal_share(self) -> Self {
                (0.5 * libm::erfc(-f64::from(self) * std::f64::consts::FRAC_1_SQRT_2)) as $type
            }
        }
    };
}

real!(f32, simd::exp::<FMA>);
real!(f64, f64::exp);

impl Float for bf16 {
    type Acc = f32;
    #[inline(always)]
    fn up(self) -> f32 {
        simd::widen_bf16(self)
    }
    #[inline(always)]
    fn down(value: f32) -> Self {
        simd::round_bf16(value)
    }
    multiply!(multiply -> Self, multiply_up -> f32);
}

/// Runs the body with `$T` standing for the Rust type of a floating-point [`DType`](crate::tensor::DType).
macro_rules! with_float {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::tensor::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::tensor::DType::F64 => {
                type $T = f64;
                $body
            }
            $crate::tensor::DType::Bf16 => {
                type $T = half::bf16;
                $body
            }
            $crate::tensor::DType::U32 => panic!("an operation on numbers was given integers"),
        }
    };
}
pub(crate) use with_float;
