// Fibers, barriers and warp collectives, see fiber.h for what they promise to kernels.
#include "scheduler.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>

namespace cuda_on_cpu {

thread_local Thread* current_thread = nullptr;
thread_local Block* current_block = nullptr;

namespace {

constexpr size_t STACK_BYTES = 128 << 10;
constexpr size_t PAGE_BYTES = 4096;

Fiber& self() { return *static_cast<Fiber*>(current_thread); }
BlockRunner& runner() { return *static_cast<BlockRunner*>(current_block); }

void fiber_entry() { runner().thread_main(); }

uint64_t mix(uint64_t seed, uint64_t number) { return (seed + 1) * 0x9e3779b97f4a7c15 ^ number * 0xbf58476d1ce4e5b9; }

}  // namespace

#if defined(__x86_64__)
// System V: rdi is where to save the stack's top, rsi the stack to go on with.
asm(R"(
    .text
    .globl cuda_on_cpu_switch
    .hidden cuda_on_cpu_switch
    .type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size cuda_on_cpu_switch, .-cuda_on_cpu_switch
)");
#endif

void Queue::push(Fiber* fiber) {
    fiber->next = nullptr;
    (last ? last->next : first) = fiber;
    last = fiber;
}

Fiber* Queue::pop() {
    Fiber* fiber = first;
    if (fiber) first = fiber->next;
    if (!first) last = nullptr;
    return fiber;
}

void Queue::append(Queue& other) {
    if (!other.first) return;
    (last ? last->next : first) = other.first;
    last = other.last;
    other = {};
}

void Queue::prepend(Queue& other) {
    other.append(*this);
    *this = other;
    other = {};
}

// ---- a block from its first thread to its last --------------------------------------------------------------------

BlockRunner::BlockRunner() { current_block = this; }

BlockRunner::~BlockRunner() {
    if (stacks) munmap(stacks, stacks_bytes);
}

bool BlockRunner::run(const Grid& grid, uint64_t ordinal) {
    set_up(grid, ordinal);
    shared_memory.poison(grid.shared_bytes);
    current_thread = nullptr;  // the poison went over these two as well
    current_block = this;
    failure.message.clear();
    run_next(scheduler);
    current_thread = nullptr;
    if (failure.message.empty() && shared_memory.overrun()) {
        failure = {Error::illegal_address, "wrote past the end of its dynamic shared memory"};
    }
    return failure.message.empty();
}

void BlockRunner::set_up(const Grid& grid, uint64_t ordinal) {
    kernel = grid.kernel;
    arguments = grid.arguments;
    size = grid.threads;
    Block::grid = grid.blocks;
    const uint64_t row = ordinal / grid.blocks.x;
    index = {unsigned(ordinal % grid.blocks.x), unsigned(row % grid.blocks.y), unsigned(row / grid.blocks.y)};
    barriers = {};
    ready = {};
    start_threads(grid, ordinal);
}

void BlockRunner::start_threads(const Grid& grid, uint64_t ordinal) {
    const unsigned threads = size.x * size.y * size.z;
    make_stacks(threads);
    live = threads;
    for (unsigned first = 0, w = 0; first < threads; first += WARP_LANES, w++) {
        const unsigned lanes = std::min(WARP_LANES, threads - first);
        warps[w].live = ~0u >> (WARP_LANES - lanes);
        warps[w].open = 0;
        for (Meeting& meeting : warps[w].meetings) meeting = {};
    }
    start_order.resize(threads);
    for (unsigned i = 0; i < threads; i++) start_order[i] = grid.order.kind == Order::reverse ? threads - 1 - i : i;
    if (grid.order.kind == Order::shuffled) {
        std::shuffle(start_order.begin(), start_order.end(), std::mt19937_64(mix(grid.order.seed, ordinal)));
    }
    for (unsigned number : start_order) {
        Fiber& fiber = fibers[number];
        fiber.index = {number % size.x, number / size.x % size.y, number / size.x / size.y};
        fiber.number = number;
        fiber.lane = number % WARP_LANES;
        fiber.warp = &warps[number / WARP_LANES];
        fiber.waits_at = nullptr;
        fiber.copies.clear();
        fiber.copy_group = 0;
        fiber.deferred.clear();
        fiber.deferred_group = 0;
        // Tops of stacks that all lay at the same distance would compete for the same lines of the cache.
        const size_t stagger = number * 13 % 64 * 64;
        unsigned char* stack = stacks + number * STACK_BYTES + PAGE_BYTES;
        prepare_context(fiber.context, stack, STACK_BYTES - PAGE_BYTES - stagger, fiber_entry);
        ready.push(&fiber);
    }
}

// A page below each stack stays out of reach: a stack that overflows faults.
void BlockRunner::make_stacks(unsigned threads) {
    if (threads <= fibers.size()) return;
    if (stacks) munmap(stacks, stacks_bytes);
    stacks_bytes = threads * STACK_BYTES;
    const int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* mapped = mmap(nullptr, stacks_bytes, PROT_READ | PROT_WRITE, kind, -1, 0);
    if (mapped == MAP_FAILED) {
        perror("cuda_on_cpu: no memory for the stacks of a block");
        abort();
    }
    stacks = static_cast<unsigned char*>(mapped);
    for (unsigned i = 0; i < threads; i++) mprotect(stacks + i * STACK_BYTES, PAGE_BYTES, PROT_NONE);
    fibers.resize(threads);
    warps.resize((threads + WARP_LANES - 1) / WARP_LANES);
}

void BlockRunner::thread_main() {
    kernel->call(arguments);
    leave(self());
    run_next(self().context);
    __builtin_unreachable();
}

// Who has left is waited for no more, at barriers and in warps, as on a card. What it copied and never waited for nobody
// may read: it stays NaN.
void BlockRunner::leave(Fiber& fiber) {
    live--;
    fiber.warp->live &= ~(1u << fiber.lane);
    if (live && barriers[0].arrived && is_complete(barriers[0], 0)) release(barriers[0]);
    if (!fiber.warp->live) return;
    for (Meeting& meeting : fiber.warp->meetings) conclude_if_all_are_here(*fiber.warp, meeting);
}

void BlockRunner::wait_in(Queue& queue, const char* where) {
    Fiber& fiber = self();
    fiber.waits_at = where;
    queue.push(&fiber);
    run_next(fiber.context);
    fiber.waits_at = nullptr;
}

// Goes on with the next fiber that can; with none, back to `run`.
void BlockRunner::run_next(Context& from) {
    Fiber* next = ready.pop();
    if (next) {
        current_thread = next;
        if (&next->context != &from) switch_context(from, next->context);
    } else if (live) {
        report_deadlock();
    } else {
        switch_context(from, scheduler);
    }
}

void BlockRunner::abandon(Error error, const char* message) {
    failure = {error, message};
    Context lost;
    switch_context(lost, scheduler);
    __builtin_unreachable();
}

void BlockRunner::report_deadlock() {
    std::map<std::string, unsigned> waiting;
    for (unsigned number : start_order) {
        if (const char* place = fibers[number].waits_at) waiting[place]++;
    }
    std::string places;
    for (const auto& [place, threads] : waiting) {
        places += (places.empty() ? "" : ", ") + std::to_string(threads) + " at " + place;
    }
    fail(Error::launch_timeout, "%u of %zu threads wait for ever: %s", live, start_order.size(), places.c_str());
}

// ---- barriers -----------------------------------------------------------------------------------------------------

bool BlockRunner::is_complete(const Barrier& barrier, unsigned threads) const {
    return barrier.arrived >= (threads ? threads : live);
}

void BlockRunner::release(Barrier& barrier) {
    const bool all = barrier.ballots == barrier.arrived, any = barrier.ballots != 0;
    barrier.outcome = barrier.vote == Vote::any ? any : barrier.vote == Vote::all ? all : int(barrier.ballots);
    barrier.arrived = barrier.ballots = 0;
    ready.append(barrier.waiting);
}

int BlockRunner::wait_at_barrier(unsigned id, unsigned threads, Vote vote, bool ballot) {
    if (id >= BARRIERS) fail(Error::illegal_instruction, "there is no barrier %u", id);
    Barrier& barrier = barriers[id];
    barrier.vote = vote;
    barrier.arrived++;
    barrier.ballots += ballot;
    if (is_complete(barrier, threads)) {
        release(barrier);
    } else {
        wait_in(barrier.waiting, id == 0 ? "__syncthreads" : "a named barrier");
    }
    return barrier.outcome;
}

void BlockRunner::arrive_at_barrier(unsigned id, unsigned threads) {
    if (id >= BARRIERS) fail(Error::illegal_instruction, "there is no barrier %u", id);
    Barrier& barrier = barriers[id];
    barrier.arrived++;
    if (is_complete(barrier, threads)) release(barrier);
}

int barrier_wait(unsigned id, unsigned threads, Vote vote, bool ballot) {
    return runner().wait_at_barrier(id, threads, vote, ballot);
}

void barrier_arrive(unsigned id, unsigned threads) { runner().arrive_at_barrier(id, threads); }

// ---- warp collectives ---------------------------------------------------------------------------------------------

// The open meeting of this mask, or a free one.
Meeting& BlockRunner::meeting_of(Warp& warp, uint32_t mask, const char* what) {
    Meeting* free = nullptr;
    unsigned others = 0;
    // Nearly always the first: a warp meets whole.
    for (Meeting& meeting : warp.meetings) {
        if (meeting.mask == mask) return meeting;
        if (meeting.mask & mask) {
            fail(Error::illegal_instruction, "lane %u comes to %s with mask %08x, others of it to %s with mask %08x",
                 self().lane, what, mask, meeting.what, meeting.mask);
        }
        if (meeting.mask) others++;
        else if (!free) free = &meeting;
        if (free && others == warp.open) break;
    }
    warp.open++;
    free->mask = mask;
    free->what = what;
    return *free;
}

void BlockRunner::meet(const char* what, uint32_t mask, const void* in, void* out, Combine combine) {
    Fiber& fiber = self();
    Warp& warp = *fiber.warp;
    if (!(mask >> fiber.lane & 1)) fail(Error::illegal_instruction, "lane %u is not in its mask at %s", fiber.lane, what);
    Meeting& meeting = meeting_of(warp, mask, what);
    if (meeting.what != what) {
        fail(Error::illegal_instruction, "lane %u comes to %s, others of its warp to %s", fiber.lane, what, meeting.what);
    }
    meeting.combine = combine;
    meeting.arrived |= 1u << fiber.lane;
    warp.inputs[fiber.lane] = in;
    warp.outputs[fiber.lane] = out;
    if (meeting.arrived == (mask & warp.live)) {
        conclude_if_all_are_here(warp, meeting);
    } else {
        wait_in(meeting.waiting, what);
    }
}

void BlockRunner::conclude_if_all_are_here(Warp& warp, Meeting& meeting) {
    if (!meeting.arrived || meeting.arrived != (meeting.mask & warp.live)) return;
    meeting.combine(meeting.arrived, warp.inputs, warp.outputs);
    meeting.mask = meeting.arrived = 0;
    warp.open--;
    // The warp goes on before others: its stacks are in the cache, and running ahead it meets what others were to write.
    ready.prepend(meeting.waiting);
}

void meet(const char* what, uint32_t mask, const void* in, void* out, Combine combine) {
    runner().meet(what, mask, in, out, combine);
}

// ---- cp.async -----------------------------------------------------------------------------------------------------

void async_copy(void* shared, const void* global, unsigned bytes, unsigned valid) {
    memset(shared, 0xff, bytes);
    self().copies.push_back({shared, global, bytes, valid, self().copy_group});
}

void async_commit() { self().copy_group++; }

void async_wait(unsigned groups) {
    Fiber& fiber = self();
    auto copy = fiber.copies.begin();
    for (; copy != fiber.copies.end() && copy->group + groups < fiber.copy_group; ++copy) {
        memcpy(copy->to, copy->from, copy->valid);
        memset(static_cast<char*>(copy->to) + copy->valid, 0, copy->bytes - copy->valid);
    }
    fiber.copies.erase(fiber.copies.begin(), copy);
}

// ---- products that run while threads go on ------------------------------------------------------------------------

void defer(const void* result, std::function<void()> work) {
    self().deferred.push_back({result, self().deferred_group, std::move(work)});
}

bool is_deferred(const void* result) {
    const auto& deferred = self().deferred;
    return std::any_of(deferred.begin(), deferred.end(), [&](const Deferred& one) { return one.result == result; });
}

void defer_commit() { self().deferred_group++; }

void defer_wait(unsigned groups) {
    Fiber& fiber = self();
    size_t done = 0;
    for (; done < fiber.deferred.size() && fiber.deferred[done].group + groups < fiber.deferred_group; done++) fiber.deferred[done].work();
    fiber.deferred.erase(fiber.deferred.begin(), fiber.deferred.begin() + done);
}

// ---- failing ------------------------------------------------------------------------------------------------------

void fail(Error error, const char* format, ...) {
    char message[512];
    va_list values;
    va_start(values, format);
    const int length = vsnprintf(message, sizeof message, format, values);
    va_end(values);
    const uint3 block = runner().index;
    if (length >= 0 && size_t(length) < sizeof message) {
        snprintf(message + length, sizeof message - length, " (block %u,%u,%u, thread %u)", block.x, block.y, block.z,
                 self().number);
    }
    runner().abandon(error, message);
}

}  // namespace cuda_on_cpu
