// What is done to every element alike: src/ops/elementwise.rs. One pass, 16 bytes a thread and array.
#include <common.cuh>

// y += x. Shapes: x, y [count].
template <class T>
static __device__ void add(const T* __restrict__ x, T* __restrict__ y, unsigned count) {
    for_each_pack<PACK<T>>(count, on_16_bytes(x, y), [=](auto width, size_t first) {
        constexpr unsigned P = decltype(width)::value;
        const Pack<float, P> a = load_floats<P>(x + first);
        Pack<float, P> b = load_floats<P>(y + first);
#pragma unroll
        for (unsigned i = 0; i < P; i++) b.element[i] += a.element[i];
        store_floats(y + first, b);
    });
}

// y = x in another type. Shapes: x, y [count].
template <class T, class U>
static __device__ void cast(const T* __restrict__ x, U* __restrict__ y, unsigned count) {
    constexpr unsigned WIDE = sizeof(T) < sizeof(U) ? PACK<T> : PACK<U>;
    for_each_pack<WIDE>(count, on_16_bytes(x, y), [=](auto width, size_t first) {
        store_floats(y + first, load_floats<decltype(width)::value>(x + first));
    });
}

// y = 0. Shapes: y [count].
template <class T>
static __device__ void zero(T* __restrict__ y, unsigned count) {
    for_each_pack<PACK<T>>(count, on_16_bytes(y), [=](auto width, size_t first) {
        store_floats(y + first, Pack<float, decltype(width)::value>{});
    });
}

// Every row of y is x. Shapes: x [C], y [N,C].
template <class T, unsigned P>
static __device__ void repeat(const T* __restrict__ x, T* __restrict__ y, unsigned rows, unsigned c) {
    const unsigned packs = c / P;
    for_each_item(rows * packs, [=](unsigned item) { copy_elements<P>(y + size_t(item) * P, x + item % packs * P); });
}

#define ELEMENTWISE(T, NAME)                                                                                    \
    extern "C" __global__ void elementwise_add_##NAME(const T* __restrict__ x, T* __restrict__ y, unsigned count) { \
        add(x, y, count);                                                                                       \
    }                                                                                                           \
    KERNEL(elementwise_add_##NAME)                                                                              \
    extern "C" __global__ void elementwise_to_f32_##NAME(const T* __restrict__ x, float* __restrict__ y,        \
                                                         unsigned count) {                                      \
        cast(x, y, count);                                                                                      \
    }                                                                                                           \
    KERNEL(elementwise_to_f32_##NAME)                                                                           \
    extern "C" __global__ void elementwise_to_bf16_##NAME(const T* __restrict__ x, bf16* __restrict__ y,        \
                                                          unsigned count) {                                     \
        cast(x, y, count);                                                                                      \
    }                                                                                                           \
    KERNEL(elementwise_to_bf16_##NAME)                                                                          \
    extern "C" __global__ void elementwise_zero_##NAME(T* __restrict__ y, unsigned count) { zero(y, count); }   \
    KERNEL(elementwise_zero_##NAME)                                                                             \
    extern "C" __global__ void elementwise_repeat_##NAME(const T* __restrict__ x, T* __restrict__ y, unsigned rows, \
                                                         unsigned c) {                                          \
        if (packs<T>(c) && on_16_bytes(x, y)) repeat<T, PACK<T>>(x, y, rows, c);                                \
        else repeat<T, 1>(x, y, rows, c);                                                                       \
    }                                                                                                           \
    KERNEL(elementwise_repeat_##NAME)

ELEMENTWISE(float, f32)
ELEMENTWISE(bf16, bf16)
