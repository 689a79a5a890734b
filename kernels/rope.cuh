// The rotation of one pack of a head.
#pragma once

#include <common.cuh>

// Turns P channels of a head's lower half with those of its upper half, `half` elements further, on their way from one
// place to another or to the same. `angles` has the cosines of these channels, and their sines `half` further.
template <unsigned P, class T>
__device__ __forceinline__ void turn_pack(const T* from, T* to, const float* angles, unsigned half, float turn) {
    const Pack<float, P> cos = load_floats<P>(angles), sin = load_floats<P>(angles + half);
    Pack<float, P> low = load_floats<P>(from), high = load_floats<P>(from + half);
#pragma unroll
    for (unsigned i = 0; i < P; i++) {
        const float a = low.element[i], b = high.element[i], s = turn * sin.element[i];
        low.element[i] = a * cos.element[i] - b * s;
        high.element[i] = b * cos.element[i] + a * s;
    }
    store_floats(to, low);
    store_floats(to + half, high);
}
