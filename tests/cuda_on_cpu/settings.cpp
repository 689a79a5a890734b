// Reads the environment, see settings.h.
#include "settings.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>

namespace cuda_on_cpu {

namespace {

std::string text(const char* name) {
    const char* value = getenv(name);
    return value ? value : "";
}

uint64_t parse(const char* name, const std::string& value) {
    char* end;
    const uint64_t number = strtoull(value.c_str(), &end, 10);
    if (value.empty() || *end != 0) {
        fprintf(stderr, "cuda_on_cpu: %s=%s is not a number\n", name, value.c_str());
        abort();
    }
    return number;
}

uint64_t number(const char* name, uint64_t otherwise) {
    const std::string value = text(name);
    return value.empty() ? otherwise : parse(name, value);
}

Order order(const char* name) {
    const std::string value = text(name);
    if (value.empty() || value == "forward") return {Order::forward, 0};
    if (value == "reverse") return {Order::reverse, 0};
    return {Order::shuffled, parse(name, value)};
}

Settings read() {
    return {
        .order = order("CUDA_ON_CPU_ORDER"),
        .workers = unsigned(number("CUDA_ON_CPU_WORKERS", std::max(1u, std::thread::hardware_concurrency()))),
        .timeout_seconds = unsigned(number("CUDA_ON_CPU_TIMEOUT", 120)),
        .driver_version = int(number("CUDA_ON_CPU_DRIVER", 13000)),
        .devices = int(number("CUDA_ON_CPU_DEVICES", 1)),
        .compute_capability = int(number("CUDA_ON_CPU_COMPUTE", 90)),
        .memory_bytes = number("CUDA_ON_CPU_MEMORY", uint64_t(2) << 30),
        .failing_kernel = text("CUDA_ON_CPU_FAIL_KERNEL"),
        .host_access_refused = text("CUDA_ON_CPU_HOST_ACCESS") == "refused",
        .plain_products = text("CUDA_ON_CPU_CUBLASLT") == "plain",
        .log = text("CUDA_ON_CPU_LOG"),
    };
}

}  // namespace

const Settings& settings() {
    static const Settings all = read();
    return all;
}

}  // namespace cuda_on_cpu
