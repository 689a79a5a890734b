// Switching between fibers of one operating system thread: a few instructions on x86-64, ucontext elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace cuda_on_cpu {

#if defined(__x86_64__)

// Where a fiber that does not run goes on: its stack, on which lie its callee-saved registers and where to return.
struct Context {
    void** stack_top;
};

extern "C" void cuda_on_cpu_switch(void*** save_stack_top, void** stack_top);

inline void switch_context(Context& from, const Context& to) { cuda_on_cpu_switch(&from.stack_top, to.stack_top); }

// A context that will call `entry`, which never returns, on the `bytes` of `stack`.
inline void prepare_context(Context& context, unsigned char* stack, size_t bytes, void (*entry)()) {
    constexpr int CALLEE_SAVED = 6;
    auto top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t(15));
    *--top = nullptr;  // where entry would return to; it also aligns the stack as a call does
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < CALLEE_SAVED; i++) *--top = nullptr;
    context.stack_top = top;
}

#else

struct Context {
    ucontext_t state;
};

inline void switch_context(Context& from, const Context& to) { swapcontext(&from.state, &to.state); }

inline void prepare_context(Context& context, unsigned char* stack, size_t bytes, void (*entry)()) {
    getcontext(&context.state);
    context.state.uc_stack.ss_sp = stack;
    context.state.uc_stack.ss_size = bytes;
    context.state.uc_link = nullptr;
    makecontext(&context.state, entry, 0);
}

#endif

}  // namespace cuda_on_cpu
