//! Vector code that is chosen when the program starts: [`multiversion!`] compiles one plain loop for AVX-512,
//! for AVX2 and for any x86-64 (or any other processor), and calls the widest that this machine has. Loops
//! here and in `ops` are written over fixed lanes, so that the order of every sum is the same at all three.

#![allow(unsafe_code)] // Calls functions compiled for instructions whose presence was checked.

mod math;
mod rows;

use std::sync::OnceLock;

pub use math::{exp, round_bf16, sigmoid, widen_bf16};
pub use rows::{LANES, add, axpy, dot, dot_bf16, max, scale, sum, sum_of_squares, to_bf16, to_f32};

/// Instruction sets that code is compiled for, narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every processor of the architecture has.
    Baseline,
    /// AVX2, FMA, F16C, BMI2: x86-64-v3.
    Avx2,
    /// AVX-512 F, BW, CD, DQ, VL: x86-64-v4.
    Avx512,
}

/// The widest level that this machine has, or a narrower one that `CLOISTER_SIMD=baseline|avx2|avx512` asks
/// for: a way to tell a wrong kernel from a wrong model on a machine nobody can visit.
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let asked = match std::env::var("CLOISTER_SIMD").as_deref() {
            Ok("baseline") => Level::Baseline,
            Ok("avx2") => Level::Avx2,
            _ => Level::Avx512,
        };
        asked.min(present())
    })
}

/// Whether the processor multiplies bf16 pairs into f32 (`vdpbf16ps`), and may be asked to.
pub fn has_bf16_dot() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        level() == Level::Avx512 && std::arch::is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

#[cfg(target_arch = "x86_64")]
fn present() -> Level {
    use std::arch::is_x86_feature_detected as has;
    let avx2 = has!("avx2") && has!("fma") && has!("f16c") && has!("bmi1") && has!("bmi2") && has!("lzcnt");
    let avx512 =
        has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    match (avx2, avx512) {
        (true, true) => Level::Avx512,
        (true, false) => Level::Avx2,
        (false, _) => Level::Baseline,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn present() -> Level {
    Level::Baseline
}

/// `a * b + c`, rounded once where `FMA` says that the processor does so in one instruction.
#[inline(always)]
pub fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Defines functions whose bodies are compiled once for each [`Level`] and dispatched when called; they may be
/// generic (`fn f<T: Float, U: Float>`). In the body the constant `FMA` is true where fused multiply-add is one
/// instruction ([`fma`]). What the body calls must be `#[inline(always)]`, or it is compiled for the baseline.
macro_rules! multiversion {
    ($($(#[$attribute:meta])* $visibility:vis fn $name:ident
        $(<$($generic:ident: $bound:path),+ $(,)?>)? ($($argument:ident: $type:ty),* $(,)?)
        $(-> $output:ty)? $body:block)*) => {$(
        $(#[$attribute])*
        $visibility fn $name $(<$($generic: $bound),+>)? ($($argument: $type),*) $(-> $output)? {
            #[inline(always)]
            #[allow(clippy::extra_unused_type_parameters)]
            fn body<$($($generic: $bound,)+)? const FMA: bool>($($argument: $type),*) $(-> $output)? $body

            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2,lzcnt")]
                fn avx512 $(<$($generic: $bound),+>)? ($($argument: $type),*) $(-> $output)? {
                    body::<$($($generic,)+)? true>($($argument),*)
                }
                #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt")]
                fn avx2 $(<$($generic: $bound),+>)? ($($argument: $type),*) $(-> $output)? {
                    body::<$($($generic,)+)? true>($($argument),*)
                }
                match $crate::device::simd::level() {
                    // SAFETY: `level` returns only what the processor has.
                    $crate::device::simd::Level::Avx512 => return unsafe { avx512 $(::<$($generic),+>)? ($($argument),*) },
                    // SAFETY: as above.
                    $crate::device::simd::Level::Avx2 => return unsafe { avx2 $(::<$($generic),+>)? ($($argument),*) },
                    $crate::device::simd::Level::Baseline => {}
                }
            }
            body::<$($($generic,)+)? false>($($argument),*)
        }
    )*};
}

pub(crate) use multiversion;

#[cfg(test)]
mod tests;
