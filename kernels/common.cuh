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

// Elements that lie together and are loaded and stored at once.
template <class T, unsigned P = PACK<T>>
struct alignas(P * sizeof(T) < 16 ? P * sizeof(T) : 16) Pack {
    T element[P];
};

// Whether rows of `width` elements all begin on 16 bytes, if the first does.
template <class T>
__host__ __device__ __forceinline__ bool packs(unsigned width) { return width % PACK<T> == 0; }

// Whether all of the pointers lie on 16 bytes.
template <class... T>
__device__ __forceinline__ bool on_16_bytes(const T*... pointers) {
    return ((reinterpret_cast<size_t>(pointers) | ...) & 15) == 0;
}

template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* from) { return *reinterpret_cast<const Pack<T>*>(from); }

template <class T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T>& pack) { *reinterpret_cast<Pack<T>*>(to) = pack; }

// P elements, widened to f32.
template <unsigned P, class T>
__device__ __forceinline__ Pack<float, P> load_floats(const T* from) {
    const Pack<T, P> pack = *reinterpret_cast<const Pack<T, P>*>(from);
    Pack<float, P> floats;
#pragma unroll
    for (unsigned i = 0; i < P; i++) floats.element[i] = to_float(pack.element[i]);
    return floats;
}

// Two elements side by side, the first in the lower half.
__device__ __forceinline__ unsigned pair(float low, float high) {
    return __bfloat16_as_ushort(from_float<bf16>(low)) | unsigned(__bfloat16_as_ushort(from_float<bf16>(high))) << 16;
}

// P elements, each rounded once. Written as the vector types' own stores: other structures the compiler sometimes takes
// apart into single elements.
template <unsigned P>
__device__ __forceinline__ void store_floats(float* to, const Pack<float, P>& floats) {
    const float* x = floats.element;
    if constexpr (P == 1) {
        *to = x[0];
    } else {
#pragma unroll
        for (unsigned i = 0; i < P; i += 4) {
            *reinterpret_cast<float4*>(to + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
        }
    }
}

template <unsigned P>
__device__ __forceinline__ void store_floats(bf16* to, const Pack<float, P>& floats) {
    const float* x = floats.element;
    if constexpr (P == 1) {
        *to = from_float<bf16>(x[0]);
    } else if constexpr (P == 4) {
        *reinterpret_cast<uint2*>(to) = make_uint2(pair(x[0], x[1]), pair(x[2], x[3]));
    } else {
        static_assert(P == 8);
        *reinterpret_cast<uint4*>(to) =
            make_uint4(pair(x[0], x[1]), pair(x[2], x[3]), pair(x[4], x[5]), pair(x[6], x[7]));
    }
}

// Copies P elements as they are.
template <unsigned P, class T>
__device__ __forceinline__ void copy_elements(T* to, const T* from) {
    if constexpr (P == PACK<T>) *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
    else for (unsigned i = 0; i < P; i++) to[i] = from[i];
}

// A number of elements that the compiler knows: what `run` below is told.
template <unsigned P>
struct Width {
    static constexpr unsigned value = P;
};

// Calls run(item) for items 0..count, shared out over the whole grid.
template <class Run>
__device__ __forceinline__ void for_each_item(unsigned count, Run run) {
    const size_t stride = size_t(gridDim.x) * blockDim.x;
    for (size_t item = size_t(blockIdx.x) * blockDim.x + threadIdx.x; item < count; item += stride) run(unsigned(item));
}

// Calls run(Width<P>, first element) for all of `count` elements, shared out over the whole grid: packs of P where
// `aligned`, then what is left one by one.
template <unsigned P, class Run>
__device__ __forceinline__ void for_each_pack(size_t count, bool aligned, Run run) {
    const size_t whole = aligned ? count / P : 0, items = whole + (count - whole * P);
    const size_t stride = size_t(gridDim.x) * blockDim.x;
    for (size_t item = size_t(blockIdx.x) * blockDim.x + threadIdx.x; item < items; item += stride) {
        if (item < whole) run(Width<P>(), item * P);
        else run(Width<1>(), whole * P + (item - whole));
    }
}

struct Sum {
    template <class V>
    static __device__ __forceinline__ V of(V a, V b) { return a + b; }
    static constexpr float NOTHING = 0.0f;
};

struct Max {
    static __device__ __forceinline__ float of(float a, float b) { return fmaxf(a, b); }
    static constexpr float NOTHING = -INFINITY;
};

// The combination of all lanes' values, in every lane.
template <class Op, class V>
__device__ __forceinline__ V warp_reduce(V value) {
#pragma unroll
    for (unsigned distance = WARP / 2; distance > 0; distance /= 2) {
        value = Op::of(value, __shfl_xor_sync(ALL_LANES, value, distance));
    }
    return value;
}

// The combination of all threads' values, in every thread, in an order that only the block's size decides. All threads
// of the block call it, whole warps; it may be called again at once.
template <class Op, class V>
__device__ __forceinline__ V block_reduce(V value) {
    __shared__ V partials[WARP];
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    value = warp_reduce<Op>(value);
    if (lane == 0) partials[warp] = value;
    __syncthreads();
    value = warp_reduce<Op>(lane < warps ? partials[lane] : V(Op::NOTHING));
    __syncthreads();
    return value;
}

// Block `counter` of the random stream `stream` under `seed`: Philox4x32-10, the very words of src/base/rng.rs.
__device__ __forceinline__ uint4 philox(uint2 seed, uint2 stream, uint2 counter) {
    uint4 block = make_uint4(counter.x, counter.y, stream.x, stream.y);
#pragma unroll
    for (unsigned round = 0; round < 10; round++) {
        const unsigned long long first = 0xD2511F53ull * block.x, second = 0xCD9E8D57ull * block.z;
        block = make_uint4(unsigned(second >> 32) ^ block.y ^ seed.x, unsigned(second),
                           unsigned(first >> 32) ^ block.w ^ seed.y, unsigned(first));
        seed.x += 0x9E3779B9u;
        seed.y += 0xBB67AE85u;
    }
    return block;
}

// A word as a number in [0, 1), as `unit` in src/base/rng.rs.
__device__ __forceinline__ float unit(unsigned word) { return float(word >> 8) * (1.0f / 16777216.0f); }
