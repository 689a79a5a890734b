// The portable twin of kernels/ptx.cuh. An asynchronous copy happens only when it is waited for, so a forgotten wait
// reads what lay there before; a product or a load of fragments is done for the whole warp by the last lane that
// arrives, in the layouts of the PTX manual.
#pragma once

#include <common.cuh>

inline void cp_async_16(void* shared, const void* global, unsigned bytes) {
    cuoc::cur->async.push_back({shared, global, 16, bytes});
}

inline void cp_async_4(void* shared, const void* global, bool present) {
    cuoc::cur->async.push_back({shared, global, 4, present ? 4u : 0u});
}

inline void cp_async_commit() { cuoc::cur->groups.push_back((unsigned)cuoc::cur->async.size()); }

template <int PENDING>
inline void cp_async_wait() {
    auto& f = *cuoc::cur;
    if ((int)f.groups.size() <= PENDING) return;
    size_t k = f.groups.size() - PENDING;
    unsigned end = f.groups[k - 1];
    for (unsigned i = 0; i < end; i++) {
        auto& p = f.async[i];
        memcpy(p.dst, p.src, p.src_bytes);
        memset((char*)p.dst + p.src_bytes, 0, p.bytes - p.src_bytes);
    }
    f.async.erase(f.async.begin(), f.async.begin() + end);
    f.groups.erase(f.groups.begin(), f.groups.begin() + k);
    for (auto& g : f.groups) g -= end;
}

namespace twin {

template <bool TRANS>
void ldmatrix(unsigned (&r)[4], const void* row) {
    if ((size_t)row % 16) { fprintf(stderr, "ldmatrix: a row not on 16 bytes\n"); abort(); }
    cuoc::warp_collective(~0u, &row, 8, r, 16, [](uint32_t, unsigned char (*in)[64], unsigned char (*out)[64], const void*) {
        for (int m = 0; m < 4; m++)
            for (int lane = 0; lane < 32; lane++) {
                int g = lane / 4, t = lane % 4 * 2;
                uint16_t v[2];
                for (int h = 0; h < 2; h++)
                    v[h] = TRANS ? (*(const uint16_t**)in[m * 8 + t + h])[g] : (*(const uint16_t**)in[m * 8 + g])[t + h];
                memcpy(out[lane] + m * 4, v, 4);
            }
    }, nullptr, "ldmatrix");
}

}  // namespace twin

inline void ldmatrix_x4(unsigned (&r)[4], const void* row) { twin::ldmatrix<false>(r, row); }
inline void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) { twin::ldmatrix<true>(r, row); }

inline void mma_bf16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    struct In { unsigned a[4], b[2]; float c[4]; } in;
    memcpy(in.a, a, 16); in.b[0] = b0; in.b[1] = b1; memcpy(in.c, d, 16);
    cuoc::warp_collective(~0u, &in, sizeof in, d, 16, [](uint32_t, unsigned char (*in)[64], unsigned char (*out)[64], const void*) {
        auto f = [](unsigned v, int hi) { return std::bit_cast<float>(hi ? v & 0xffff0000u : v << 16); };
        float A[16][16], B[16][8], C[16][8];
        for (int l = 0; l < 32; l++) {
            const In& x = *(const In*)in[l];
            int g = l >> 2, t = (l & 3) * 2;
            for (int h = 0; h < 2; h++) {
                A[g][t + h] = f(x.a[0], h); A[g + 8][t + h] = f(x.a[1], h);
                A[g][t + 8 + h] = f(x.a[2], h); A[g + 8][t + 8 + h] = f(x.a[3], h);
                B[t + h][g] = f(x.b[0], h); B[t + 8 + h][g] = f(x.b[1], h);
                C[g][t + h] = x.c[h]; C[g + 8][t + h] = x.c[2 + h];
            }
        }
        for (int i = 0; i < 16; i++) for (int k = 0; k < 16; k++) for (int j = 0; j < 8; j++) C[i][j] += A[i][k] * B[k][j];
        for (int l = 0; l < 32; l++) {
            int g = l >> 2, t = (l & 3) * 2;
            float o[4] = {C[g][t], C[g][t + 1], C[g + 8][t], C[g + 8][t + 1]};
            memcpy(out[l], o, 16);
        }
    }, nullptr, "mma.sync");
}

inline unsigned pack_bf16(float low, float high) {
    return (unsigned)bf16(low).x | (unsigned)bf16(high).x << 16;
}

inline float exp2_approx(float x) { return exp2f(x); }
