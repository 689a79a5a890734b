// Running a grid: its blocks spread over a few threads of ours, each of which runs one block at a time.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "scheduler.h"

namespace cuda_on_cpu {

// The kernel that registered as `name`, or null.
const Kernel* find_kernel(std::string_view name);

// A launch with its arguments copied, as the driver copies them: it can run any number of times.
class Launch {
public:
    Launch(const Kernel& kernel, dim3 blocks, dim3 threads, unsigned shared_bytes, void* const* arguments);

    const Kernel& kernel() const { return *what; }

    // Runs all blocks. Returns why it failed, if it did.
    std::optional<Failure> run() const;

private:
    std::vector<void*> arguments() const;
    std::optional<Failure> strange_pointer() const;

    const Kernel* what;
    dim3 blocks, threads;
    unsigned shared_bytes;
    std::vector<unsigned char> values;  // laid out as a kernel's parameters are
};

}  // namespace cuda_on_cpu
