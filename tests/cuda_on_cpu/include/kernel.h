// How kernels make themselves known: `KERNEL(name)` after a kernel's definition registers its name, its parameters and
// how to call it, which is all that a module is here.
#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

namespace cuda_on_cpu {

constexpr unsigned PARAMETERS_MAX = 64;

struct Parameter {
    size_t offset, size;
    bool is_pointer;
};

struct Kernel {
    const char* name;
    void (*call)(void* const* arguments);
    unsigned parameters;
    Parameter parameter[PARAMETERS_MAX];
};

void add_kernel(const Kernel& kernel);

template <class... Parameters, size_t... I>
void call_with(void (*kernel)(Parameters...), void* const* arguments, std::index_sequence<I...>) {
    kernel(*static_cast<const std::remove_cv_t<Parameters>*>(arguments[I])...);
}

// `call` holds the function itself as a constant: there is nothing to look up when a thread starts.
template <auto function, class... Parameters>
Kernel describe(const char* name, void (*)(Parameters...)) {
    static_assert(sizeof...(Parameters) <= PARAMETERS_MAX);
    Kernel kernel{name, nullptr, 0, {}};
    kernel.call = [](void* const* arguments) {
        call_with(function, arguments, std::index_sequence_for<Parameters...>{});
    };
    size_t end = 0;
    auto add = [&](size_t size, size_t alignment, bool is_pointer) {
        const size_t offset = (end + alignment - 1) / alignment * alignment;
        kernel.parameter[kernel.parameters++] = {offset, size, is_pointer};
        end = offset + size;
    };
    (add(sizeof(Parameters), alignof(Parameters), std::is_pointer_v<Parameters>), ...);
    return kernel;
}

struct Registration {
    explicit Registration(const Kernel& kernel) { add_kernel(kernel); }
};

}  // namespace cuda_on_cpu

#define KERNEL(name) \
    static const cuda_on_cpu::Registration registration_of_##name(cuda_on_cpu::describe<&name>(#name, &name));
