// Sums over whole buffers and over columns: src/ops/reduce.rs. Cut by shape alone, added in a fixed order, so a sum has
// the same bits on every card.
#include <common.cuh>

// Elements of which one block makes one partial sum. The Rust half takes the room for them.
constexpr unsigned CHUNK = 64 * 1024;

// The sum of `term` over the block's chunk, in f64 from the threads' own few sums on.
// Shapes: x [count], partials [ceil(count/CHUNK)].
template <class T, class Term>
static __device__ void sum_chunk(const T* __restrict__ x, double* __restrict__ partials, unsigned count, Term term) {
    constexpr unsigned P = PACK<T>;
    const T* chunk = x + size_t(blockIdx.x) * CHUNK;
    const unsigned rest = count - blockIdx.x * CHUNK, len = rest < CHUNK ? rest : CHUNK;
    const unsigned whole = on_16_bytes(x) ? len / P : 0;
    float lanes[P] = {};
#pragma unroll 4
    for (unsigned pack = threadIdx.x; pack < whole; pack += blockDim.x) {
        const Pack<float, P> floats = load_floats<P>(chunk + size_t(pack) * P);
#pragma unroll
        for (unsigned i = 0; i < P; i++) lanes[i] += term(floats.element[i]);
    }
    double sum = 0.0;
    for (unsigned i = whole * P + threadIdx.x; i < len; i += blockDim.x) sum += term(to_float(chunk[i]));
#pragma unroll
    for (unsigned i = 0; i < P; i++) sum += lanes[i];
    sum = block_reduce<Sum>(sum);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// One block: the sum of all partial sums. Shapes: partials [count], out [1].
extern "C" __global__ void reduce_finish_f32(const double* __restrict__ partials, double* __restrict__ out, unsigned count) {
    double sum = 0.0;
    for (unsigned i = threadIdx.x; i < count; i += blockDim.x) sum += partials[i];
    sum = block_reduce<Sum>(sum);
    if (threadIdx.x == 0) out[0] = sum;
}
KERNEL(reduce_finish_f32)

// The sums of 32 columns: each warp takes every so many rows, then the warps' sums are added in their order. Blocks of
// 32 warps. Shapes: partials [rows,columns], out [columns].
template <class T>
static __device__ void sum_columns(const float* __restrict__ partials, T* __restrict__ out, unsigned rows, unsigned columns,
                            unsigned add) {
    __shared__ float sums[WARP][WARP];
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, column = blockIdx.x * WARP + lane;
    float sum = 0.0f;
    if (column < columns) {
#pragma unroll 8
        for (unsigned row = warp; row < rows; row += WARP) sum += partials[size_t(row) * columns + column];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || column >= columns) return;
    float total = add ? to_float(out[column]) : 0.0f;
#pragma unroll
    for (unsigned part = 0; part < WARP; part++) total += sums[part][lane];
    out[column] = from_float<T>(total);
}

// The sum of slabs in their order, f32 until it is stored. Slabs lie `stride` elements apart, a multiple of four.
// Shapes: slabs [slab_count,stride], of each `count` elements; out [count].
template <class T>
static __device__ void sum_slabs(const float* __restrict__ slabs, T* __restrict__ out, unsigned slab_count, unsigned stride,
                                 unsigned count, unsigned add) {
    for_each_pack<PACK<T>>(count, on_16_bytes(slabs, out), [=](auto width, size_t first) {
        constexpr unsigned P = decltype(width)::value;
        Pack<float, P> sum = load_floats<P>(slabs + first);
#pragma unroll 4
        for (unsigned slab = 1; slab < slab_count; slab++) {
            const Pack<float, P> next = load_floats<P>(slabs + size_t(slab) * stride + first);
#pragma unroll
            for (unsigned i = 0; i < P; i++) sum.element[i] += next.element[i];
        }
        if (add) {
            const Pack<float, P> before = load_floats<P>(out + first);
#pragma unroll
            for (unsigned i = 0; i < P; i++) sum.element[i] += before.element[i];
        }
        store_floats(out + first, sum);
    });
}

// The sums of a block's rows, each added up in order. Shapes: x [rows,c], partials [ceil(rows/rows_each),c].
template <class T, unsigned P>
static __device__ void sum_rows(const T* __restrict__ x, float* __restrict__ partials, unsigned rows, unsigned c,
                                unsigned rows_each) {
    const unsigned first = blockIdx.x * rows_each, last = min(rows, first + rows_each);
    for (size_t i = threadIdx.x * P; i < c; i += blockDim.x * P) {
        Pack<float, P> sum = {};
#pragma unroll 4
        for (unsigned row = first; row < last; row++) {
            const Pack<float, P> next = load_floats<P>(x + size_t(row) * c + i);
#pragma unroll
            for (unsigned k = 0; k < P; k++) sum.element[k] += next.element[k];
        }
        store_floats(partials + size_t(blockIdx.x) * c + i, sum);
    }
}

#define REDUCE(T, NAME)                                                                                              \
    extern "C" __global__ void reduce_sum_##NAME(const T* __restrict__ x, double* __restrict__ partials,             \
                                                 unsigned count) {                                                   \
        sum_chunk(x, partials, count, [](float x) { return x; });                                                    \
    }                                                                                                                \
    KERNEL(reduce_sum_##NAME)                                                                                        \
    extern "C" __global__ void reduce_squares_##NAME(const T* __restrict__ x, double* __restrict__ partials,         \
                                                     unsigned count) {                                               \
        sum_chunk(x, partials, count, [](float x) { return x * x; });                                                \
    }                                                                                                                \
    KERNEL(reduce_squares_##NAME)                                                                                    \
    extern "C" __global__ void __launch_bounds__(1024) reduce_columns_##NAME(                                        \
        const float* __restrict__ partials, T* __restrict__ out, unsigned rows, unsigned columns, unsigned add) {    \
        sum_columns(partials, out, rows, columns, add);                                                              \
    }                                                                                                                \
    KERNEL(reduce_columns_##NAME)                                                                                    \
    extern "C" __global__ void reduce_slabs_##NAME(const float* __restrict__ slabs, T* __restrict__ out,             \
                                                   unsigned slab_count, unsigned stride, unsigned count,             \
                                                   unsigned add) {                                                   \
        sum_slabs(slabs, out, slab_count, stride, count, add);                                                       \
    }                                                                                                                \
    KERNEL(reduce_slabs_##NAME)                                                                                      \
    extern "C" __global__ void __launch_bounds__(512) reduce_rows_##NAME(                                            \
        const T* __restrict__ x, float* __restrict__ partials, unsigned rows, unsigned c, unsigned rows_each) {      \
        if (packs<T>(c) && on_16_bytes(x, partials)) sum_rows<T, PACK<T>>(x, partials, rows, c, rows_each);          \
        else sum_rows<T, 1>(x, partials, rows, c, rows_each);                                                        \
    }                                                                                                                \
    KERNEL(reduce_rows_##NAME)

REDUCE(float, f32)
REDUCE(bf16, bf16)
