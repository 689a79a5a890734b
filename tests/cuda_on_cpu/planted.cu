// Kernels with one planted fault each, and kernels that are right where a card's rules are easily broken: they prove that
// the emulator notices the first and accepts the second. In no product build.
#include <common.cuh>
#include <wgmma.cuh>

// Right: y[i] = 2 x[i]. x, y: [n]
extern "C" __global__ void planted_double(const float* __restrict__ x, float* __restrict__ y, unsigned n) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = 2.0f * x[i];
}
KERNEL(planted_double)

// Right: y[b] = sum of x[b, :], in an order that only the block's size decides. x: [gridDim, n], y: [gridDim]
extern "C" __global__ void planted_row_sum(const float* __restrict__ x, float* __restrict__ y, unsigned n) {
    float sum = 0.0f;
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) sum += x[size_t(blockIdx.x) * n + i];
    sum = block_reduce<Sum>(sum);
    if (threadIdx.x == 0) y[blockIdx.x] = sum;
}
KERNEL(planted_row_sum)

// Right: y is x reversed, through dynamic shared memory. x, y: [blockDim]
extern "C" __global__ void planted_reverse(const float* __restrict__ x, float* __restrict__ y) {
    extern __shared__ __align__(16) unsigned char smem[];
    float* const values = reinterpret_cast<float*>(smem);
    values[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}
KERNEL(planted_reverse)

// As planted_reverse, but nobody waits for anybody.
extern "C" __global__ void planted_missing_barrier(const float* __restrict__ x, float* __restrict__ y) {
    extern __shared__ __align__(16) unsigned char smem[];
    float* const values = reinterpret_cast<float*>(smem);
    values[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}
KERNEL(planted_missing_barrier)

// Reads static shared memory that nobody wrote. y: [blockDim]
extern "C" __global__ void planted_unwritten_shared(float* __restrict__ y) {
    __shared__ float values[1024];
    if (threadIdx.x % 2 == 0) values[threadIdx.x] = 1.0f;
    __syncthreads();
    y[threadIdx.x] = values[threadIdx.x];
}
KERNEL(planted_unwritten_shared)

// Leaves out the last element. y: [n]
extern "C" __global__ void planted_unwritten_output(float* __restrict__ y, unsigned n) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n - 1) y[i] = 1.0f;
}
KERNEL(planted_unwritten_output)

// Reads or writes at an index of the caller's choice. y: [anything]
extern "C" __global__ void planted_read_at(const float* __restrict__ x, float* __restrict__ y, long long index) {
    y[0] = x[index];
}
KERNEL(planted_read_at)

extern "C" __global__ void planted_write_at(float* __restrict__ y, long long index) { y[index] = 1.0f; }
KERNEL(planted_write_at)

// Writes past the end of its dynamic shared memory.
extern "C" __global__ void planted_shared_overrun(float* __restrict__ y) {
    extern __shared__ __align__(16) unsigned char smem[];
    float* const values = reinterpret_cast<float*>(smem);
    values[threadIdx.x] = 1.0f;
    values[blockDim.x + threadIdx.x] = 1.0f;
    y[threadIdx.x] = values[threadIdx.x];
}
KERNEL(planted_shared_overrun)

// An index outside of an array whose length the compiler knows.
extern "C" __global__ void planted_array_index(float* __restrict__ y, unsigned index) {
    float values[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    values[index] = 5.0f;
    y[0] = values[0] + values[3];
}
KERNEL(planted_array_index)

// A 16-byte access where only 4 bytes are aligned. x: [5], y: [4]
extern "C" __global__ void planted_misaligned(const float* __restrict__ x, float* __restrict__ y) {
    *reinterpret_cast<float4*>(y) = *reinterpret_cast<const float4*>(x + 1);
}
KERNEL(planted_misaligned)

// Copies through shared memory asynchronously, and waits for it or does not. x, y: [blockDim]
template <bool WAITS>
__device__ void copy_asynchronously(const float* x, float* y) {
    __shared__ float values[64];
    const unsigned i = threadIdx.x;
    cuda_on_cpu::async_copy(&values[i], &x[i], sizeof(float), sizeof(float));
    cuda_on_cpu::async_commit();
    if (WAITS) cuda_on_cpu::async_wait(0);
    __syncthreads();
    y[i] = values[63 - i];
}

extern "C" __global__ void planted_async_copy(const float* x, float* y) { copy_asynchronously<true>(x, y); }
KERNEL(planted_async_copy)

extern "C" __global__ void planted_missing_wait(const float* x, float* y) { copy_asynchronously<false>(x, y); }
KERNEL(planted_missing_wait)

// A warpgroup's product of [64,16] and [64,16] transposed, all ones, waited for or not. y: [blockDim], one element each.
template <bool WAITS>
__device__ void multiply_ones(float* y) {
    extern __shared__ __align__(1024) unsigned char smem[];
    bf16* const ones = reinterpret_cast<bf16*>(smem);
    for (unsigned i = threadIdx.x; i < 64 * 64; i += WARPGROUP) ones[i] = from_float<bf16>(1.0f);
    wgmma_publish();
    __syncthreads();
    float sums[8][4];
    wgmma_fence();
    wgmma_rows(sums, describe_matrix(ones, 0), describe_matrix(ones, 0), false);
    wgmma_commit();
    if (WAITS) wgmma_wait<0>();
    wgmma_pin(sums);
    y[threadIdx.x] = sums[7][3];
}

extern "C" __global__ void planted_product(float* __restrict__ y) { multiply_ones<true>(y); }
KERNEL(planted_product)

extern "C" __global__ void planted_unawaited_product(float* __restrict__ y) { multiply_ones<false>(y); }
KERNEL(planted_unawaited_product)

// Half of the threads wait at one barrier for all, half at another.
extern "C" __global__ void planted_deadlock(float* __restrict__ y) {
    if (threadIdx.x % 2 == 0) {
        __syncthreads();
    } else {
        __syncwarp(0xffffffffu);
    }
    y[threadIdx.x] = 1.0f;
}
KERNEL(planted_deadlock)

// Lanes of one warp meet in different shuffles.
extern "C" __global__ void planted_divergent_shuffle(float* __restrict__ y) {
    const float x = float(threadIdx.x);
    y[threadIdx.x] = threadIdx.x < 16 ? __shfl_xor_sync(ALL_LANES, x, 1) : __shfl_down_sync(ALL_LANES, x, 1);
}
KERNEL(planted_divergent_shuffle)

// Never ends.
extern "C" __global__ void planted_endless(volatile float* y) {
    while (y[0] != 1.0f) {
    }
}
KERNEL(planted_endless)

// Right: threads that leave early are waited for no more. y: [blockDim]
extern "C" __global__ void planted_early_exit(float* __restrict__ y, unsigned n) {
    if (threadIdx.x >= n) return;
    __syncthreads();
    y[threadIdx.x] = float(__syncthreads_count(threadIdx.x % 2));
}
KERNEL(planted_early_exit)

// Needs more stack than there is.
extern "C" __global__ void planted_stack_overflow(float* __restrict__ y, unsigned n) {
    volatile float values[1 << 16];
    for (unsigned i = 0; i < (1 << 16); i++) values[i] = float(i);
    y[0] = values[n];
}
KERNEL(planted_stack_overflow)

extern "C" __global__ void planted_trap(float*) { __trap(); }
KERNEL(planted_trap)

// Right: every warp function against what it should give. y: [9, 32]
extern "C" __global__ void planted_warp_functions(unsigned* __restrict__ y) {
    const unsigned lane = threadIdx.x;
    y[lane] = __shfl_sync(ALL_LANES, lane, 5);
    y[32 + lane] = __shfl_sync(ALL_LANES, lane, 3, 8);
    y[64 + lane] = __shfl_up_sync(ALL_LANES, lane, 2);
    y[96 + lane] = __shfl_down_sync(ALL_LANES, lane, 3, 16);
    y[128 + lane] = __shfl_xor_sync(ALL_LANES, lane, 9);
    y[160 + lane] = __ballot_sync(ALL_LANES, lane % 3 == 0);
    y[192 + lane] = __reduce_add_sync(ALL_LANES, lane);
    y[224 + lane] = __match_any_sync(ALL_LANES, lane % 4);
    const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
    y[256 + lane] = __reduce_max_sync(half, lane);
}
KERNEL(planted_warp_functions)

// Right, but its lanes are summed into one place. y: [1]
extern "C" __global__ void planted_atomic_count(unsigned* __restrict__ y) { atomicAdd(y, 1u); }
KERNEL(planted_atomic_count)

// bf16 as a card rounds it. x: [n], y: [n]
extern "C" __global__ void planted_to_bf16(const float* __restrict__ x, bf16* __restrict__ y, unsigned n) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = from_float<bf16>(x[i]);
}
KERNEL(planted_to_bf16)
