// The portable twin of kernels/ptx.cuh: the same wrappers, each a collective of the emulator. Fragments are laid out as
// the PTX manual has them, written down a second time here and not derived from the kernels.
#pragma once

#include <bit>
#include <cstring>

#include <common.cuh>

inline void cp_async_16(void* shared, const void* global, unsigned bytes) {
    cuda_on_cpu::async_copy(shared, global, 16, bytes);
}

inline void cp_async_4(void* shared, const void* global, bool present) {
    cuda_on_cpu::async_copy(shared, global, 4, present ? 4 : 0);
}

inline void cp_async_commit() { cuda_on_cpu::async_commit(); }

template <int PENDING>
inline void cp_async_wait() {
    cuda_on_cpu::async_wait(PENDING);
}

namespace cuda_on_cpu {

struct FourRegisters {
    unsigned r[4];
};

// Rows of matrix i come from lanes 8i to 8i+7. Lane l gets, of each matrix, row l/4 and columns 2(l%4) and the next;
// of the transposed matrix, column l/4 and rows 2(l%4) and the next.
template <bool TRANSPOSED>
inline void load_matrices(const char* what, unsigned (&r)[4], const void* row) {
    if (reinterpret_cast<size_t>(row) % 16 != 0) fail(Error::misaligned_address, "%s: a row not on 16 bytes", what);
    FourRegisters loaded;
    warp_collective(what, ~0u, row, loaded, [](const Lanes<const void*, FourRegisters>& lanes) {
        for (unsigned matrix = 0; matrix < 4; matrix++) {
            uint16_t elements[8][8];
            for (unsigned i = 0; i < 8; i++) memcpy(elements[i], lanes.in(matrix * 8 + i), sizeof elements[i]);
            for (unsigned lane = 0; lane < WARP_LANES; lane++) {
                const unsigned across = lane / 4, along = lane % 4 * 2;
                const unsigned low = TRANSPOSED ? elements[along][across] : elements[across][along];
                const unsigned high = TRANSPOSED ? elements[along + 1][across] : elements[across][along + 1];
                lanes.out(lane).r[matrix] = low | high << 16;
            }
        }
    });
    memcpy(r, loaded.r, sizeof r);
}

struct Operands {
    unsigned a[4], b[2];
    float c[4];
};

struct Products {
    float c[4];
};

inline float low_bf16(unsigned pair) { return std::bit_cast<float>(pair << 16); }
inline float high_bf16(unsigned pair) { return std::bit_cast<float>(pair & 0xffff0000u); }

// c [16,8] = a [16,16] b [16,8] + c, added up in the order of k.
inline void multiply_fragments(const Lanes<Operands, Products>& lanes) {
    float a[16][16], b[16][8];
    for (unsigned lane = 0; lane < WARP_LANES; lane++) {
        const Operands& in = lanes.in(lane);
        const unsigned group = lane / 4, pair = lane % 4 * 2;
        for (unsigned i = 0; i < 4; i++) {
            const unsigned row = group + i % 2 * 8, column = pair + i / 2 * 8;
            a[row][column] = low_bf16(in.a[i]);
            a[row][column + 1] = high_bf16(in.a[i]);
        }
        for (unsigned i = 0; i < 2; i++) {
            b[pair + i * 8][group] = low_bf16(in.b[i]);
            b[pair + i * 8 + 1][group] = high_bf16(in.b[i]);
        }
    }
    for (unsigned lane = 0; lane < WARP_LANES; lane++) {
        for (unsigned i = 0; i < 4; i++) {
            const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            float sum = lanes.in(lane).c[i];
            for (unsigned k = 0; k < 16; k++) sum += a[row][k] * b[k][column];
            lanes.out(lane).c[i] = sum;
        }
    }
}

}  // namespace cuda_on_cpu

inline void ldmatrix_x4(unsigned (&r)[4], const void* row) {
    cuda_on_cpu::load_matrices<false>("ldmatrix", r, row);
}

inline void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) {
    cuda_on_cpu::load_matrices<true>("ldmatrix.trans", r, row);
}

inline void mma_bf16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    cuda_on_cpu::Operands operands{{a[0], a[1], a[2], a[3]}, {b0, b1}, {c[0], c[1], c[2], c[3]}};
    cuda_on_cpu::Products products;
    cuda_on_cpu::warp_collective("mma", ~0u, operands, products, [](const cuda_on_cpu::Lanes<cuda_on_cpu::Operands, cuda_on_cpu::Products>& lanes) {
        cuda_on_cpu::multiply_fragments(lanes);
    });
    memcpy(c, products.c, sizeof c);
}

inline unsigned pack_bf16(float low, float high) {
    const __nv_bfloat16 halves[2] = {__float2bfloat16_rn(low), __float2bfloat16_rn(high)};
    unsigned packed;
    memcpy(&packed, halves, sizeof packed);
    return packed;
}

inline float exp2_approx(float x) { return exp2f(x); }
