// The threads of a block, each a fiber of one operating system thread: what kernels and the emulation of PTX call to
// wait for one another. A fiber runs until it waits; whoever arrives last at a warp collective computes it for all its
// lanes. Whatever can never be reached ends the launch with an error, see `fail`.
#pragma once

#include <cstdint>
#include <functional>

#include "vector_types.h"

namespace cuda_on_cpu {

constexpr unsigned WARP_LANES = 32;
constexpr unsigned BARRIERS = 16;

struct Warp;

// What a running thread may know of itself.
struct Thread {
    uint3 index;      // threadIdx
    unsigned number;  // in its block, x fastest
    unsigned lane;
    Warp* warp;
};

// What a running thread may know of its block.
struct Block {
    uint3 index;  // blockIdx
    dim3 size;    // blockDim
    dim3 grid;    // gridDim
};

// All fibers of a block share one operating system thread, so these are right whichever fiber asks. Hidden: the compiler
// then finds them, and shared memory, by one look-up a function.
extern thread_local Thread* current_thread __attribute__((visibility("hidden")));
extern thread_local Block* current_block __attribute__((visibility("hidden")));

// Errors of a launch, numbered as the driver does.
enum class Error : int {
    illegal_address = 700,
    launch_timeout = 702,
    assertion = 710,
    illegal_instruction = 715,
    misaligned_address = 716,
    launch_failed = 719,
};

// Ends the launch that the calling thread belongs to, saying why. Called by running kernels only.
[[noreturn]] void fail(Error error, const char* format, ...) __attribute__((format(printf, 2, 3)));

// ---- block barriers -----------------------------------------------------------------------------------------------

// How a barrier combines what its threads bring.
enum class Vote { none, any, all, count };

// Waits until `threads` threads (0: all that have not ended) have arrived at barrier `id`, and returns their vote.
int barrier_wait(unsigned id, unsigned threads, Vote vote, bool ballot);

// Arrives without waiting (bar.arrive).
void barrier_arrive(unsigned id, unsigned threads);

// Keeps the compiler from carrying memory in registers past a point where other threads run.
inline void compiler_fence() { asm volatile("" ::: "memory"); }

inline void named_barrier_sync(unsigned id, unsigned threads) {
    compiler_fence();
    barrier_wait(id, threads, Vote::none, false);
    compiler_fence();
}

inline void named_barrier_arrive(unsigned id, unsigned threads) {
    compiler_fence();
    barrier_arrive(id, threads);
}

// ---- warp collectives ---------------------------------------------------------------------------------------------

// What the lanes of a warp brought to a collective, and where each wants its result: in their own stack frames.
template <class In, class Out>
struct Lanes {
    uint32_t present;
    const void* const* inputs;
    void* const* outputs;

    bool has(unsigned lane) const { return present >> lane & 1; }
    const In& in(unsigned lane) const { return *static_cast<const In*>(inputs[lane]); }
    Out& out(unsigned lane) const { return *static_cast<Out*>(outputs[lane]); }
};

using Combine = void (*)(uint32_t present, const void* const* inputs, void* const* outputs);

// The untyped heart of `warp_collective`.
void meet(const char* what, uint32_t mask, const void* in, void* out, Combine combine);

// Waits until all lanes in `mask` that have not ended are here. The last to arrive calls `combine(lanes)`, a lambda that
// captures nothing, which reads `lanes.in(i)` and writes `lanes.out(i)` for every `i` with `lanes.has(i)`. `what`, a
// string literal, names it in messages; lanes that meet in different collectives end the launch.
template <class In, class Out, class Collective>
inline void warp_collective(const char* what, uint32_t mask, const In& in, Out& out, Collective) {
    compiler_fence();
    meet(what, mask, &in, &out, [](uint32_t present, const void* const* inputs, void* const* outputs) {
        Collective{}(Lanes<In, Out>{present, inputs, outputs});
    });
    compiler_fence();
}

// ---- cp.async -----------------------------------------------------------------------------------------------------

// Begins a copy of `bytes` (16 at most) of which the first `valid` are read and the rest are zero. The destination is
// NaN until `async_wait`: a kernel that forgets to wait, or reuses a buffer too early, shows.
void async_copy(void* shared, const void* global, unsigned bytes, unsigned valid);

// Ends a group of copies.
void async_commit();

// Waits until at most `groups` of this thread's latest groups are still under way.
void async_wait(unsigned groups);

// ---- products that run while threads go on (wgmma) ----------------------------------------------------------------

// Begins work on `result` that is done when this thread waits for it, in the order in which it was begun.
void defer(const void* result, std::function<void()> work);

// Whether work on `result` was begun and not yet waited for.
bool is_deferred(const void* result);

// Ends a group of such work.
void defer_commit();

// Does what is left of all but this thread's latest `groups` groups.
void defer_wait(unsigned groups);

}  // namespace cuda_on_cpu
