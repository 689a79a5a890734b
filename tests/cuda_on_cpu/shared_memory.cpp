// Where shared memory lies and how it is poisoned, see shared_memory.h.
#include "shared_memory.h"

#include <link.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "scheduler.h"

// Past the most that a block may have, watched for what a kernel writes there.
constexpr unsigned WATCHED_BYTES = 1024;

// What `extern __shared__ ... smem[]` in a kernel means.
alignas(1024) thread_local unsigned char smem[cuda_on_cpu::SHARED_BYTES_MAX + WATCHED_BYTES];

namespace cuda_on_cpu {

SharedMemory::SharedMemory() {
    smem[0] = 0xff;  // the loader makes a thread's copy when it is first touched
    dynamic_begin = dynamic_end = smem;
    auto look = [](dl_phdr_info* library, size_t, void* found) {
        auto& memory = *static_cast<SharedMemory*>(found);
        for (int i = 0; i < library->dlpi_phnum; i++) {
            const auto& header = library->dlpi_phdr[i];
            auto begin = static_cast<unsigned char*>(library->dlpi_tls_data);
            auto end = begin + header.p_memsz;
            if (header.p_type != PT_TLS || !begin || smem < begin || smem >= end) continue;
            memory.begin = begin;
            memory.end = end;
        }
        return 0;
    };
    dl_iterate_phdr(look, this);
    if (!begin) {
        fputs("cuda_on_cpu: cannot find where shared memory lies\n", stderr);
        abort();
    }
}

void SharedMemory::poison(unsigned dynamic_bytes) {
    dynamic_end = dynamic_begin + dynamic_bytes;
    memset(begin, 0xff, dynamic_begin - begin);
    memset(dynamic_begin, 0xff, dynamic_bytes + WATCHED_BYTES);
    unsigned char* const rest = dynamic_begin + sizeof smem;
    memset(rest, 0xff, end - rest);
}

bool SharedMemory::overrun() const {
    return std::any_of(dynamic_end, dynamic_end + WATCHED_BYTES, [](unsigned char byte) { return byte != 0xff; });
}

}  // namespace cuda_on_cpu
