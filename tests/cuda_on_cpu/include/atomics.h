// Atomics and fences: blocks really run on several cores, so these are the machine's own.
#pragma once

#include <atomic>

inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_system() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_block() { asm volatile("" ::: "memory"); }

namespace cuda_on_cpu {

// Replaces `*at` by `next(*at)` and returns what it was.
template <class T, class Next>
inline T atomic_update(T* at, Next next) {
    std::atomic_ref<T> shared(*at);
    T before = shared.load();
    while (!shared.compare_exchange_weak(before, next(before))) {
    }
    return before;
}

template <class T>
struct Same { using type = T; };

}  // namespace cuda_on_cpu

// The second argument converts to the first one's type, as with CUDA's overloads.
#define CUDA_ON_CPU_ATOMIC(name, expression)                                                    \
    template <class T>                                                                          \
    inline T name(T* at, typename cuda_on_cpu::Same<T>::type value) {                           \
        return cuda_on_cpu::atomic_update(at, [value](T before) { return T(expression); });     \
    }

CUDA_ON_CPU_ATOMIC(atomicAdd, before + value)
CUDA_ON_CPU_ATOMIC(atomicSub, before - value)
CUDA_ON_CPU_ATOMIC(atomicMax, before < value ? value : before)
CUDA_ON_CPU_ATOMIC(atomicMin, value < before ? value : before)
CUDA_ON_CPU_ATOMIC(atomicExch, ((void)before, value))
CUDA_ON_CPU_ATOMIC(atomicAnd, before & value)
CUDA_ON_CPU_ATOMIC(atomicOr, before | value)
CUDA_ON_CPU_ATOMIC(atomicXor, before ^ value)
CUDA_ON_CPU_ATOMIC(atomicInc, before >= value ? 0 : before + 1)
CUDA_ON_CPU_ATOMIC(atomicDec, before == 0 || before > value ? value : before - 1)

#undef CUDA_ON_CPU_ATOMIC

template <class T>
inline T atomicCAS(T* at, typename cuda_on_cpu::Same<T>::type expected, typename cuda_on_cpu::Same<T>::type value) {
    std::atomic_ref<T>(*at).compare_exchange_strong(expected, value);
    return expected;
}
