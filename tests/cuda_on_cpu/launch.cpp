// Kernels by name, and the threads that run their blocks, see launch.h.
#include "launch.h"

#include <signal.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>
#include <random>
#include <thread>

#include "faults.h"
#include "memory.h"
#include "settings.h"

namespace cuda_on_cpu {

namespace {

std::map<std::string_view, Kernel>& kernels() {
    static std::map<std::string_view, Kernel> all;
    return all;
}

// The blocks of one launch, handed out one after the other.
class Job {
public:
    Job(const Grid& grid, uint64_t blocks) : grid(grid), blocks(blocks) {
        if (grid.order.kind == Order::shuffled) {
            shuffled.resize(blocks);
            std::iota(shuffled.begin(), shuffled.end(), 0);
            std::shuffle(shuffled.begin(), shuffled.end(), std::mt19937_64(grid.order.seed));
        }
    }

    std::optional<uint64_t> next_block() {
        const uint64_t turn = next++;
        if (turn >= blocks || failed) return std::nullopt;
        if (grid.order.kind == Order::reverse) return blocks - 1 - turn;
        return shuffled.empty() ? turn : shuffled[turn];
    }

    // The first failure counts.
    void fail(const Failure& why) {
        if (!failed.exchange(true)) failure = why;
    }

    const Grid grid;
    std::optional<Failure> failure;

private:
    const uint64_t blocks;
    std::vector<uint64_t> shuffled;
    std::atomic<uint64_t> next = 0;
    std::atomic<bool> failed = false;
};

// The threads that run blocks. They live as long as the process and are never joined: a driver has no end of its own.
class Workers {
public:
    static Workers& all() {
        static Workers* workers = new Workers;
        return *workers;
    }

    // Runs a job on up to `count` of the threads.
    void run(Job& job, unsigned count);

private:
    void start_up_to(unsigned count);
    void work(unsigned number);

    std::mutex one_job;
    std::mutex mutex;
    std::condition_variable begun, ended;
    std::vector<std::thread> threads;
    Job* job = nullptr;
    uint64_t jobs = 0;      // begun so far
    unsigned wanted = 0;    // threads that take part in the present one
    unsigned at_work = 0;   // threads that have not ended it yet
};

void Workers::start_up_to(unsigned count) {
    // Signals to the process are for threads of the product.
    sigset_t all, before;
    sigfillset(&all);
    for (int fault : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) sigdelset(&all, fault);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (threads.size() < count) threads.emplace_back(&Workers::work, this, unsigned(threads.size()));
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Workers::run(Job& work, unsigned count) {
    std::lock_guard alone(one_job);
    std::unique_lock lock(mutex);
    start_up_to(count);
    job = &work;
    jobs++;
    wanted = at_work = count;
    begun.notify_all();
    const auto patience = std::chrono::seconds(settings().timeout_seconds);
    while (!ended.wait_for(lock, patience, [&] { return at_work == 0; })) {
        for (unsigned i = 0; i < count; i++) interrupt(threads[i].native_handle());
    }
    job = nullptr;
}

void Workers::work(unsigned number) {
    use_own_signal_stack();
    BlockRunner runner;
    uint64_t last_job = 0;
    std::unique_lock lock(mutex);
    while (true) {
        begun.wait(lock, [&] { return jobs != last_job; });
        last_job = jobs;
        if (number >= wanted) continue;
        Job& mine = *job;
        lock.unlock();
        while (auto block = mine.next_block()) {
            if (!runner.run(mine.grid, *block)) mine.fail(runner.failure);
        }
        lock.lock();
        if (--at_work == 0) ended.notify_one();
    }
}

}  // namespace

void add_kernel(const Kernel& kernel) {
    if (!kernels().emplace(kernel.name, kernel).second) {
        fprintf(stderr, "cuda_on_cpu: two kernels are named %s\n", kernel.name);
        abort();
    }
}

const Kernel* find_kernel(std::string_view name) {
    auto found = kernels().find(name);
    return found == kernels().end() ? nullptr : &found->second;
}

Launch::Launch(const Kernel& kernel, dim3 blocks, dim3 threads, unsigned shared_bytes, void* const* arguments)
    : what(&kernel), blocks(blocks), threads(threads), shared_bytes(shared_bytes) {
    for (unsigned i = 0; i < kernel.parameters; i++) {
        const Parameter& parameter = kernel.parameter[i];
        values.resize(parameter.offset + parameter.size);
        memcpy(&values[parameter.offset], arguments[i], parameter.size);
    }
}

std::vector<void*> Launch::arguments() const {
    std::vector<void*> all;
    for (unsigned i = 0; i < what->parameters; i++) {
        all.push_back(const_cast<unsigned char*>(&values[what->parameter[i].offset]));
    }
    return all;
}

// On a card, memory of the host's is out of reach: here it is not, so it has to be looked for.
std::optional<Failure> Launch::strange_pointer() const {
    for (unsigned i = 0; i < what->parameters; i++) {
        const Parameter& parameter = what->parameter[i];
        if (!parameter.is_pointer) continue;
        const void* pointer;
        memcpy(&pointer, &values[parameter.offset], sizeof pointer);
        if (pointer && !DeviceMemory::all().reaches(pointer)) {
            return Failure{Error::illegal_address, "argument " + std::to_string(i + 1) + " is no address on the card"};
        }
    }
    return std::nullopt;
}

std::optional<Failure> Launch::run() const {
    catch_faults();
    if (auto failure = strange_pointer()) return failure;
    const std::vector<void*> pointers = arguments();
    const Order order = settings().order;
    const uint64_t count = uint64_t(blocks.x) * blocks.y * blocks.z;
    Job job({what, pointers.data(), blocks, threads, shared_bytes, order}, count);
    const DeviceMemory::Access access;
    // One worker keeps an order that was asked for.
    const uint64_t workers = order.kind == Order::forward ? std::min<uint64_t>(settings().workers, count) : 1;
    Workers::all().run(job, unsigned(workers));
    if (!job.failure && DeviceMemory::all().overrun()) {
        return Failure{Error::illegal_address, "wrote outside of an allocation"};
    }
    return job.failure;
}

}  // namespace cuda_on_cpu
