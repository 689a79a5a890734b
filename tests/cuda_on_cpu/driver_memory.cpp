// Allocations, copies and fills.
#include <cstring>

#include "driver_state.h"
#include "memory.h"
#include "settings.h"

using namespace cuda_on_cpu;

namespace {

void* pointer(CUdeviceptr address) { return reinterpret_cast<void*>(address); }

bool on_card(CUdeviceptr address, size_t bytes) { return DeviceMemory::all().holds(pointer(address), bytes); }

Work copying(const char* name, void* to, const void* from, size_t bytes) {
    return {name, [=]() -> std::optional<Failure> {
                const DeviceMemory::Access access;
                memmove(to, from, bytes);
                return std::nullopt;
            }};
}

template <class T>
Work filling(CUdeviceptr to, T value, size_t count) {
    return {"memset", [=]() -> std::optional<Failure> {
                const DeviceMemory::Access access;
                T* begin = static_cast<T*>(pointer(to));
                for (size_t i = 0; i < count; i++) begin[i] = value;
                return std::nullopt;
            }};
}

// `inside`: whether all that it touches lies on the card.
CUresult do_async(CUstream stream, size_t bytes, bool inside, Work work) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    if (bytes == 0) return CUDA_SUCCESS;
    return inside ? enqueue(stream, std::move(work)) : CUDA_ERROR_INVALID_VALUE;
}

CUresult do_now(size_t bytes, bool inside, const Work& work) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    if (CUresult wrong = allowed_while_capturing()) return wrong;
    if (bytes == 0) return CUDA_SUCCESS;
    if (!inside) return CUDA_ERROR_INVALID_VALUE;
    perform(work);
    return CUDA_SUCCESS;
}

}  // namespace

CUresult cuMemAlloc_v2(CUdeviceptr* address, size_t bytes) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    if (CUresult wrong = allowed_while_capturing()) return wrong;
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    void* allocated = DeviceMemory::all().allocate(bytes);
    *address = reinterpret_cast<CUdeviceptr>(allocated);
    return allocated ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemFree_v2(CUdeviceptr address) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    if (CUresult wrong = allowed_while_capturing()) return wrong;
    if (!address) return CUDA_SUCCESS;
    return DeviceMemory::all().free(pointer(address)) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemAllocAsync(CUdeviceptr* address, size_t bytes, CUstream stream) {
    return find_stream(stream) ? cuMemAlloc_v2(address, bytes) : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
    return find_stream(stream) ? cuMemFree_v2(address) : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuMemGetInfo_v2(size_t* bytes_free, size_t* bytes_total) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    *bytes_total = settings().memory_bytes;
    *bytes_free = settings().memory_bytes - DeviceMemory::all().bytes_used();
    return CUDA_SUCCESS;
}

CUresult cuMemHostAlloc(void** address, size_t bytes, unsigned) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    if (CUresult wrong = allowed_while_capturing()) return wrong;
    *address = DeviceMemory::all().allocate_host(bytes);
    return *address ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemAllocHost_v2(void** address, size_t bytes) { return cuMemHostAlloc(address, bytes, 0); }

CUresult cuMemFreeHost(void* address) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    return DeviceMemory::all().free_host(address) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr* at, void* address, unsigned) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    if (!DeviceMemory::all().reaches(address)) return CUDA_ERROR_INVALID_VALUE;
    *at = reinterpret_cast<CUdeviceptr>(address);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
    return do_async(stream, bytes, on_card(to, bytes), copying("memcpy to the card", pointer(to), from, bytes));
}

CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return do_async(stream, bytes, on_card(from, bytes), copying("memcpy to the host", to, pointer(from), bytes));
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    const bool inside = on_card(to, bytes) && on_card(from, bytes);
    return do_async(stream, bytes, inside, copying("memcpy on the card", pointer(to), pointer(from), bytes));
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
    return do_now(bytes, on_card(to, bytes), copying("memcpy to the card", pointer(to), from, bytes));
}

CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
    return do_now(bytes, on_card(from, bytes), copying("memcpy to the host", to, pointer(from), bytes));
}

CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    const bool inside = on_card(to, bytes) && on_card(from, bytes);
    return do_now(bytes, inside, copying("memcpy on the card", pointer(to), pointer(from), bytes));
}

CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) {
    return do_now(count, on_card(to, count), filling(to, value, count));
}

CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count) {
    return do_now(count, to % 4 == 0 && on_card(to, count * 4), filling(to, value, count));
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) {
    return do_async(stream, count, on_card(to, count), filling(to, value, count));
}

CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream stream) {
    return do_async(stream, count, to % 4 == 0 && on_card(to, count * 4), filling(to, value, count));
}
