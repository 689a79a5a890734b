// All inline PTX that only Hopper has (compute capability 9.0, compiled for 90a): products of a warpgroup, four warps
// beside each other. As in ptx.cuh there is nothing here but wrappers, each with a portable twin in the test tree.
//
// A warpgroup's product is [64,N] += [64,16] [16,N], and runs while its threads go on: it is begun, closed with others
// in a group, and waited for. Warp w of the four has rows 16w to 16w+15 of the sum and of an operand in registers, in
// the fragments of ptx.cuh: c[j] are those of columns 8j to 8j+7.
//
// Operands in shared memory are rows of 64 elements, 128 bytes, that begin on 1024 bytes; chunk c of 16 bytes in row r
// lies in place c ^ r % 8, which the manual calls the swizzle of 128 bytes.
#pragma once

#include <ptx.cuh>

// Kernels without this macro have nothing to run: their bodies are left out, and no host launches them.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define HAS_WGMMA
#endif

constexpr unsigned WARPGROUP = 128;

// Describes an operand: its address, how far apart eights of rows are, and, for products over columns, how far the next
// 64 columns are from these. In units of 16 bytes, so that `+ n` moves it by so much.
using Matrix = unsigned long long;

__device__ __forceinline__ Matrix describe_matrix(const void* shared, unsigned next_columns_bytes) {
    constexpr Matrix SWIZZLE_128 = 1ull << 62, EIGHT_ROWS = 1024 / 16;
    return SWIZZLE_128 | EIGHT_ROWS << 32 | Matrix(next_columns_bytes / 16) << 16 | shared_address(shared) / 16;
}

// Makes what this thread wrote to shared memory visible to products; a barrier then makes all threads' writes so.
__device__ __forceinline__ void wgmma_publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Comes before the first product after registers of one, sums or operands, were written.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Closes a group of products that were begun.
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most `PENDING` groups are incomplete.
template <int PENDING>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Keeps the compiler from moving what is done with registers across a fence or a wait.
template <unsigned N>
__device__ __forceinline__ void wgmma_pin(float (&c)[N][4]) {
#pragma unroll
    for (unsigned j = 0; j < N; j++) asm volatile("" : "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])::"memory");
}

template <unsigned N>
__device__ __forceinline__ void wgmma_pin(unsigned (&a)[N][4]) {
#pragma unroll
    for (unsigned j = 0; j < N; j++) asm volatile("" : "+r"(a[j][0]), "+r"(a[j][1]), "+r"(a[j][2]), "+r"(a[j][3])::"memory");
}

// The products: wgmma_rows is c = a bT, or c += a bT, both [.,16] in shared memory; wgmma_columns is c += a b, a in
// registers and b [16,N] in shared memory.
#define FOUR(c) "+f"((c)[0]), "+f"((c)[1]), "+f"((c)[2]), "+f"((c)[3])

__device__ __forceinline__ void wgmma_rows(float (&c)[8][4], Matrix a, Matrix b, bool add) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
        "}, %32, %33, add, 1, 1, 0, 0;\n}"
        : FOUR(c[0]), FOUR(c[1]), FOUR(c[2]), FOUR(c[3]), FOUR(c[4]), FOUR(c[5]), FOUR(c[6]), FOUR(c[7])
        : "l"(a), "l"(b), "r"(int(add)));
}

__device__ __forceinline__ void wgmma_rows(float (&c)[12][4], Matrix a, Matrix b, bool add) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %50, 0;\nwgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
        "}, %48, %49, add, 1, 1, 0, 0;\n}"
        : FOUR(c[0]), FOUR(c[1]), FOUR(c[2]), FOUR(c[3]), FOUR(c[4]), FOUR(c[5]), FOUR(c[6]), FOUR(c[7]),
          FOUR(c[8]), FOUR(c[9]), FOUR(c[10]), FOUR(c[11])
        : "l"(a), "l"(b), "r"(int(add)));
}

__device__ __forceinline__ void wgmma_columns(float (&c)[8][4], const unsigned (&a)[4], Matrix b) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.eq.b32 add, 0, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
        "}, {%32, %33, %34, %35}, %36, add, 1, 1, 1;\n}"
        : FOUR(c[0]), FOUR(c[1]), FOUR(c[2]), FOUR(c[3]), FOUR(c[4]), FOUR(c[5]), FOUR(c[6]), FOUR(c[7])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ __forceinline__ void wgmma_columns(float (&c)[16][4], const unsigned (&a)[4], Matrix b) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.eq.b32 add, 0, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
        "}, {%64, %65, %66, %67}, %68, add, 1, 1, 1;\n}"
        : FOUR(c[0]), FOUR(c[1]), FOUR(c[2]), FOUR(c[3]), FOUR(c[4]), FOUR(c[5]), FOUR(c[6]), FOUR(c[7]),
          FOUR(c[8]), FOUR(c[9]), FOUR(c[10]), FOUR(c[11]), FOUR(c[12]), FOUR(c[13]), FOUR(c[14]), FOUR(c[15])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef FOUR
