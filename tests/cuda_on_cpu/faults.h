// Faults of a kernel (an access where no memory is, a misaligned one, an endless loop) become errors of its launch.
#pragma once

#include <pthread.h>

namespace cuda_on_cpu {

// Installs the handlers of signals, once. Faults of the host's own go to whoever handled them before.
void catch_faults();

// Gives the calling thread a stack for signals, so that a fiber's stack that overflowed can be reported.
void use_own_signal_stack();

// Ends the kernel that `thread` runs, if it runs one, as having taken too long.
void interrupt(pthread_t thread);

}  // namespace cuda_on_cpu
