// Contexts, streams and enqueueing, see driver_state.h.
#include "driver_state.h"

#include <cstdio>
#include <fstream>

#include "settings.h"

namespace cuda_on_cpu {

namespace {

bool is_initialised = false;

thread_local CUcontext context_of_thread = nullptr;

// CU_STREAM_LEGACY and CU_STREAM_PER_THREAD.
bool names_default_stream(CUstream stream) { return reinterpret_cast<uintptr_t>(stream) <= 2; }

CUstream default_stream() {
    static CUstream stream = new CUstream_st;
    return stream;
}

bool anything_captured() {
    for (CUstream stream : streams()) {
        if (stream->capture) return true;
    }
    return false;
}

}  // namespace

std::unique_lock<std::recursive_mutex> driver_lock() {
    static auto* mutex = new std::recursive_mutex;
    return std::unique_lock(*mutex);
}

void initialise() { is_initialised = true; }
bool initialised() { return is_initialised; }

CUcontext current_context() { return context_of_thread; }

CUresult usable() {
    if (!is_initialised) return CUDA_ERROR_NOT_INITIALIZED;
    if (!context_of_thread || !context_of_thread->retained) return CUDA_ERROR_INVALID_CONTEXT;
    return context_of_thread->error;
}

Live<CUstream>& streams() {
    static auto* all = new Live<CUstream>;
    return *all;
}

CUstream find_stream(CUstream stream) {
    if (names_default_stream(stream)) return default_stream();
    return streams().has(stream) ? stream : nullptr;
}

CUresult allowed_while_capturing() {
    for (CUstream stream : streams()) {
        Capture* capture = stream->capture.get();
        if (!capture || capture->mode == CU_STREAM_CAPTURE_MODE_RELAXED) continue;
        const bool mine = capture->thread == std::this_thread::get_id();
        if (capture->mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL && !mine) continue;
        capture->invalid = true;
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return CUDA_SUCCESS;
}

CUresult enqueue(CUstream handle, Work work) {
    CUstream stream = find_stream(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (stream == default_stream() && anything_captured()) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    if (!stream->capture) {
        perform(work);
        return CUDA_SUCCESS;
    }
    if (stream->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    stream->capture->work.push_back(std::move(work));
    return CUDA_SUCCESS;
}

void perform(const Work& work) {
    CUresult& error = context_of_thread->error;
    if (error != CUDA_SUCCESS) return;
    if (auto failure = work.run()) {
        fprintf(stderr, "cuda_on_cpu: %s failed: %s\n", work.name.c_str(), failure->message.c_str());
        error = CUresult(failure->error);
    }
    if (!settings().log.empty()) std::ofstream(settings().log, std::ios::app) << work.name + "\n";
}

}  // namespace cuda_on_cpu

using namespace cuda_on_cpu;

CUresult cuCtxSetCurrent(CUcontext context) {
    if (!initialised()) return CUDA_ERROR_NOT_INITIALIZED;
    context_of_thread = context;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext* context) {
    if (!initialised()) return CUDA_ERROR_NOT_INITIALIZED;
    *context = context_of_thread;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice* device) {
    if (CUresult wrong = usable()) return wrong;
    *device = context_of_thread->device;
    return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize() {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    return allowed_while_capturing();
}
