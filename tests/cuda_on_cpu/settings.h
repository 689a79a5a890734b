// What the tests ask of the emulator, by environment variables. They are read once, when the library is loaded.
//
//   CUDA_ON_CPU_ORDER=forward|reverse|SEED   in which order threads start, and blocks run
//   CUDA_ON_CPU_WORKERS=N                    threads that run blocks, in forward order; as many as cores by default
//   CUDA_ON_CPU_TIMEOUT=SECONDS              after which a launch that does not end is ended (120)
//   CUDA_ON_CPU_DRIVER=13000                 the driver's version
//   CUDA_ON_CPU_DEVICES=1                    how many cards there are
//   CUDA_ON_CPU_COMPUTE=90                   their compute capability
//   CUDA_ON_CPU_MEMORY=BYTES                 memory of each card (2 GiB)
//   CUDA_ON_CPU_FAIL_KERNEL=NAME             launching this kernel fails, as where it reads what is not there
//   CUDA_ON_CPU_HOST_ACCESS=refused          the host faults where it uses the card's memory, as with a real card; slow
//   CUDA_ON_CPU_CUBLASLT=plain               cuBLASLt has no way to do a batch, nor anything to a product on its way out
//   CUDA_ON_CPU_LOG=FILE                     the name of each kernel that ran is appended, one a line
#pragma once

#include <cstdint>
#include <string>

#include "scheduler.h"

namespace cuda_on_cpu {

struct Settings {
    Order order;
    unsigned workers;
    unsigned timeout_seconds;
    int driver_version;
    int devices;
    int compute_capability;
    uint64_t memory_bytes;
    std::string failing_kernel;
    bool host_access_refused;
    bool plain_products;
    std::string log;
};

const Settings& settings();

}  // namespace cuda_on_cpu
