// What every kernel uses: element types, wide loads and stores, reductions over a warp and over a block.
//
// Letters in shapes, as in src/ops: N rows, C channels, H query heads, K key-value heads, D head width, F feed-forward
// width, V vocabulary. Arithmetic is in f32 whatever the elements are.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

using bf16 = __nv_bfloat16;

// Says that a kernel exists. A build that runs kernels elsewhere than on a card defines it before this line.
#ifndef KERNEL
#define KERNEL(name)
#endif

constexpr unsigned WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) { return x; }
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) { return __float2bfloat16_rn(x); }

// Elements of one 16-byte access.
template <class T>
constexpr unsigned PACK = 16 / sizeof(T);

// Sixteen bytes of elements, loaded and stored at once.
template <class T>
struct alignas(16) Pack {
    T element[PACK<T>];
};

// Whether rows of `width` elements all begin on 16 bytes, if the first does.
template <class T>
__host__ __device__ __forceinline__ bool packs(unsigned width) { return width % PACK<T> == 0; }

template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* from) { return *reinterpret_cast<const Pack<T>*>(from); }

template <class T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T>& pack) { *reinterpret_cast<Pack<T>*>(to) = pack; }

struct Sum {
    static __device__ __forceinline__ float of(float a, float b) { return a + b; }
    static constexpr float NOTHING = 0.0f;
};

struct Max {
    static __device__ __forceinline__ float of(float a, float b) { return fmaxf(a, b); }
    static constexpr float NOTHING = -INFINITY;
};

// The combination of all lanes' values, in every lane.
template <class Op>
__device__ __forceinline__ float warp_reduce(float value) {
#pragma unroll
    for (unsigned distance = WARP / 2; distance > 0; distance /= 2) {
        value = Op::of(value, __shfl_xor_sync(ALL_LANES, value, distance));
    }
    return value;
}

// The combination of all threads' values, in every thread, in an order that only the block's size decides. All threads
// of the block call it, whole warps; it may be called again at once.
template <class Op>
__device__ __forceinline__ float block_reduce(float value) {
    __shared__ float partials[WARP];
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    value = warp_reduce<Op>(value);
    if (lane == 0) partials[warp] = value;
    __syncthreads();
    value = warp_reduce<Op>(lane < warps ? partials[lane] : Op::NOTHING);
    __syncthreads();
    return value;
}
