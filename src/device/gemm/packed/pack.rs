//! Packing: a panel is a stretch of the inner dimension, word by word, `WIDTH` rows to a word, so that the inner
//! loop reads it from front to back. Rows that the matrix does not have are zero.

use std::arch::x86_64::*;

use super::{Element, MatRef};

/// What a panel's writer may touch behind the panel's end.
pub(super) const SLACK_WORDS: usize = 16;
const LANES: usize = 16;
/// How far ahead of a row's transposition its next words are asked for.
const AHEAD_BYTES: usize = 512;

/// Packs `rows` (at most `WIDTH`) rows of `from`, beginning at `first_row`, over `words` words of the inner
/// dimension beginning at word `depth`. For B, `from` is its transpose.
///
/// # Safety
/// `to` holds `words * WIDTH` words, and `SLACK_WORDS` more unless `WIDTH` is a multiple of 16; the rows and words
/// lie inside `from`; AVX-512 F, BW and VL are present.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn panel<E: Element, const WIDTH: usize>(
    from: MatRef<'_, E>,
    first_row: usize,
    rows: usize,
    depth: usize,
    words: usize,
    to: *mut u32,
) {
    let k = from.cols;
    let first = depth * E::PER_WORD;
    // An odd last element of bf16 has no partner: its word is made apart.
    let whole = if (depth + words) * E::PER_WORD > k { words - 1 } else { words };
    let start = from.data.as_ptr().wrapping_add(first_row * from.row_stride + first * from.col_stride);
    // SAFETY: each way reads whole words inside `from` and writes the panel in ascending order.
    unsafe {
        if from.col_stride == 1 {
            transposed::<E, WIDTH>(start, from.row_stride, rows, whole, to);
        } else if from.row_stride == 1 {
            copied::<E, WIDTH>(start, from.col_stride, rows, whole, to);
        } else {
            gathered::<E, WIDTH>(start, (from.row_stride, from.col_stride), rows, whole, E::PER_WORD, to);
        }
        if whole < words {
            let strides = (from.row_stride, from.col_stride);
            let start = start.wrapping_add(whole * E::PER_WORD * from.col_stride);
            gathered::<E, WIDTH>(
                start,
                strides,
                rows,
                1,
                k - (first + whole * E::PER_WORD),
                to.add(whole * WIDTH),
            );
        }
    }
}

/// Any strides: element by element, `present` of each word.
unsafe fn gathered<E: Element, const WIDTH: usize>(
    start: *const E,
    (row_stride, col_stride): (usize, usize),
    rows: usize,
    words: usize,
    present: usize,
    to: *mut u32,
) {
    let bits = 32 / E::PER_WORD;
    for word in 0..words {
        for row in 0..WIDTH {
            let mut value = 0u32;
            if row < rows {
                for part in 0..present {
                    // SAFETY: inside the matrix, by the caller's promise; a word holds `PER_WORD` elements,
                    // of 4 or 2 bytes.
                    unsafe {
                        let at = start.add(row * row_stride + (word * E::PER_WORD + part) * col_stride);
                        let element =
                            if E::PER_WORD == 1 { *at.cast::<u32>() } else { u32::from(*at.cast::<u16>()) };
                        value |= element << (part * bits);
                    }
                }
            }
            // SAFETY: inside the panel.
            unsafe { *to.add(word * WIDTH + row) = value };
        }
    }
}

/// Rows next to each other in memory: a word of the panel is copied, or zipped from two runs of bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn copied<E: Element, const WIDTH: usize>(
    start: *const E,
    col_stride: usize,
    rows: usize,
    words: usize,
    to: *mut u32,
) {
    let mask_at = |group: usize| -> u16 {
        let present = rows.saturating_sub(group).min(LANES);
        ((1u32 << present) - 1) as u16
    };
    for word in 0..words {
        for group in (0..WIDTH).step_by(LANES) {
            let mask = mask_at(group);
            let at = start.wrapping_add(word * E::PER_WORD * col_stride + group);
            // SAFETY: masked loads touch rows of the matrix alone; a store over the panel's edge is
            // overwritten by the next word or lies in the slack.
            unsafe {
                let value = if E::PER_WORD == 1 {
                    _mm512_maskz_loadu_epi32(mask, at.cast())
                } else {
                    let even = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, at.cast()));
                    let odd = at.wrapping_add(col_stride);
                    let odd = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, odd.cast()));
                    _mm512_or_si512(even, _mm512_slli_epi32::<16>(odd))
                };
                _mm512_storeu_si512(to.add(word * WIDTH + group).cast(), value);
            }
        }
    }
}

/// Words next to each other in memory: 16 by 16 of them are transposed in registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn transposed<E: Element, const WIDTH: usize>(
    start: *const E,
    row_stride: usize,
    rows: usize,
    words: usize,
    to: *mut u32,
) {
    for first_word in (0..words).step_by(LANES) {
        let count = LANES.min(words - first_word);
        let mask = ((1u32 << count) - 1) as u16;
        for group in (0..WIDTH).step_by(LANES) {
            let mut tile = [_mm512_setzero_si512(); LANES];
            for (row, line) in
                tile.iter_mut().enumerate().take(const { if WIDTH < LANES { WIDTH } else { LANES } })
            {
                if group + row < rows {
                    let at = start.wrapping_add((group + row) * row_stride + first_word * E::PER_WORD);
                    // SAFETY: masked loads touch whole words inside the matrix; a hint may point anywhere.
                    unsafe {
                        *line = _mm512_maskz_loadu_epi32(mask, at.cast());
                        _mm_prefetch::<_MM_HINT_T0>(at.cast::<i8>().wrapping_add(AHEAD_BYTES));
                    }
                }
            }
            transpose(&mut tile);
            let to = to.wrapping_add(first_word * WIDTH + group);
            for (word, line) in tile.into_iter().enumerate() {
                if word < count {
                    // SAFETY: inside the panel; over its edge as in `copied`, unless another group lies there, which is
                    // written later.
                    unsafe { _mm512_storeu_si512(to.add(word * WIDTH).cast(), line) };
                }
            }
        }
    }
}

/// Transposes 16 x 16 words: within quarters of the vectors by unpacking, then the quarters.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(m: &mut [__m512i; LANES]) {
    let mut t = [_mm512_setzero_si512(); LANES];
    for i in (0..LANES).step_by(2) {
        t[i] = _mm512_unpacklo_epi32(m[i], m[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(m[i], m[i + 1]);
    }
    for i in (0..LANES).step_by(4) {
        // Words 0, 1, 2, 3 (and 4, 8, 12 further on) of four rows.
        m[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        m[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        m[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        m[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for i in 0..4 {
        let low = [
            _mm512_shuffle_i32x4::<0x88>(m[i], m[i + 4]),
            _mm512_shuffle_i32x4::<0xdd>(m[i], m[i + 4]),
            _mm512_shuffle_i32x4::<0x88>(m[i + 8], m[i + 12]),
            _mm512_shuffle_i32x4::<0xdd>(m[i + 8], m[i + 12]),
        ];
        t[i] = _mm512_shuffle_i32x4::<0x88>(low[0], low[2]);
        t[i + 4] = _mm512_shuffle_i32x4::<0x88>(low[1], low[3]);
        t[i + 8] = _mm512_shuffle_i32x4::<0xdd>(low[0], low[2]);
        t[i + 12] = _mm512_shuffle_i32x4::<0xdd>(low[1], low[3]);
    }
    *m = t;
}
