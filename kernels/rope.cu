// Rotary position embedding in place: src/ops/rope.rs. Each thread turns a pack of a head's lower half with the pack of
// its upper half; the values behind queries and keys are not touched.
#include <rope.cuh>

// Shapes: x [N,width], the first heads*D of a row are turned; positions [N]; table [positions,D], D/2 cosines, then D/2
// sines. `turn` is 1 forward and -1 backward.
template <class T, unsigned P>
static __device__ void rotate(T* __restrict__ x, const unsigned* __restrict__ positions, const float* __restrict__ table,
                       unsigned rows, unsigned width, unsigned heads, unsigned d, float turn) {
    const unsigned half = d / 2, packs = half / P, items = heads * packs;
    for_each_item(rows * items, [=](unsigned item) {
        const unsigned row = item / items, within = item % items;
        const unsigned head = within / packs, channel = within % packs * P;
        T* at = x + size_t(row) * width + head * d + channel;
        turn_pack<P>(at, at, table + size_t(positions[row]) * d + channel, half, turn);
    });
}

#define ROPE(T, NAME)                                                                                                \
    extern "C" __global__ void rope_rotate_##NAME(T* __restrict__ x, const unsigned* __restrict__ positions,         \
                                                  const float* __restrict__ table, unsigned rows, unsigned width,    \
                                                  unsigned heads, unsigned d, float turn) {                          \
        if (packs<T>(width) && packs<T>(d / 2) && on_16_bytes(x, table)) {                                           \
            rotate<T, PACK<T>>(x, positions, table, rows, width, heads, d, turn);                                    \
        } else {                                                                                                     \
            rotate<T, 1>(x, positions, table, rows, width, heads, d, turn);                                          \
        }                                                                                                            \
    }                                                                                                                \
    KERNEL(rope_rotate_##NAME)

ROPE(float, f32)
ROPE(bf16, bf16)
