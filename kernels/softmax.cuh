// A softmax's sum, found in one pass over the logits.
#pragma once

#include <common.cuh>

// The largest logit of some, and the sum of exp(logit - largest) over them.
struct Softmax {
    float largest = -INFINITY, sum = 0.0f;

    template <unsigned P>
    __device__ __forceinline__ void take(const Pack<float, P>& logits) {
        float highest = largest;
#pragma unroll
        for (unsigned i = 0; i < P; i++) highest = fmaxf(highest, logits.element[i]);
        if (highest > largest) {
            sum *= expf(largest - highest);
            largest = highest;
        }
        // Where nothing but -inf was seen, there is no difference to take.
        const float base = largest == -INFINITY ? 0.0f : largest;
#pragma unroll
        for (unsigned i = 0; i < P; i++) sum += expf(logits.element[i] - base);
    }

    // Of all threads' logits together, in every thread.
    __device__ __forceinline__ Softmax of_block() const {
        Softmax all;
        all.largest = block_reduce<Max>(largest);
        all.sum = block_reduce<Sum>(sum * (largest == -INFINITY ? 0.0f : expf(largest - all.largest)));
        return all;
    }
};
