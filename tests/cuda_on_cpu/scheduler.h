// One block at a time on one operating system thread: its fibers, its barriers, its warps.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "context.h"
#include "fiber.h"
#include "kernel.h"
#include "shared_memory.h"

namespace cuda_on_cpu {

// The most dynamic shared memory that a block may ask for: 227 KiB, as on compute capability 9.0.
constexpr unsigned SHARED_BYTES_MAX = 227 * 1024;
constexpr unsigned BLOCK_THREADS_MAX = 1024;

// In which order threads start, and blocks run.
struct Order {
    enum Kind { forward, reverse, shuffled } kind = forward;
    uint64_t seed = 0;
};

// What all blocks of a launch share.
struct Grid {
    const Kernel* kernel;
    void* const* arguments;
    dim3 blocks, threads;
    unsigned shared_bytes;
    Order order;
};

struct Failure {
    Error error;
    std::string message;
};

struct Fiber;

// First in, first out, through the fibers' own links.
struct Queue {
    Fiber* first = nullptr;
    Fiber* last = nullptr;

    void push(Fiber* fiber);
    Fiber* pop();
    // Moves all of `other` behind, or before, what is here.
    void append(Queue& other);
    void prepend(Queue& other);
};

struct Copy {
    void* to;
    const void* from;
    unsigned bytes, valid, group;
};

struct Deferred {
    const void* result;
    unsigned group;
    std::function<void()> work;
};

struct Fiber : Thread {
    Context context;
    Fiber* next = nullptr;
    const char* waits_at = nullptr;  // null while it does not wait
    std::vector<Copy> copies;  // begun and not yet waited for, oldest first
    unsigned copy_group = 0;   // the group that is open
    std::vector<Deferred> deferred;  // the same of products
    unsigned deferred_group = 0;
};

// Lanes that wait for one another. `mask` is 0 where nobody meets.
struct Meeting {
    uint32_t mask = 0, arrived = 0;
    Combine combine = nullptr;
    const char* what = nullptr;
    Queue waiting;
};

struct Warp {
    uint32_t live = 0;
    // What each lane brought to the meeting that it waits in.
    const void* inputs[WARP_LANES];
    void* outputs[WARP_LANES];
    // Masks that meet at the same time are disjoint, so there are never more.
    Meeting meetings[WARP_LANES];
    unsigned open = 0;  // of them, those that somebody waits in
};

struct Barrier {
    unsigned arrived = 0, ballots = 0;
    Vote vote = Vote::none;
    int outcome = 0;
    Queue waiting;
};

// Runs blocks, one after the other, on the thread that made it.
class BlockRunner : public Block {
public:
    BlockRunner();
    ~BlockRunner();
    BlockRunner(const BlockRunner&) = delete;

    // Runs block number `ordinal` (x fastest). Whether it ended; if not, `failure` says why.
    bool run(const Grid& grid, uint64_t ordinal);

    Failure failure;

    // What follows is called by the fibers.
    [[noreturn]] void abandon(Error error, const char* message);
    int wait_at_barrier(unsigned id, unsigned threads, Vote vote, bool ballot);
    void arrive_at_barrier(unsigned id, unsigned threads);
    void meet(const char* what, uint32_t mask, const void* in, void* out, Combine combine);
    [[noreturn]] void thread_main();

private:
    void set_up(const Grid& grid, uint64_t ordinal);
    void make_stacks(unsigned threads);
    void start_threads(const Grid& grid, uint64_t ordinal);
    bool is_complete(const Barrier& barrier, unsigned threads) const;
    void release(Barrier& barrier);
    Meeting& meeting_of(Warp& warp, uint32_t mask, const char* what);
    void conclude_if_all_are_here(Warp& warp, Meeting& meeting);
    void leave(Fiber& fiber);
    void wait_in(Queue& queue, const char* where);
    void run_next(Context& from);
    [[noreturn]] void report_deadlock();

    const Kernel* kernel = nullptr;
    void* const* arguments = nullptr;
    SharedMemory shared_memory;
    Context scheduler;
    unsigned char* stacks = nullptr;
    size_t stacks_bytes = 0;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<unsigned> start_order;
    std::array<Barrier, BARRIERS> barriers;
    Queue ready;
    unsigned live = 0;
};

}  // namespace cuda_on_cpu
