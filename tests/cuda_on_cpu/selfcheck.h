// What the parts of the self-check share: a card, arrays on it, and how a check reports.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "driver_api.h"

inline void must(CUresult result, const char* what) {
    if (result == CUDA_SUCCESS) return;
    const char* text = "?";
    cuGetErrorString(result, &text);
    printf("%s: %s (%d)\n", what, text, result);
    exit(1);
}
#define MUST(call) must(call, #call)

// Enough of a module for the emulator, whose kernels are linked in.
constexpr uint32_t IMAGE[4] = {0xba55ed50};

// A card, opened.
struct Card {
    CUcontext context;
    CUmodule module;
    CUstream stream;

    Card() {
        MUST(cuInit(0));
        MUST(cuDevicePrimaryCtxRetain(&context, 0));
        MUST(cuCtxSetCurrent(context));
        MUST(cuModuleLoadData(&module, IMAGE));
        MUST(cuStreamCreate(&stream, 1));
    }

    CUfunction function(const char* name) {
        CUfunction function;
        must(cuModuleGetFunction(&function, module, name), name);
        return function;
    }
};

// Elements on the card.
template <class T>
struct Array {
    CUdeviceptr address;
    size_t count;

    explicit Array(size_t count) : count(count) { MUST(cuMemAlloc_v2(&address, count * sizeof(T))); }
    explicit Array(const std::vector<T>& values) : Array(values.size()) {
        MUST(cuMemcpyHtoD_v2(address, values.data(), count * sizeof(T)));
    }
    std::vector<T> read() const {
        std::vector<T> values(count);
        MUST(cuMemcpyDtoH_v2(values.data(), address, count * sizeof(T)));
        return values;
    }
};

// Runs a check in a process of its own, for a fault spoils a context, and prints whether it holds.
void expect(const char* what, const std::function<bool()>& check);
void expect(const char* what, CUresult error, const std::function<CUresult()>& check);

// The checks of libcublasLt.
void check_cublaslt();
