// The portable twin of kernels/wgmma.cuh: the same wrappers. A product is computed when it is waited for and not before;
// until then its sums are NaN, and its operands are still to be read: a kernel that forgets to wait, or reuses a buffer
// too early, shows. Where elements lie is written down a second time here and not derived from the kernels.
#pragma once

#include <ptx.cuh>

#include <vector>

#define HAS_WGMMA

constexpr unsigned WARPGROUP = 128;

// Where the operand begins, before its chunks are permuted.
struct Matrix {
    uintptr_t begin;
    unsigned next_columns_bytes;

    Matrix operator+(unsigned sixteens) const { return {begin + sixteens * 16, next_columns_bytes}; }
};

inline Matrix describe_matrix(const void* shared, unsigned next_columns_bytes) {
    const auto begin = reinterpret_cast<uintptr_t>(shared);
    if (begin % 1024 != 0) {
        cuda_on_cpu::fail(cuda_on_cpu::Error::misaligned_address, "wgmma: an operand not on 1024 bytes");
    }
    return {begin, next_columns_bytes};
}

namespace cuda_on_cpu {

// The element in this row and column of rows of 64 elements, 8 of which are 1024 bytes. Bits 4 to 6 of an address are
// permuted by bits 7 to 9.
inline float element(const Matrix& matrix, unsigned row, unsigned column) {
    const uintptr_t place = matrix.begin + column / 64 * matrix.next_columns_bytes + row / 8 * 1024 + row % 8 * 128 + column % 64 * 2;
    uint16_t bits;
    memcpy(&bits, reinterpret_cast<const void*>(place ^ (place >> 7 & 7) << 4), sizeof bits);
    return std::bit_cast<float>(unsigned(bits) << 16);
}

// A lane's part of a product: c [64,8N] += a [64,16] b [16,8N].
struct WarpgroupProduct {
    float (*c)[4];
    unsigned eights;
    const unsigned* a_registers;  // null where a lies in shared memory
    Matrix a, b;
    bool b_is_transposed;  // b's rows are columns of the product
    unsigned warp;         // of the warpgroup
};

// The 16 rows of one warp.
inline void multiply_operands(const Lanes<WarpgroupProduct, char>& lanes) {
    const WarpgroupProduct& product = lanes.in(0);
    float a[16][16];
    for (unsigned lane = 0; lane < WARP_LANES; lane++) {
        const unsigned* registers = lanes.in(lane).a_registers;
        if (!registers) break;
        for (unsigned i = 0; i < 4; i++) {
            const unsigned row = lane / 4 + i % 2 * 8, column = lane % 4 * 2 + i / 2 * 8;
            a[row][column] = low_bf16(registers[i]);
            a[row][column + 1] = high_bf16(registers[i]);
        }
    }
    for (unsigned row = 0; row < 16 && !product.a_registers; row++) {
        for (unsigned k = 0; k < 16; k++) a[row][k] = element(product.a, product.warp * 16 + row, k);
    }
    for (unsigned column = 0; column < product.eights * 8; column++) {
        float b[16];
        for (unsigned k = 0; k < 16; k++) {
            b[k] = product.b_is_transposed ? element(product.b, column, k) : element(product.b, k, column);
        }
        for (unsigned row = 0; row < 16; row++) {
            float& sum = lanes.in(row % 8 * 4 + column % 8 / 2).c[column / 8][row / 8 * 2 + column % 2];
            for (unsigned k = 0; k < 16; k++) sum += a[row][k] * b[k];
        }
    }
}

// Begins a product that adds to `c`, or that replaces it.
template <unsigned N>
inline void begin_product(float (&c)[N][4], const unsigned* a_registers, Matrix a, Matrix b, bool b_is_transposed, bool add) {
    const unsigned warp = current_thread->number / WARP_LANES % 4;
    const WarpgroupProduct product{c, N, a_registers, a, b, b_is_transposed, warp};
    float* const sums = c[0];
    std::vector<float> before;
    if (!is_deferred(sums)) {
        before.assign(sums, sums + N * 4);
        memset(sums, 0xff, sizeof c);
    }
    defer(sums, [=] {
        if (!before.empty()) memcpy(sums, before.data(), before.size() * sizeof(float));
        if (!add) memset(sums, 0, N * 4 * sizeof(float));
        char nothing;
        warp_collective("wgmma", ~0u, product, nothing, [](const Lanes<WarpgroupProduct, char>& lanes) {
            multiply_operands(lanes);
        });
    });
}

}  // namespace cuda_on_cpu

inline void wgmma_publish() {}
inline void wgmma_fence() {}
inline void wgmma_commit() { cuda_on_cpu::defer_commit(); }

template <int PENDING>
inline void wgmma_wait() {
    cuda_on_cpu::compiler_fence();
    cuda_on_cpu::defer_wait(PENDING);
    cuda_on_cpu::compiler_fence();
}

template <unsigned N>
inline void wgmma_pin(float (&)[N][4]) {}
template <unsigned N>
inline void wgmma_pin(unsigned (&)[N][4]) {}

template <unsigned N>
inline void wgmma_rows(float (&c)[N][4], Matrix a, Matrix b, bool add) {
    cuda_on_cpu::begin_product(c, nullptr, a, b, true, add);
}

template <unsigned N>
inline void wgmma_columns(float (&c)[N][4], const unsigned (&a)[4], Matrix b) {
    cuda_on_cpu::begin_product(c, a, {}, b, false, true);
}
