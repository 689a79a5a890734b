// activation(gate) * up, and its gradient: src/ops/glu.rs. One pass over the rows, each thread a pack of gate and the pack of
// up beside it. The activation (see activation.cuh) is the same for all threads.
#include <activation.cuh>

// Shapes: gate_up [N,2F], y [N,F].
template <class T, unsigned P>
static __device__ void forward(const T* __restrict__ gate_up, T* __restrict__ y, unsigned rows, unsigned f,
                               unsigned activation) {
    const unsigned packs = f / P;
    for_each_item(rows * packs, [=](unsigned item) {
        const unsigned row = item / packs, column = item % packs * P;
        const T* gate_at = gate_up + size_t(row) * 2 * f + column;
        const Pack<float, P> gate = load_floats<P>(gate_at), up = load_floats<P>(gate_at + f);
        Pack<float, P> out;
#pragma unroll
        for (unsigned i = 0; i < P; i++) out.element[i] = activate(gate.element[i], activation).value * up.element[i];
        store_floats(y + size_t(row) * f + column, out);
    });
}

// gate_up becomes its gradient, y what forward gave. Shapes: dy, y [N,F], gate_up [N,2F].
template <class T, unsigned P>
static __device__ void backward(const T* __restrict__ dy, T* __restrict__ gate_up, T* __restrict__ y, unsigned rows,
                                unsigned f, unsigned activation) {
    const unsigned packs = f / P;
    for_each_item(rows * packs, [=](unsigned item) {
        const unsigned row = item / packs, column = item % packs * P;
        const size_t at = size_t(row) * f + column;
        T* gate_at = gate_up + size_t(row) * 2 * f + column;
        const Pack<float, P> d = load_floats<P>(dy + at);
        Pack<float, P> gate = load_floats<P>(gate_at), up = load_floats<P>(gate_at + f), out;
#pragma unroll
        for (unsigned i = 0; i < P; i++) {
            const Curve curve = activate(gate.element[i], activation);
            out.element[i] = curve.value * up.element[i];
            gate.element[i] = d.element[i] * up.element[i] * curve.slope;
            up.element[i] = d.element[i] * curve.value;
        }
        store_floats(y + at, out);
        store_floats(gate_at, gate);
        store_floats(gate_at + f, up);
    });
}

#define GLU(T, NAME)                                                                                                    \
    extern "C" __global__ void glu_forward_##NAME(const T* __restrict__ gate_up, T* __restrict__ y, unsigned rows,      \
                                                  unsigned f, unsigned activation) {                                    \
        if (packs<T>(f) && on_16_bytes(gate_up, y)) forward<T, PACK<T>>(gate_up, y, rows, f, activation);               \
        else forward<T, 1>(gate_up, y, rows, f, activation);                                                            \
    }                                                                                                                   \
    KERNEL(glu_forward_##NAME)                                                                                          \
    extern "C" __global__ void glu_backward_##NAME(const T* __restrict__ dy, T* __restrict__ gate_up,                   \
                                                   T* __restrict__ y, unsigned rows, unsigned f, unsigned activation) { \
        if (packs<T>(f) && on_16_bytes(dy, gate_up, y)) backward<T, PACK<T>>(dy, gate_up, y, rows, f, activation);      \
        else backward<T, 1>(dy, gate_up, y, rows, f, activation);                                                       \
    }                                                                                                                   \
    KERNEL(glu_backward_##NAME)

GLU(float, f32)
GLU(bf16, bf16)
