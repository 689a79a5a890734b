// Proves that the emulator notices what it is there to notice: runs the planted kernels through the driver API, as the
// product would, and prints a line for each check. Exit status 1 if any failed. A fault spoils a context, so every check
// that expects one runs in a child process.
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "selfcheck.h"

namespace {

// Launches and waits; the first error of either.
template <class... Arguments>
CUresult launch(Card& card, const char* name, unsigned blocks, unsigned threads, unsigned shared_bytes,
                Arguments... arguments) {
    void* pointers[] = {&arguments...};
    CUfunction function = card.function(name);
    if (CUresult wrong = cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, shared_bytes, card.stream, pointers, nullptr)) {
        return wrong;
    }
    return cuStreamSynchronize(card.stream);
}

std::vector<float> counting(size_t count) {
    std::vector<float> values(count);
    for (size_t i = 0; i < count; i++) values[i] = float(i);
    return values;
}

// ---- what must be right -------------------------------------------------------------------------------------------

bool doubles() {
    Card card;
    const Array<float> x(counting(1000)), y(1000);
    MUST(launch(card, "planted_double", 8, 128, 0, x.address, y.address, 1000u));
    const auto result = y.read();
    for (size_t i = 0; i < 1000; i++) {
        if (result[i] != 2.0f * i) return false;
    }
    return true;
}

bool sums_rows() {
    Card card;
    const Array<float> x(counting(7 * 300)), y(7);
    MUST(launch(card, "planted_row_sum", 7, 128, 0, x.address, y.address, 300u));
    const auto result = y.read();
    for (size_t row = 0; row < 7; row++) {
        if (result[row] != 300.0f * (row * 300) + 299 * 150) return false;
    }
    return true;
}

// The first of 256 elements that comes out other than reversed; 256 if all are right.
int first_not_reversed(const char* kernel) {
    Card card;
    const Array<float> x(counting(256)), y(256);
    MUST(launch(card, kernel, 1, 256, 1024, x.address, y.address));
    const auto result = y.read();
    int i = 0;
    while (i < 256 && result[i] == 255.0f - i) i++;
    return i;
}

bool warp_functions() {
    Card card;
    const Array<unsigned> y(9 * 32);
    MUST(launch(card, "planted_warp_functions", 1, 32, 0, y.address));
    const auto result = y.read();
    for (unsigned lane = 0; lane < 32; lane++) {
        const unsigned expected[9] = {
            5,
            lane / 8 * 8 + 3,
            lane < 2 ? lane : lane - 2,
            lane % 16 + 3 < 16 ? lane + 3 : lane,
            lane ^ 9,
            0x49249249u,
            31 * 16,
            0x11111111u << lane % 4,
            lane < 16 ? 15u : 31u,
        };
        for (unsigned row = 0; row < 9; row++) {
            if (result[row * 32 + lane] != expected[row]) {
                printf("warp function %u, lane %u: %u, not %u\n", row, lane, result[row * 32 + lane], expected[row]);
                return false;
            }
        }
    }
    return true;
}

bool early_exit() {
    Card card;
    const Array<float> y(96);
    MUST(launch(card, "planted_early_exit", 1, 96, 0, y.address, 70u));
    const auto result = y.read();
    return result[0] == 35.0f && result[69] == 35.0f && std::isnan(result[70]);
}

bool atomics() {
    Card card;
    const Array<unsigned> y(std::vector<unsigned>{0});
    MUST(launch(card, "planted_atomic_count", 100, 256, 0, y.address));
    return y.read()[0] == 25600;
}

bool bf16_rounding() {
    Card card;
    // 1 + 2^-8 lies between two and goes to the even one, 1; 1 + 3/256 goes up to 1 + 4/256.
    const std::vector<float> values = {1.0f, 1.00390625f, 1.01171875f, 1.0039063692f, -3.14159265f, 3.4e38f, INFINITY, NAN, 1e-40f};
    const std::vector<uint16_t> expected = {0x3f80, 0x3f80, 0x3f82, 0x3f81, 0xc049, 0x7f80, 0x7f80, 0x7fff, 0x0001};
    const Array<float> x(values);
    const Array<uint16_t> y(values.size());
    MUST(launch(card, "planted_to_bf16", 1, 32, 0, x.address, y.address, unsigned(values.size())));
    const auto result = y.read();
    for (size_t i = 0; i < values.size(); i++) {
        if (result[i] != expected[i]) {
            printf("bf16 of %g is %04x, not %04x\n", values[i], result[i], expected[i]);
            return false;
        }
    }
    return true;
}

bool parameters_are_described() {
    Card card;
    CUfunction function = card.function("planted_double");
    size_t offset[3], bytes[3], none;
    for (size_t i = 0; i < 3; i++) MUST(cuFuncGetParamInfo(function, i, &offset[i], &bytes[i]));
    return offset[0] == 0 && offset[1] == 8 && offset[2] == 16 && bytes[0] == 8 && bytes[1] == 8 && bytes[2] == 4 &&
           cuFuncGetParamInfo(function, 3, &none, &none) == CUDA_ERROR_INVALID_VALUE;
}

// A fat binary with code for 8.0, and for 9.0a, as nvcc lays it out.
CUresult load_on(const char* compute_capability) {
    constexpr uint32_t HEADER_BYTES = 64, ENTRIES_BYTES = 2 * HEADER_BYTES;
    const uint32_t image[4 + 2 * 16] = {
        0xba55ed50, 16 << 16 | 1, ENTRIES_BYTES, 0,
        0x01010002, HEADER_BYTES, 0, 0, 0, 0, 1 << 16 | 8, 80, 0, 0, 0x11, 0, 0, 0, 0, 0,
        0x01010002, HEADER_BYTES, 0, 0, 0, 0, 1 << 16 | 8, 90, 0, 0, 0x100011, 0, 0, 0, 0, 0,
    };
    setenv("CUDA_ON_CPU_COMPUTE", compute_capability, 1);
    Card card;
    CUmodule module;
    return cuModuleLoadData(&module, image);
}

CUresult load_nonsense() {
    Card card;
    CUmodule module;
    return cuModuleLoadData(&module, "this is no image of a module");
}

// A graph runs with the arguments that it was captured with, on what memory holds when it is launched.
bool graphs() {
    Card card;
    const Array<float> x(counting(4)), y(4);
    CUgraph graph;
    CUgraphExec executable;
    MUST(cuStreamBeginCapture_v2(card.stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    {
        CUdeviceptr from = x.address, to = y.address;
        unsigned n = 4;
        void* arguments[] = {&from, &to, &n};
        MUST(cuLaunchKernel(card.function("planted_double"), 1, 1, 1, 32, 1, 1, 0, card.stream, arguments, nullptr));
        n = 0;
    }
    MUST(cuMemcpyDtoDAsync_v2(x.address, y.address, 16, card.stream));
    MUST(cuStreamEndCapture(card.stream, &graph));
    if (!std::isnan(y.read()[1])) return false;
    MUST(cuGraphInstantiateWithFlags(&executable, graph, 0));
    MUST(cuGraphDestroy(graph));
    for (int i = 0; i < 3; i++) MUST(cuGraphLaunch(executable, card.stream));
    MUST(cuStreamSynchronize(card.stream));
    MUST(cuGraphExecDestroy(executable));
    return y.read()[3] == 24.0f;
}

// Two streams joined by events are captured as one.
bool graphs_of_two_streams() {
    Card card;
    const Array<float> x(counting(4)), y(4);
    CUstream side;
    CUevent fork, join;
    MUST(cuStreamCreate(&side, 1));
    MUST(cuEventCreate(&fork, 2));
    MUST(cuEventCreate(&join, 2));
    MUST(cuStreamBeginCapture_v2(card.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    MUST(cuEventRecord(fork, card.stream));
    MUST(cuStreamWaitEvent(side, fork, 0));
    MUST(cuMemcpyDtoDAsync_v2(y.address, x.address, 16, side));
    MUST(cuEventRecord(join, side));
    MUST(cuStreamWaitEvent(card.stream, join, 0));
    CUgraph graph;
    CUgraphExec executable;
    MUST(cuStreamEndCapture(card.stream, &graph));
    MUST(cuGraphInstantiateWithFlags(&executable, graph, 0));
    MUST(cuMemcpyDtoDAsync_v2(y.address, x.address, 4, side));  // side is captured no more
    MUST(cuGraphLaunch(executable, card.stream));
    return y.read()[3] == 3.0f;
}

bool waiting_spoils_a_capture() {
    Card card;
    CUgraph graph;
    MUST(cuStreamBeginCapture_v2(card.stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    return cuStreamSynchronize(card.stream) == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED &&
           cuStreamEndCapture(card.stream, &graph) == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
}

// ---- what must be noticed -----------------------------------------------------------------------------------------

bool unwritten_is_nan() {
    Card card;
    const Array<float> y(100);
    MUST(launch(card, "planted_unwritten_output", 1, 128, 0, y.address, 100u));
    const auto result = y.read();
    return result[98] == 1.0f && std::isnan(result[99]);
}

bool unwritten_shared_is_nan() {
    Card card;
    const Array<float> y(64);
    // Twice: the second block must not see what the first one left.
    for (int i = 0; i < 2; i++) MUST(launch(card, "planted_unwritten_shared", 1, 64, 0, y.address));
    const auto result = y.read();
    return result[0] == 1.0f && std::isnan(result[1]) && std::isnan(result[63]);
}

// What an asynchronous copy of 0, 1, .. 63 leaves in the first place: 63, or NaN.
float multiplied_by_a_warpgroup(const char* kernel) {
    Card card;
    const Array<float> y(128);
    MUST(launch(card, kernel, 1, 128, 64 * 128, y.address));
    return y.read().back();
}

float copied_asynchronously(const char* kernel) {
    Card card;
    const Array<float> x(counting(64)), y(64);
    MUST(launch(card, kernel, 1, 64, 0, x.address, y.address));
    return y.read()[0];
}

CUresult read_at(long long index, size_t count = 64) {
    Card card;
    const Array<float> x(count), y(1);
    return launch(card, "planted_read_at", 1, 1, 0, x.address, y.address, index);
}

CUresult write_at(long long index, size_t count = 64) {
    Card card;
    const Array<float> y(count);
    return launch(card, "planted_write_at", 1, 1, 0, y.address, index);
}

template <class... Arguments>
CUresult run(const char* kernel, unsigned threads, unsigned shared_bytes, Arguments... arguments) {
    Card card;
    const Array<float> x(counting(1024)), y(1024);
    return launch(card, kernel, 1, threads, shared_bytes, y.address, arguments...);
}

CUresult misaligned() {
    Card card;
    const Array<float> x(counting(64)), y(64);
    return launch(card, "planted_misaligned", 1, 1, 0, x.address, y.address);
}

CUresult used_after_free() {
    Card card;
    const Array<float> x(64), y(1);
    MUST(cuMemFree_v2(x.address));
    return launch(card, "planted_read_at", 1, 1, 0, x.address, y.address, 0ll);
}

CUresult host_pointer() {
    Card card;
    const Array<float> y(1);
    float on_host = 1.0f;
    return launch(card, "planted_read_at", 1, 1, 0, &on_host, y.address, 0ll);
}

// Reads the card's memory without asking the driver for a copy.
int host_reads_the_card(const char* host_access) {
    setenv("CUDA_ON_CPU_HOST_ACCESS", host_access, 1);
    Card card;
    const Array<float> x(counting(4)), y(4);
    MUST(launch(card, "planted_double", 1, 32, 0, x.address, y.address, 4u));
    return *reinterpret_cast<const volatile float*>(y.address + 4) == 2.0f ? 0 : 1;
}

CUresult error_stays() {
    Card card;
    const Array<float> x(64), y(1);
    const CUresult first = launch(card, "planted_read_at", 1, 1, 0, x.address, y.address, 1000000ll);
    float value;
    if (cuMemcpyDtoH_v2(&value, y.address, 4) != first || cuCtxSynchronize() != first) return CUDA_SUCCESS;
    return first;
}

CUresult too_much_shared_memory() {
    Card card;
    const Array<float> y(64);
    return launch(card, "planted_shared_overrun", 1, 32, 64 << 10, y.address);
}

// ---- running them -------------------------------------------------------------------------------------------------

int failed = 0;

void report(const char* what, bool right) {
    printf("%s  %s\n", right ? "ok    " : "FAILED", what);
    fflush(stdout);
    failed += !right;
}

// What `check` returns in a process of its own, -1 if it died of a signal.
int in_child(const std::function<int()>& check) {
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        const int outcome = check();
        fflush(stdout);
        _exit(outcome);
    }
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// The first wrong element in this thread order, 255 if none is.
int first_wrong(const char* kernel, const char* order) {
    return in_child([&] {
        setenv("CUDA_ON_CPU_ORDER", order, 1);
        return std::min(first_not_reversed(kernel), 255);
    });
}

void what_must_be_right() {
    expect("doubles a vector", doubles);
    expect("sums rows over warps and blocks", sums_rows);
    expect("warp functions", warp_functions);
    expect("threads that left are waited for no more", early_exit);
    expect("atomics over blocks", atomics);
    expect("bf16 rounds to nearest even", bf16_rounding);
    expect("parameters have offsets and sizes", parameters_are_described);
    for (const char* suited : {"80", "86", "89", "90"}) {
        expect((std::string("a module loads on ") + suited).c_str(), CUDA_SUCCESS, [&] { return load_on(suited); });
    }
    for (const char* other : {"75", "100", "120"}) {
        expect((std::string("a module has nothing for ") + other).c_str(), CUDA_ERROR_NO_BINARY_FOR_GPU,
               [&] { return load_on(other); });
    }
    expect("nonsense is no module", CUDA_ERROR_INVALID_IMAGE, load_nonsense);
    expect("graphs replay what was captured", graphs);
    expect("graphs of two streams", graphs_of_two_streams);
    expect("waiting spoils a capture", waiting_spoils_a_capture);
}

void what_must_be_noticed() {
    expect("an unwritten output is NaN", unwritten_is_nan);
    expect("unwritten shared memory is NaN", unwritten_shared_is_nan);
    expect("an asynchronous copy that is waited for", [] { return copied_asynchronously("planted_async_copy") == 63.0f; });
    expect("one that is not", [] { return std::isnan(copied_asynchronously("planted_missing_wait")); });
    expect("a warpgroup's product that is waited for", [] { return multiplied_by_a_warpgroup("planted_product") == 16.0f; });
    expect("one that is not", [] { return std::isnan(multiplied_by_a_warpgroup("planted_unawaited_product")); });
    const CUresult outside = CUDA_ERROR_ILLEGAL_ADDRESS;
    expect("a read within is fine", CUDA_SUCCESS, [] { return read_at(63); });
    expect("a read one past the end", outside, [] { return read_at(64); });
    expect("a read one before the beginning", outside, [] { return read_at(-1, 1024); });
    expect("a read far away", outside, [] { return read_at(1ll << 34); });
    expect("a write one past the end", outside, [] { return write_at(64); });
    expect("a write one past an odd end", outside, [] { return write_at(3, 3); });
    expect("a write before the beginning", outside, [] { return write_at(-1); });
    expect("memory that was freed", outside, used_after_free);
    expect("memory of the host's", outside, host_pointer);
    expect("shared memory overrun", outside, [] { return run("planted_shared_overrun", 32, 128); });
    expect("an index outside of its array", outside, [] { return run("planted_array_index", 1, 0, 4u); });
    expect("more stack than there is", outside, [] { return run("planted_stack_overflow", 1, 0, 0u); });
    expect("a misaligned access", CUDA_ERROR_MISALIGNED_ADDRESS, misaligned);
    expect("a barrier that not all reach", CUDA_ERROR_LAUNCH_TIMEOUT, [] { return run("planted_deadlock", 64, 0); });
    expect("a shuffle that not all reach", CUDA_ERROR_ILLEGAL_INSTRUCTION,
           [] { return run("planted_divergent_shuffle", 32, 0); });
    expect("a trap", CUDA_ERROR_LAUNCH_FAILED, [] { return run("planted_trap", 32, 0); });
    expect("an endless loop", CUDA_ERROR_LAUNCH_TIMEOUT, [] {
        setenv("CUDA_ON_CPU_TIMEOUT", "1", 1);
        return run("planted_endless", 1, 0);
    });
    expect("more shared memory than was asked for", CUDA_ERROR_INVALID_VALUE, too_much_shared_memory);
    expect("an error stays", outside, error_stays);
    report("the host's own access, where it is allowed", in_child([] { return host_reads_the_card("allowed"); }) == 0);
    report("the host's own access, where it is refused", in_child([] { return host_reads_the_card("refused"); }) == -1);
}

void orders() {
    const char* const all[] = {"forward", "reverse", "1", "2"};
    int first[4];
    for (int i = 0; i < 4; i++) {
        const std::string name = std::string(" in order ") + all[i];
        report(("right with its barrier" + name).c_str(), first_wrong("planted_reverse", all[i]) == 255);
        first[i] = first_wrong("planted_missing_barrier", all[i]);
        report(("wrong without it" + name).c_str(), first[i] < 255);
    }
    report("a missing barrier gives another result in another order", first[0] != first[1]);
}

}  // namespace

void expect(const char* what, const std::function<bool()>& check) {
    report(what, in_child([&] { return check() ? 0 : 1; }) == 0);
}

void expect(const char* what, CUresult error, const std::function<CUresult()>& check) {
    report(what, in_child([&] { return check() == error ? 0 : 1; }) == 0);
}

int main() {
    what_must_be_right();
    what_must_be_noticed();
    orders();
    check_cublaslt();
    printf("%s\n", failed ? "FAILED" : "all right");
    return failed != 0;
}
