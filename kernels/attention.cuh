// What the attention kernels share: which rows a block has, which keys a query sees, tiles in shared memory, and the two
// products that attention is made of.
//
// Letters: N rows, S sequences, H query heads, K key-value heads, D head width. A row of qkv is [(H+2K)*D]: H queries,
// then K keys, then K values. The G = H/K query heads that share a key-value head are stacked: of a sequence of T rows,
// stacked row i is the token i/G and the head i%G of the group, so that a tile of keys is read once for all of them and
// a step of generation still fills the 16 rows of a tensor-core product. WIDTH is D rounded up to what a kernel is made
// for; the columns between are zeros.
//
// Products are held in fragments as in ptx.cuh, C [16,8]: with g = lane/4 and t = lane%4 a lane has rows g and g+8 and
// columns 2t and 2t+1. The same lanes hold the same elements in f32, where ordinary cores multiply.
#pragma once

#include <common.cuh>
#include <ptx.cuh>

constexpr float LOG2_E = 1.44269504088896f, LN_2 = 0.693147180559945f;

__device__ __forceinline__ unsigned lane() { return threadIdx.x % WARP; }
__device__ __forceinline__ unsigned fragment_row() { return lane() / 4; }
__device__ __forceinline__ unsigned fragment_column() { return lane() % 4 * 2; }

// ---- which rows a block has ----

// The part of a batch that a block works on.
struct Part {
    unsigned sequence;
    unsigned first, rows;  // the sequence's first row in the batch, and how many it has
    unsigned begin, count; // of its items (rows, or stacked rows) those of this block; count is 0 if there are none
};

// Finds a block's part on the card, because only the card knows `bounds` [S+1]. Tiles of `tile` items, `items` to a
// row, are numbered so that sequence s begins at number floor(bounds[s] * items / tile) + s: that leaves room for its
// last, partial tile, needs no sum over the sequences before it, and is never more than N * items / tile + S in all.
// Whole warps call it, and search together.
__device__ __forceinline__ Part find_part(const unsigned* bounds, unsigned sequences, unsigned items, unsigned tile, unsigned number) {
    unsigned low = 0, high = sequences, first = bounds[low], next = bounds[high];
    while (high - low > 1) {
        const unsigned step = (high - low + WARP - 1) / WARP, mine = min(low + (lane() + 1) * step, high);
        const unsigned bound = bounds[mine];
        const bool reached = mine < high && bound * items / tile + mine <= number;
        const unsigned steps = __popc(__ballot_sync(ALL_LANES, reached));  // Fewer than lanes: the last has the end.
        const unsigned before = __shfl_sync(ALL_LANES, bound, (steps + WARP - 1) % WARP);
        if (steps > 0) first = before;
        next = __shfl_sync(ALL_LANES, bound, steps);
        low += steps * step;
        high = min(low + step, high);
    }
    Part part;
    part.sequence = low;
    part.first = first;
    part.rows = next - first;
    part.begin = (number - (part.first * items / tile + low)) * tile;
    part.count = part.begin < part.rows * items ? min(tile, part.rows * items - part.begin) : 0;
    return part;
}

// Division of many numbers by one, exact while number * by is below 2^32.
struct Division {
    unsigned by, inverse;

    __device__ __forceinline__ explicit Division(unsigned by) : by(by), inverse(0xffffffffu / by + 1) {}
    __device__ __forceinline__ unsigned quotient(unsigned number) const {
        return by == 1 ? number : __umulhi(number, inverse);
    }
};

// ---- which keys a query sees ----

struct Span {
    unsigned begin, end;
};

// The query at position i sees the keys from i - before to i + after.
struct Mask {
    unsigned before, after;

    __device__ __forceinline__ Span keys_of(unsigned position, unsigned context) const {
        return {position > before ? position - before : 0, min(position + after + 1, context)};
    }

    // The positions that see a key.
    __device__ __forceinline__ Span queries_of(unsigned key, unsigned context) const {
        return {key > after ? key - after : 0, min(key + before + 1, context)};
    }
};

// Where keys and values of one sequence and head lie: every `stride` elements, or in pages if there is a table.
template <class T>
struct Keys {
    const T *keys, *values;
    size_t stride;
    const unsigned* table;
    unsigned page_len;

    __device__ __forceinline__ size_t place(unsigned key) const {
        return stride * (table ? table[key / page_len] * page_len + key % page_len : key);
    }
};

// ---- tiles in shared memory ----

// Rows of WIDTH elements. The 16-byte chunks of a row are permuted, so that eight rows' chunks lie in all 32 banks.
template <class T, unsigned WIDTH>
struct Tile {
    static constexpr unsigned CHUNKS = WIDTH / PACK<T>;
    T* at;

    __device__ __forceinline__ T* chunk(unsigned row, unsigned chunk) const {
        return at + (row * CHUNKS + (chunk ^ row % 8)) * PACK<T>;
    }

    // Begins to copy `count` rows of `dim` elements, `from(row)` being where they are; what is beyond becomes zero.
    template <unsigned ROWS, unsigned THREADS, class From>
    __device__ __forceinline__ void load(const T* somewhere, unsigned count, unsigned dim, From from) const {
        static_assert(THREADS % CHUNKS == 0 && ROWS % (THREADS / CHUNKS) == 0, "whole rows, evenly");
        const unsigned first = threadIdx.x / CHUNKS, column = threadIdx.x % CHUNKS;
        // Unrolled little, because the addresses would take the registers of sums that are kept meanwhile.
#pragma unroll 2
        for (unsigned i = 0; i < ROWS / (THREADS / CHUNKS); i++) {
            const unsigned row = first + i * (THREADS / CHUNKS);
            const bool present = row < count && column * PACK<T> < dim;
            cp_async_16(chunk(row, column), present ? from(row) + column * PACK<T> : somewhere, present ? 16 : 0);
        }
    }
};

// ---- the two products ----

// sums [16M,8N] += a bT over WIDTH: 16M rows of a from `a_row` on, 8N rows of b from `b_row` on.
template <unsigned M, unsigned N, unsigned WIDTH>
__device__ __forceinline__ void multiply_by_rows(
    float (&sums)[M][N][4], Tile<bf16, WIDTH> a, unsigned a_row, Tile<bf16, WIDTH> b, unsigned b_row) {
    static_assert(N % 2 == 0, "two fragments of b are loaded at once");
    const unsigned in8 = lane() % 8, odd8 = lane() / 8 % 2, high = lane() / 16;
#pragma unroll
    for (unsigned k = 0; k < WIDTH / 16; k++) {
        unsigned fa[M][4];
#pragma unroll
        for (unsigned i = 0; i < M; i++) ldmatrix_x4(fa[i], a.chunk(a_row + i * 16 + in8 + 8 * odd8, 2 * k + high));
#pragma unroll
        for (unsigned j = 0; j < N; j += 2) {
            unsigned fb[4];
            ldmatrix_x4(fb, b.chunk(b_row + j * 8 + in8 + 8 * high, 2 * k + odd8));
#pragma unroll
            for (unsigned i = 0; i < M; i++) {
                mma_bf16(sums[i][j], fa[i], fb[0], fb[1]);
                mma_bf16(sums[i][j + 1], fa[i], fb[2], fb[3]);
            }
        }
    }
}

template <unsigned M, unsigned N, unsigned WIDTH>
__device__ __forceinline__ void multiply_by_rows(
    float (&sums)[M][N][4], Tile<float, WIDTH> a, unsigned a_row, Tile<float, WIDTH> b, unsigned b_row) {
    const unsigned g = fragment_row(), column = fragment_column();
    // Not unrolled whole: nothing is gained, and the code would be long.
#pragma unroll 4
    for (unsigned k = 0; k < WIDTH / 4; k++) {
        Pack<float> x[2 * M];
#pragma unroll
        for (unsigned r = 0; r < 2 * M; r++) x[r] = load_pack(a.chunk(a_row + r * 8 + g, k));
#pragma unroll
        for (unsigned j = 0; j < N; j++) {
#pragma unroll
            for (unsigned e = 0; e < 2; e++) {
                const Pack<float> y = load_pack(b.chunk(b_row + j * 8 + column + e, k));
#pragma unroll
                for (unsigned r = 0; r < 2 * M; r++) {
                    float& sum = sums[r / 2][j][r % 2 * 2 + e];
#pragma unroll
                    for (unsigned q = 0; q < 4; q++) sum = fmaf(x[r].element[q], y.element[q], sum);
                }
            }
        }
    }
}

// sums [16M,WIDTH] += p v: p [16M,8N] in fragments, 8N rows of v from `v_row` on. On tensor cores p is rounded to bf16.
template <unsigned M, unsigned N, unsigned WIDTH>
__device__ __forceinline__ void multiply_by_columns(
    float (&sums)[M][WIDTH / 8][4], const float (&p)[M][N][4], Tile<bf16, WIDTH> v, unsigned v_row) {
    static_assert(N % 2 == 0, "a fragment of p as an operand is two of a product");
    const unsigned in8 = lane() % 8, odd8 = lane() / 8 % 2, high = lane() / 16;
#pragma unroll
    for (unsigned k = 0; k < N; k += 2) {
        unsigned fa[M][4];
#pragma unroll
        for (unsigned i = 0; i < M; i++) {
#pragma unroll
            for (unsigned h = 0; h < 2; h++) {
                fa[i][2 * h] = pack_bf16(p[i][k + h][0], p[i][k + h][1]);
                fa[i][2 * h + 1] = pack_bf16(p[i][k + h][2], p[i][k + h][3]);
            }
        }
#pragma unroll
        for (unsigned d = 0; d < WIDTH / 16; d++) {
            unsigned fb[4];
            ldmatrix_x4_trans(fb, v.chunk(v_row + k * 8 + in8 + 8 * odd8, 2 * d + high));
#pragma unroll
            for (unsigned i = 0; i < M; i++) {
                mma_bf16(sums[i][2 * d], fa[i], fb[0], fb[1]);
                mma_bf16(sums[i][2 * d + 1], fa[i], fb[2], fb[3]);
            }
        }
    }
}

template <unsigned M, unsigned N, unsigned WIDTH>
__device__ __forceinline__ void multiply_by_columns(
    float (&sums)[M][WIDTH / 8][4], const float (&p)[M][N][4], Tile<float, WIDTH> v, unsigned v_row) {
    const unsigned quad = lane() / 4 * 4, column = fragment_column();
#pragma unroll
    for (unsigned k = 0; k < 8 * N; k++) {
        float x[2 * M];
#pragma unroll
        for (unsigned r = 0; r < 2 * M; r++) {
            x[r] = __shfl_sync(ALL_LANES, p[r / 2][k / 8][r % 2 * 2 + k % 2], quad + k % 8 / 2);
        }
#pragma unroll
        for (unsigned d = 0; d < WIDTH / 8; d++) {
            const float* y = v.chunk(v_row + k, 2 * d + column / 4) + column % 4;
#pragma unroll
            for (unsigned r = 0; r < 2 * M; r++) {
#pragma unroll
                for (unsigned e = 0; e < 2; e++) {
                    float& sum = sums[r / 2][d][r % 2 * 2 + e];
                    sum = fmaf(x[r], y[e], sum);
                }
            }
        }
    }
}

// Sets what a row does not see to `value`. `seen` says what it sees, row by row from the fragments' first row on, in
// shared memory: it is needed for few tiles, and should not take registers in all. `first` is the number of the
// fragments' first column.
template <unsigned M, unsigned N>
__device__ __forceinline__ void hide(float (&x)[M][N][4], const Span* seen, unsigned first, float value) {
#pragma unroll
    for (unsigned r = 0; r < 2 * M; r++) {
        const Span span = seen[r * 8 + fragment_row()];
#pragma unroll
        for (unsigned j = 0; j < N; j++) {
#pragma unroll
            for (unsigned e = 0; e < 2; e++) {
                const unsigned column = first + j * 8 + fragment_column() + e;
                if (column < span.begin || column >= span.end) x[r / 2][j][r % 2 * 2 + e] = value;
            }
        }
    }
}

// ---- the softmax as tiles of keys go by ----

// Multiplies each row by its number.
template <unsigned M, unsigned EIGHTS>
__device__ __forceinline__ void fade(float (&sums)[M][EIGHTS][4], const float (&faded)[2 * M]) {
#pragma unroll
    for (unsigned r = 0; r < 2 * M; r++) {
#pragma unroll
        for (unsigned d = 0; d < EIGHTS; d++) {
            sums[r / 2][d][r % 2 * 2] *= faded[r];
            sums[r / 2][d][r % 2 * 2 + 1] *= faded[r];
        }
    }
}

template <unsigned M>
struct Softmax {
    float highest[2 * M], total[2 * M]; // of the scores before scaling; each lane has the total of its own columns

    __device__ __forceinline__ Softmax() {
#pragma unroll
        for (unsigned r = 0; r < 2 * M; r++) {
            highest[r] = -INFINITY;
            total[r] = 0.0f;
        }
    }

    // Turns scores into probabilities times exp(highest), and says by what to `fade` what was summed under a lower
    // maximum. `scale` includes log2(e). A maximum that is higher by no more than a factor of 2 to the `slack` is not
    // taken over: `faded` is 1 then, and probabilities are higher by so much.
    template <unsigned N>
    __device__ __forceinline__ void soften(float (&scores)[M][N][4], float scale, float (&faded)[2 * M], float slack = 0.0f) {
#pragma unroll
        for (unsigned r = 0; r < 2 * M; r++) {
            const unsigned i = r / 2, e = r % 2 * 2;
            float now = highest[r];
#pragma unroll
            for (unsigned j = 0; j < N; j++) now = fmaxf(now, fmaxf(scores[i][j][e], scores[i][j][e + 1]));
            now = fmaxf(now, __shfl_xor_sync(ALL_LANES, now, 1));
            now = fmaxf(now, __shfl_xor_sync(ALL_LANES, now, 2));
            const bool rises = slack == 0.0f || !((now - highest[r]) * scale <= slack);
            if (!rises) now = highest[r];
            // A row that has seen no key yet has only scores of minus infinity, and these become 0.
            const float base = now == -INFINITY ? 0.0f : now * scale;
            faded[r] = rises ? exp2_approx(fmaf(highest[r], scale, -base)) : 1.0f;
            highest[r] = now;
            total[r] *= faded[r];
#pragma unroll
            for (unsigned j = 0; j < N; j++) {
#pragma unroll
                for (unsigned c = e; c < e + 2; c++) {
                    scores[i][j][c] = exp2_approx(fmaf(scores[i][j][c], scale, -base));
                    total[r] += scores[i][j][c];
                }
            }
        }
    }

    template <unsigned N, unsigned EIGHTS>
    __device__ __forceinline__ void soften(float (&scores)[M][N][4], float (&sums)[M][EIGHTS][4], float scale) {
        float faded[2 * M];
        soften(scores, scale, faded);
        fade(sums, faded);
    }

    // Adds up the totals of a row's lanes.
    __device__ __forceinline__ void finish() {
#pragma unroll
        for (unsigned r = 0; r < 2 * M; r++) {
            total[r] += __shfl_xor_sync(ALL_LANES, total[r], 1);
            total[r] += __shfl_xor_sync(ALL_LANES, total[r], 2);
        }
    }
};

// Two neighbours of a row of D elements, D even.
__device__ __forceinline__ void store_two(float* to, float first, float second) {
    *reinterpret_cast<float2*>(to) = make_float2(first, second);
}

__device__ __forceinline__ void store_two(bf16* to, float first, float second) {
    *reinterpret_cast<unsigned*>(to) = pack_bf16(first, second);
}

// Writes one row of fragments, each element times `scale`, to a row of `dim` elements.
template <class T, unsigned EIGHTS>
__device__ __forceinline__ void store_row(T* to, const float (&sums)[EIGHTS][4], unsigned half, float scale, unsigned dim) {
#pragma unroll
    for (unsigned d = 0; d < EIGHTS; d++) {
        const unsigned column = d * 8 + fragment_column();
        if (column < dim) store_two(to + column, sums[d][2 * half] * scale, sums[d][2 * half + 1] * scale);
    }
}
