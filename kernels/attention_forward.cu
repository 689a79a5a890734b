// Attention, forward (Dao et al. 2022): o = softmax(q kT / sqrt(D)) v, tile by tile, and the log of each row's sum of
// exponentials. For batches with many rows to a sequence; see attention_decode.cu for the others.
#include <attention_forward.cuh>

constexpr unsigned WARPS = 4, THREADS = WARPS * WARP;

// A warp has 16 M stacked rows, a tile 8 N keys. Shared memory: the queries, one tile of keys, one of values, and
// what each row sees. A tile of values arrives while scores are made, the next keys while values are summed.
template <class T, unsigned WIDTH, unsigned M, unsigned N>
struct Forward : StackedRows {
    static constexpr unsigned ROWS = WARPS * 16 * M, KEYS = 8 * N;

    __device__ __forceinline__ void run(
        const T* qkv, const Keys<T>& from, Mask mask, unsigned context, unsigned query_heads, unsigned row_width,
        unsigned dim, float scale, T* o, float* lse) const {
        extern __shared__ __align__(16) unsigned char smem[];
        const Tile<T, WIDTH> q{reinterpret_cast<T*>(smem)}, k{q.at + ROWS * WIDTH}, v{k.at + KEYS * WIDTH};
        const Span lowest = mask.keys_of(position(0), context), highest = mask.keys_of(position(part.count - 1), context);
        Span* const seen = reinterpret_cast<Span*>(v.at + KEYS * WIDTH);
        for (unsigned r = threadIdx.x; r < ROWS; r += THREADS) seen[r] = mask.keys_of(position(r), context);
        const unsigned warp_row = threadIdx.x / WARP * 16 * M;
        auto load_keys = [&](unsigned first) {
            k.template load<KEYS, THREADS>(qkv, context - first, dim, [&](unsigned r) { return from.keys + from.place(first + r); });
            cp_async_commit();
        };
        auto load_values = [&](unsigned first) {
            v.template load<KEYS, THREADS>(qkv, context - first, dim, [&](unsigned r) { return from.values + from.place(first + r); });
            cp_async_commit();
        };
        q.template load<ROWS, THREADS>(qkv, part.count, dim, [&](unsigned r) { return qkv + (size_t)row(r) * row_width + head(r) * dim; });
        const unsigned begin = lowest.begin / KEYS * KEYS;
        load_keys(begin);
        float sums[M][WIDTH / 8][4] = {};
        Softmax<M> softmax;
        for (unsigned first = begin; first < highest.end; first += KEYS) {
            cp_async_wait<0>();
            __syncthreads();  // The keys are there, and nobody reads the values before them any more.
            load_values(first);
            float scores[M][N][4] = {};
            multiply_by_rows(scores, q, warp_row, k, 0);
            if (first < highest.begin || first + KEYS > lowest.end) {
                hide(scores, seen + warp_row, first, -INFINITY);
            }
            cp_async_wait<0>();
            __syncthreads();  // The values are there, and nobody reads these keys any more.
            if (first + KEYS < highest.end) load_keys(first + KEYS);
            softmax.soften(scores, sums, scale * LOG2_E);
            multiply_by_columns(sums, scores, v, 0);
        }
        softmax.finish();
#pragma unroll
        for (unsigned r = 0; r < 2 * M; r++) {
            const unsigned stacked = warp_row + fragment_row() + 8 * r;
            if (stacked >= part.count) continue;
            const size_t place = (size_t)row(stacked) * query_heads + head(stacked);
            store_row(o + place * dim, sums[r / 2], r % 2, 1.0f / softmax.total[r], dim);
            if (fragment_column() == 0) lse[place] = softmax.highest[r] * scale + logf(softmax.total[r]);
        }
    }
};

// Parameters and blocks as `forward` has them.
#define FORWARD(width, dtype, T, M, N)                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_forward_##width##_##dtype(                        \
        const T* __restrict__ qkv, const unsigned* __restrict__ bounds, const T* __restrict__ keys,                   \
        const T* __restrict__ values, const unsigned* __restrict__ tables, const unsigned* __restrict__ contexts,     \
        T* __restrict__ o, float* __restrict__ lse, unsigned sequences, unsigned query_heads, unsigned key_heads,     \
        unsigned dim, float scale, unsigned before, unsigned after, unsigned slots, unsigned page_len,                \
        unsigned pages) {                                                                                             \
        forward<Forward<T, width, M, N>>(qkv, bounds, keys, values, tables, contexts, o, lse, sequences, query_heads, \
                                         key_heads, dim, scale, before, after, slots, page_len, pages);               \
    }                                                                                                                 \
    KERNEL(attention_forward_##width##_##dtype)

FORWARD(64, bf16, bf16, 2, 8)
FORWARD(128, bf16, bf16, 2, 6)
FORWARD(256, bf16, bf16, 1, 8)
FORWARD(64, f32, float, 1, 8)
FORWARD(128, f32, float, 1, 4)
FORWARD(256, f32, float, 1, 2)
