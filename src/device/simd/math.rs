//! The exponential and what is made of it, without branches, for use inside vector loops.

use half::bf16;

use super::fma;

/// e^x with a relative error below 2e-7. At or above 88.72 infinity, below -86.64 (2^-125) zero;
/// NaN stays NaN. Cephes' scheme: n = round(x / ln 2), then a polynomial in what is left, then 2^n.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    const HI: f32 = 88.722_83;
    const LO: f32 = -86.64;
    // Adding and taking away 1.5 * 2^23 rounds to an integer in any instruction set, and leaves that
    // integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts: the first has few bits, so that n times it is exact.
    const LN2_HI: f32 = 355.0 / 512.0;
    const LN2_LO: f32 = -2.121_944_4e-4;

    // Comparisons in this order keep NaN.
    let clamped = if x > HI { HI } else { x };
    let clamped = if clamped < LO { LO } else { clamped };
    let shifted = fma::<FMA>(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma::<FMA>(n, -LN2_HI, clamped);
    let r = fma::<FMA>(n, -LN2_LO, r);

    let p = fma::<FMA>(1.987_569_1e-4, r, 1.398_199_9e-3);
    let p = fma::<FMA>(p, r, 8.333_452e-3);
    let p = fma::<FMA>(p, r, 4.166_579_6e-2);
    let p = fma::<FMA>(p, r, 1.666_666_5e-1);
    let p = fma::<FMA>(p, r, 0.5);
    let p = fma::<FMA>(p, r * r, r) + 1.0;

    // 2^n as 2 * 2^(n-1): n reaches 128, one more than the exponent field can hold.
    let bits = (shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(126)) << 23;
    let value = p * f32::from_bits(bits) * 2.0;
    let value = if x >= HI { f32::INFINITY } else { value };
    if x < LO { 0.0 } else { value }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// `x` rounded to the nearest bf16, ties to even, as `half` does, but without a branch.
#[inline(always)]
pub fn round_bf16(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    // A NaN whose payload lies in the low half would round to infinity: it is made quiet instead.
    let quiet = (bits >> 16) | 0x40;
    bf16::from_bits(if x.is_nan() { quiet } else { rounded } as u16)
}

/// `x` widened to f32: exact.
#[inline(always)]
pub fn widen_bf16(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}
