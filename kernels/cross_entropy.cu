// Softmax of the logits, the loss and its gradient: src/ops/cross_entropy.rs. A block takes a row: it reads the row once for
// its largest logit and its sum together, and once more, out of the second-level cache, to write the gradient.
#include <softmax.cuh>

// Calls run(Width<4> or Width<1>, element) for the block's whole row, which begins at element `start` of its matrix. A
// vocabulary need not be a multiple of four, and then the first pack of a row lies after up to three single elements.
template <class Run>
static __device__ __forceinline__ void for_row(size_t start, unsigned v, Run run) {
    const unsigned head = min(v, unsigned(-start % 4)), packs = (v - head) / 4;
#pragma unroll 4
    for (unsigned pack = threadIdx.x; pack < packs; pack += blockDim.x) run(Width<4>(), head + pack * 4);
    for (unsigned i = threadIdx.x; i < v - packs * 4; i += blockDim.x) run(Width<1>(), i < head ? i : packs * 4 + i);
}

// Row blockIdx.x. loss = -ln softmax(logits)[target]; gradient = scale * (softmax(logits) - one at the target), where it
// is wanted. A target of all ones is ignored. Shapes: logits, gradient [N,V], both may be the same or gradient null;
// targets, losses [N]; scale [1].
template <class T>
static __device__ void softmax(const float* logits, T* gradient, const unsigned* __restrict__ targets,
                        const float* __restrict__ scale, float* __restrict__ losses, unsigned v) {
    const size_t start = size_t(blockIdx.x) * v;
    const unsigned target = targets[blockIdx.x];
    const float* row = logits + start;
    if (target == ~0u) {
        if (threadIdx.x == 0) losses[blockIdx.x] = 0.0f;
        if (gradient) {
            for_row(start, v, [=](auto width, unsigned i) {
                store_floats(gradient + start + i, Pack<float, decltype(width)::value>{});
            });
        }
        return;
    }
    // Read before the gradient may take the logit's place: a barrier of of_block lies between.
    const float at_target = threadIdx.x == 0 ? row[target] : 0.0f;
    Softmax own;
    for_row(start, v, [&](auto width, unsigned i) { own.take(load_floats<decltype(width)::value>(row + i)); });
    const Softmax all = own.of_block();
    if (threadIdx.x == 0) losses[blockIdx.x] = logf(all.sum) - (at_target - all.largest);
    if (!gradient) return;
    const float at_one = scale[0], factor = at_one / all.sum;
    for_row(start, v, [=](auto width, unsigned i) {
        constexpr unsigned P = decltype(width)::value;
        Pack<float, P> x = load_floats<P>(row + i);
#pragma unroll
        for (unsigned k = 0; k < P; k++) {
            x.element[k] = factor * expf(x.element[k] - all.largest) - (i + k == target ? at_one : 0.0f);
        }
        store_floats(gradient + start + i, x);
    });
}

#define CROSS_ENTROPY(T, NAME)                                                                                      \
    extern "C" __global__ void __launch_bounds__(1024) cross_entropy_softmax_##NAME(                                \
        const float* logits, T* gradient, const unsigned* __restrict__ targets, const float* __restrict__ scale,    \
        float* __restrict__ losses, unsigned v) {                                                                   \
        softmax(logits, gradient, targets, scale, losses, v);                                                       \
    }                                                                                                               \
    KERNEL(cross_entropy_softmax_##NAME)

CROSS_ENTROPY(float, f32)
CROSS_ENTROPY(bf16, bf16)
