// Layer norm with scale and bias, fused with the residual addition before it: src/ops/layernorm.rs. Built as rmsnorm.cu:
// each row is read once and kept in shared memory, of which a thread reads only what it wrote itself.
#include <common.cuh>

// Row blockIdx.x. The variance is taken of the differences from the mean, so that a large mean costs no digits.
// Shapes: sum, branch, y [N,C], branch may be null; w, b [C]; mean, rstd [N]. Shared: [C] of T.
template <class T, unsigned P>
static __device__ void forward(const T* __restrict__ sum, T* __restrict__ branch, const T* __restrict__ w,
                               const T* __restrict__ b, T* __restrict__ y, float* __restrict__ mean,
                               float* __restrict__ rstd, unsigned c, float eps) {
    extern __shared__ __align__(16) unsigned char smem[];
    T* row = reinterpret_cast<T*>(smem);
    const size_t start = size_t(blockIdx.x) * c;
    float total = 0.0f;
    for (size_t i = threadIdx.x * P; i < c; i += blockDim.x * P) {
        Pack<float, P> x = load_floats<P>(sum + start + i);
        if (branch) {
            const Pack<float, P> added = load_floats<P>(branch + start + i);
#pragma unroll
            for (unsigned k = 0; k < P; k++) x.element[k] = to_float(from_float<T>(x.element[k] + added.element[k]));
            store_floats(branch + start + i, x);
        }
        store_floats(row + i, x);
#pragma unroll
        for (unsigned k = 0; k < P; k++) total += x.element[k];
    }
    const float mu = block_reduce<Sum>(total) / float(c);
    float squares = 0.0f;
    for (size_t i = threadIdx.x * P; i < c; i += blockDim.x * P) {
        const Pack<float, P> x = load_floats<P>(row + i);
#pragma unroll
        for (unsigned k = 0; k < P; k++) squares += (x.element[k] - mu) * (x.element[k] - mu);
    }
    const float r = 1.0f / sqrtf(block_reduce<Sum>(squares) / float(c) + eps);
    if (threadIdx.x == 0) {
        mean[blockIdx.x] = mu;
        rstd[blockIdx.x] = r;
    }
    for (size_t i = threadIdx.x * P; i < c; i += blockDim.x * P) {
        Pack<float, P> x = load_floats<P>(row + i);
        const Pack<float, P> scale = load_floats<P>(w + i), shift = load_floats<P>(b + i);
#pragma unroll
        for (unsigned k = 0; k < P; k++) x.element[k] = (x.element[k] - mu) * r * scale.element[k] + shift.element[k];
        store_floats(y + start + i, x);
    }
}

// Rows from blockIdx.x * rows_each on. With g = dy*w and n = (x-mean)*rstd: dx = rstd*(g - mean(g) - n*mean(g*n)),
// dw = sum of dy*n, db = sum of dy. Shapes: dy, x, dx [N,C]; w [C]; mean, rstd [N]; partials [2,blocks,C], dw's before
// db's. Shared: 2 x [C] of f32, 2 x [C] of T.
template <class T, unsigned P>
static __device__ void backward(const T* __restrict__ dy, const T* __restrict__ x, const float* __restrict__ mean,
                                const float* __restrict__ rstd, const T* __restrict__ w, T* __restrict__ dx,
                                float* __restrict__ partials, unsigned rows, unsigned c, unsigned rows_each, unsigned add) {
    extern __shared__ __align__(16) unsigned char smem[];
    float* dw = reinterpret_cast<float*>(smem);
    float* db = dw + c;
    T* dy_row = reinterpret_cast<T*>(db + c);
    T* n_row = dy_row + c;
    for (size_t i = threadIdx.x * P; i < c; i += blockDim.x * P) {
        store_floats(dw + i, Pack<float, P>{});
        store_floats(db + i, Pack<float, P>{});
    }
    const unsigned first = blockIdx.x * rows_each, last = min(rows, first + rows_each);
    for (unsigned row = first; row < last; row++) {
        const size_t start = size_t(row) * c;
        const float mu = mean[row], r = rstd[row];
        float sum_g = 0.0f, sum_gn = 0.0f;
        for (size_t i = threadIdx.x * P; i < c; i += blockDim.x * P) {
            const Pack<float, P> d = load_floats<P>(dy + start + i), n = load_floats<P>(x + start + i);
            const Pack<float, P> scale = load_floats<P>(w + i);
            Pack<float, P> to_w = load_floats<P>(dw + i), to_b = load_floats<P>(db + i);
            store_floats(dy_row + i, d);
            store_floats(n_row + i, n);
#pragma unroll
            for (unsigned k = 0; k < P; k++) {
                const float dn = d.element[k] * ((n.element[k] - mu) * r);
                sum_g += d.element[k] * scale.element[k];
                sum_gn += dn * scale.element[k];
                to_w.element[k] += dn;
                to_b.element[k] += d.element[k];
            }
            store_floats(dw + i, to_w);
            store_floats(db + i, to_b);
        }
        const float mean_g = block_reduce<Sum>(sum_g) / float(c), mean_gn = block_reduce<Sum>(sum_gn) / float(c);
        for (size_t i = threadIdx.x * P; i < c; i += blockDim.x * P) {
            const Pack<float, P> d = load_floats<P>(dy_row + i), n = load_floats<P>(n_row + i);
            const Pack<float, P> scale = load_floats<P>(w + i);
            Pack<float, P> out = {};
            if (add) out = load_floats<P>(dx + start + i);
#pragma unroll
            for (unsigned k = 0; k < P; k++) {
                out.element[k] += r * (d.element[k] * scale.element[k] - mean_g - (n.element[k] - mu) * r * mean_gn);
            }
            store_floats(dx + start + i, out);
        }
    }
    float* to_w = partials + size_t(blockIdx.x) * c;
    float* to_b = to_w + size_t(gridDim.x) * c;
    for (size_t i = threadIdx.x * P; i < c; i += blockDim.x * P) {
        store_floats(to_w + i, load_floats<P>(dw + i));
        store_floats(to_b + i, load_floats<P>(db + i));
    }
}

#define LAYERNORM(T, NAME)                                                                                               \
    extern "C" __global__ void __launch_bounds__(512) layernorm_forward_##NAME(                                          \
        const T* __restrict__ sum, T* __restrict__ branch, const T* __restrict__ w, const T* __restrict__ b,             \
        T* __restrict__ y, float* __restrict__ mean, float* __restrict__ rstd, unsigned c, float eps) {                  \
        if (packs<T>(c) && on_16_bytes(sum, branch, w, b, y)) {                                                          \
            forward<T, PACK<T>>(sum, branch, w, b, y, mean, rstd, c, eps);                                               \
        } else {                                                                                                         \
            forward<T, 1>(sum, branch, w, b, y, mean, rstd, c, eps);                                                     \
        }                                                                                                                \
    }                                                                                                                    \
    KERNEL(layernorm_forward_##NAME)                                                                                     \
    extern "C" __global__ void __launch_bounds__(512) layernorm_backward_##NAME(                                         \
        const T* __restrict__ dy, const T* __restrict__ x, const float* __restrict__ mean,                               \
        const float* __restrict__ rstd, const T* __restrict__ w, T* __restrict__ dx, float* __restrict__ partials,       \
        unsigned rows, unsigned c, unsigned rows_each, unsigned add) {                                                   \
        if (packs<T>(c) && on_16_bytes(dy, x, w, dx, partials)) {                                                        \
            backward<T, PACK<T>>(dy, x, mean, rstd, w, dx, partials, rows, c, rows_each, add);                           \
        } else {                                                                                                         \
            backward<T, 1>(dy, x, mean, rstd, w, dx, partials, rows, c, rows_each, add);                                 \
        }                                                                                                                \
    }                                                                                                                    \
    KERNEL(layernorm_backward_##NAME)

LAYERNORM(float, f32)
LAYERNORM(bf16, bf16)
