// Dropout: src/ops/dropout.rs. Which elements fall away is a function of the random stream and of the element's place, so
// nothing is kept for backward, which is the same operation on the gradient.
#include <common.cuh>

// Word i % 4 of block i / 4 decides over element i. A thread takes four elements, one block of words.
// Shapes: x [count], in place; rng [4]: seed and stream, low words first.
template <class T>
static __device__ void apply(T* __restrict__ x, const unsigned* __restrict__ rng, unsigned count, float rate, float factor) {
    const uint2 seed = make_uint2(rng[0], rng[1]), stream = make_uint2(rng[2], rng[3]);
    const bool aligned = on_16_bytes(x);
    for_each_item((size_t(count) + 3) / 4, [=](unsigned item) {
        const uint4 block = philox(seed, stream, make_uint2(item, 0));
        const unsigned words[4] = {block.x, block.y, block.z, block.w};
        T* at = x + size_t(item) * 4;
        const auto kept = [=](float value, unsigned word) { return unit(word) < rate ? 0.0f : value * factor; };
        if (aligned && item < count / 4) {
            Pack<float, 4> out = load_floats<4>(at);
#pragma unroll
            for (unsigned i = 0; i < 4; i++) out.element[i] = kept(out.element[i], words[i]);
            store_floats(at, out);
        } else {
#pragma unroll
            for (unsigned i = 0; i < 4; i++) {
                if (item * 4 + i < count) at[i] = from_float<T>(kept(to_float(at[i]), words[i]));
            }
        }
    });
}

#define DROPOUT(T, NAME)                                                                                                 \
    extern "C" __global__ void dropout_apply_##NAME(T* __restrict__ x, const unsigned* __restrict__ rng, unsigned count, \
                                                    float rate, float factor) {                                         \
        apply(x, rng, count, rate, factor);                                                                              \
    }                                                                                                                    \
    KERNEL(dropout_apply_##NAME)

DROPOUT(float, f32)
DROPOUT(bf16, bf16)
