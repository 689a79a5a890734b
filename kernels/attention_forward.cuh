// What the kernels of attention's forward pass share, whatever they multiply with.
#pragma once

#include <attention.cuh>

// The stacked rows of a block.
struct StackedRows {
    Part part;
    Division group;  // by G
    unsigned past;   // tokens of the sequence before this batch's

    __device__ __forceinline__ unsigned token(unsigned stacked) const { return group.quotient(part.begin + stacked); }

    // The row of the batch and the head (of all H) of a stacked row of this block.
    __device__ __forceinline__ unsigned row(unsigned stacked) const { return part.first + token(stacked); }
    __device__ __forceinline__ unsigned head(unsigned stacked) const {
        return blockIdx.y * group.by + (part.begin + stacked) - token(stacked) * group.by;
    }
    __device__ __forceinline__ unsigned position(unsigned stacked) const { return past + token(stacked); }
};

// qkv [N,(H+2K)*D]; bounds [S+1]; o [N,H*D]; lse [N,H]. With pages: keys, values [K,slots,D]; tables [S,pages];
// contexts [S]; else these are null. Blocks: tiles of stacked rows (see find_part), the last ones first because they
// see the most keys; key-value heads. D is a multiple of 8 and at most the tiles' width. scale: 1/sqrt(D).
template <class Tiles, class T>
__device__ __forceinline__ void forward(
    const T* qkv, const unsigned* bounds, const T* keys, const T* values, const unsigned* tables,
    const unsigned* contexts, T* o, float* lse, unsigned sequences, unsigned query_heads, unsigned key_heads,
    unsigned dim, float scale, unsigned before, unsigned after, unsigned slots, unsigned page_len, unsigned pages) {
    const unsigned group = query_heads / key_heads, row_width = (query_heads + 2 * key_heads) * dim, head = blockIdx.y;
    const Part part = find_part(bounds, sequences, group, Tiles::ROWS, gridDim.x - 1 - blockIdx.x);
    if (part.count == 0) return;
    const unsigned context = contexts ? contexts[part.sequence] : part.rows;
    Keys<T> from;
    if (contexts) {
        const size_t head_begin = (size_t)head * slots * dim;
        from = {keys + head_begin, values + head_begin, dim, tables + (size_t)part.sequence * pages, page_len};
    } else {
        const T* first = qkv + (size_t)part.first * row_width + (query_heads + head) * dim;
        from = {first, first + key_heads * dim, row_width, nullptr, 1};
    }
    Tiles{{part, Division(group), context - part.rows}}.run(
        qkv, from, {before, after}, context, query_heads, row_width, dim, scale, o, lse);
}
