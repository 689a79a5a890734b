// Streams, events, captures and graphs.
#include <chrono>

#include "driver_state.h"

using namespace cuda_on_cpu;

using Clock = std::chrono::steady_clock;

struct CUevent_st {
    bool recorded = false;
    Clock::time_point at;
    std::shared_ptr<Capture> capture;  // if it was recorded on a stream that is being captured
};

struct CUgraph_st {
    std::vector<Work> work;
};

struct CUgraphExec_st {
    std::vector<Work> work;
};

namespace {

Live<CUevent>& events() {
    static auto* all = new Live<CUevent>;
    return *all;
}

Live<CUgraph>& graphs() {
    static auto* all = new Live<CUgraph>;
    return *all;
}

Live<CUgraphExec>& executables() {
    static auto* all = new Live<CUgraphExec>;
    return *all;
}

// Waiting for a stream that is being captured would wait for ever: it spoils the capture.
CUresult may_wait_for(CUstream handle) {
    if (CUresult wrong = usable()) return wrong;
    CUstream stream = find_stream(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (!stream->capture) return allowed_while_capturing();
    stream->capture->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult may_wait_for(CUevent event) {
    if (CUresult wrong = usable()) return wrong;
    if (!events().has(event)) return CUDA_ERROR_INVALID_HANDLE;
    return event->capture ? CUDA_ERROR_CAPTURED_EVENT : CUDA_SUCCESS;
}

// Destroys a handle of any of the kinds above.
template <class Handle>
CUresult destroy(Live<Handle>& all, Handle handle) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    if (!all.remove(handle)) return CUDA_ERROR_INVALID_HANDLE;
    delete handle;
    return CUDA_SUCCESS;
}

}  // namespace

CUresult cuStreamCreate(CUstream* stream, unsigned) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    *stream = streams().add(new CUstream_st);
    return CUDA_SUCCESS;
}

CUresult cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }

CUresult cuStreamDestroy_v2(CUstream stream) { return destroy(streams(), stream); }

CUresult cuStreamSynchronize(CUstream stream) {
    const auto lock = driver_lock();
    return may_wait_for(stream);
}

CUresult cuStreamQuery(CUstream stream) {
    const auto lock = driver_lock();
    return may_wait_for(stream);
}

CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void* data) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    return enqueue(stream, {"host function", [=]() -> std::optional<Failure> {
                                function(data);
                                return std::nullopt;
                            }});
}

// ---- events -------------------------------------------------------------------------------------------------------

CUresult cuEventCreate(CUevent* event, unsigned) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    *event = events().add(new CUevent_st);
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy_v2(CUevent event) { return destroy(events(), event); }

CUresult cuEventRecord(CUevent event, CUstream handle) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    CUstream stream = find_stream(handle);
    if (!stream || !events().has(event)) return CUDA_ERROR_INVALID_HANDLE;
    event->recorded = true;
    event->at = Clock::now();
    event->capture = stream->capture;
    return CUDA_SUCCESS;
}

// A stream that waits for an event of a captured stream is captured with it.
CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    CUstream stream = find_stream(handle);
    if (!stream || !events().has(event)) return CUDA_ERROR_INVALID_HANDLE;
    if (!event->capture) return CUDA_SUCCESS;
    if (stream->capture && stream->capture != event->capture) return CUDA_ERROR_STREAM_CAPTURE_MERGE;
    stream->capture = event->capture;
    return CUDA_SUCCESS;
}

CUresult cuEventQuery(CUevent event) {
    const auto lock = driver_lock();
    return may_wait_for(event);
}

CUresult cuEventSynchronize(CUevent event) {
    const auto lock = driver_lock();
    return may_wait_for(event);
}

CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent from, CUevent to) {
    const auto lock = driver_lock();
    for (CUevent event : {from, to}) {
        if (CUresult wrong = may_wait_for(event)) return wrong;
        if (!event->recorded) return CUDA_ERROR_INVALID_HANDLE;
    }
    *milliseconds = std::chrono::duration<float, std::milli>(to->at - from->at).count();
    return CUDA_SUCCESS;
}

CUresult cuEventElapsedTime(float* milliseconds, CUevent from, CUevent to) {
    return cuEventElapsedTime_v2(milliseconds, from, to);
}

// ---- captures and graphs ------------------------------------------------------------------------------------------

CUresult cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    if (!streams().has(stream)) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;  // the shared stream cannot be captured
    if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
    stream->capture = std::make_shared<Capture>(Capture{stream, mode, std::this_thread::get_id(), false, {}});
    return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    *graph = nullptr;
    if (!streams().has(stream) || !stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
    const std::shared_ptr<Capture> capture = stream->capture;
    if (capture->origin != stream) return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
    const bool same_thread = capture->thread == std::this_thread::get_id();
    if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && !same_thread) return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    for (CUstream other : streams()) {
        if (other->capture == capture) other->capture.reset();
    }
    if (capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    *graph = graphs().add(new CUgraph_st{std::move(capture->work)});
    return CUDA_SUCCESS;
}

CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* status) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    CUstream stream = find_stream(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    *status = !stream->capture           ? CU_STREAM_CAPTURE_STATUS_NONE
              : stream->capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                         : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    return CUDA_SUCCESS;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    if (!graphs().has(graph)) return CUDA_ERROR_INVALID_HANDLE;
    *executable = executables().add(new CUgraphExec_st{graph->work});
    return CUDA_SUCCESS;
}

CUresult cuGraphInstantiateWithParams(CUgraphExec* executable, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS* parameters) {
    parameters->error_node = nullptr;
    parameters->result = 0;
    return cuGraphInstantiateWithFlags(executable, graph, parameters->flags);
}

CUresult cuGraphUpload(CUgraphExec executable, CUstream stream) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    return executables().has(executable) && find_stream(stream) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    if (!executables().has(executable)) return CUDA_ERROR_INVALID_HANDLE;
    for (const Work& work : executable->work) {
        if (CUresult wrong = enqueue(stream, work)) return wrong;
    }
    return CUDA_SUCCESS;
}

CUresult cuGraphExecDestroy(CUgraphExec executable) { return destroy(executables(), executable); }

CUresult cuGraphDestroy(CUgraph graph) { return destroy(graphs(), graph); }
