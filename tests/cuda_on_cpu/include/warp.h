// The warp's built-in functions: shuffles, votes, matches and reductions, all over `warp_collective`.
#pragma once

#include "fiber.h"

namespace cuda_on_cpu {

template <class T>
struct Offer {
    T value;
    unsigned source;
};

// The value of lane `source`; a lane that is not there gives back one's own.
template <class T>
inline T take_from(const char* what, unsigned mask, T value, unsigned source) {
    T taken;
    warp_collective(what, mask, Offer<T>{value, source}, taken, [](const Lanes<Offer<T>, T>& lanes) {
        for (unsigned lane = 0; lane < WARP_LANES; lane++) {
            if (!lanes.has(lane)) continue;
            const unsigned source = lanes.in(lane).source;
            lanes.out(lane) = lanes.in(lanes.has(source) ? source : lane).value;
        }
    });
    return taken;
}

// Every lane gets `fold` over the values of all.
template <class T, class Fold>
inline T fold_lanes(const char* what, unsigned mask, T value, Fold) {
    T folded;
    warp_collective(what, mask, value, folded, [](const Lanes<T, T>& lanes) {
        const unsigned first = __builtin_ctz(lanes.present);
        T all = lanes.in(first);
        for (unsigned lane = first + 1; lane < WARP_LANES; lane++) {
            if (lanes.has(lane)) all = Fold{}(all, lanes.in(lane));
        }
        for (unsigned lane = first; lane < WARP_LANES; lane++) {
            if (lanes.has(lane)) lanes.out(lane) = all;
        }
    });
    return folded;
}

}  // namespace cuda_on_cpu

// A segment of `width` lanes, a power of two, shuffles within itself.
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const unsigned lane = cuda_on_cpu::current_thread->lane;
    const unsigned from = (lane & ~(width - 1u)) | (source & (width - 1u));
    return cuda_on_cpu::take_from("__shfl_sync", mask, value, from);
}

template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    const unsigned lane = cuda_on_cpu::current_thread->lane, from = lane ^ bits;
    // As the hardware has it: an earlier segment may be read, a later one may not.
    const bool later = (from & ~(width - 1u)) > (lane & ~(width - 1u));
    return cuda_on_cpu::take_from("__shfl_xor_sync", mask, value, later ? lane : from);
}

template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
    const unsigned lane = cuda_on_cpu::current_thread->lane;
    const bool inside = (lane & (width - 1u)) + distance < unsigned(width);
    return cuda_on_cpu::take_from("__shfl_down_sync", mask, value, inside ? lane + distance : lane);
}

template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
    const unsigned lane = cuda_on_cpu::current_thread->lane;
    const bool inside = (lane & (width - 1u)) >= distance;
    return cuda_on_cpu::take_from("__shfl_up_sync", mask, value, inside ? lane - distance : lane);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    const unsigned vote = predicate != 0 ? 1u << cuda_on_cpu::current_thread->lane : 0u;
    return cuda_on_cpu::fold_lanes("__ballot_sync", mask, vote, [](unsigned a, unsigned b) { return a | b; });
}

inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

inline void __syncwarp(unsigned mask = ~0u) {
    char nothing = 0;
    cuda_on_cpu::warp_collective("__syncwarp", mask, nothing, nothing, [](const cuda_on_cpu::Lanes<char, char>&) {});
}

// Which lanes hold the same value as this one.
template <class T>
inline unsigned __match_any_sync(unsigned mask, T value) {
    unsigned same;
    cuda_on_cpu::warp_collective("__match_any_sync", mask, value, same, [](const cuda_on_cpu::Lanes<T, unsigned>& lanes) {
        for (unsigned lane = 0; lane < cuda_on_cpu::WARP_LANES; lane++) {
            if (!lanes.has(lane)) continue;
            unsigned equal = 0;
            for (unsigned other = 0; other < cuda_on_cpu::WARP_LANES; other++) {
                if (lanes.has(other) && lanes.in(other) == lanes.in(lane)) equal |= 1u << other;
            }
            lanes.out(lane) = equal;
        }
    });
    return same;
}

template <class T>
inline unsigned __match_all_sync(unsigned mask, T value, int* all) {
    const unsigned same = __match_any_sync(mask, value), present = __ballot_sync(mask, 1);
    *all = __all_sync(mask, same == present);
    return *all ? present : 0;
}

template <class T>
inline T __reduce_add_sync(unsigned mask, T value) {
    return cuda_on_cpu::fold_lanes("__reduce_add_sync", mask, value, [](T a, T b) { return a + b; });
}
template <class T>
inline T __reduce_max_sync(unsigned mask, T value) {
    return cuda_on_cpu::fold_lanes("__reduce_max_sync", mask, value, [](T a, T b) { return a > b ? a : b; });
}
template <class T>
inline T __reduce_min_sync(unsigned mask, T value) {
    return cuda_on_cpu::fold_lanes("__reduce_min_sync", mask, value, [](T a, T b) { return a < b ? a : b; });
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
    return cuda_on_cpu::fold_lanes("__reduce_or_sync", mask, value, [](unsigned a, unsigned b) { return a | b; });
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value) {
    return cuda_on_cpu::fold_lanes("__reduce_and_sync", mask, value, [](unsigned a, unsigned b) { return a & b; });
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned value) {
    return cuda_on_cpu::fold_lanes("__reduce_xor_sync", mask, value, [](unsigned a, unsigned b) { return a ^ b; });
}

// ---- the block's barriers -----------------------------------------------------------------------------------------

inline void __syncthreads() { cuda_on_cpu::named_barrier_sync(0, 0); }

inline int __syncthreads_or(int predicate) {
    cuda_on_cpu::compiler_fence();
    const int vote = cuda_on_cpu::barrier_wait(0, 0, cuda_on_cpu::Vote::any, predicate != 0);
    cuda_on_cpu::compiler_fence();
    return vote;
}
inline int __syncthreads_and(int predicate) {
    cuda_on_cpu::compiler_fence();
    const int vote = cuda_on_cpu::barrier_wait(0, 0, cuda_on_cpu::Vote::all, predicate != 0);
    cuda_on_cpu::compiler_fence();
    return vote;
}
inline int __syncthreads_count(int predicate) {
    cuda_on_cpu::compiler_fence();
    const int vote = cuda_on_cpu::barrier_wait(0, 0, cuda_on_cpu::Vote::count, predicate != 0);
    cuda_on_cpu::compiler_fence();
    return vote;
}
