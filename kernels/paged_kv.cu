// Rotates queries in place, and puts rotated keys and values into their slots of the pages: src/ops/paged_kv.rs. Each
// thread has a pack of a head's lower half and the pack of its upper half.
#include <rope.cuh>

// Shapes: qkv [N,(H+2K)*D], a row holds H queries, K keys, K values; positions, slots [N]; table [positions,D], D/2
// cosines, then D/2 sines; keys, values [K,slots_len,D].
template <class T, unsigned P>
static __device__ void extend(T* __restrict__ qkv, const unsigned* __restrict__ positions,
                              const float* __restrict__ table, const unsigned* __restrict__ slots,
                              T* __restrict__ keys, T* __restrict__ values, unsigned rows, unsigned query_heads,
                              unsigned key_heads, unsigned d, unsigned slots_len) {
    const unsigned half = d / 2, packs = half / P, heads = query_heads + 2 * key_heads, items = heads * packs;
    for_each_item(rows * items, [=](unsigned item) {
        const unsigned row = item / items, within = item % items;
        const unsigned head = within / packs, channel = within % packs * P;
        T* const from = qkv + (size_t(row) * heads + head) * d + channel;
        auto page = [=](T* pages, unsigned of) { return pages + (size_t(of) * slots_len + slots[row]) * d + channel; };
        if (head >= query_heads + key_heads) {
            T* const to = page(values, head - query_heads - key_heads);
            copy_elements<P>(to, from);
            copy_elements<P>(to + half, from + half);
            return;
        }
        T* const to = head < query_heads ? from : page(keys, head - query_heads);
        turn_pack<P>(from, to, table + size_t(positions[row]) * d + channel, half, 1.0f);
    });
}

#define PAGED_KV(T, NAME)                                                                                              \
    extern "C" __global__ void paged_kv_extend_##NAME(                                                                 \
        T* __restrict__ qkv, const unsigned* __restrict__ positions, const float* __restrict__ table,                  \
        const unsigned* __restrict__ slots, T* __restrict__ keys, T* __restrict__ values, unsigned rows,               \
        unsigned query_heads, unsigned key_heads, unsigned d, unsigned slots_len) {                                    \
        if (packs<T>(d / 2) && on_16_bytes(qkv, table, keys, values)) {                                                \
            extend<T, PACK<T>>(qkv, positions, table, slots, keys, values, rows, query_heads, key_heads, d, slots_len);\
        } else {                                                                                                       \
            extend<T, 1>(qkv, positions, table, slots, keys, values, rows, query_heads, key_heads, d, slots_len);      \
        }                                                                                                              \
    }                                                                                                                  \
    KERNEL(paged_kv_extend_##NAME)

PAGED_KV(float, f32)
PAGED_KV(bf16, bf16)
