// Products of matrices, for machines without cuBLASLt: C [M,N] = A B or C += A B, sums over K in f32.
//
// Everything is row-major. What differs is how an operand lies: `gemm_nt` has A [M,K] and B as [N,K] (y = x wT),
// `gemm_nn` A [M,K] and B [K,N] (dx = dy w), `gemm_tn` A as [K,M] and B [K,N] (dw = dyT x). Any M, N and K; rows that
// do not all begin on 16 bytes take a slower road into shared memory. `gemm_rows*` is the first for few rows of x.
// Nothing is summed in an order that depends on anything but the shape.
#include <activation.cuh>
#include <ptx.cuh>

// A matrix as it is stored: rows of `columns` elements, one every `stride`.
template <class T>
struct Stored {
    const T* at;
    unsigned rows, columns, stride;
    bool packs;  // all rows begin on 16 bytes

    __device__ Stored(const T* at, unsigned rows, unsigned columns, unsigned stride)
        : at(at), rows(rows), columns(columns), stride(stride),
          packs(::packs<T>(stride) && reinterpret_cast<size_t>(at) % 16 == 0) {}

    // How many of the PACK elements from here on exist.
    __device__ __forceinline__ unsigned present(unsigned row, unsigned column) const {
        return row < rows && column < columns ? min(PACK<T>, columns - column) : 0;
    }

    __device__ __forceinline__ const T* place(unsigned row, unsigned column) const {
        return at + (size_t)row * stride + column;
    }

    // PACK elements, zeros for those that do not exist.
    __device__ __forceinline__ Pack<T> pack(unsigned row, unsigned column) const {
        const unsigned count = present(row, column);
        if (packs && count == PACK<T>) return load_pack(place(row, column));
        Pack<T> pack;
#pragma unroll
        for (unsigned e = 0; e < PACK<T>; e++) pack.element[e] = e < count ? *place(row, column + e) : from_float<T>(0.0f);
        return pack;
    }
};

// Where the product goes. Its elements are bf16 or f32.
struct Result {
    void* at;
    unsigned rows, columns, stride;
    bool is_f32, add;

    __device__ __forceinline__ void store(unsigned row, unsigned column, float value) const {
        if (row >= rows || column >= columns) return;
        const size_t place = (size_t)row * stride + column;
        if (is_f32) {
            float* c = static_cast<float*>(at) + place;
            *c = add ? *c + value : value;
        } else {
            bf16* c = static_cast<bf16*>(at) + place;
            *c = from_float<bf16>(add ? to_float(*c) + value : value);
        }
    }

    // Two neighbours, the first in an even column: at once where an even stride lets them lie on one word.
    __device__ __forceinline__ void store_pair(unsigned row, unsigned column, float first, float second) const {
        if (is_f32 || stride % 2 != 0 || column + 1 >= columns || row >= rows) {
            store(row, column, first);
            store(row, column + 1, second);
            return;
        }
        bf16* c = static_cast<bf16*>(at) + (size_t)row * stride + column;
        if (add) {
            first += to_float(c[0]);
            second += to_float(c[1]);
        }
        *reinterpret_cast<unsigned*>(c) = pack_bf16(first, second);
    }
};

// Tiles of C are visited in bands of this many tile rows, so that what a wave of blocks reads stays in the L2 cache.
constexpr unsigned BAND = 8;
constexpr unsigned TILE = 128;

struct Corner {
    unsigned row, column;
};

__device__ __forceinline__ Corner tile_corner(unsigned m, unsigned n) {
    const unsigned tile_rows = (m + TILE - 1) / TILE, tile_columns = (n + TILE - 1) / TILE;
    const unsigned band = blockIdx.x / (BAND * tile_columns), within = blockIdx.x % (BAND * tile_columns);
    const unsigned height = min(BAND, tile_rows - band * BAND);
    return {(band * BAND + within % height) * TILE, within / height * TILE};
}

// ---- bf16 on tensor cores ----

// A block of four warps makes a tile of 128 x 128; each warp a quarter of 64 x 64. K goes by in slices of 32, of which
// three are under way at a time: 48 KiB of shared memory.
constexpr unsigned SLICE = 32, STAGES = 3, TENSOR_THREADS = 128, QUARTER = 64;
constexpr unsigned OPERAND_ELEMENTS = TILE * SLICE;

// An operand's part of a slice in shared memory. It lies there as it is stored: [128,32] if rows run along K, else
// [32,128]. In both the 16-byte chunks of a row are permuted, so that eight rows of a fragment lie in all 32 banks.
template <bool ALONG_K>
struct Slice {
    static constexpr unsigned ROWS = ALONG_K ? TILE : SLICE, CHUNKS = (ALONG_K ? SLICE : TILE) / PACK<bf16>;

    static __device__ __forceinline__ unsigned chunk_place(unsigned row, unsigned chunk) {
        const unsigned turned = ALONG_K ? chunk ^ (row / 2 % 4) : chunk ^ (row % 8);
        return (row * CHUNKS + turned) * PACK<bf16>;
    }

    // Begins to copy: `outer` is the tile's first row or column of C, `k` the slice's begin.
    static __device__ __forceinline__ void load(bf16* slice, const Stored<bf16>& x, unsigned outer, unsigned k) {
        const unsigned first_row = ALONG_K ? outer : k, first_column = ALONG_K ? k : outer;
        constexpr unsigned AT_ONCE = TENSOR_THREADS / CHUNKS;
        const unsigned row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
        const unsigned column = first_column + chunk * PACK<bf16>;
        if (x.packs) {
#pragma unroll
            for (unsigned i = 0; i < ROWS / AT_ONCE; i++) {
                const unsigned down = row + i * AT_ONCE, count = x.present(first_row + down, column);
                const bf16* from = count > 0 ? x.place(first_row + down, column) : x.at;
                cp_async_16(slice + chunk_place(down, chunk), from, count * sizeof(bf16));
            }
        } else {
            for (unsigned down = row; down < ROWS; down += AT_ONCE) {
                store_pack(slice + chunk_place(down, chunk), x.pack(first_row + down, column));
            }
        }
    }

    // The A fragment of rows outer..outer+16 and k..k+16.
    static __device__ __forceinline__ void fragment_a(unsigned (&r)[4], const bf16* slice, unsigned outer, unsigned k) {
        const unsigned lane = threadIdx.x % WARP, in8 = lane % 8, odd8 = lane / 8 % 2, high = lane / 16;
        if (ALONG_K) {
            ldmatrix_x4(r, slice + chunk_place(outer + in8 + 8 * odd8, k / 8 + high));
        } else {
            ldmatrix_x4_trans(r, slice + chunk_place(k + in8 + 8 * high, outer / 8 + odd8));
        }
    }

    // Two B fragments: k..k+16 of columns outer..outer+8 in r[0], r[1], and of the next eight columns in r[2], r[3].
    static __device__ __forceinline__ void fragments_b(unsigned (&r)[4], const bf16* slice, unsigned outer, unsigned k) {
        const unsigned lane = threadIdx.x % WARP, in8 = lane % 8, odd8 = lane / 8 % 2, high = lane / 16;
        if (ALONG_K) {
            ldmatrix_x4(r, slice + chunk_place(outer + in8 + 8 * high, k / 8 + odd8));
        } else {
            ldmatrix_x4_trans(r, slice + chunk_place(k + in8 + 8 * odd8, outer / 8 + high));
        }
    }
};

constexpr unsigned FRAGMENTS_M = QUARTER / 16, FRAGMENTS_N = QUARTER / 8;

template <bool A_ALONG_K, bool B_ALONG_K>
__device__ __forceinline__ void multiply_slice(
    float (&sums)[FRAGMENTS_M][FRAGMENTS_N][4], const bf16* a, const bf16* b, unsigned row, unsigned column) {
#pragma unroll
    for (unsigned k = 0; k < SLICE; k += 16) {
        unsigned fa[FRAGMENTS_M][4], fb[FRAGMENTS_N / 2][4];
#pragma unroll
        for (unsigned i = 0; i < FRAGMENTS_M; i++) Slice<A_ALONG_K>::fragment_a(fa[i], a, row + i * 16, k);
#pragma unroll
        for (unsigned j = 0; j < FRAGMENTS_N / 2; j++) Slice<B_ALONG_K>::fragments_b(fb[j], b, column + j * 16, k);
#pragma unroll
        for (unsigned i = 0; i < FRAGMENTS_M; i++) {
#pragma unroll
            for (unsigned j = 0; j < FRAGMENTS_N; j++) {
                mma_bf16(sums[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
            }
        }
    }
}

__device__ __forceinline__ void store_quarter(
    const Result& c, const float (&sums)[FRAGMENTS_M][FRAGMENTS_N][4], unsigned row, unsigned column) {
    const unsigned g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
#pragma unroll
    for (unsigned i = 0; i < FRAGMENTS_M; i++) {
#pragma unroll
        for (unsigned j = 0; j < FRAGMENTS_N; j++) {
            const float(&s)[4] = sums[i][j];
            c.store_pair(row + i * 16 + g, column + j * 8 + 2 * t, s[0], s[1]);
            c.store_pair(row + i * 16 + g + 8, column + j * 8 + 2 * t, s[2], s[3]);
        }
    }
}

template <bool A_ALONG_K, bool B_ALONG_K>
__device__ __forceinline__ void gemm_tensor(const Stored<bf16>& a, const Stored<bf16>& b, const Result& c, unsigned k) {
    extern __shared__ __align__(16) unsigned char smem[];
    bf16* const slices = reinterpret_cast<bf16*>(smem);
    const Corner corner = tile_corner(c.rows, c.columns);
    const unsigned warp = threadIdx.x / WARP, row = warp / 2 * QUARTER, column = warp % 2 * QUARTER;
    const unsigned steps = (k + SLICE - 1) / SLICE;
    auto load = [&](unsigned step) {
        if (step < steps) {
            bf16* slice = slices + step % STAGES * 2 * OPERAND_ELEMENTS;
            Slice<A_ALONG_K>::load(slice, a, corner.row, step * SLICE);
            Slice<B_ALONG_K>::load(slice + OPERAND_ELEMENTS, b, corner.column, step * SLICE);
        }
        cp_async_commit();
    };
    float sums[FRAGMENTS_M][FRAGMENTS_N][4] = {};
    for (unsigned step = 0; step < STAGES - 1; step++) load(step);
    for (unsigned step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();  // The slice is there for all, and all are done with the one before it, which is loaded over.
        load(step + STAGES - 1);
        const bf16* slice = slices + step % STAGES * 2 * OPERAND_ELEMENTS;
        multiply_slice<A_ALONG_K, B_ALONG_K>(sums, slice, slice + OPERAND_ELEMENTS, row, column);
    }
    store_quarter(c, sums, corner.row + row, corner.column + column);
}

// ---- f32 on ordinary cores ----

// A block of 256 threads makes a tile of 128 x 128; a thread 8 x 8 of it, in four squares of 4 x 4. K goes by in slices
// of 16; the next one is fetched into registers while this one is multiplied.
constexpr unsigned PLAIN_SLICE = 16, PLAIN_THREADS = 256, PLAIN_STRIDE = TILE + 4;
constexpr unsigned PLAIN_PACKS = TILE * PLAIN_SLICE / PACK<float> / PLAIN_THREADS;

// A thread's share of an operand's slice. In shared memory the slice is [16,128+4], whatever it was.
template <bool ALONG_K>
struct PlainSlice {
    Pack<float> packs[PLAIN_PACKS];

    static constexpr unsigned CHUNKS = (ALONG_K ? PLAIN_SLICE : TILE) / PACK<float>;

    __device__ __forceinline__ void fetch(const Stored<float>& x, unsigned outer, unsigned k) {
#pragma unroll
        for (unsigned i = 0; i < PLAIN_PACKS; i++) {
            const unsigned id = threadIdx.x + i * PLAIN_THREADS, row = id / CHUNKS, column = id % CHUNKS * PACK<float>;
            packs[i] = ALONG_K ? x.pack(outer + row, k + column) : x.pack(k + row, outer + column);
        }
    }

    __device__ __forceinline__ void put(float* slice) const {
#pragma unroll
        for (unsigned i = 0; i < PLAIN_PACKS; i++) {
            const unsigned id = threadIdx.x + i * PLAIN_THREADS, row = id / CHUNKS, column = id % CHUNKS * PACK<float>;
            if (ALONG_K) {
#pragma unroll
                for (unsigned e = 0; e < PACK<float>; e++) slice[(column + e) * PLAIN_STRIDE + row] = packs[i].element[e];
            } else {
                store_pack(slice + row * PLAIN_STRIDE + column, packs[i]);
            }
        }
    }
};

// Eight of a thread's rows or columns: four from `first` on, and four half a tile further.
__device__ __forceinline__ void load_eight(float (&x)[8], const float* line, unsigned first) {
    const Pack<float> low = load_pack(line + first), high = load_pack(line + TILE / 2 + first);
#pragma unroll
    for (unsigned e = 0; e < 4; e++) {
        x[e] = low.element[e];
        x[4 + e] = high.element[e];
    }
}

__device__ __forceinline__ void multiply_plain(
    float (&sums)[8][8], const float* a, const float* b, unsigned row, unsigned column) {
#pragma unroll
    for (unsigned k = 0; k < PLAIN_SLICE; k++) {
        float x[8], y[8];
        load_eight(x, a + k * PLAIN_STRIDE, row);
        load_eight(y, b + k * PLAIN_STRIDE, column);
#pragma unroll
        for (unsigned i = 0; i < 8; i++) {
#pragma unroll
            for (unsigned j = 0; j < 8; j++) sums[i][j] = fmaf(x[i], y[j], sums[i][j]);
        }
    }
}

template <bool A_ALONG_K, bool B_ALONG_K>
__device__ __forceinline__ void gemm_plain(const Stored<float>& a, const Stored<float>& b, const Result& c, unsigned k) {
    __shared__ __align__(16) float slices[2][2][PLAIN_SLICE * PLAIN_STRIDE];
    const Corner corner = tile_corner(c.rows, c.columns);
    const unsigned row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
    const unsigned steps = (k + PLAIN_SLICE - 1) / PLAIN_SLICE;
    PlainSlice<A_ALONG_K> next_a;
    PlainSlice<B_ALONG_K> next_b;
    next_a.fetch(a, corner.row, 0);
    next_b.fetch(b, corner.column, 0);
    float sums[8][8] = {};
    for (unsigned step = 0; step < steps; step++) {
        float(*slice)[PLAIN_SLICE * PLAIN_STRIDE] = slices[step % 2];
        next_a.put(slice[0]);
        next_b.put(slice[1]);
        __syncthreads();  // Of two slices one is read while the other is written: one barrier a step is enough.
        if (step + 1 < steps) {
            next_a.fetch(a, corner.row, (step + 1) * PLAIN_SLICE);
            next_b.fetch(b, corner.column, (step + 1) * PLAIN_SLICE);
        }
        multiply_plain(sums, slice[0], slice[1], row, column);
    }
#pragma unroll
    for (unsigned i = 0; i < 8; i++) {
#pragma unroll
        for (unsigned j = 0; j < 8; j++) {
            const unsigned down = i / 4 * TILE / 2 + i % 4, right = j / 4 * TILE / 2 + j % 4;
            c.store(corner.row + row + down, corner.column + column + right, sums[i][j]);
        }
    }
}

// Blocks: tiles of C. Strides count elements from one stored row to the next. c_is_f32: whether C is f32 (else it is as
// A and B); add: whether the product is added to what is there.
#define GEMM(layout, A_ALONG_K, B_ALONG_K, dtype, T, THREADS, multiply)                                               \
    extern "C" __global__ void __launch_bounds__(THREADS) gemm_##layout##_##dtype(                                    \
        const T* __restrict__ a, const T* __restrict__ b, void* __restrict__ c, unsigned m, unsigned n, unsigned k,   \
        unsigned a_stride, unsigned b_stride, unsigned c_stride, unsigned c_is_f32, unsigned add) {                   \
        const Stored<T> stored_a(a, A_ALONG_K ? m : k, A_ALONG_K ? k : m, a_stride);                                  \
        const Stored<T> stored_b(b, B_ALONG_K ? n : k, B_ALONG_K ? k : n, b_stride);                                  \
        multiply<A_ALONG_K, B_ALONG_K>(stored_a, stored_b, Result{c, m, n, c_stride, c_is_f32 != 0, add != 0}, k);    \
    }                                                                                                                 \
    KERNEL(gemm_##layout##_##dtype)

GEMM(nt, true, true, bf16, bf16, TENSOR_THREADS, gemm_tensor)
GEMM(nn, true, false, bf16, bf16, TENSOR_THREADS, gemm_tensor)
GEMM(tn, false, false, bf16, bf16, TENSOR_THREADS, gemm_tensor)
GEMM(nt, true, true, f32, float, PLAIN_THREADS, gemm_plain)
GEMM(nn, true, false, f32, float, PLAIN_THREADS, gemm_plain)
GEMM(tn, false, false, f32, float, PLAIN_THREADS, gemm_plain)

// ---- few rows against a big weight: each weight is read once, at the speed of memory ----

// A block makes 16 columns of y for all rows; its eight warps share K and their sums are added in order. The weight is
// the A of a tensor-core product and x the B, so that 8 rows of x cost no more than one. Which k is which is free as
// long as both agree: a lane's 16 bytes serve as two k pairs of two products, so every lane uses just what it loaded.
// It loads into a ring in shared memory that is its own, four steps ahead: enough in flight, whatever the compiler does.
// Of gate and up, [2F,K] in one weight, a block makes 8 columns each, and from them 8 columns of a gated unit.
constexpr unsigned ROWS_WARPS = 8, ROWS_THREADS = ROWS_WARPS * WARP, ROWS_COLUMNS = 16, ROWS_STEP = 32, ROWS_AHEAD = 4;

// What becomes of a product's sums: they are y.
struct AsTheyAre {
    static constexpr unsigned COLUMNS = ROWS_COLUMNS;  // of y that a block makes

    // How far a block's upper eight rows of w lie from its lower eight, y having so many columns.
    __device__ __forceinline__ unsigned apart(unsigned) const { return 8; }

    template <class SumOf>
    __device__ __forceinline__ float finish(unsigned row, unsigned column, SumOf sum_of) const {
        return sum_of(row, column);
    }
};

// They are gate and up, each rounded as if it had been stored, and y is activation(gate) * up.
struct Gated {
    static constexpr unsigned COLUMNS = ROWS_COLUMNS / 2;
    unsigned activation;

    __device__ __forceinline__ unsigned apart(unsigned columns) const { return columns; }

    template <class SumOf>
    __device__ __forceinline__ float finish(unsigned row, unsigned column, SumOf sum_of) const {
        const float gate = to_float(from_float<bf16>(sum_of(row, column)));
        const float up = to_float(from_float<bf16>(sum_of(row, column + COLUMNS)));
        return activate(gate, activation).value * up;
    }
};

// y [M,N] of x [M,K] wT, w [N,K] or, gated, [2N,K]; M at most 8 * EIGHTS; rows of x and w begin on 16 bytes, and K is a
// multiple of 8.
template <unsigned EIGHTS, class Finish>
__device__ __forceinline__ void gemm_rows(const bf16* x, const bf16* w, const Result& y, unsigned k, Finish finish) {
    __shared__ uint4 ring[ROWS_AHEAD][2][ROWS_THREADS];
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
    const unsigned first_column = blockIdx.x * Finish::COLUMNS, column = first_column + g;
    const bf16* low = w + (size_t)column * k;
    const bf16* high = low + (size_t)finish.apart(y.columns) * k;
    auto load = [&](unsigned step) {
        const unsigned at = step * ROWS_STEP + 8 * t;
        uint4(*slot)[ROWS_THREADS] = ring[step / ROWS_WARPS % ROWS_AHEAD];
        const bool has_low = at < k && column < y.columns, has_high = at < k && column + Finish::COLUMNS - 8 < y.columns;
        cp_async_16(&slot[0][threadIdx.x], has_low ? low + at : w, has_low ? 16 : 0);
        cp_async_16(&slot[1][threadIdx.x], has_high ? high + at : w, has_high ? 16 : 0);
        cp_async_commit();
    };
    float sums[EIGHTS][4] = {};
    for (unsigned i = 0; i < ROWS_AHEAD - 1; i++) load(warp + i * ROWS_WARPS);
    for (unsigned step = warp; step * ROWS_STEP < k; step += ROWS_WARPS) {
        load(step + (ROWS_AHEAD - 1) * ROWS_WARPS);
        cp_async_wait<ROWS_AHEAD - 1>();
        uint4(*slot)[ROWS_THREADS] = ring[step / ROWS_WARPS % ROWS_AHEAD];
        const uint4 u = slot[0][threadIdx.x], v = slot[1][threadIdx.x];
        const unsigned first[4] = {u.x, v.x, u.y, v.y}, second[4] = {u.z, v.z, u.w, v.w};
        const unsigned at = step * ROWS_STEP + 8 * t;
#pragma unroll
        for (unsigned eight = 0; eight < EIGHTS; eight++) {
            const unsigned row = eight * 8 + g;
            uint4 b = {0, 0, 0, 0};
            if (row < y.rows && at < k) b = *reinterpret_cast<const uint4*>(x + (size_t)row * k + at);
            mma_bf16(sums[eight], first, b.x, b.y);
            mma_bf16(sums[eight], second, b.z, b.w);
        }
    }
    cp_async_wait<0>();
    __syncthreads();
    // [warp][row of x][column], where the ring was.
    float(*partials)[8 * EIGHTS][ROWS_COLUMNS] = reinterpret_cast<float(*)[8 * EIGHTS][ROWS_COLUMNS]>(ring);
    static_assert(sizeof(float) * ROWS_WARPS * 8 * EIGHTS * ROWS_COLUMNS <= sizeof(ring), "partial sums fit");
#pragma unroll
    for (unsigned eight = 0; eight < EIGHTS; eight++) {
#pragma unroll
        for (unsigned e = 0; e < 4; e++) partials[warp][eight * 8 + 2 * t + e % 2][g + e / 2 * 8] = sums[eight][e];
    }
    __syncthreads();
    auto sum_of = [&](unsigned row, unsigned right) {
        float sum = 0.0f;
        for (unsigned part = 0; part < ROWS_WARPS; part++) sum += partials[part][row][right];
        return sum;
    };
    for (unsigned id = threadIdx.x; id < 8 * EIGHTS * Finish::COLUMNS; id += ROWS_THREADS) {
        const unsigned row = id / Finish::COLUMNS, right = id % Finish::COLUMNS;
        y.store(row, first_column + right, finish.finish(row, right, sum_of));
    }
}

// Blocks: sixteens of columns of y, or eights of a gated one. x [M,K], w [N,K] or [2N,K], y [M,N], all without gaps.
#define GEMM_ROWS(rows)                                                                                               \
    extern "C" __global__ void __launch_bounds__(ROWS_THREADS) gemm_rows##rows##_bf16(                                \
        const bf16* __restrict__ x, const bf16* __restrict__ w, void* __restrict__ y, unsigned m, unsigned n,         \
        unsigned k, unsigned y_is_f32, unsigned add) {                                                                \
        gemm_rows<rows / 8>(x, w, Result{y, m, n, n, y_is_f32 != 0, add != 0}, k, AsTheyAre{});                       \
    }                                                                                                                 \
    KERNEL(gemm_rows##rows##_bf16)                                                                                    \
    extern "C" __global__ void __launch_bounds__(ROWS_THREADS) gemm_rows##rows##_gated_bf16(                          \
        const bf16* __restrict__ x, const bf16* __restrict__ w, bf16* __restrict__ y, unsigned m, unsigned n,         \
        unsigned k, unsigned activation) {                                                                            \
        gemm_rows<rows / 8>(x, w, Result{y, m, n, n, false, false}, k, Gated{activation});                            \
    }                                                                                                                 \
    KERNEL(gemm_rows##rows##_gated_bf16)

GEMM_ROWS(8)
GEMM_ROWS(16)
GEMM_ROWS(32)
