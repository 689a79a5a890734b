// Attention for few rows to a sequence, which is what generation brings: it lasts as long as the keys and values take to
// read. So they are split into chunks, one block each, and whichever block is the last to leave its chunk puts all of them
// together, in their order. How a sequence is split depends on its own length alone: what it gets is the same whoever
// shares the batch.
#include <attention.cuh>

// A sequence has at most this many chunks, and a chunk no fewer keys than CHUNK_KEYS unless it is the last.
constexpr unsigned CHUNKS_MAX = 32, CHUNK_KEYS = 128;
constexpr unsigned DECODE_ROWS = 16, STAGES = 2;

__device__ __forceinline__ unsigned chunk_keys(unsigned context) {
    const unsigned even = (context + CHUNKS_MAX - 1) / CHUNKS_MAX;
    return max(CHUNK_KEYS, (even + 63) / 64 * 64);
}

static_assert(CHUNKS_MAX <= WARP, "a lane has a chunk");

// What a chunk leaves: for each row and head the sums of values [D] under the chunk's own maximum, that maximum (of
// scores before scaling) and the sum of exponentials. Shapes: sums [N,H,chunks,D], totals [N,H,chunks,2].
struct Partials {
    float* sums;
    float* totals;
    unsigned chunks;
};

// How many chunks of a tile and key-value head were left so far. Zero before a launch and after it: the last to come sets
// it back. Launches of a module follow each other, so that one set is enough; the Rust half asks for no more of them.
constexpr unsigned ARRIVALS = 1 << 14;
static __device__ unsigned arrivals[ARRIVALS];

// Whether this block is the last of `chunks` to call it for this tile and key-value head. What the others wrote before is
// then there for all of its threads.
__device__ __forceinline__ bool arrives_last(unsigned chunks) {
    __threadfence();
    __syncthreads();
    unsigned* const arrived = arrivals + blockIdx.x * gridDim.y + blockIdx.y;
    const bool last = __syncthreads_or(threadIdx.x == 0 && atomicInc(arrived, chunks - 1) == chunks - 1);
    __threadfence();
    return last;
}

// A block has 16 stacked rows and one chunk of keys. In a tile each of its warps has 8 N keys of its own, with a softmax
// of its own; they are put together, in order, at the end.
template <class T, unsigned WIDTH, unsigned WARPS, unsigned N>
struct Decode {
    static constexpr unsigned THREADS = WARPS * WARP, KEYS = WARPS * 8 * N;

    Part part;
    unsigned group, query_heads, dim;
    float scale;
    T* o;
    float* lse;
    Partials partials;

    __device__ __forceinline__ unsigned row(unsigned stacked) const { return part.first + (part.begin + stacked) / group; }
    __device__ __forceinline__ unsigned head(unsigned stacked) const {
        return blockIdx.y * group + (part.begin + stacked) % group;
    }
    __device__ __forceinline__ size_t place(unsigned stacked) const {
        return (size_t)row(stacked) * query_heads + head(stacked);
    }

    __device__ __forceinline__ void run(
        const T* qkv, const Keys<T>& from, Mask mask, unsigned context, unsigned row_width) const {
        extern __shared__ __align__(16) unsigned char smem[];
        const Tile<T, WIDTH> q{reinterpret_cast<T*>(smem)}, ring{q.at + DECODE_ROWS * WIDTH};
        Span* const seen = reinterpret_cast<Span*>(ring.at + STAGES * 2 * KEYS * WIDTH);
        const unsigned warp = threadIdx.x / WARP, past = context - part.rows;
        for (unsigned r = threadIdx.x; r < DECODE_ROWS; r += THREADS) {
            seen[r] = mask.keys_of(past + (part.begin + r) / group, context);
        }
        // The keys of this chunk that any of the rows sees.
        const Span lowest = mask.keys_of(past + part.begin / group, context);
        const Span highest = mask.keys_of(past + (part.begin + part.count - 1) / group, context);
        const unsigned keys = chunk_keys(context), begin = max(blockIdx.z * keys, lowest.begin);
        const unsigned end = min((blockIdx.z + 1) * keys, highest.end);
        auto load = [&](unsigned first) {
            if (first < end) {
                const Tile<T, WIDTH> k{ring.at + (first - begin) / KEYS % STAGES * 2 * KEYS * WIDTH}, v{k.at + KEYS * WIDTH};
                k.template load<KEYS, THREADS>(qkv, end - first, dim, [&](unsigned r) { return from.keys + from.place(first + r); });
                v.template load<KEYS, THREADS>(qkv, end - first, dim, [&](unsigned r) { return from.values + from.place(first + r); });
            }
            cp_async_commit();
        };
        q.template load<DECODE_ROWS, THREADS>(qkv, part.count, dim, [&](unsigned r) { return qkv + (size_t)row(r) * row_width + head(r) * dim; });
        load(begin);
        float sums[1][WIDTH / 8][4] = {};
        Softmax<1> softmax;
        for (unsigned first = begin; first < end; first += KEYS) {
            load(first + KEYS);
            cp_async_wait<STAGES - 1>();
            __syncthreads();
            const Tile<T, WIDTH> k{ring.at + (first - begin) / KEYS % STAGES * 2 * KEYS * WIDTH}, v{k.at + KEYS * WIDTH};
            float scores[1][N][4] = {};
            multiply_by_rows(scores, q, 0, k, warp * 8 * N);
            if (first < highest.begin || first + KEYS > min(end, lowest.end)) hide_beyond(scores, seen, first + warp * 8 * N, end);
            softmax.soften(scores, sums, scale * LOG2_E);
            multiply_by_columns(sums, scores, v, warp * 8 * N);
            __syncthreads();  // Nobody reads this stage any more; the next load goes there.
        }
        cp_async_wait<0>();
        softmax.finish();
        __syncthreads();
        const unsigned chunks = (context + keys - 1) / keys;
        gather(sums, softmax, chunks, reinterpret_cast<float*>(smem));
        if (chunks == 1 || !arrives_last(chunks)) return;
        for (unsigned stacked = warp; stacked < part.count; stacked += WARPS) combine(place(stacked), chunks);
    }

    // As `hide`, and what lies beyond this chunk too.
    static __device__ __forceinline__ void hide_beyond(float (&scores)[1][N][4], const Span* seen, unsigned first, unsigned end) {
        hide(scores, seen, first, -INFINITY);
#pragma unroll
        for (unsigned j = 0; j < N; j++) {
#pragma unroll
            for (unsigned e = 0; e < 4; e++) {
                if (first + j * 8 + fragment_column() + e % 2 >= end) scores[0][j][e] = -INFINITY;
            }
        }
    }

    // Puts the warps' results together and writes them: what all rows get where there is one chunk, else what this chunk
    // leaves. In shared memory: sums [warps,16,WIDTH], totals [warps,16,2].
    __device__ __forceinline__ void gather(
        const float (&sums)[1][WIDTH / 8][4], const Softmax<1>& softmax, unsigned chunks, float* shared) const {
        float* const totals = shared + WARPS * DECODE_ROWS * WIDTH;
        const unsigned mine = threadIdx.x / WARP * DECODE_ROWS + fragment_row();
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            store_row(shared + (mine + 8 * half) * WIDTH, sums[0], half, 1.0f, WIDTH);
            if (fragment_column() == 0) {
                totals[2 * (mine + 8 * half)] = softmax.highest[half];
                totals[2 * (mine + 8 * half) + 1] = softmax.total[half];
            }
        }
        __syncthreads();
        for (unsigned id = threadIdx.x; id < part.count * dim; id += THREADS) {
            const unsigned stacked = id / dim, column = id % dim;
            float highest = -INFINITY;
            for (unsigned w = 0; w < WARPS; w++) highest = fmaxf(highest, totals[2 * (w * DECODE_ROWS + stacked)]);
            const float base = highest == -INFINITY ? 0.0f : highest;
            float sum = 0.0f, total = 0.0f;
            for (unsigned w = 0; w < WARPS; w++) {
                const unsigned at = w * DECODE_ROWS + stacked;
                const float share = exp2_approx((totals[2 * at] - base) * scale * LOG2_E);
                sum = fmaf(share, shared[at * WIDTH + column], sum);
                total = fmaf(share, totals[2 * at + 1], total);
            }
            if (chunks == 1) {
                o[place(stacked) * dim + column] = from_float<T>(sum / total);
                if (column == 0) lse[place(stacked)] = highest * scale + logf(total);
                continue;
            }
            const size_t left = place(stacked) * partials.chunks + blockIdx.z;
            partials.sums[left * dim + column] = sum;
            if (column == 0) {
                partials.totals[2 * left] = highest;
                partials.totals[2 * left + 1] = total;
            }
        }
    }

    // Puts the chunks of one row and head together, by one warp. They come from where all blocks see them.
    __device__ __forceinline__ void combine(size_t place, unsigned chunks) const {
        const float2* const totals = reinterpret_cast<const float2*>(partials.totals) + place * partials.chunks;
        const float2 mine = lane() < chunks ? __ldcg(totals + lane()) : make_float2(-INFINITY, 0.0f);
        const float highest = warp_reduce<Max>(mine.x);
        const float share = exp2_approx((mine.x - highest) * scale * LOG2_E);
        const float total = warp_reduce<Sum>(share * mine.y);
        // Two columns a lane, D being even.
        for (unsigned first = 0; first < dim; first += 2 * WARP) {
            const unsigned column = first + 2 * lane();
            float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll 8
            for (unsigned chunk = 0; chunk < chunks; chunk++) {
                const float weight = __shfl_sync(ALL_LANES, share, chunk);
                if (column >= dim) continue;
                const float* const sums = partials.sums + (place * partials.chunks + chunk) * dim;
                const float2 part = __ldcg(reinterpret_cast<const float2*>(sums + column));
                sum = make_float2(fmaf(weight, part.x, sum.x), fmaf(weight, part.y, sum.y));
            }
            if (column < dim) store_two(o + place * dim + column, sum.x / total, sum.y / total);
        }
        if (lane() == 0) lse[place] = highest * scale + logf(total);
    }
};

// Shapes as in attention_forward.cu, with pages; sums and totals as in Partials. Blocks: tiles of 16 stacked rows;
// key-value heads, ARRIVALS of both together at most; chunks, no fewer than the longest context has.
template <class T, unsigned WIDTH, unsigned WARPS, unsigned N>
__device__ __forceinline__ void decode(
    const T* qkv, const unsigned* bounds, const T* keys, const T* values, const unsigned* tables,
    const unsigned* contexts, float* sums, float* totals, T* o, float* lse, unsigned sequences, unsigned query_heads,
    unsigned key_heads, unsigned dim, float scale, unsigned before, unsigned after, unsigned slots, unsigned page_len, unsigned pages) {
    const unsigned group = query_heads / key_heads, row_width = (query_heads + 2 * key_heads) * dim;
    const Part part = find_part(bounds, sequences, group, DECODE_ROWS, blockIdx.x);
    if (part.count == 0) return;
    const unsigned context = contexts[part.sequence];
    if (blockIdx.z * chunk_keys(context) >= context) return;
    const size_t head_begin = (size_t)blockIdx.y * slots * dim;
    const Keys<T> from{keys + head_begin, values + head_begin, dim, tables + (size_t)part.sequence * pages, page_len};
    const Partials partials{sums, totals, gridDim.z};
    const Decode<T, WIDTH, WARPS, N> block{part, group, query_heads, dim, scale, o, lse, partials};
    block.run(qkv, from, {before, after}, context, row_width);
}

#define DECODE(width, dtype, T, WARPS, N)                                                                             \
    extern "C" __global__ void __launch_bounds__(WARPS * WARP) attention_decode_##width##_##dtype(                    \
        const T* __restrict__ qkv, const unsigned* __restrict__ bounds, const T* __restrict__ keys,                   \
        const T* __restrict__ values, const unsigned* __restrict__ tables, const unsigned* __restrict__ contexts,     \
        float* __restrict__ sums, float* __restrict__ totals, T* __restrict__ o, float* __restrict__ lse,             \
        unsigned sequences, unsigned query_heads, unsigned key_heads, unsigned dim, float scale, unsigned before,     \
        unsigned after, unsigned slots, unsigned page_len, unsigned pages) {                                          \
        decode<T, width, WARPS, N>(qkv, bounds, keys, values, tables, contexts, sums, totals, o, lse, sequences,      \
                                   query_heads, key_heads, dim, scale, before, after, slots, page_len, pages);        \
    }                                                                                                                 \
    KERNEL(attention_decode_##width##_##dtype)

DECODE(64, bf16, bf16, 4, 2)
DECODE(128, bf16, bf16, 4, 2)
DECODE(256, bf16, bf16, 2, 2)
DECODE(64, f32, float, 4, 1)
DECODE(128, f32, float, 4, 1)
DECODE(256, f32, float, 2, 1)
