// AdamW over all parameters at once, and the clipping of their gradients: src/ops/adamw.rs. What changes from step to step
// is read from memory.
#include <common.cuh>

// Places in the numbers of a step, as `Step::to_array` lays them out.
enum Number { RATE, BETA1, FRESH1, BETA2, FRESH2, EPS, KEPT, SCALE, CLIP, NORM, NUMBERS };

// Elements that decay or do not decay together: a bit in the table.
constexpr unsigned DECAY_BLOCK = 32;

// One thread: the gradient's norm, and what gradients are multiplied with so that it is at most CLIP (where that is above
// 0). Not a number where the norm is not finite: the step then changes nothing. Shapes: squares [1], numbers [NUMBERS].
extern "C" __global__ void adamw_clip_f32(const double* __restrict__ squares, double* __restrict__ numbers) {
    const double norm = sqrt(squares[0]), clip = numbers[CLIP];
    const bool finite = norm < INFINITY;
    numbers[NORM] = norm;
    numbers[SCALE] = !finite ? NAN : clip > 0.0 && norm > clip ? clip / norm : 1.0;
}
KERNEL(adamw_clip_f32)

// Shapes: numbers [NUMBERS]; decays [ceil(count/1024)], a bit for each DECAY_BLOCK elements, or null where nothing decays;
// all others [count]. `master` is what is updated; `w`, in a shorter type, its copy, or null.
template <class T>
static __device__ void step(const double* __restrict__ numbers, const unsigned* __restrict__ decays, const T* __restrict__ dw,
                     float* __restrict__ m, float* __restrict__ v, float* __restrict__ master, T* __restrict__ w,
                     unsigned count) {
    const float scale = float(numbers[SCALE]);
    if (!(fabsf(scale) < INFINITY)) return;
    const float rate = float(numbers[RATE]), eps = float(numbers[EPS]), kept = float(numbers[KEPT]);
    const float beta1 = float(numbers[BETA1]), fresh1 = float(numbers[FRESH1]);
    const float beta2 = float(numbers[BETA2]), fresh2 = float(numbers[FRESH2]);
    for_each_pack<PACK<T>>(count, on_16_bytes(dw, m, v, master, w), [=](auto width, size_t first) {
        constexpr unsigned P = decltype(width)::value;
        const Pack<float, P> gradient = load_floats<P>(dw + first);
        Pack<float, P> m1 = load_floats<P>(m + first), m2 = load_floats<P>(v + first), x = load_floats<P>(master + first);
        const size_t block = first / DECAY_BLOCK;
        const float left = decays && (decays[block / 32] >> block % 32 & 1) ? kept : 1.0f;
#pragma unroll
        for (unsigned i = 0; i < P; i++) {
            const float g = gradient.element[i] * scale;
            m1.element[i] = beta1 * m1.element[i] + fresh1 * g;
            m2.element[i] = beta2 * m2.element[i] + fresh2 * g * g;
            x.element[i] = x.element[i] * left - rate * m1.element[i] / (sqrtf(m2.element[i]) + eps);
        }
        store_floats(m + first, m1);
        store_floats(v + first, m2);
        store_floats(master + first, x);
        if (w) store_floats(w + first, x);
    });
}

#define ADAMW(T, NAME)                                                                                                \
    extern "C" __global__ void __launch_bounds__(256) adamw_step_##NAME(                                              \
        const double* __restrict__ numbers, const unsigned* __restrict__ decays, const T* __restrict__ dw,            \
        float* __restrict__ m, float* __restrict__ v, float* __restrict__ master, T* __restrict__ w, unsigned count) { \
        step(numbers, decays, dw, m, v, master, w, count);                                                            \
    }                                                                                                                 \
    KERNEL(adamw_step_##NAME)

ADAMW(float, f32)
ADAMW(bf16, bf16)
