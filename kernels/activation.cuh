// Activation functions and their slopes.
#pragma once

#include <common.cuh>

struct Curve {
    float value, slope;
};

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + expf(-x)); }

// x * Phi(x). `exact` with the error function; otherwise 0.5*x*(1 + tanh(u)), u = sqrt(2/pi)*(x + 0.044715*x^3), which is
// x * sigmoid(2u) (Hendrycks and Gimpel 2016).
__device__ __forceinline__ Curve gelu(float x, bool exact) {
    if (exact) {
        const float below = 0.5f * erfcf(-0.70710678f * x), density = 0.39894228f * expf(-0.5f * x * x);
        return {x * below, below + x * density};
    }
    const float squared = x * x;
    const float below = sigmoid(1.59576912f * x * (1.0f + 0.044715f * squared));
    const float inner = 1.59576912f * (1.0f + 0.134145f * squared);
    return {x * below, below + x * below * (1.0f - below) * inner};
}

// x * sigmoid(x).
__device__ __forceinline__ Curve silu(float x) {
    const float s = sigmoid(x), value = x * s;
    return {value, s + value * (1.0f - s)};
}

// In the order of src/ops/glu.rs: SiLU, GELU by its tanh formula, GELU exactly.
__device__ __forceinline__ Curve activate(float x, unsigned activation) {
    return activation == 0 ? silu(x) : gelu(x, activation == 2);
}
