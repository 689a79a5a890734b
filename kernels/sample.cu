// From logits to a token, a block a row: penalties, temperature, top-k, top-p, min-p and a draw that can be repeated:
// src/ops/sample.rs. Tokens are ordered by their logit and, of equals, by their number. Every filter but min-p keeps the first
// of that order, so what is kept is told by the last one in; it is found by four passes that each count into 2048
// bins. Probabilities are summed as integers, whose sums do not depend on the order in which threads come.
#include <softmax.cuh>

using Wide = unsigned long long;

// What the settings of a row say, in the order of their tables [S,FLOATS] and [S,WORDS].
enum { TEMPERATURE, TOP_P, MIN_P, REPETITION, PRESENCE, FREQUENCY, FLOATS };
enum { TOP_K, SEED_LOW, SEED_HIGH, PLACE_LOW, PLACE_HIGH, HISTORY, WORDS };

constexpr unsigned NONE = ~0u;
// In a history: the prompt holds the token. The other bits say how often the answer does.
constexpr unsigned IN_PROMPT = 1u << 31;
// The weight of the most probable token. What is less than half of one part of it cannot be drawn.
constexpr float WEIGHT_ONE = 1099511627776.0f;  // 2^40
constexpr unsigned BIN_BITS = 11, BINS = 1 << BIN_BITS;
// Bins of the first pass are of equal width in (largest - logit) / temperature, up to where weights are 0.
constexpr float BINS_PER_NAT = BINS / 29.0f;

struct MostWide {
    static __device__ __forceinline__ Wide of(Wide a, Wide b) { return a > b ? a : b; }
    static constexpr Wide NOTHING = 0;
};

// Ordered as the logit is, whatever its sign; -0 and 0 alike, NaN below all.
static __device__ __forceinline__ unsigned key_of(float logit) {
    const unsigned bits = __float_as_uint(logit + 0.0f);
    return logit != logit ? 0 : bits >> 31 ? ~bits : bits | 0x80000000u;
}

static __device__ __forceinline__ float logit_of(unsigned key) {
    return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

// One row's logits and settings.
struct Row {
    const float* logits;      // [V]
    const unsigned* history;  // [V] or null
    float repetition, presence, frequency, temperature, largest;
    unsigned v;

    // The logit of a token after penalties.
    __device__ __forceinline__ float logit(unsigned token) const {
        float logit = logits[token];
        if (history) {
            const unsigned seen = history[token], in_answer = seen & ~IN_PROMPT;
            if (seen) logit = logit > 0.0f ? logit / repetition : logit * repetition;
            if (in_answer) logit -= presence + frequency * float(in_answer);
        }
        return logit;
    }

    __device__ __forceinline__ float nats_below(float logit) const { return (largest - logit) / temperature; }

    __device__ __forceinline__ Wide weight(float logit) const {
        return logit != logit ? 0 : Wide(expf(-nats_below(logit)) * WEIGHT_ONE + 0.5f);
    }

    // Where a logit stands in the order: the bin of the first pass, then the logit itself.
    __device__ __forceinline__ Wide rank(float logit) const {
        const float bin = nats_below(logit) * BINS_PER_NAT;
        return Wide(bin < float(BINS - 1) ? BINS - 1 - unsigned(bin) : 0) << 32 | key_of(logit);
    }
};

// The tokens that a filter has kept: those of a higher rank than the last one in, and of its rank up to a token.
struct Kept {
    Wide rank = 0;
    unsigned last = NONE;

    __device__ __forceinline__ bool holds(Wide other, unsigned token) const {
        return other > rank || (other == rank && token <= last);
    }
};

// The sum over the threads before this one, and over all.
struct Scan {
    Wide before, all;
};

static __device__ Scan block_scan(Wide value) {
    __shared__ Wide sums[WARP];
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    Wide up_to = value;
#pragma unroll
    for (unsigned distance = 1; distance < WARP; distance *= 2) {
        const Wide before = __shfl_up_sync(ALL_LANES, up_to, distance);
        if (lane >= distance) up_to += before;
    }
    if (lane == WARP - 1) sums[warp] = up_to;
    __syncthreads();
    Scan scan = {up_to - value, 0};
    for (unsigned other = 0; other < blockDim.x / WARP; other++) {
        if (other < warp) scan.before += sums[other];
        scan.all += sums[other];
    }
    __syncthreads();
    return scan;
}

// The first token whose sum of `mass`, over it and all tokens before it, is above `target`; NONE if there is none. Each
// thread sums a stretch of its own.
template <class Mass>
static __device__ unsigned walk(unsigned v, Wide target, Mass mass) {
    __shared__ unsigned found;
    if (threadIdx.x == 0) found = NONE;
    const unsigned each = (v + blockDim.x - 1) / blockDim.x, first = min(v, threadIdx.x * each), last = min(v, first + each);
    Wide own = 0;
#pragma unroll 4
    for (unsigned token = first; token < last; token++) own += mass(token);
    Wide sum = block_scan(own).before;
    if (sum <= target && sum + own > target) {
        for (unsigned token = first; token < last; token++) {
            sum += mass(token);
            if (sum > target) {
                found = token;
                break;
            }
        }
    }
    __syncthreads();
    const unsigned result = found;
    __syncthreads();
    return result;
}

// What a pass over the bins found.
struct Bin {
    unsigned number;  // NONE where all bins together do not reach the target
    Wide above, inside;
};

// The bin in which the sum from the highest on reaches `target`. A thread has two bins. 1024 threads.
static __device__ Bin find_bin(const Wide* bins, Wide target) {
    __shared__ Bin found;
    if (threadIdx.x == 0) found = {NONE, 0, 0};
    const unsigned upper = BINS - 1 - 2 * threadIdx.x;
    const Wide first = bins[upper], second = bins[upper - 1];
    const Wide above = block_scan(first + second).before;
    if (above < target && above + first >= target) found = {upper, above, first};
    else if (above + first < target && above + first + second >= target) found = {upper - 1, above + first, second};
    __syncthreads();
    const Bin result = found;
    __syncthreads();
    return result;
}

// The smallest set of the first tokens of `kept` whose masses sum to `target`, or to `share` of the whole where that is
// not 1; all of them where they do not sum to so much. Counts tokens, or sums weights.
static __device__ Kept keep_first(const Row& row, const Kept& kept, bool counts, Wide target, double share, Wide* bins) {
    Wide prefix = 0, inside = 0;
    for (unsigned pass = 0; pass < 4; pass++) {
        // The 32 bits of a key are 11, 11 and 10.
        const unsigned shift = pass < 3 ? 32 - pass * BIN_BITS : 0, width = pass < 3 ? BIN_BITS : 10;
        for (unsigned bin = threadIdx.x; bin < BINS; bin += blockDim.x) bins[bin] = 0;
        __syncthreads();
        Wide own = 0;
        for (unsigned token = threadIdx.x; token < row.v; token += blockDim.x) {
            const float logit = row.logit(token);
            const Wide weight = row.weight(logit), rank = row.rank(logit);
            if (weight == 0 || rank >> (shift + width) != prefix || !kept.holds(rank, token)) continue;
            const Wide mass = counts ? 1 : weight;
            own += mass;
            atomicAdd(&bins[rank >> shift & ((1u << width) - 1)], mass);
        }
        const Wide all = block_scan(own).all;  // and all have counted
        if (pass == 0 && !counts) target = Wide(ceil(share * double(all)));
        const Bin bin = find_bin(bins, target);
        if (bin.number == NONE) return kept;
        prefix = prefix << width | bin.number;
        target -= bin.above;
        inside = bin.inside;
    }
    // All tokens of the last bin are of one rank and so of one mass.
    const Wide mass = counts ? 1 : row.weight(logit_of(unsigned(prefix)));
    const Wide wanted = (target + mass - 1) / mass;
    Kept result;
    result.rank = prefix;
    if (wanted * mass < inside) {
        result.last = walk(row.v, wanted - 1, [&](unsigned token) {
            const Wide rank = row.rank(row.logit(token));
            return Wide(rank == prefix && kept.holds(rank, token));
        });
    } else if (prefix == kept.rank) {
        result.last = kept.last;
    }
    return result;
}

// The token that the filters and the draw choose, where the temperature is not 0.
static __device__ unsigned draw(const Row& row, const float* settings, const unsigned* words, Wide* bins) {
    Kept kept;
    if (words[TOP_K] > 0) kept = keep_first(row, kept, true, words[TOP_K], 1.0, bins);
    if (settings[TOP_P] < 1.0f) kept = keep_first(row, kept, false, 0, settings[TOP_P], bins);
    const float nats_most = -logf(settings[MIN_P]);  // infinite where all are kept
    const auto mass = [&](unsigned token) {
        const float logit = row.logit(token);
        return kept.holds(row.rank(logit), token) && row.nats_below(logit) <= nats_most ? row.weight(logit) : 0;
    };
    Wide own = 0;
    for (unsigned token = threadIdx.x; token < row.v; token += blockDim.x) own += mass(token);
    const Wide all = block_scan(own).all;
    const uint4 block = philox(make_uint2(words[SEED_LOW], words[SEED_HIGH]), make_uint2(0, 0),
                               make_uint2(words[PLACE_LOW], words[PLACE_HIGH]));
    // The whole part of all * place, place being the upper 24 bits of a word over 2^24.
    const Wide place = block.x >> 8;
    return walk(row.v, place * (all >> 24) + (place * (all & 0xffffffu) >> 24), mass);
}

// Row blockIdx.x; 1024 threads. An id of all ones says that no logit of the row was usable. Shapes: logits [S,V]; settings
// [S,FLOATS]; words [S,WORDS]; histories [H,V] or null; ids, logprobs [S].
extern "C" __global__ void __launch_bounds__(1024) sample_choose_f32(
    const float* __restrict__ logits, const float* __restrict__ settings, const unsigned* __restrict__ words,
    const unsigned* __restrict__ histories, unsigned* __restrict__ ids, float* __restrict__ logprobs, unsigned v) {
    __shared__ Wide bins[BINS];
    settings += size_t(blockIdx.x) * FLOATS;
    words += size_t(blockIdx.x) * WORDS;
    const unsigned* history = words[HISTORY] == NONE ? nullptr : histories + size_t(words[HISTORY]) * v;
    Row row = {logits + size_t(blockIdx.x) * v, history, settings[REPETITION], settings[PRESENCE], settings[FREQUENCY],
               settings[TEMPERATURE], 0.0f, v};
    Softmax own;
    Wide best = 0;
#pragma unroll 4
    for (unsigned token = threadIdx.x; token < v; token += blockDim.x) {
        const Pack<float, 1> untouched = {{row.logits[token]}};
        if (untouched.element[0] == untouched.element[0]) own.take(untouched);
        best = MostWide::of(best, Wide(key_of(row.logit(token))) << 32 | ~token);
    }
    const Softmax model = own.of_block();
    best = block_reduce<MostWide>(best);
    row.largest = logit_of(unsigned(best >> 32));
    unsigned chosen = NONE;
    if (fabsf(model.largest) < INFINITY) chosen = settings[TEMPERATURE] == 0.0f ? ~unsigned(best) : draw(row, settings, words, bins);
    if (threadIdx.x > 0) return;
    ids[blockIdx.x] = chosen;
    logprobs[blockIdx.x] = chosen == NONE ? NAN : row.logits[chosen] - model.largest - logf(model.sum);
}
KERNEL(sample_choose_f32)
