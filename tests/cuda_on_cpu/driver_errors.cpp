// Errors by name and in words, as the driver says them.
#include "driver_api.h"

namespace {

struct Described {
    CUresult error;
    const char *name, *text;
};

#define DESCRIBED(error, text) {error, #error, text}

constexpr Described ALL[] = {
    DESCRIBED(CUDA_SUCCESS, "no error"),
    DESCRIBED(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
    DESCRIBED(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
    DESCRIBED(CUDA_ERROR_NOT_INITIALIZED, "initialization error"),
    DESCRIBED(CUDA_ERROR_DEINITIALIZED, "driver shutting down"),
    DESCRIBED(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected"),
    DESCRIBED(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
    DESCRIBED(CUDA_ERROR_INVALID_IMAGE, "device kernel image is invalid"),
    DESCRIBED(CUDA_ERROR_INVALID_CONTEXT, "invalid device context"),
    DESCRIBED(CUDA_ERROR_NO_BINARY_FOR_GPU, "no kernel image is available for execution on the device"),
    DESCRIBED(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"),
    DESCRIBED(CUDA_ERROR_ILLEGAL_STATE, "the operation cannot be performed in the present state"),
    DESCRIBED(CUDA_ERROR_NOT_FOUND, "named symbol not found"),
    DESCRIBED(CUDA_ERROR_NOT_READY, "device not ready"),
    DESCRIBED(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
    DESCRIBED(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch"),
    DESCRIBED(CUDA_ERROR_LAUNCH_TIMEOUT, "the launch timed out and was terminated"),
    DESCRIBED(CUDA_ERROR_ASSERT, "device-side assert triggered"),
    DESCRIBED(CUDA_ERROR_ILLEGAL_INSTRUCTION, "an illegal instruction was encountered"),
    DESCRIBED(CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned address"),
    DESCRIBED(CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure"),
    DESCRIBED(CUDA_ERROR_NOT_SUPPORTED, "operation not supported"),
    DESCRIBED(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing"),
    DESCRIBED(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "operation failed due to a previous error during capture"),
    DESCRIBED(CUDA_ERROR_STREAM_CAPTURE_MERGE, "operation would result in a merge of separate capture sequences"),
    DESCRIBED(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "capture was not ended in the same stream as it began"),
    DESCRIBED(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "capturing stream has unjoined work"),
    DESCRIBED(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "operation would make the legacy stream depend on a capturing stream"),
    DESCRIBED(CUDA_ERROR_CAPTURED_EVENT, "operation not permitted on an event last recorded in a capturing stream"),
    DESCRIBED(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "attempt to terminate a thread-local capture from another thread"),
    DESCRIBED(CUDA_ERROR_UNKNOWN, "unknown error"),
};

const Described* find(CUresult error) {
    for (const Described& described : ALL) {
        if (described.error == error) return &described;
    }
    return nullptr;
}

}  // namespace

CUresult cuGetErrorName(CUresult error, const char** name) {
    const Described* found = find(error);
    *name = found ? found->name : nullptr;
    return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult error, const char** text) {
    const Described* found = find(error);
    *text = found ? found->text : nullptr;
    return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
