// IEEE half precision: what kernels that only convert need.
#pragma once

#include "cuda_runtime.h"

struct alignas(2) __half {
    _Float16 value;

    __half() = default;
    __half(float x) : value(_Float16(x)) {}
    operator float() const { return float(value); }
};

struct alignas(4) __half2 {
    __half x, y;
};

using half = __half;
using half2 = __half2;

inline float __half2float(__half x) { return x; }
inline __half __float2half(float x) { return x; }
inline __half __float2half_rn(float x) { return x; }
inline __half2 __floats2half2_rn(float low, float high) { return {low, high}; }
inline float2 __half22float2(__half2 x) { return {x.x, x.y}; }
