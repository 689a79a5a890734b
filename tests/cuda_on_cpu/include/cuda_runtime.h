// Stands in for CUDA's own header when g++ compiles the kernels: CUDA's C++ dialect, each thread a fiber.
//
// What differs from a card: a thread runs until it waits, so no two threads of a block run at once; `__shared__` is
// thread-local, for a block stays on one operating system thread; a kernel that uses dynamic shared memory declares
// `extern __shared__ __align__(16) unsigned char smem[];` in a function of the global namespace.
#pragma once

#include <cstdio>

#include "atomics.h"
#include "fiber.h"
#include "intrinsics.h"
#include "kernel.h"
#include "vector_types.h"
#include "warp.h"

#define CUDA_ON_CPU 1

#define __global__
#define __device__
#define __host__
#define __constant__
#define __managed__
#define __shared__ thread_local
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __cluster_dims__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))

#define threadIdx (cuda_on_cpu::current_thread->index)
#define blockIdx (cuda_on_cpu::current_block->index)
#define blockDim (cuda_on_cpu::current_block->size)
#define gridDim (cuda_on_cpu::current_block->grid)
#define warpSize 32

[[noreturn]] inline void __trap() {
    cuda_on_cpu::fail(cuda_on_cpu::Error::launch_failed, "__trap");
}
inline void __nanosleep(unsigned) {}

#undef assert
#define assert(condition)                                                                              \
    ((condition) ? void() : cuda_on_cpu::fail(cuda_on_cpu::Error::assertion, "%s:%d: assertion `%s` failed", \
                                              __FILE__, __LINE__, #condition))
