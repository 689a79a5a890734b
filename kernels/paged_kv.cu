// Copies each row's keys and values to its slot of the pages: src/ops/paged_kv.rs.
#include <common.cuh>

// Shapes: qkv [N,width], a row holds H queries, K keys, K values of D; slots [N]; keys, values [K,slots_len,D].
template <class T, unsigned P>
static __device__ void write(const T* __restrict__ qkv, const unsigned* __restrict__ slots, T* __restrict__ keys,
                      T* __restrict__ values, unsigned rows, unsigned width, unsigned heads, unsigned d, unsigned slots_len) {
    const unsigned packs = d / P, items = 2 * heads * packs;
    for_each_item(rows * items, [=](unsigned item) {
        const unsigned row = item / items, within = item % items;
        const unsigned head = within / packs, channel = within % packs * P;
        const bool is_key = head < heads;
        const T* from = qkv + size_t(row) * width + (width - 2 * heads * d) + head * d + channel;
        T* pages = is_key ? keys : values;
        T* to = pages + (size_t(is_key ? head : head - heads) * slots_len + slots[row]) * d + channel;
        copy_elements<P>(to, from);
    });
}

#define PAGED_KV(T, NAME)                                                                                              \
    extern "C" __global__ void paged_kv_write_##NAME(const T* __restrict__ qkv, const unsigned* __restrict__ slots,    \
                                                     T* __restrict__ keys, T* __restrict__ values, unsigned rows,      \
                                                     unsigned width, unsigned heads, unsigned d, unsigned slots_len) { \
        if (packs<T>(width) && packs<T>(d) && on_16_bytes(qkv, keys, values)) {                                        \
            write<T, PACK<T>>(qkv, slots, keys, values, rows, width, heads, d, slots_len);                             \
        } else {                                                                                                       \
            write<T, 1>(qkv, slots, keys, values, rows, width, heads, d, slots_len);                                   \
        }                                                                                                              \
    }                                                                                                                  \
    KERNEL(paged_kv_write_##NAME)

PAGED_KV(float, f32)
PAGED_KV(bf16, bf16)
