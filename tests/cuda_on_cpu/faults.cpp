// Signals, and the checks that g++ compiles into kernels (-fsanitize=alignment and others, without its library), see
// faults.h.
#include "faults.h"

#include <signal.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>

#include "fiber.h"
#include "memory.h"

namespace cuda_on_cpu {

namespace {

constexpr size_t SIGNAL_STACK_BYTES = 64 << 10;
constexpr int FAULTS[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};

// Sent by one thread of ours to another, it means that time is up; nothing else sends SIGBUS by hand.
constexpr int TIME_IS_UP = SIGBUS;

struct sigaction handlers_before[NSIG];

// Runs on the signal's stack and leaves it for good: the next signal finds it empty.
void fail_for(int signal, const siginfo_t& info) {
    if (signal == TIME_IS_UP && info.si_code == SI_TKILL) {
        fail(Error::launch_timeout, "did not end in time");
    } else if (signal == SIGFPE) {
        fail(Error::launch_failed, "divided an integer by zero");
    } else if (signal == SIGILL) {
        fail(Error::illegal_instruction, "reached what must not be reached");
    } else if (info.si_code == SI_KERNEL) {
        // The processor does not say which; that it is aligned was checked before, see below.
        fail(Error::illegal_address, "used an address that no memory can have");
    } else {
        const bool ours = DeviceMemory::all().is_near(info.si_addr);
        fail(Error::illegal_address, "used %p, %s", info.si_addr,
             ours ? "outside of an allocation or in one that was freed" : "which is no address on the card");
    }
}

void on_fault(int signal, siginfo_t* info, void* context) {
    if (current_thread) fail_for(signal, *info);
    if (signal == TIME_IS_UP && info->si_code == SI_TKILL) return;  // the block had just ended
    if (signal == SIGSEGV && DeviceMemory::all().is_near(info->si_addr)) {
        fprintf(stderr, "cuda_on_cpu: the host used %p, which is memory of the card\n", info->si_addr);
    }
    const struct sigaction& before = handlers_before[signal];
    if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(signal, info, context);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        before.sa_handler(signal);
    } else {
        ::signal(signal, SIG_DFL);  // the instruction runs again, and ends the process
    }
}

}  // namespace

void catch_faults() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        // Not blocked while it is handled: the handler does not return where a kernel failed.
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        for (int signal : FAULTS) sigaction(signal, &action, &handlers_before[signal]);
    });
}

void use_own_signal_stack() {
    stack_t stack = {};
    stack.ss_sp = malloc(SIGNAL_STACK_BYTES);
    stack.ss_size = SIGNAL_STACK_BYTES;
    sigaltstack(&stack, nullptr);
}

void interrupt(pthread_t thread) { pthread_kill(thread, TIME_IS_UP); }

}  // namespace cuda_on_cpu

// ---- checks compiled into kernels ---------------------------------------------------------------------------------

// What g++ passes to the handlers of its undefined behaviour sanitizer, as its own library declares it.
struct SourceLocation {
    const char* file;
    uint32_t line, column;
};

namespace {

[[noreturn]] void fail_at(const SourceLocation& place, cuda_on_cpu::Error error, const char* what) {
    cuda_on_cpu::fail(error, "%s at %s:%u:%u", what, place.file, place.line, place.column);
}

}  // namespace

extern "C" {

[[noreturn]] void __ubsan_handle_type_mismatch_v1_abort(const SourceLocation* place, void*) {
    fail_at(*place, cuda_on_cpu::Error::misaligned_address, "an address that is not aligned");
}
[[noreturn]] void __ubsan_handle_out_of_bounds_abort(const SourceLocation* place, void*) {
    fail_at(*place, cuda_on_cpu::Error::illegal_address, "an index outside of its array");
}
[[noreturn]] void __ubsan_handle_shift_out_of_bounds_abort(const SourceLocation* place, void*, void*) {
    fail_at(*place, cuda_on_cpu::Error::illegal_instruction, "a shift by more bits than there are");
}
[[noreturn]] void __ubsan_handle_divrem_overflow_abort(const SourceLocation* place, void*, void*) {
    fail_at(*place, cuda_on_cpu::Error::illegal_instruction, "a division by zero");
}

}
