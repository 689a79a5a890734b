// All inline PTX: asynchronous copies, matrix fragments, tensor-core products. Every wrapper has a portable twin of the
// same name in the test tree, so this file holds nothing but wrappers.
//
// Fragments are those of the PTX manual for m16n8k16 with 16-bit elements. With g = lane / 4 and t = lane % 4, a lane has
//   of A [16,16]: a0 = (g, 2t..2t+1), a1 = (g+8, 2t..), a2 = (g, 2t+8..), a3 = (g+8, 2t+8..)
//   of B [16,8]:  b0 = (2t..2t+1, g), b1 = (2t+8.., g)
//   of C [16,8]:  c0, c1 = (g, 2t), (g, 2t+1), c2, c3 = (g+8, 2t), (g+8, 2t+1)
#pragma once

#include <common.cuh>

__device__ __forceinline__ unsigned shared_address(const void* shared) {
    return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// Copies `bytes` (0 to 16) from global to shared memory and fills the rest of 16 with zeros. Both sides on 16 bytes;
// with 0 bytes the source is not read. Complete only after commit and wait.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, unsigned bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
                 : "memory");
}

// The same for one number of 4 bytes, which is 0 where it is not present.
__device__ __forceinline__ void cp_async_4(void* shared, const void* global, bool present) {
    const unsigned bytes = present ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
                 : "memory");
}

// Closes a group of the copies that this thread has begun.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `PENDING` of this thread's groups are incomplete. Others' copies are seen after a barrier.
template <int PENDING>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Four 8x8 matrices of 16-bit elements. Lanes 8i to 8i+7 give the addresses of the rows of matrix i, each on 16 bytes;
// r[i] of a lane is then (lane/4, 2*(lane%4)..) of matrix i.
__device__ __forceinline__ void ldmatrix_x4(unsigned (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same of the transposed matrices: r[i] is (2*(lane%4).., lane/4) of matrix i.
__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// c += a b on tensor cores: [16,8] += [16,16] [16,8], bf16 in, f32 out.
__device__ __forceinline__ void mma_bf16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two bf16, rounded to nearest even, the first in the lower half.
__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
    unsigned packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

// 2 to the x, within 2 units in the last place; 0 for minus infinity.
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
