// Attention, backward: `qkv` is replaced by its gradient. Probabilities are made again from the saved log of the sum of
// exponentials, in two passes: one over tiles of keys, which sums their gradients over the queries, and one over tiles
// of queries. Each gradient is summed in one block's registers in one order, at the price of making scores twice. The
// first pass writes to workspace, because the second one still reads keys and values; the second may write in place,
// because only its own block reads those queries. Last, workspace is copied into place.
#include <attention_backward.cuh>

constexpr unsigned STAGES = 2;

// delta [N,H] = the sum over D of dout * o. As many lanes of a warp as a row has packs, rounded up to a power of two,
// share it. Blocks: as many as the N*H rows want.
constexpr unsigned DELTA_WARPS = 8;

template <class T>
__device__ __forceinline__ void delta(const T* dout, const T* o, float* delta, unsigned rows, unsigned dim) {
    unsigned lanes = 1;
    while (lanes < WARP && lanes * PACK<T> < dim) lanes *= 2;
    const unsigned row = (blockIdx.x * DELTA_WARPS + threadIdx.x / WARP) * (WARP / lanes) + lane() / lanes;
    const unsigned end = row < rows ? dim : 0;
    float sum = 0.0f;
    for (unsigned column = lane() % lanes * PACK<T>; column < end; column += lanes * PACK<T>) {
        const Pack<T> x = load_pack(dout + (size_t)row * dim + column), y = load_pack(o + (size_t)row * dim + column);
#pragma unroll
        for (unsigned e = 0; e < PACK<T>; e++) sum = fmaf(to_float(x.element[e]), to_float(y.element[e]), sum);
    }
    for (unsigned distance = lanes / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, distance);
    if (row < rows && lane() % lanes == 0) delta[row] = sum;
}

// ---- gradients of keys and values ----

// Which of the two a block makes: both, where a warp has registers enough for the sums.
enum class Which { BOTH, KEYS, VALUES };

// A warp has 16 M keys, and everything is transposed: scores are [keys, queries], so that a warp sums over all queries
// by itself. A tile has 8 N stacked queries, of which two are under way.
template <class T, unsigned WIDTH, unsigned WARPS, unsigned M, unsigned N, Which WHICH>
struct KeysBackward {
    static constexpr unsigned THREADS = WARPS * WARP, KEYS = WARPS * 16 * M, QUERIES = 8 * N;
    static constexpr bool MAKES_KEYS = WHICH != Which::VALUES, MAKES_VALUES = WHICH != Which::KEYS;

    // A stage of the ring.
    struct Queries {
        Tile<T, WIDTH> q, dout;
        float *lse, *delta;
    };

    Given<T> given;
    Part part;

    static __device__ __forceinline__ Queries stage(unsigned char* ring, unsigned tile) {
        constexpr unsigned BYTES = 2 * QUERIES * (WIDTH * sizeof(T) + sizeof(float));
        T* at = reinterpret_cast<T*>(ring + tile % STAGES * BYTES);
        float* numbers = reinterpret_cast<float*>(at + 2 * QUERIES * WIDTH);
        return {{at}, {at + QUERIES * WIDTH}, numbers, numbers + QUERIES};
    }

    __device__ __forceinline__ void load(const Queries& to, unsigned first, unsigned end) const {
        const unsigned count = end - first;
        to.q.template load<QUERIES, THREADS>(given.qkv, count, given.dim, [&](unsigned r) { return given.query(part, first + r); });
        to.dout.template load<QUERIES, THREADS>(given.dout, count, given.dim, [&](unsigned r) { return given.dout + given.query_place(part, first + r) * given.dim; });
        for (unsigned r = threadIdx.x; r < QUERIES; r += THREADS) {
            const bool present = r < count;
            const size_t place = present ? given.query_place(part, first + r) : 0;
            cp_async_4(to.lse + r, given.lse + place, present);
            cp_async_4(to.delta + r, given.delta + place, present);
        }
    }

    // Scores to probabilities and, where they are given, gradients of probabilities to gradients of scores.
    __device__ __forceinline__ void differentiate(float (&p)[M][N][4], float (&ds)[M][N][4], const Queries& queries) const {
        const float scale = given.scale * LOG2_E;
#pragma unroll
        for (unsigned j = 0; j < N; j++) {
#pragma unroll
            for (unsigned e = 0; e < 2; e++) {
                const unsigned column = j * 8 + fragment_column() + e;
                const float lse = queries.lse[column] * LOG2_E, delta = queries.delta[column];
#pragma unroll
                for (unsigned r = 0; r < 2 * M; r++) {
                    float& x = p[r / 2][j][r % 2 * 2 + e];
                    x = exp2_approx(fmaf(x, scale, -lse));
                    if (MAKES_KEYS) {
                        float& y = ds[r / 2][j][r % 2 * 2 + e];
                        y = x * (y - delta);
                    }
                }
            }
        }
    }

    // out: [N,2K*D], keys' gradients and then values'.
    __device__ __forceinline__ void run(T* out) const {
        extern __shared__ __align__(16) unsigned char smem[];
        const Tile<T, WIDTH> k{reinterpret_cast<T*>(smem)}, v{k.at + KEYS * WIDTH};
        unsigned char* const ring = reinterpret_cast<unsigned char*>(v.at + KEYS * WIDTH);
        Span* const seen = reinterpret_cast<Span*>(stage(ring, STAGES - 1).delta + QUERIES);
        const unsigned group = given.group.by, warp_row = threadIdx.x / WARP * 16 * M;
        // The stacked queries that see a key of this block, and those that see all of them.
        auto seen_by = [&](unsigned key) {
            const Span queries = given.mask.queries_of(part.begin + key, part.rows);
            return Span{queries.begin * group, queries.end * group};
        };
        for (unsigned r = threadIdx.x; r < KEYS; r += THREADS) seen[r] = seen_by(r);
        const Span lowest = seen_by(0), highest = seen_by(part.count - 1);
        auto load_next = [&](unsigned first) {
            if (first < highest.end) load(stage(ring, (first - lowest.begin) / QUERIES), first, highest.end);
            cp_async_commit();
        };
        k.template load<KEYS, THREADS>(given.qkv, part.count, given.dim, [&](unsigned r) { return given.key(part, part.begin + r); });
        if (MAKES_KEYS) {
            v.template load<KEYS, THREADS>(given.qkv, part.count, given.dim, [&](unsigned r) { return given.value(part, part.begin + r); });
        }
        load_next(lowest.begin);
        float dk[M][WIDTH / 8][4] = {}, dv[M][WIDTH / 8][4] = {};
        for (unsigned first = lowest.begin; first < highest.end; first += QUERIES) {
            cp_async_wait<0>();
            __syncthreads();  // This stage is there, and nobody reads the other one any more.
            load_next(first + QUERIES);
            const Queries queries = stage(ring, (first - lowest.begin) / QUERIES);
            float p[M][N][4] = {}, ds[M][N][4] = {};
            multiply_by_rows(p, k, warp_row, queries.q, 0);
            if (MAKES_KEYS) multiply_by_rows(ds, v, warp_row, queries.dout, 0);
            if (first < highest.begin || first + QUERIES > lowest.end) hide(p, seen + warp_row, first, -INFINITY);
            differentiate(p, ds, queries);
            if (MAKES_VALUES) multiply_by_columns(dv, p, queries.dout, 0);
            if (MAKES_KEYS) multiply_by_columns(dk, ds, queries.q, 0);
        }
#pragma unroll
        for (unsigned r = 0; r < 2 * M; r++) {
            const unsigned key = warp_row + fragment_row() + 8 * r;
            if (key >= part.count) continue;
            T* row = out + ((size_t)(part.first + part.begin + key) * 2 * given.key_heads + blockIdx.y) * given.dim;
            if (MAKES_KEYS) store_row(row, dk[r / 2], r % 2, given.scale, given.dim);
            if (MAKES_VALUES) store_row(row + given.key_heads * given.dim, dv[r / 2], r % 2, 1.0f, given.dim);
        }
    }
};

// ---- gradients of queries ----

// A warp has 16 M stacked queries, a tile 8 N keys, of which two are under way.
template <class T, unsigned WIDTH, unsigned WARPS, unsigned M, unsigned N>
struct QueriesBackward {
    static constexpr unsigned THREADS = WARPS * WARP, ROWS = WARPS * 16 * M, KEYS = 8 * N;

    Given<T> given;
    Part part;

    // Scores to probabilities and on to gradients of scores, in place of gradients of probabilities.
    __device__ __forceinline__ void differentiate(
        float (&p)[M][N][4], float (&ds)[M][N][4], const float (&lse)[2 * M], const float (&delta)[2 * M]) const {
#pragma unroll
        for (unsigned r = 0; r < 2 * M; r++) {
#pragma unroll
            for (unsigned j = 0; j < N; j++) {
#pragma unroll
                for (unsigned e = r % 2 * 2; e < r % 2 * 2 + 2; e++) {
                    const float x = exp2_approx(fmaf(p[r / 2][j][e], given.scale * LOG2_E, -lse[r]));
                    ds[r / 2][j][e] = x * (ds[r / 2][j][e] - delta[r]);
                }
            }
        }
    }

    __device__ __forceinline__ void run() const {
        extern __shared__ __align__(16) unsigned char smem[];
        const Tile<T, WIDTH> q{reinterpret_cast<T*>(smem)}, dout{q.at + ROWS * WIDTH}, ring{dout.at + ROWS * WIDTH};
        Span* const seen = reinterpret_cast<Span*>(ring.at + STAGES * 2 * KEYS * WIDTH);
        const unsigned warp_row = threadIdx.x / WARP * 16 * M;
        auto keys_of = [&](unsigned stacked) {
            return given.mask.keys_of(given.group.quotient(part.begin + stacked), part.rows);
        };
        for (unsigned r = threadIdx.x; r < ROWS; r += THREADS) seen[r] = keys_of(r);
        const Span lowest = keys_of(0), highest = keys_of(part.count - 1);
        auto load_next = [&](unsigned first) {
            if (first < highest.end) {
                const Tile<T, WIDTH> k{ring.at + (first - lowest.begin) / KEYS % STAGES * 2 * KEYS * WIDTH}, v{k.at + KEYS * WIDTH};
                k.template load<KEYS, THREADS>(given.qkv, highest.end - first, given.dim, [&](unsigned r) { return given.key(part, first + r); });
                v.template load<KEYS, THREADS>(given.qkv, highest.end - first, given.dim, [&](unsigned r) { return given.value(part, first + r); });
            }
            cp_async_commit();
        };
        q.template load<ROWS, THREADS>(given.qkv, part.count, given.dim, [&](unsigned r) { return given.query(part, part.begin + r); });
        dout.template load<ROWS, THREADS>(given.dout, part.count, given.dim, [&](unsigned r) { return given.dout + given.query_place(part, part.begin + r) * given.dim; });
        load_next(lowest.begin);
        float lse[2 * M], delta[2 * M];
#pragma unroll
        for (unsigned r = 0; r < 2 * M; r++) {
            const unsigned stacked = warp_row + fragment_row() + 8 * r;
            const bool present = stacked < part.count;
            lse[r] = present ? given.lse[given.query_place(part, part.begin + stacked)] * LOG2_E : 0.0f;
            delta[r] = present ? given.delta[given.query_place(part, part.begin + stacked)] : 0.0f;
        }
        float dq[M][WIDTH / 8][4] = {};
        for (unsigned first = lowest.begin; first < highest.end; first += KEYS) {
            cp_async_wait<0>();
            __syncthreads();  // This stage is there, and nobody reads the other one any more.
            load_next(first + KEYS);
            const Tile<T, WIDTH> k{ring.at + (first - lowest.begin) / KEYS % STAGES * 2 * KEYS * WIDTH}, v{k.at + KEYS * WIDTH};
            float p[M][N][4] = {}, ds[M][N][4] = {};
            multiply_by_rows(p, q, warp_row, k, 0);
            multiply_by_rows(ds, dout, warp_row, v, 0);
            if (first < highest.begin || first + KEYS > lowest.end) hide(p, seen + warp_row, first, -INFINITY);
            differentiate(p, ds, lse, delta);
            multiply_by_columns(dq, ds, k, 0);
        }
#pragma unroll
        for (unsigned r = 0; r < 2 * M; r++) {
            const unsigned stacked = warp_row + fragment_row() + 8 * r;
            if (stacked < part.count) store_row(given.query(part, part.begin + stacked), dq[r / 2], r % 2, given.scale, given.dim);
        }
    }
};

// ---- into place ----

// Copies keys' and values' gradients [N,2K*D] to behind the queries in qkv. Blocks: as many as the packs of 16 bytes want.
template <class T>
__device__ __forceinline__ void place(const T* from, T* qkv, unsigned rows, unsigned query_heads, unsigned key_heads, unsigned dim) {
    const unsigned width = 2 * key_heads * dim / PACK<T>;
    const size_t id = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (id >= (size_t)rows * width) return;
    const size_t row = id / width, column = id % width * PACK<T>;
    store_pack(qkv + row * (query_heads + 2 * key_heads) * dim + query_heads * dim + column, load_pack(from + id * PACK<T>));
}

#define AROUND(dtype, T)                                                                                              \
    extern "C" __global__ void __launch_bounds__(DELTA_WARPS * WARP) attention_delta_##dtype(                         \
        const T* __restrict__ dout, const T* __restrict__ o, float* __restrict__ out, unsigned rows, unsigned dim) {  \
        delta<T>(dout, o, out, rows, dim);                                                                            \
    }                                                                                                                 \
    KERNEL(attention_delta_##dtype)                                                                                   \
    extern "C" __global__ void attention_place_##dtype(const T* __restrict__ from, T* __restrict__ qkv,               \
                                                       unsigned rows, unsigned query_heads, unsigned key_heads,       \
                                                       unsigned dim) {                                                \
        place<T>(from, qkv, rows, query_heads, key_heads, dim);                                                       \
    }                                                                                                                 \
    KERNEL(attention_place_##dtype)

AROUND(bf16, bf16)
AROUND(f32, float)

// Parameters and blocks as `keys_backward` and `queries_backward` have them.
#define KEYS_BACKWARD(what, which, width, dtype, T, WARPS, M, N)                                                      \
    extern "C" __global__ void __launch_bounds__(WARPS * WARP) attention_backward_##what##_##width##_##dtype(         \
        const T* __restrict__ dout, const float* __restrict__ lse, const float* __restrict__ delta,                   \
        const T* __restrict__ qkv, const unsigned* __restrict__ bounds, T* __restrict__ out, unsigned sequences,      \
        unsigned query_heads, unsigned key_heads, unsigned dim, float scale, unsigned before, unsigned after) {       \
        keys_backward<KeysBackward<T, width, WARPS, M, N, Which::which>>(                                             \
            dout, lse, delta, qkv, bounds, out, sequences, query_heads, key_heads, dim, scale, before, after);        \
    }                                                                                                                 \
    KERNEL(attention_backward_##what##_##width##_##dtype)

#define QUERIES_BACKWARD(width, dtype, T, WARPS, M, N)                                                                \
    extern "C" __global__ void __launch_bounds__(WARPS * WARP) attention_backward_queries_##width##_##dtype(          \
        const T* __restrict__ dout, const float* __restrict__ lse, const float* __restrict__ delta, T* qkv,           \
        const unsigned* __restrict__ bounds, unsigned sequences, unsigned query_heads, unsigned key_heads,            \
        unsigned dim, float scale, unsigned before, unsigned after) {                                                 \
        queries_backward<QueriesBackward<T, width, WARPS, M, N>>(                                                     \
            dout, lse, delta, qkv, bounds, sequences, query_heads, key_heads, dim, scale, before, after);             \
    }                                                                                                                 \
    KERNEL(attention_backward_queries_##width##_##dtype)

KEYS_BACKWARD(keys_values, BOTH, 64, bf16, bf16, 4, 2, 4)
KEYS_BACKWARD(keys_values, BOTH, 128, bf16, bf16, 4, 1, 4)
KEYS_BACKWARD(keys, KEYS, 256, bf16, bf16, 4, 1, 2)
KEYS_BACKWARD(values, VALUES, 256, bf16, bf16, 4, 1, 2)
KEYS_BACKWARD(keys_values, BOTH, 64, f32, float, 4, 1, 4)
KEYS_BACKWARD(keys_values, BOTH, 128, f32, float, 4, 1, 2)
KEYS_BACKWARD(keys, KEYS, 256, f32, float, 2, 1, 1)
KEYS_BACKWARD(values, VALUES, 256, f32, float, 2, 1, 1)

QUERIES_BACKWARD(64, bf16, bf16, 4, 2, 4)
QUERIES_BACKWARD(128, bf16, bf16, 4, 1, 4)
QUERIES_BACKWARD(256, bf16, bf16, 4, 1, 2)
QUERIES_BACKWARD(64, f32, float, 4, 1, 4)
QUERIES_BACKWARD(128, f32, float, 4, 1, 2)
QUERIES_BACKWARD(256, f32, float, 2, 1, 1)
