// Root-mean-square norm, fused with the residual addition before it: src/ops/rmsnorm.rs. A block works on whole rows, which
// it keeps in shared memory between finding the mean and using it: each row is read once. A thread reads there only what it
// wrote itself. (Indices are size_t: with unsigned ones the compiler takes some 16-byte stores apart.)
#include <common.cuh>

// Row blockIdx.x. Shapes: sum, branch, y [N,C], branch may be null; w [C]; rstd [N]. Shared: [C] of T.
template <class T, unsigned P>
static __device__ void forward(const T* __restrict__ sum, T* __restrict__ branch, const T* __restrict__ w, T* __restrict__ y,
                        float* __restrict__ rstd, unsigned c, float eps) {
    extern __shared__ __align__(16) unsigned char smem[];
    T* row = reinterpret_cast<T*>(smem);
    const size_t start = size_t(blockIdx.x) * c;
    float squares = 0.0f;
    for (size_t i = threadIdx.x * P; i < c; i += blockDim.x * P) {
        Pack<float, P> x = load_floats<P>(sum + start + i);
        if (branch) {
            const Pack<float, P> b = load_floats<P>(branch + start + i);
#pragma unroll
            for (unsigned k = 0; k < P; k++) x.element[k] = to_float(from_float<T>(x.element[k] + b.element[k]));
            store_floats(branch + start + i, x);
        }
        store_floats(row + i, x);
#pragma unroll
        for (unsigned k = 0; k < P; k++) squares += x.element[k] * x.element[k];
    }
    const float r = 1.0f / sqrtf(block_reduce<Sum>(squares) / float(c) + eps);
    if (threadIdx.x == 0) rstd[blockIdx.x] = r;
    for (size_t i = threadIdx.x * P; i < c; i += blockDim.x * P) {
        Pack<float, P> x = load_floats<P>(row + i);
        const Pack<float, P> scale = load_floats<P>(w + i);
#pragma unroll
        for (unsigned k = 0; k < P; k++) x.element[k] = x.element[k] * r * scale.element[k];
        store_floats(y + start + i, x);
    }
}

// Rows from blockIdx.x * rows_each on. With g = dy*w and n = x*rstd: dx = rstd*(g - n*mean(g*n)), dw = sum of dy*n.
// Shapes: dy, x, dx [N,C]; w [C]; rstd [N]; partials [blocks,C]. Shared: [C] of f32, 2 x [C] of T.
template <class T, unsigned P>
static __device__ void backward(const T* __restrict__ dy, const T* __restrict__ x, const float* __restrict__ rstd,
                         const T* __restrict__ w, T* __restrict__ dx, float* __restrict__ partials, unsigned rows,
                         unsigned c, unsigned rows_each, unsigned add) {
    extern __shared__ __align__(16) unsigned char smem[];
    float* dw = reinterpret_cast<float*>(smem);
    T* dy_row = reinterpret_cast<T*>(dw + c);
    T* x_row = dy_row + c;
    for (size_t i = threadIdx.x * P; i < c; i += blockDim.x * P) store_floats(dw + i, Pack<float, P>{});
    const unsigned first = blockIdx.x * rows_each, last = min(rows, first + rows_each);
    for (unsigned row = first; row < last; row++) {
        const size_t start = size_t(row) * c;
        const float r = rstd[row];
        float product = 0.0f;
        for (size_t i = threadIdx.x * P; i < c; i += blockDim.x * P) {
            const Pack<float, P> d = load_floats<P>(dy + start + i), n = load_floats<P>(x + start + i);
            const Pack<float, P> scale = load_floats<P>(w + i);
            Pack<float, P> sum = load_floats<P>(dw + i);
            store_floats(dy_row + i, d);
            store_floats(x_row + i, n);
#pragma unroll
            for (unsigned k = 0; k < P; k++) {
                const float dn = d.element[k] * (n.element[k] * r);
                product += dn * scale.element[k];
                sum.element[k] += dn;
            }
            store_floats(dw + i, sum);
        }
        const float mean = block_reduce<Sum>(product) / float(c);
        for (size_t i = threadIdx.x * P; i < c; i += blockDim.x * P) {
            const Pack<float, P> d = load_floats<P>(dy_row + i), n = load_floats<P>(x_row + i);
            const Pack<float, P> scale = load_floats<P>(w + i);
            Pack<float, P> out = {};
            if (add) out = load_floats<P>(dx + start + i);
#pragma unroll
            for (unsigned k = 0; k < P; k++) {
                out.element[k] += r * (d.element[k] * scale.element[k] - n.element[k] * r * mean);
            }
            store_floats(dx + start + i, out);
        }
    }
    float* partial = partials + size_t(blockIdx.x) * c;
    for (size_t i = threadIdx.x * P; i < c; i += blockDim.x * P) store_floats(partial + i, load_floats<P>(dw + i));
}

#define RMSNORM(T, NAME)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(512) rmsnorm_forward_##NAME(                                              \
        const T* __restrict__ sum, T* __restrict__ branch, const T* __restrict__ w, T* __restrict__ y,                     \
        float* __restrict__ rstd, unsigned c, float eps) {                                                                 \
        if (packs<T>(c) && on_16_bytes(sum, branch, w, y)) forward<T, PACK<T>>(sum, branch, w, y, rstd, c, eps);           \
        else forward<T, 1>(sum, branch, w, y, rstd, c, eps);                                                               \
    }                                                                                                                      \
    KERNEL(rmsnorm_forward_##NAME)                                                                                         \
    extern "C" __global__ void __launch_bounds__(512) rmsnorm_backward_##NAME(                                             \
        const T* __restrict__ dy, const T* __restrict__ x, const float* __restrict__ rstd, const T* __restrict__ w,        \
        T* __restrict__ dx, float* __restrict__ partials, unsigned rows, unsigned c, unsigned rows_each, unsigned add) {   \
        if (packs<T>(c) && on_16_bytes(dy, x, w, dx, partials)) {                                                          \
            backward<T, PACK<T>>(dy, x, rstd, w, dx, partials, rows, c, rows_each, add);                                   \
        } else {                                                                                                           \
            backward<T, 1>(dy, x, rstd, w, dx, partials, rows, c, rows_each, add);                                         \
        }                                                                                                                  \
    }                                                                                                                      \
    KERNEL(rmsnorm_backward_##NAME)

RMSNORM(float, f32)
RMSNORM(bf16, bf16)
