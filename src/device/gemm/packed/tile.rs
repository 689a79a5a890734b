//! The inner loop: a tile of C, held in registers, plus a panel of A times a panel of B.

use std::arch::x86_64::*;

use half::bf16;

use super::{Element, skinny};
use crate::device::simd::{round_bf16, widen_bf16};

/// The tile: 12 rows of 2 vectors leave 8 of the 32 registers for operands.
pub(super) const ROWS: usize = 12;
pub(super) const COLS: usize = 2 * LANES;
const LANES: usize = 16;
const LINE_BYTES: usize = 64;

/// The instruction at the heart, and the loop compiled for it.
pub(in super::super) trait Multiply: Element + Sized {
    /// `sum + a * b` in each lane, over the elements of a word.
    ///
    /// # Safety
    /// [`Element::supported`] must be true.
    unsafe fn multiply_add(a: __m512i, b: __m512i, sum: __m512) -> __m512;

    /// The first `count` elements at `from`, zeros behind them; `count` is at most a vector's.
    ///
    /// # Safety
    /// [`Element::supported`]; the elements can be read.
    unsafe fn load(from: *const Self, count: usize) -> __m512i;

    /// [`skinny::dots`], compiled for the instruction.
    ///
    /// # Safety
    /// As there.
    unsafe fn dots<const ROWS: usize, const COLS: usize>(
        k: usize,
        rows: &skinny::Rows<Self>,
        columns: &skinny::Columns<Self>,
        out: &mut skinny::Tile,
    );

    /// Adds to a tile of C: `c = alpha * a b + beta * c`, of which `(rows, cols)` are written.
    ///
    /// # Safety
    /// [`Element::supported`]; `a` holds `words * ROWS` words and `b` `words * COLS`; the written part lies in C.
    unsafe fn tile<O: Output>(
        words: usize,
        a: *const u32,
        b: *const u32,
        scales: (f32, f32),
        c: *mut O,
        row_stride: usize,
        written: (usize, usize),
    );
}

macro_rules! compiled_for {
    ($features:literal) => {
        unsafe fn tile<O: Output>(
            words: usize,
            a: *const u32,
            b: *const u32,
            scales: (f32, f32),
            c: *mut O,
            row_stride: usize,
            written: (usize, usize),
        ) {
            #[target_feature(enable = $features)]
            unsafe fn compiled<E: Multiply, O: Output>(
                words: usize,
                a: *const u32,
                b: *const u32,
                scales: (f32, f32),
                c: *mut O,
                row_stride: usize,
                written: (usize, usize),
            ) {
                // SAFETY: the caller's promise.
                unsafe { body::<E, O>(words, a, b, scales, c, row_stride, written) }
            }
            // SAFETY: the caller's promise.
            unsafe { compiled::<Self, O>(words, a, b, scales, c, row_stride, written) }
        }

        unsafe fn dots<const ROWS: usize, const COLS: usize>(
            k: usize,
            rows: &skinny::Rows<Self>,
            columns: &skinny::Columns<Self>,
            out: &mut skinny::Tile,
        ) {
            #[target_feature(enable = $features)]
            unsafe fn compiled<E: Multiply, const ROWS: usize, const COLS: usize>(
                k: usize,
                rows: &skinny::Rows<E>,
                columns: &skinny::Columns<E>,
                out: &mut skinny::Tile,
            ) {
                // SAFETY: the caller's promise.
                unsafe { skinny::dots::<E, ROWS, COLS>(k, rows, columns, out) }
            }
            // SAFETY: the caller's promise.
            unsafe { compiled::<Self, ROWS, COLS>(k, rows, columns, out) }
        }
    };
}

impl Multiply for f32 {
    #[inline(always)]
    unsafe fn multiply_add(a: __m512i, b: __m512i, sum: __m512) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum) }
    }

    #[inline(always)]
    unsafe fn load(from: *const Self, count: usize) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            match count {
                16.. => _mm512_loadu_si512(from.cast()),
                _ => _mm512_maskz_loadu_epi32((1 << count) - 1, from.cast()),
            }
        }
    }

    compiled_for!("avx512f,avx512bw,avx512vl");
}

impl Multiply for bf16 {
    #[inline(always)]
    unsafe fn multiply_add(a: __m512i, b: __m512i, sum: __m512) -> __m512 {
        // SAFETY: the caller's promise; both types are 512 bits without invalid values.
        unsafe {
            _mm512_dpbf16_ps(
                sum,
                std::mem::transmute::<__m512i, __m512bh>(a),
                std::mem::transmute::<__m512i, __m512bh>(b),
            )
        }
    }

    #[inline(always)]
    unsafe fn load(from: *const Self, count: usize) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            match count {
                32.. => _mm512_loadu_si512(from.cast()),
                _ => _mm512_maskz_loadu_epi16((1 << count) - 1, from.cast()),
            }
        }
    }

    compiled_for!("avx512f,avx512bw,avx512vl,avx512bf16");
}

/// Where sums go.
pub(in super::super) trait Output: Copy + Send + Sync + 'static {
    /// Whether partial sums may wait here without loss.
    const HOLDS_SUMS: bool;

    /// `c = alpha * sums + beta * c` for the lanes in `mask`; with `beta` zero c is not read.
    ///
    /// # Safety
    /// The masked elements at `c` must be valid, and AVX-512 F, BW and VL present.
    unsafe fn store(c: *mut Self, mask: u16, sums: __m512, alpha: f32, beta: f32);

    /// The same for a row of sums that waited elsewhere.
    ///
    /// # Safety
    /// `c` must have as many elements as `sums`.
    unsafe fn round_row(alpha: f32, sums: &[f32], beta: f32, c: *mut Self);
}

impl Output for f32 {
    const HOLDS_SUMS: bool = true;

    #[inline(always)]
    unsafe fn store(c: *mut Self, mask: u16, sums: __m512, alpha: f32, beta: f32) {
        // SAFETY: only masked lanes are touched.
        unsafe {
            let mut value = _mm512_mul_ps(sums, _mm512_set1_ps(alpha));
            if beta != 0.0 {
                value = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, c), _mm512_set1_ps(beta), value);
            }
            _mm512_mask_storeu_ps(c, mask, value);
        }
    }

    unsafe fn round_row(alpha: f32, sums: &[f32], beta: f32, c: *mut Self) {
        for (col, sum) in sums.iter().enumerate() {
            // SAFETY: the caller's promise.
            let c = unsafe { &mut *c.add(col) };
            *c = alpha * sum + if beta == 0.0 { 0.0 } else { beta * *c };
        }
    }
}

impl Output for bf16 {
    const HOLDS_SUMS: bool = false;

    #[inline(always)]
    unsafe fn store(c: *mut Self, mask: u16, sums: __m512, alpha: f32, beta: f32) {
        // SAFETY: only masked lanes are touched.
        unsafe {
            let mut value = _mm512_mul_ps(sums, _mm512_set1_ps(alpha));
            if beta != 0.0 {
                let old = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, c.cast()));
                let old = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(old));
                value = _mm512_fmadd_ps(old, _mm512_set1_ps(beta), value);
            }
            _mm256_mask_storeu_epi16(c.cast(), mask, round(value));
        }
    }

    unsafe fn round_row(alpha: f32, sums: &[f32], beta: f32, c: *mut Self) {
        for (col, sum) in sums.iter().enumerate() {
            // SAFETY: the caller's promise.
            let c = unsafe { &mut *c.add(col) };
            let old = if beta == 0.0 { 0.0 } else { beta * widen_bf16(*c) };
            *c = round_bf16(alpha * sum + old);
        }
    }
}

/// `simd::round_bf16` on a vector: to nearest, ties to even, NaN made quiet.
#[inline(always)]
unsafe fn round(value: __m512) -> __m256i {
    // SAFETY: the caller has AVX-512 F, BW and VL.
    unsafe {
        let bits = _mm512_castps_si512(value);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
        let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(value, value);
        _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_mask_blend_epi32(nan, rounded, quiet)))
    }
}

#[inline(always)]
unsafe fn body<E: Multiply, O: Output>(
    words: usize,
    a: *const u32,
    b: *const u32,
    (alpha, beta): (f32, f32),
    c: *mut O,
    row_stride: usize,
    (rows, cols): (usize, usize),
) {
    // C comes while the sums are made. Only a hint: the address need not be valid.
    for row in 0..rows {
        let line = c.wrapping_add(row * row_stride).cast::<i8>();
        for offset in (0..COLS * size_of::<O>()).step_by(LINE_BYTES) {
            // SAFETY: the processor has SSE.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(offset)) };
        }
    }
    // SAFETY: the processor has AVX-512 F.
    let mut sums = [[unsafe { _mm512_setzero_ps() }; 2]; ROWS];
    for word in 0..words {
        // SAFETY: within the panels, by the caller's promise.
        unsafe {
            let b0 = _mm512_loadu_si512(b.add(word * COLS).cast());
            let b1 = _mm512_loadu_si512(b.add(word * COLS + LANES).cast());
            for (row, sums) in sums.iter_mut().enumerate() {
                let a = _mm512_set1_epi32(*a.add(word * ROWS + row) as i32);
                sums[0] = E::multiply_add(a, b0, sums[0]);
                sums[1] = E::multiply_add(a, b1, sums[1]);
            }
        }
    }
    let mask = if cols >= COLS { u32::MAX } else { (1 << cols) - 1 };
    for (row, sums) in sums.iter().enumerate() {
        if row < rows {
            // SAFETY: the row is inside C, and the masks keep to its columns.
            unsafe {
                let c = c.add(row * row_stride);
                O::store(c, mask as u16, sums[0], alpha, beta);
                O::store(c.wrapping_add(LANES), (mask >> 16) as u16, sums[1], alpha, beta);
            }
        }
    }
}
