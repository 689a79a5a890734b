// Modules, functions and launches. The kernels are linked in, so a module's image is only looked at, not loaded.
#include "driver_state.h"
#include "image.h"
#include "launch.h"
#include "settings.h"

using namespace cuda_on_cpu;

struct CUmod_st {};

struct CUfunc_st {
    const Kernel* kernel;
    // Above this a launch is refused until the function was told to expect more.
    int dynamic_shared_bytes_max = 48 << 10;
};

namespace {

Live<CUmodule>& modules() {
    static auto* all = new Live<CUmodule>;
    return *all;
}

Live<CUfunction>& functions() {
    static auto* all = new Live<CUfunction>;
    return *all;
}

CUfunction function_of(const Kernel* kernel) {
    for (CUfunction function : functions()) {
        if (function->kernel == kernel) return function;
    }
    return functions().add(new CUfunc_st{kernel});
}

bool fits(dim3 grid, dim3 block) {
    const uint64_t threads = uint64_t(block.x) * block.y * block.z;
    return grid.x && grid.y && grid.z && threads && threads <= BLOCK_THREADS_MAX && block.z <= 64 &&
           grid.x <= 0x7fffffff && grid.y <= 65535 && grid.z <= 65535;
}

std::optional<Failure> run_kernel(const Launch& launch) {
    if (settings().failing_kernel == launch.kernel().name) {
        return Failure{Error::illegal_address, "it was asked to fail"};
    }
    return launch.run();
}

}  // namespace

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    if (!image) return CUDA_ERROR_INVALID_VALUE;
    switch (look_at_image(image, settings().compute_capability)) {
        case Image::invalid: return CUDA_ERROR_INVALID_IMAGE;
        case Image::for_other_cards: return CUDA_ERROR_NO_BINARY_FOR_GPU;
        case Image::usable: break;
    }
    *module = modules().add(new CUmod_st);
    return CUDA_SUCCESS;
}

CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, CUjit_option*, void**) {
    return cuModuleLoadData(module, image);
}

CUresult cuModuleUnload(CUmodule module) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    if (!modules().remove(module)) return CUDA_ERROR_INVALID_HANDLE;
    delete module;
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    if (!modules().has(module)) return CUDA_ERROR_INVALID_HANDLE;
    const Kernel* kernel = find_kernel(name);
    if (!kernel) return CUDA_ERROR_NOT_FOUND;
    *function = function_of(kernel);
    return CUDA_SUCCESS;
}

CUresult cuFuncGetName(const char** name, CUfunction function) {
    const auto lock = driver_lock();
    if (!functions().has(function)) return CUDA_ERROR_INVALID_HANDLE;
    *name = function->kernel->name;
    return CUDA_SUCCESS;
}

CUresult cuFuncGetParamInfo(CUfunction function, size_t index, size_t* offset, size_t* bytes) {
    const auto lock = driver_lock();
    if (!functions().has(function)) return CUDA_ERROR_INVALID_HANDLE;
    if (index >= function->kernel->parameters) return CUDA_ERROR_INVALID_VALUE;
    const Parameter& parameter = function->kernel->parameter[index];
    *offset = parameter.offset;
    if (bytes) *bytes = parameter.size;
    return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
    const auto lock = driver_lock();
    if (!functions().has(function)) return CUDA_ERROR_INVALID_HANDLE;
    switch (attribute) {
        case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = BLOCK_THREADS_MAX; break;
        case CU_FUNC_ATTRIBUTE_NUM_REGS: *value = 64; break;
        case CU_FUNC_ATTRIBUTE_PTX_VERSION:
        case CU_FUNC_ATTRIBUTE_BINARY_VERSION: *value = settings().compute_capability; break;
        case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = function->dynamic_shared_bytes_max; break;
        // Not known here, or without a meaning.
        case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
        case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES:
        case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
        case CU_FUNC_ATTRIBUTE_CACHE_MODE_CA: *value = 0; break;
        case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT: *value = -1; break;
        default: return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    if (!functions().has(function)) return CUDA_ERROR_INVALID_HANDLE;
    if (attribute == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) return CUDA_SUCCESS;
    const bool possible = value >= 0 && unsigned(value) <= SHARED_BYTES_MAX;
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || !possible) return CUDA_ERROR_INVALID_VALUE;
    function->dynamic_shared_bytes_max = value;
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void** arguments,
                        void** extra) {
    const auto lock = driver_lock();
    if (CUresult wrong = usable()) return wrong;
    if (!functions().has(function)) return CUDA_ERROR_INVALID_HANDLE;
    const dim3 grid(grid_x, grid_y, grid_z), block(block_x, block_y, block_z);
    const bool has_arguments = arguments || function->kernel->parameters == 0;
    const bool has_shared_memory = shared_bytes <= unsigned(function->dynamic_shared_bytes_max);
    if (extra || !has_arguments || !has_shared_memory || !fits(grid, block)) return CUDA_ERROR_INVALID_VALUE;
    const Launch launch(*function->kernel, grid, block, shared_bytes, arguments);
    return enqueue(stream, {function->kernel->name, [launch] { return run_kernel(launch); }});
}
