// What the driver remembers between calls: contexts with their first error, streams, what is being captured.
//
// Work is done when it is enqueued, except on a stream that is being captured. As on a card, an error of a kernel does not
// come out of its launch but of every call after it.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "driver_api.h"
#include "scheduler.h"

namespace cuda_on_cpu {

struct Work {
    std::string name;  // a kernel's, or of what else is done
    std::function<std::optional<Failure>()> run;
};

// What was enqueued on a stream, and on those that joined it, between the two ends of a capture.
struct Capture {
    CUstream origin;
    CUstreamCaptureMode mode;
    std::thread::id thread;
    bool invalid = false;
    std::vector<Work> work;
};

// Handles that were given out and not yet destroyed.
template <class Handle>
class Live {
public:
    Handle add(Handle handle) { return *all.insert(handle).first; }
    bool has(Handle handle) const { return all.count(handle) != 0; }
    bool remove(Handle handle) { return all.erase(handle) != 0; }
    auto begin() const { return all.begin(); }
    auto end() const { return all.end(); }

private:
    std::set<Handle> all;
};

// Held by every entry point: calls come from any thread.
std::unique_lock<std::recursive_mutex> driver_lock();

// Marks the driver as initialised; before that nothing but its version can be asked for.
void initialise();
bool initialised();

// Whether the calling thread can work on a card: initialised, a context current, no error so far.
CUresult usable();
CUcontext current_context();

// Null, and the names for the stream that everybody shares, are that stream. Null if it does not exist.
CUstream find_stream(CUstream stream);
Live<CUstream>& streams();

// For calls that wait, or allocate: while a capture forbids them they spoil it.
CUresult allowed_while_capturing();

// Does the work, or adds it to the capture.
CUresult enqueue(CUstream stream, Work work);
// Does it now, and keeps its error in the current context.
void perform(const Work& work);

}  // namespace cuda_on_cpu

struct CUctx_st {
    CUdevice device;
    unsigned retained = 0;
    CUresult error = CUDA_SUCCESS;
};

struct CUstream_st {
    std::shared_ptr<cuda_on_cpu::Capture> capture;
};
