// The Gaussian error linear unit, by its tanh formula or exactly: src/ops/gelu.rs. `exact` is the same for all threads.
#include <activation.cuh>

// Shapes: x, y [count].
template <class T>
static __device__ void forward(const T* __restrict__ x, T* __restrict__ y, unsigned count, unsigned exact) {
    for_each_pack<PACK<T>>(count, on_16_bytes(x, y), [=](auto width, size_t first) {
        constexpr unsigned P = decltype(width)::value;
        Pack<float, P> out = load_floats<P>(x + first);
#pragma unroll
        for (unsigned i = 0; i < P; i++) out.element[i] = gelu(out.element[i], exact).value;
        store_floats(y + first, out);
    });
}

// dx = dy * gelu'(x). Shapes: dy, x, dx [count]; dx may be dy.
template <class T>
static __device__ void backward(const T* dy, const T* __restrict__ x, T* dx, unsigned count, unsigned exact) {
    for_each_pack<PACK<T>>(count, on_16_bytes(dy, x, dx), [=](auto width, size_t first) {
        constexpr unsigned P = decltype(width)::value;
        const Pack<float, P> at = load_floats<P>(x + first);
        Pack<float, P> out = load_floats<P>(dy + first);
#pragma unroll
        for (unsigned i = 0; i < P; i++) out.element[i] *= gelu(at.element[i], exact).slope;
        store_floats(dx + first, out);
    });
}

#define GELU(T, NAME)                                                                                               \
    extern "C" __global__ void gelu_forward_##NAME(const T* __restrict__ x, T* __restrict__ y, unsigned count,      \
                                                   unsigned exact) {                                                \
        forward(x, y, count, exact);                                                                                \
    }                                                                                                               \
    KERNEL(gelu_forward_##NAME)                                                                                     \
    extern "C" __global__ void gelu_backward_##NAME(const T* dy, const T* __restrict__ x, T* dx, unsigned count,    \
                                                    unsigned exact) {                                               \
        backward(dy, x, dx, count, exact);                                                                          \
    }                                                                                                               \
    KERNEL(gelu_backward_##NAME)

GELU(float, f32)
GELU(bf16, bf16)
