// Attention on Hopper (Shah et al. 2024): the passes of attention_forward.cu and attention_backward.cu for bf16 and heads
// up to 128 wide, with products of a warpgroup. A warpgroup has 64 rows, and while it turns scores into probabilities
// others multiply. Nothing is passed on through shared memory: the fragments of one product are the next one's operand.
#include <attention_backward.cuh>
#include <attention_forward.cuh>
#include <wgmma.cuh>

constexpr unsigned WARPGROUP_ROWS = 64;

// What is a product of two numbers of 32 bits away is one instruction away.
__device__ __forceinline__ const bf16* bytes_from(const bf16* from, size_t bytes) {
    return reinterpret_cast<const bf16*>(reinterpret_cast<const char*>(from) + bytes);
}

// Rows of WIDTH elements as products want them: 64 columns side by side, and behind all rows of these the next 64.
template <unsigned WIDTH, unsigned ROWS>
struct Operand {
    static constexpr unsigned CHUNKS = WIDTH / PACK<bf16>, SIZE = ROWS * WIDTH;
    bf16* at;

    // Calls run(row, chunk) for this thread's share of the chunks.
    template <unsigned THREADS, class Run>
    static __device__ __forceinline__ void for_each_chunk(Run run) {
        static_assert(THREADS % CHUNKS == 0, "whole rows");
        constexpr unsigned AT_ONCE = THREADS / CHUNKS;
        // Unrolled little, because the addresses would take the registers of sums that are kept meanwhile.
#pragma unroll 2
        for (unsigned i = 0; i < (ROWS + AT_ONCE - 1) / AT_ONCE; i++) {
            const unsigned row = threadIdx.x / CHUNKS + i * AT_ONCE;
            if (ROWS % AT_ONCE == 0 || row < ROWS) run(row, threadIdx.x % CHUNKS);
        }
    }

    // Begins to copy a chunk; what is not present becomes zero, and is not read.
    __device__ __forceinline__ void copy(unsigned row, unsigned chunk, const void* from, bool present) const {
        const unsigned place = (chunk / 8 * ROWS + row) * 8 + (chunk % 8 ^ row % 8);
        cp_async_16(at + place * PACK<bf16>, from, present ? 16 : 0);
    }

    // Begins to copy `count` rows of `dim` elements, `place(row)` bytes from `first`; what is beyond becomes zero.
    template <unsigned THREADS, class Place>
    __device__ __forceinline__ void load(const bf16* first, unsigned count, unsigned dim, Place place) const {
        for_each_chunk<THREADS>([&](unsigned row, unsigned chunk) {
            copy(row, chunk, bytes_from(first + chunk * PACK<bf16>, place(row)), row < count && chunk * PACK<bf16> < dim);
        });
    }

    // Rows from `first`, a multiple of 8, on, and of them the columns from 16 k on.
    __device__ __forceinline__ Matrix rows(unsigned first, unsigned k) const {
        return describe_matrix(at + first * 64, ROWS * 128) + k / 4 * (ROWS * 8) + k % 4 * 2;
    }

    // Rows from 16 k on, transposed.
    __device__ __forceinline__ Matrix columns(unsigned k) const { return describe_matrix(at, ROWS * 128) + k * 128; }
};

// Begins sums [64,8N] = a bT over WIDTH, a being 64 rows from `a_row` on.
template <unsigned N, unsigned WIDTH, unsigned A_ROWS>
__device__ __forceinline__ void begin_rows(
    float (&sums)[1][N][4], Operand<WIDTH, A_ROWS> a, unsigned a_row, Operand<WIDTH, 8 * N> b) {
#pragma unroll
    for (unsigned k = 0; k < WIDTH / 16; k++) wgmma_rows(sums[0], a.rows(a_row, k), b.rows(0, k), k > 0);
    wgmma_commit();
}

// Begins sums [64,WIDTH] += p v, p [64,16K] being rounded fragments.
template <unsigned K, unsigned WIDTH>
__device__ __forceinline__ void begin_columns(
    float (&sums)[1][WIDTH / 8][4], const unsigned (&p)[K][4], Operand<WIDTH, 16 * K> v) {
#pragma unroll
    for (unsigned k = 0; k < K; k++) wgmma_columns(sums[0], p[k], v.columns(k));
    wgmma_commit();
}

// Rounds a product's fragments to an operand's.
template <unsigned K>
__device__ __forceinline__ void round_fragments(unsigned (&operand)[K][4], const float (&p)[1][2 * K][4]) {
#pragma unroll
    for (unsigned k = 0; k < K; k++) {
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            const float (&from)[4] = p[0][2 * k + i / 2];
            operand[k][i] = pack_bf16(from[i % 2 * 2], from[i % 2 * 2 + 1]);
        }
    }
}

// The first of the 64 rows of this warpgroup, and of the 16 of this warp. The former comes from one lane, so that the
// compiler knows it to be the same for all.
__device__ __forceinline__ unsigned warpgroup_row() {
    return __shfl_sync(ALL_LANES, threadIdx.x / WARPGROUP, 0) * WARPGROUP_ROWS;
}
__device__ __forceinline__ unsigned warp_row() { return threadIdx.x / WARP * 16; }

// Closes this thread's copies, and waits for all threads' that have begun.
__device__ __forceinline__ void finish_loads() {
    cp_async_commit();
    cp_async_wait<0>();
    wgmma_publish();
    __syncthreads();
}

// ---- forward ----

// A tile has KEYS keys. While probabilities are made of one tile's scores, the values of the tile before it are summed.
// In shared memory are, here and below, AHEAD tiles that are worked on and as many that arrive: the more, the fewer
// barriers. Sums are rarely faded: probabilities up to 2 to the SLACK are as exact as those up to 1.
template <unsigned WIDTH, unsigned WARPGROUPS, unsigned KEYS, bool PAGED, unsigned AHEAD>
struct HopperForward : StackedRows {
    static constexpr unsigned THREADS = WARPGROUPS * WARPGROUP, ROWS = WARPGROUPS * WARPGROUP_ROWS;
    static constexpr float SLACK = 8.0f;

    __device__ __forceinline__ void run(
        const bf16* qkv, const Keys<bf16>& from, Mask mask, unsigned context, unsigned query_heads, unsigned row_width,
        unsigned dim, float scale, bf16* o, float* lse) const {
        extern __shared__ __align__(1024) unsigned char smem[];
        using KeysTile = Operand<WIDTH, KEYS>;
        const Operand<WIDTH, ROWS> q{reinterpret_cast<bf16*>(smem)};
        bf16* const ring = q.at + q.SIZE;
        auto keys = [&](unsigned tile) { return KeysTile{ring + tile % (2 * AHEAD) * KeysTile::SIZE}; };
        auto values = [&](unsigned tile) { return KeysTile{ring + (2 * AHEAD + tile % (2 * AHEAD)) * KeysTile::SIZE}; };
        Span* const seen = reinterpret_cast<Span*>(ring + 4 * AHEAD * KeysTile::SIZE);
        const unsigned begin = mask.keys_of(position(0), context).begin / KEYS * KEYS;
        // The tiles from `begin` to the last key that one of the first `rows` rows sees.
        auto tiles_of = [&](unsigned rows) {
            return (mask.keys_of(position(rows - 1), context).end - begin + KEYS - 1) / KEYS;
        };
        const unsigned tiles = tiles_of(part.count), first_row = warpgroup_row();
        const unsigned own_tiles = first_row < part.count ? tiles_of(min(first_row + WARPGROUP_ROWS, part.count)) : 0;
        // The keys that all rows of this warp see.
        const Span whole = {mask.keys_of(position(warp_row() + 15), context).begin,
                            mask.keys_of(position(warp_row()), context).end};
        const unsigned stride_bytes = from.stride * sizeof(bf16);
        auto load = [&](KeysTile to, const bf16* of, unsigned tile) {
            const unsigned first = begin + tile * KEYS;
            if (PAGED) {
                to.template load<THREADS>(of, context - first, dim, [&](unsigned r) {
                    const unsigned key = min(first + r, context - 1);
                    return (size_t)(from.table[key / from.page_len] * from.page_len + key % from.page_len) * stride_bytes;
                });
            } else {
                const bf16* const there = bytes_from(of, (size_t)first * stride_bytes);
                to.template load<THREADS>(there, context - first, dim, [&](unsigned r) { return (size_t)r * stride_bytes; });
            }
        };
        // What is worked on from tile `next` on: its scores, and the values of the tile before it.
        auto load_next = [&](unsigned next) {
#pragma unroll
            for (unsigned tile = next; tile < next + AHEAD; tile++) {
                if (tile < tiles) load(keys(tile), from.keys, tile);
                if (tile > 0 && tile <= tiles) load(values(tile - 1), from.values, tile - 1);
            }
        };
        q.template load<THREADS>(qkv, part.count, dim, [&](unsigned r) {
            return ((size_t)row(r) * row_width + head(r) * dim) * sizeof(bf16);
        });
        load_next(0);
        for (unsigned r = threadIdx.x; r < ROWS; r += THREADS) seen[r] = mask.keys_of(position(r), context);
        float sums[1][WIDTH / 8][4] = {}, scores[1][KEYS / 8][4];
        unsigned p[KEYS / 16][4];
        float faded[2];
        Softmax<1> softmax;
        auto soften = [&](unsigned tile) {
            const unsigned first = begin + tile * KEYS;
            if (first < whole.begin || first + KEYS > whole.end) hide(scores, seen + warp_row(), first, -INFINITY);
            softmax.soften(scores, scale * LOG2_E, faded, SLACK);
        };
        finish_loads();
        load_next(AHEAD);
        if (own_tiles > 0) {
            wgmma_fence();
            begin_rows(scores, q, first_row, keys(0));
            wgmma_wait<0>();
            wgmma_pin(scores[0]);
            soften(0);
            round_fragments(p, scores);
        }
        for (unsigned tile = 1; tile <= tiles; tile++) {
            const bool is_first = tile % AHEAD == 0;
            if (is_first) finish_loads();  // And nobody reads what was worked on before any more.
            wgmma_pin(sums[0]);
            wgmma_pin(p);
            if (tile < own_tiles) {
                wgmma_fence();
                begin_rows(scores, q, first_row, keys(tile));
                begin_columns(sums, p, values(tile - 1));
                if (is_first) load_next(tile + AHEAD);
                wgmma_wait<1>();
                wgmma_pin(scores[0]);
                soften(tile);
                wgmma_pin(scores[0]);
                // Two waits, because a branch keeps the compiler from waiting before probabilities are made.
                if (__any_sync(ALL_LANES, faded[0] != 1.0f || faded[1] != 1.0f)) {
                    wgmma_wait<0>();
                    wgmma_pin(sums[0]);
                    fade(sums, faded);
                } else {
                    wgmma_wait<0>();
                    wgmma_pin(sums[0]);
                }
                round_fragments(p, scores);
            } else if (tile == own_tiles) {
                wgmma_fence();
                begin_columns(sums, p, values(tile - 1));
                if (is_first) load_next(tile + AHEAD);
                wgmma_wait<0>();
                wgmma_pin(sums[0]);
            } else if (is_first) {
                load_next(tile + AHEAD);
            }
        }
        softmax.finish();
#pragma unroll
        for (unsigned r = 0; r < 2; r++) {
            const unsigned stacked = warp_row() + fragment_row() + 8 * r;
            if (stacked >= part.count) continue;
            const size_t place = (size_t)row(stacked) * query_heads + head(stacked);
            store_row(o + place * dim, sums[0], r, 1.0f / softmax.total[r], dim);
            if (fragment_column() == 0) lse[place] = softmax.highest[r] * scale + logf(softmax.total[r]);
        }
    }
};

// ---- gradients of keys and values ----

// As in KeysBackward, scores are [keys, queries]. EARLY: values are summed while gradients of scores are made, for which a
// warp must have registers enough.
template <unsigned WIDTH, unsigned WARPGROUPS, unsigned QUERIES, unsigned AHEAD, bool EARLY>
struct HopperKeysBackward {
    static constexpr unsigned THREADS = WARPGROUPS * WARPGROUP, KEYS = WARPGROUPS * WARPGROUP_ROWS;

    Given<bf16> given;
    Part part;

    // out: [N,2K*D], keys' gradients and then values'.
    __device__ __forceinline__ void run(bf16* out) const {
        extern __shared__ __align__(1024) unsigned char smem[];
        using Queries = Operand<WIDTH, QUERIES>;
        const Operand<WIDTH, KEYS> k{reinterpret_cast<bf16*>(smem)}, v{k.at + k.SIZE};
        bf16* const ring = v.at + v.SIZE;
        float* const numbers = reinterpret_cast<float*>(ring + 4 * AHEAD * Queries::SIZE);
        Span* const seen = reinterpret_cast<Span*>(numbers + 4 * AHEAD * QUERIES);
        auto queries = [&](unsigned tile) { return Queries{ring + tile % (2 * AHEAD) * 2 * Queries::SIZE}; };
        auto douts = [&](unsigned tile) { return Queries{queries(tile).at + Queries::SIZE}; };
        auto numbers_of = [&](unsigned tile) { return numbers + tile % (2 * AHEAD) * 2 * QUERIES; };
        const unsigned group = given.group.by, first_row = warpgroup_row();
        // The stacked queries that see a key of this block.
        auto seen_by = [&](unsigned key) {
            const Span queries = given.mask.queries_of(part.begin + key, part.rows);
            return Span{queries.begin * group, queries.end * group};
        };
        const unsigned begin = seen_by(0).begin, end = seen_by(part.count - 1).end;
        // Those that see all keys of this warp.
        const Span whole = {seen_by(warp_row() + 15).begin, seen_by(warp_row()).end};
        // Those that see a key of this warpgroup.
        Span own = {0, 0};
        if (first_row < part.count) {
            own = {seen_by(first_row).begin, seen_by(min(first_row + WARPGROUP_ROWS, part.count) - 1).end};
        }
        // The stacked query s of the sequence is the member s - token * G of its token.
        const unsigned member_bytes = given.dim * sizeof(bf16), row_bytes = given.row_width() * sizeof(bf16);
        const unsigned first_head = blockIdx.y * group, dout_bytes = given.query_heads * member_bytes;
        const bf16* const first_q = bytes_from(given.qkv, (size_t)part.first * row_bytes + first_head * member_bytes);
        const bf16* const first_dout = bytes_from(given.dout, (size_t)part.first * dout_bytes + first_head * member_bytes);
        auto load = [&](unsigned tile, unsigned first) {
            const Queries q = queries(tile), dout = douts(tile);
            Queries::template for_each_chunk<THREADS>([&](unsigned r, unsigned chunk) {
                const bool present = first + r < end && chunk * PACK<bf16> < given.dim;
                const unsigned token = given.group.quotient(first + r);
                const size_t member = (size_t)(first + r - token * group) * member_bytes;
                q.copy(r, chunk, bytes_from(first_q + chunk * PACK<bf16>, (size_t)token * row_bytes + member), present);
                dout.copy(r, chunk, bytes_from(first_dout + chunk * PACK<bf16>, (size_t)token * dout_bytes + member), present);
            });
            // One half of the threads loads the logarithms, the other the deltas.
            static_assert(THREADS >= 2 * QUERIES, "one number a thread");
            const unsigned r = threadIdx.x % QUERIES, query = first + r, token = given.group.quotient(query);
            const size_t place = (size_t)(part.first + token) * given.query_heads + first_head + (query - token * group);
            if (threadIdx.x < 2 * QUERIES) {
                const float* const from = threadIdx.x < QUERIES ? given.lse : given.delta;
                cp_async_4(numbers_of(tile) + threadIdx.x, from + place, query < end);
            }
        };
        auto load_next = [&](unsigned next) {
#pragma unroll
            for (unsigned tile = next; tile < next + AHEAD; tile++) {
                if (begin + tile * QUERIES < end) load(tile, begin + tile * QUERIES);
            }
        };
        auto row_place = [&](unsigned r) { return (size_t)r * row_bytes; };
        k.template load<THREADS>(given.key(part, part.begin), part.count, given.dim, row_place);
        v.template load<THREADS>(given.value(part, part.begin), part.count, given.dim, row_place);
        load_next(0);
        for (unsigned r = threadIdx.x; r < KEYS; r += THREADS) seen[r] = seen_by(r);
        float dk[1][WIDTH / 8][4] = {}, dv[1][WIDTH / 8][4] = {}, p[1][QUERIES / 8][4], ds[1][QUERIES / 8][4];
        unsigned rounded_p[QUERIES / 16][4], rounded_ds[QUERIES / 16][4];
        const float scale = given.scale * LOG2_E;
        for (unsigned tile = 0, first = begin; first < end; tile++, first += QUERIES) {
            const bool is_first = tile % AHEAD == 0;
            if (is_first) finish_loads();  // And nobody reads what was worked on before any more.
            if (first >= own.end || first + QUERIES <= own.begin) {
                if (is_first) load_next(tile + AHEAD);
                continue;
            }
            const Queries q = queries(tile), dout = douts(tile);
            wgmma_fence();
            begin_rows(p, k, first_row, q);
            begin_rows(ds, v, first_row, dout);
            if (is_first) load_next(tile + AHEAD);
            const float2* const lse = reinterpret_cast<const float2*>(numbers_of(tile)) + lane() % 4;
            const float2* const delta = lse + QUERIES / 2;
            wgmma_wait<1>();
            wgmma_pin(p[0]);
            if (first < whole.begin || first + QUERIES > whole.end) hide(p, seen + warp_row(), first, -INFINITY);
#pragma unroll
            for (unsigned j = 0; j < QUERIES / 8; j++) {
                const float2 of = lse[j * 4];
                const float first_lse = of.x * LOG2_E, second_lse = of.y * LOG2_E;
#pragma unroll
                for (unsigned e = 0; e < 4; e++) {
                    p[0][j][e] = exp2_approx(fmaf(p[0][j][e], scale, e % 2 == 0 ? -first_lse : -second_lse));
                }
            }
            auto sum_values = [&] {
                round_fragments(rounded_p, p);
                wgmma_pin(rounded_p);
                wgmma_pin(dv[0]);
                wgmma_fence();
                begin_columns(dv, rounded_p, dout);
            };
            if (EARLY) {
                sum_values();
                wgmma_wait<1>();
            } else {
                wgmma_wait<0>();
            }
            wgmma_pin(ds[0]);
#pragma unroll
            for (unsigned j = 0; j < QUERIES / 8; j++) {
                const float2 of = delta[j * 4];
#pragma unroll
                for (unsigned e = 0; e < 4; e++) ds[0][j][e] = p[0][j][e] * (ds[0][j][e] - (e % 2 == 0 ? of.x : of.y));
            }
            round_fragments(rounded_ds, ds);
            wgmma_pin(rounded_ds);
            wgmma_pin(dk[0]);
            if (!EARLY) sum_values();
            wgmma_fence();
            begin_columns(dk, rounded_ds, q);
            wgmma_wait<0>();
            wgmma_pin(dv[0]);
            wgmma_pin(dk[0]);
        }
#pragma unroll
        for (unsigned r = 0; r < 2; r++) {
            const unsigned key = warp_row() + fragment_row() + 8 * r;
            if (key >= part.count) continue;
            bf16* row = out + ((size_t)(part.first + part.begin + key) * 2 * given.key_heads + blockIdx.y) * given.dim;
            store_row(row, dk[0], r, given.scale, given.dim);
            store_row(row + given.key_heads * given.dim, dv[0], r, 1.0f, given.dim);
        }
    }
};

// ---- gradients of queries ----

template <unsigned WIDTH, unsigned WARPGROUPS, unsigned KEYS, unsigned AHEAD>
struct HopperQueriesBackward {
    static constexpr unsigned THREADS = WARPGROUPS * WARPGROUP, ROWS = WARPGROUPS * WARPGROUP_ROWS;

    Given<bf16> given;
    Part part;

    __device__ __forceinline__ void run() const {
        extern __shared__ __align__(1024) unsigned char smem[];
        using KeysTile = Operand<WIDTH, KEYS>;
        const Operand<WIDTH, ROWS> q{reinterpret_cast<bf16*>(smem)}, dout{q.at + q.SIZE};
        bf16* const ring = dout.at + dout.SIZE;
        Span* const seen = reinterpret_cast<Span*>(ring + 4 * AHEAD * KeysTile::SIZE);
        auto keys = [&](unsigned tile) { return KeysTile{ring + tile % (2 * AHEAD) * 2 * KeysTile::SIZE}; };
        auto values = [&](unsigned tile) { return KeysTile{keys(tile).at + KeysTile::SIZE}; };
        const unsigned first_row = warpgroup_row();
        auto keys_of = [&](unsigned stacked) {
            return given.mask.keys_of(given.group.quotient(part.begin + stacked), part.rows);
        };
        const unsigned begin = keys_of(0).begin, end = keys_of(part.count - 1).end;
        // Those that all rows of this warp see.
        const Span whole = {keys_of(warp_row() + 15).begin, keys_of(warp_row()).end};
        // The keys that a row of this warpgroup sees.
        Span own = {0, 0};
        if (first_row < part.count) {
            own = {keys_of(first_row).begin, keys_of(min(first_row + WARPGROUP_ROWS, part.count) - 1).end};
        }
        const unsigned row_bytes = given.row_width() * sizeof(bf16);
        auto load = [&](KeysTile to, const bf16* from, unsigned first) {
            to.template load<THREADS>(from, end - first, given.dim, [&](unsigned r) { return (size_t)r * row_bytes; });
        };
        auto load_next = [&](unsigned next) {
#pragma unroll
            for (unsigned tile = next; tile < next + AHEAD; tile++) {
                const unsigned first = begin + tile * KEYS;
                if (first >= end) break;
                load(keys(tile), given.key(part, first), first);
                load(values(tile), given.value(part, first), first);
            }
        };
        q.template load<THREADS>(given.qkv, part.count, given.dim, [&](unsigned r) {
            return (given.query(part, part.begin + r) - given.qkv) * sizeof(bf16);
        });
        dout.template load<THREADS>(given.dout, part.count, given.dim, [&](unsigned r) {
            return given.query_place(part, part.begin + r) * given.dim * sizeof(bf16);
        });
        load_next(0);
        for (unsigned r = threadIdx.x; r < ROWS; r += THREADS) seen[r] = keys_of(r);
        float lse[2], delta[2];
#pragma unroll
        for (unsigned r = 0; r < 2; r++) {
            const unsigned stacked = warp_row() + fragment_row() + 8 * r;
            const bool present = stacked < part.count;
            lse[r] = present ? given.lse[given.query_place(part, part.begin + stacked)] * LOG2_E : 0.0f;
            delta[r] = present ? given.delta[given.query_place(part, part.begin + stacked)] : 0.0f;
        }
        float dq[1][WIDTH / 8][4] = {}, p[1][KEYS / 8][4], ds[1][KEYS / 8][4];
        unsigned rounded_ds[KEYS / 16][4];
        const float scale = given.scale * LOG2_E;
        for (unsigned tile = 0, first = begin; first < end; tile++, first += KEYS) {
            const bool is_first = tile % AHEAD == 0;
            if (is_first) finish_loads();  // And nobody reads what was worked on before any more.
            if (first >= own.end || first + KEYS <= own.begin) {
                if (is_first) load_next(tile + AHEAD);
                continue;
            }
            const KeysTile k = keys(tile), v = values(tile);
            wgmma_fence();
            begin_rows(p, q, first_row, k);
            begin_rows(ds, dout, first_row, v);
            if (is_first) load_next(tile + AHEAD);
            wgmma_wait<1>();
            wgmma_pin(p[0]);
            if (first < whole.begin || first + KEYS > whole.end) hide(p, seen + warp_row(), first, -INFINITY);
#pragma unroll
            for (unsigned j = 0; j < KEYS / 8; j++) {
#pragma unroll
                for (unsigned e = 0; e < 4; e++) p[0][j][e] = exp2_approx(fmaf(p[0][j][e], scale, -lse[e / 2]));
            }
            wgmma_wait<0>();
            wgmma_pin(ds[0]);
#pragma unroll
            for (unsigned j = 0; j < KEYS / 8; j++) {
#pragma unroll
                for (unsigned e = 0; e < 4; e++) ds[0][j][e] = p[0][j][e] * (ds[0][j][e] - delta[e / 2]);
            }
            round_fragments(rounded_ds, ds);
            wgmma_pin(rounded_ds);
            wgmma_pin(dq[0]);
            wgmma_fence();
            begin_columns(dq, rounded_ds, k);
            wgmma_wait<0>();
            wgmma_pin(dq[0]);
        }
#pragma unroll
        for (unsigned r = 0; r < 2; r++) {
            const unsigned stacked = warp_row() + fragment_row() + 8 * r;
            if (stacked < part.count) store_row(given.query(part, part.begin + stacked), dq[0], r, given.scale, given.dim);
        }
    }
};

// ---- kernels: parameters, and what a block has, as in the files named above ----

#ifdef HAS_WGMMA
#define ON_HOPPER(...) __VA_ARGS__
#else
#define ON_HOPPER(...)
#endif

#define HOPPER_FORWARD(name, width, WARPGROUPS, BLOCKS, KEYS, PAGED, AHEAD)                                           \
    extern "C" __global__ void __launch_bounds__(WARPGROUPS * WARPGROUP, BLOCKS) name##_bf16(                         \
        const bf16* __restrict__ qkv, const unsigned* __restrict__ bounds, const bf16* __restrict__ keys,             \
        const bf16* __restrict__ values, const unsigned* __restrict__ tables, const unsigned* __restrict__ contexts,  \
        bf16* __restrict__ o, float* __restrict__ lse, unsigned sequences, unsigned query_heads, unsigned key_heads,  \
        unsigned dim, float scale, unsigned before, unsigned after, unsigned slots, unsigned page_len,                \
        unsigned pages) {                                                                                             \
        ON_HOPPER(forward<HopperForward<width, WARPGROUPS, KEYS, PAGED, AHEAD>>(                                      \
            qkv, bounds, keys, values, tables, contexts, o, lse, sequences, query_heads, key_heads, dim, scale,       \
            before, after, slots, page_len, pages);)                                                                  \
    }                                                                                                                 \
    KERNEL(name##_bf16)

#define HOPPER_KEYS_BACKWARD(name, width, WARPGROUPS, BLOCKS, QUERIES, AHEAD, EARLY)                                  \
    extern "C" __global__ void __launch_bounds__(WARPGROUPS * WARPGROUP, BLOCKS) name##_bf16(                         \
        const bf16* __restrict__ dout, const float* __restrict__ lse, const float* __restrict__ delta,                \
        const bf16* __restrict__ qkv, const unsigned* __restrict__ bounds, bf16* __restrict__ out,                    \
        unsigned sequences, unsigned query_heads, unsigned key_heads, unsigned dim, float scale, unsigned before,     \
        unsigned after) {                                                                                             \
        ON_HOPPER(keys_backward<HopperKeysBackward<width, WARPGROUPS, QUERIES, AHEAD, EARLY>>(                        \
            dout, lse, delta, qkv, bounds, out, sequences, query_heads, key_heads, dim, scale, before, after);)       \
    }                                                                                                                 \
    KERNEL(name##_bf16)

#define HOPPER_QUERIES_BACKWARD(name, width, WARPGROUPS, BLOCKS, KEYS, AHEAD)                                         \
    extern "C" __global__ void __launch_bounds__(WARPGROUPS * WARPGROUP, BLOCKS) name##_bf16(                         \
        const bf16* __restrict__ dout, const float* __restrict__ lse, const float* __restrict__ delta, bf16* qkv,     \
        const unsigned* __restrict__ bounds, unsigned sequences, unsigned query_heads, unsigned key_heads,            \
        unsigned dim, float scale, unsigned before, unsigned after) {                                                 \
        ON_HOPPER(queries_backward<HopperQueriesBackward<width, WARPGROUPS, KEYS, AHEAD>>(                            \
            dout, lse, delta, qkv, bounds, sequences, query_heads, key_heads, dim, scale, before, after);)            \
    }                                                                                                                 \
    KERNEL(name##_bf16)

HOPPER_FORWARD(attention_hopper_forward_64, 64, 2, 2, 64, false, 2)
HOPPER_FORWARD(attention_hopper_forward_128, 128, 3, 1, 64, false, 2)
HOPPER_FORWARD(attention_hopper_forward_paged_64, 64, 2, 2, 64, true, 2)
HOPPER_FORWARD(attention_hopper_forward_paged_128, 128, 3, 1, 64, true, 2)
HOPPER_KEYS_BACKWARD(attention_hopper_backward_keys_values_64, 64, 1, 3, 64, 1, false)
HOPPER_KEYS_BACKWARD(attention_hopper_backward_keys_values_128, 128, 1, 2, 64, 1, true)
HOPPER_QUERIES_BACKWARD(attention_hopper_backward_queries_64, 64, 2, 2, 64, 2)
HOPPER_QUERIES_BACKWARD(attention_hopper_backward_queries_128, 128, 2, 1, 96, 1)
