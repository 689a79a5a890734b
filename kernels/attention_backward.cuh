// What the kernels of attention's backward pass share, whatever they multiply with.
#pragma once

#include <attention.cuh>

// What both passes are given.
template <class T>
struct Given {
    const T* dout;         // [N,H*D]
    const float *lse, *delta; // [N,H]
    T* qkv;                // [N,(H+2K)*D]
    unsigned query_heads, key_heads, dim;
    Mask mask;
    float scale;
    Division group;  // by G

    __device__ __forceinline__ unsigned row_width() const { return (query_heads + 2 * key_heads) * dim; }

    // Rows of this block's key-value head, `stacked` counting from the first row of the sequence.
    __device__ __forceinline__ size_t query_place(const Part& part, unsigned stacked) const {
        return (size_t)(part.first + group.quotient(stacked)) * query_heads + query_head(stacked);
    }
    __device__ __forceinline__ T* query(const Part& part, unsigned stacked) const {
        return qkv + (size_t)(part.first + group.quotient(stacked)) * row_width() + query_head(stacked) * dim;
    }
    __device__ __forceinline__ unsigned query_head(unsigned stacked) const {
        return blockIdx.y * group.by + stacked - group.quotient(stacked) * group.by;
    }
    __device__ __forceinline__ T* key(const Part& part, unsigned key) const {
        return qkv + (size_t)(part.first + key) * row_width() + (query_heads + blockIdx.y) * dim;
    }
    __device__ __forceinline__ T* value(const Part& part, unsigned key) const { return this->key(part, key) + key_heads * dim; }
};

// Shapes as in Given; bounds [S+1]; out [N,2K*D]. Blocks: tiles of keys, which the first ones' are the longest of;
// key-value heads.
template <class Tiles, class T>
__device__ __forceinline__ void keys_backward(
    const T* dout, const float* lse, const float* delta, const T* qkv, const unsigned* bounds, T* out,
    unsigned sequences, unsigned query_heads, unsigned key_heads, unsigned dim, float scale, unsigned before,
    unsigned after) {
    const Part part = find_part(bounds, sequences, 1, Tiles::KEYS, blockIdx.x);
    if (part.count == 0) return;
    const Division group(query_heads / key_heads);
    const Given<T> given{dout, lse, delta, const_cast<T*>(qkv), query_heads, key_heads, dim, {before, after}, scale, group};
    Tiles{given, part}.run(out);
}

// The same, qkv being written where the queries were. Blocks: tiles of stacked rows, the last ones first; heads.
template <class Tiles, class T>
__device__ __forceinline__ void queries_backward(
    const T* dout, const float* lse, const float* delta, T* qkv, const unsigned* bounds, unsigned sequences,
    unsigned query_heads, unsigned key_heads, unsigned dim, float scale, unsigned before, unsigned after) {
    const Division group(query_heads / key_heads);
    const Part part = find_part(bounds, sequences, group.by, Tiles::ROWS, gridDim.x - 1 - blockIdx.x);
    if (part.count == 0) return;
    const Given<T> given{dout, lse, delta, qkv, query_heads, key_heads, dim, {before, after}, scale, group};
    Tiles{given, part}.run();
}
