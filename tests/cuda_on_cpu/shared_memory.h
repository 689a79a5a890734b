// A block's shared memory: thread-local variables of the thread that runs it. Before a block starts they are made NaN,
// so that what a kernel reads before it wrote it shows.
#pragma once

namespace cuda_on_cpu {

// The shared memory of the thread that makes it.
class SharedMemory {
public:
    SharedMemory();

    // Fills static shared memory and the first `dynamic_bytes` of dynamic with 0xFF. It overwrites all of the thread's
    // variables that belong to this library, `current_thread` too.
    void poison(unsigned dynamic_bytes);

    // Whether anything was written past those dynamic bytes since.
    bool overrun() const;

private:
    unsigned char *begin = nullptr, *end = nullptr;
    unsigned char *dynamic_begin, *dynamic_end;
};

}  // namespace cuda_on_cpu
