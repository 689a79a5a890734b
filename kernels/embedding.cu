// Rows of a table chosen by id, and the sum of each id's gradients: src/ops/embedding.rs.
//
// Backward lists the batch's rows by id, rows of one id in the batch's order, without a float atomic: counts and
// positions are integers, and what the order of atomics left open in an id's list is settled by ranking it. The list is
// then cut into chunks of equal length, a block each, however often an id comes; where an id's rows reach over several
// chunks, each leaves a partial sum, and the block in whose chunk the id begins adds them up in order.
#include <common.cuh>

// Positions of the list that one block sums up. The Rust half takes the room for the partial sums.
constexpr unsigned CHUNK = 32;

// Shapes: ids [N], w [V,C], y [N,C].
template <class T, unsigned P>
static __device__ void forward(const unsigned* __restrict__ ids, const T* __restrict__ w, T* __restrict__ y, unsigned rows,
                        unsigned c) {
    const unsigned packs = c / P;
    for_each_item(rows * packs, [=](unsigned item) {
        const unsigned row = item / packs, column = item % packs * P;
        const T* from = w + size_t(ids[row]) * c + column;
        copy_elements<P>(y + size_t(row) * c + column, from);
    });
}

// How often each id comes. Shapes: ids [N], counts [V], zero before.
extern "C" __global__ void embedding_count_f32(const unsigned* __restrict__ ids, unsigned* __restrict__ counts,
                                               unsigned rows) {
    const unsigned row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row < rows) atomicAdd(&counts[ids[row]], 1u);
}
KERNEL(embedding_count_f32)

// One block of 1024 threads: where each id's rows begin in the list, and at the end how long it is. Each thread adds up
// a stretch of its own. Shapes: counts [V], starts [V+1].
extern "C" __global__ void __launch_bounds__(1024) embedding_starts_f32(const unsigned* __restrict__ counts,
                                                                        unsigned* __restrict__ starts, unsigned v) {
    __shared__ unsigned warp_sums[WARP];
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const unsigned each = (v + blockDim.x - 1) / blockDim.x, first = min(v, threadIdx.x * each), last = min(v, first + each);
    unsigned own = 0;
    for (unsigned id = first; id < last; id++) own += counts[id];
    unsigned up_to = own;
#pragma unroll
    for (unsigned distance = 1; distance < WARP; distance *= 2) {
        const unsigned before = __shfl_up_sync(ALL_LANES, up_to, distance);
        if (lane >= distance) up_to += before;
    }
    if (lane == WARP - 1) warp_sums[warp] = up_to;
    __syncthreads();
    unsigned start = up_to - own;
    for (unsigned before = 0; before < warp; before++) start += warp_sums[before];
    for (unsigned id = first; id < last; id++) {
        starts[id] = start;
        start += counts[id];
    }
    if (threadIdx.x == blockDim.x - 1) starts[v] = start;
}
KERNEL(embedding_starts_f32)

// Each row to a free place of its id's part of the list; counts end at zero. Shapes: ids, list [N], counts [V], starts [V+1].
extern "C" __global__ void embedding_place_f32(const unsigned* __restrict__ ids, const unsigned* __restrict__ starts,
                                               unsigned* __restrict__ counts, unsigned* __restrict__ list, unsigned rows) {
    const unsigned row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    const unsigned id = ids[row];
    list[starts[id] + atomicSub(&counts[id], 1u) - 1] = row;
}
KERNEL(embedding_place_f32)

// Each id's rows in ascending order: a row's place is the number of smaller ones in its part of the list.
// Shapes: ids, list, ordered [N], starts [V+1].
extern "C" __global__ void embedding_order_f32(const unsigned* __restrict__ ids, const unsigned* __restrict__ starts,
                                               const unsigned* __restrict__ list, unsigned* __restrict__ ordered,
                                               unsigned rows) {
    const unsigned place = blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= rows) return;
    const unsigned row = list[place], id = ids[row], first = starts[id], last = starts[id + 1];
    unsigned smaller = 0;
#pragma unroll 8
    for (unsigned other = first; other < last; other++) smaller += list[other] < row;
    ordered[first + smaller] = row;
}
KERNEL(embedding_order_f32)

// One pack of channels of the sum of dy over positions [from,to) of the list.
template <class T, unsigned P>
static __device__ __forceinline__ Pack<float, P> sum_rows(const T* __restrict__ dy, const unsigned* __restrict__ ordered,
                                                   unsigned from, unsigned to, unsigned c, unsigned column) {
    Pack<float, P> sum = {};
#pragma unroll 4
    for (unsigned place = from; place < to; place++) {
        const Pack<float, P> d = load_floats<P>(dy + size_t(ordered[place]) * c + column);
#pragma unroll
        for (unsigned i = 0; i < P; i++) sum.element[i] += d.element[i];
    }
    return sum;
}

template <class T, unsigned P>
static __device__ __forceinline__ void finish(T* __restrict__ dw, Pack<float, P> sum, unsigned add) {
    if (add) {
        const Pack<float, P> before = load_floats<P>(dw);
#pragma unroll
        for (unsigned i = 0; i < P; i++) sum.element[i] += before.element[i];
    }
    store_floats(dw, sum);
}

// The channels are shared out among the blocks of one chunk, a pack a thread at a time.
template <unsigned P>
static __device__ __forceinline__ unsigned first_channel() { return (blockIdx.y * blockDim.x + threadIdx.x) * P; }
template <unsigned P>
static __device__ __forceinline__ unsigned channels() { return gridDim.y * blockDim.x * P; }

// Chunk blockIdx.x of the list: ids that lie wholly inside are finished; partial[2*chunk] is
// of the id that began before the chunk, partial[2*chunk+1] of the one that begins in it and goes on.
// Shapes: dy [N,C], ids, ordered [N], starts [V+1], dw [V,C], partials [2*ceil(N/CHUNK),C].
template <class T, unsigned P>
static __device__ void sum(const T* __restrict__ dy, const unsigned* __restrict__ ids, const unsigned* __restrict__ starts,
                    const unsigned* __restrict__ ordered, T* __restrict__ dw, float* __restrict__ partials, unsigned rows,
                    unsigned c, unsigned add) {
    const unsigned first = blockIdx.x * CHUNK, last = min(rows, first + CHUNK);
    for (unsigned place = first; place < last;) {
        const unsigned id = ids[ordered[place]], begins = starts[id], ends = starts[id + 1], to = min(ends, last);
        for (unsigned column = first_channel<P>(); column < c; column += channels<P>()) {
            const Pack<float, P> total = sum_rows<T, P>(dy, ordered, place, to, c, column);
            if (begins >= first && ends <= last) {
                finish(dw + size_t(id) * c + column, total, add);
            } else {
                store_floats(partials + size_t(2 * blockIdx.x + (begins >= first)) * c + column, total);
            }
        }
        place = to;
    }
}

// The id that begins in chunk blockIdx.x and goes on past it, if there is one. Shapes as above.
template <class T, unsigned P>
static __device__ void join(const unsigned* __restrict__ ids, const unsigned* __restrict__ starts,
                     const unsigned* __restrict__ ordered, T* __restrict__ dw, const float* __restrict__ partials,
                     unsigned rows, unsigned c, unsigned add) {
    const unsigned first = blockIdx.x * CHUNK, last = first + CHUNK;
    if (last >= rows) return;
    const unsigned id = ids[ordered[last - 1]], begins = starts[id], ends = starts[id + 1];
    if (begins < first || ends <= last) return;
    for (unsigned column = first_channel<P>(); column < c; column += channels<P>()) {
        Pack<float, P> total = load_floats<P>(partials + size_t(2 * blockIdx.x + 1) * c + column);
#pragma unroll 4
        for (unsigned chunk = blockIdx.x + 1; chunk <= (ends - 1) / CHUNK; chunk++) {
            const Pack<float, P> part = load_floats<P>(partials + size_t(2 * chunk) * c + column);
#pragma unroll
            for (unsigned i = 0; i < P; i++) total.element[i] += part.element[i];
        }
        finish(dw + size_t(id) * c + column, total, add);
    }
}

#define EMBEDDING(T, NAME)                                                                                              \
    extern "C" __global__ void embedding_forward_##NAME(const unsigned* __restrict__ ids, const T* __restrict__ w,      \
                                                        T* __restrict__ y, unsigned rows, unsigned c) {                 \
        if (packs<T>(c) && on_16_bytes(w, y)) forward<T, PACK<T>>(ids, w, y, rows, c);                                  \
        else forward<T, 1>(ids, w, y, rows, c);                                                                         \
    }                                                                                                                   \
    KERNEL(embedding_forward_##NAME)                                                                                    \
    extern "C" __global__ void embedding_sum_##NAME(                                                                    \
        const T* __restrict__ dy, const unsigned* __restrict__ ids, const unsigned* __restrict__ starts,                \
        const unsigned* __restrict__ ordered, T* __restrict__ dw, float* __restrict__ partials, unsigned rows,          \
        unsigned c, unsigned add) {                                                                                     \
        if (packs<T>(c) && on_16_bytes(dy, dw)) sum<T, PACK<T>>(dy, ids, starts, ordered, dw, partials, rows, c, add);  \
        else sum<T, 1>(dy, ids, starts, ordered, dw, partials, rows, c, add);                                           \
    }                                                                                                                   \
    KERNEL(embedding_sum_##NAME)                                                                                        \
    extern "C" __global__ void embedding_join_##NAME(                                                                   \
        const unsigned* __restrict__ ids, const unsigned* __restrict__ starts, const unsigned* __restrict__ ordered,    \
        T* __restrict__ dw, const float* __restrict__ partials, unsigned rows, unsigned c, unsigned add) {              \
        if (packs<T>(c) && on_16_bytes(dw)) join<T, PACK<T>>(ids, starts, ordered, dw, partials, rows, c, add);         \
        else join<T, 1>(ids, starts, ordered, dw, partials, rows, c, add);                                              \
    }                                                                                                                   \
    KERNEL(embedding_join_##NAME)

EMBEDDING(float, f32)
EMBEDDING(bf16, bf16)
