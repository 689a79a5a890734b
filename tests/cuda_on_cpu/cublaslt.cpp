// libcublasLt: descriptors, one algorithm that always fits, and multiplications that are enqueued like any other work of
// the card. What the real library checks when a plan is made is checked here, and what it would do to memory.
#include <cstring>
#include <string>

#include "cublaslt_api.h"
#include "driver_state.h"
#include "gemm.h"
#include "memory.h"
#include "settings.h"

using namespace cuda_on_cpu;

struct cublasLtContext {};

struct cublasLtMatmulDescOpaque_t {
    int32_t compute, scale;
    int32_t pointer_mode = 0;  // alpha and beta are the host's
    int32_t transpose_a = 0, transpose_b = 0;
    uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    void* bias = nullptr;
    int64_t bias_batch_stride = 0;
    int32_t bias_type = -1;  // as D
    void* aux = nullptr;
    int64_t aux_leading = 0, aux_batch_stride = 0;
    int32_t aux_type = -1;
};

struct cublasLtMatrixLayoutOpaque_t {
    int32_t type;
    int32_t order = 0;  // columns, 1: rows
    uint64_t rows, columns;
    int64_t leading;
    int32_t batches = 1;
    int64_t batch_stride = 0;
};

struct cublasLtMatmulPreferenceOpaque_t {
    uint64_t workspace_bytes_max = 0;
    uint32_t alignments[4] = {256, 256, 256, 256};  // what A, B, C and D begin at multiples of, in bytes
};

namespace {

// The algorithm wants a workspace where it may have one, and spoils it: nothing else may lie there.
constexpr size_t WORKSPACE_BYTES = 4096;
// Nothing asks what an epilogue's bias and its kept matrix are aligned to, and its kernels load 16 bytes of them at once.
constexpr uint64_t EPILOGUE_ALIGNMENT = 16;
// Marks an algorithm as one of ours. Its words: the mark, the bytes of its workspace, the alignments it was chosen for.
constexpr uint64_t ALGORITHM = 0x6f6e206370750001;

struct Field {
    void* at = nullptr;
    size_t bytes = 0;
};

template <class T>
Field field(T& value) {
    return {&value, sizeof value};
}

Field field_of(cublasLtMatmulDescOpaque_t& description, cublasLtMatmulDescAttributes_t attribute) {
    switch (attribute) {
        case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE: return field(description.compute);
        case CUBLASLT_MATMUL_DESC_SCALE_TYPE: return field(description.scale);
        case CUBLASLT_MATMUL_DESC_POINTER_MODE: return field(description.pointer_mode);
        case CUBLASLT_MATMUL_DESC_TRANSA: return field(description.transpose_a);
        case CUBLASLT_MATMUL_DESC_TRANSB: return field(description.transpose_b);
        case CUBLASLT_MATMUL_DESC_EPILOGUE: return field(description.epilogue);
        case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return field(description.bias);
        case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE: return field(description.bias_batch_stride);
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: return field(description.aux);
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: return field(description.aux_leading);
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE: return field(description.aux_batch_stride);
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE: return field(description.aux_type);
        case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: return field(description.bias_type);
    }
    return {};
}

Field field_of(cublasLtMatrixLayoutOpaque_t& layout, cublasLtMatrixLayoutAttribute_t attribute) {
    switch (attribute) {
        case CUBLASLT_MATRIX_LAYOUT_TYPE: return field(layout.type);
        case CUBLASLT_MATRIX_LAYOUT_ORDER: return field(layout.order);
        case CUBLASLT_MATRIX_LAYOUT_ROWS: return field(layout.rows);
        case CUBLASLT_MATRIX_LAYOUT_COLS: return field(layout.columns);
        case CUBLASLT_MATRIX_LAYOUT_LD: return field(layout.leading);
        case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: return field(layout.batches);
        case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: return field(layout.batch_stride);
    }
    return {};
}

cublasStatus_t set(Field field, const void* value, size_t bytes) {
    if (!field.at || !value || bytes != field.bytes) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(field.at, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

struct Epilogue {
    uint32_t number;
    Activation activation;
    Bias bias;
    bool has_aux;
};

constexpr Epilogue EPILOGUES[] = {
    {CUBLASLT_EPILOGUE_DEFAULT, Activation::none, Bias::none, false},
    {CUBLASLT_EPILOGUE_RELU, Activation::relu, Bias::none, false},
    {CUBLASLT_EPILOGUE_BIAS, Activation::none, Bias::add, false},
    {CUBLASLT_EPILOGUE_RELU_BIAS, Activation::relu, Bias::add, false},
    {CUBLASLT_EPILOGUE_GELU, Activation::gelu, Bias::none, false},
    {CUBLASLT_EPILOGUE_GELU_BIAS, Activation::gelu, Bias::add, false},
    {CUBLASLT_EPILOGUE_GELU_AUX, Activation::gelu, Bias::none, true},
    {CUBLASLT_EPILOGUE_GELU_AUX_BIAS, Activation::gelu, Bias::add, true},
    {CUBLASLT_EPILOGUE_DGELU, Activation::gelu_gradient, Bias::none, true},
    {CUBLASLT_EPILOGUE_DGELU_BGRAD, Activation::gelu_gradient, Bias::sum_of_d, true},
    {CUBLASLT_EPILOGUE_BGRADA, Activation::none, Bias::sum_of_a, false},
    {CUBLASLT_EPILOGUE_BGRADB, Activation::none, Bias::sum_of_b, false},
};

const Epilogue* find_epilogue(uint32_t number) {
    for (const Epilogue& epilogue : EPILOGUES) {
        if (epilogue.number == number) return &epilogue;
    }
    return nullptr;
}

Matrix matrix(const void* data, const cublasLtMatrixLayoutOpaque_t& layout) {
    return {const_cast<void*>(data), Element(layout.type), int64_t(layout.rows), int64_t(layout.columns),
            layout.leading, layout.order == 1, layout.batch_stride};
}

bool is_known(int32_t type) { return type == CUDA_R_32F || type == CUDA_R_16BF; }

bool is_possible(const cublasLtMatrixLayoutOpaque_t& layout) {
    const int64_t inner = layout.order == 1 ? layout.columns : layout.rows;
    return is_known(layout.type) && layout.rows > 0 && layout.columns > 0 && layout.leading >= inner && layout.batches > 0;
}

bool computes_in_f32(const cublasLtMatmulDescOpaque_t& description) {
    const int32_t compute = description.compute;
    const bool known = compute == CUBLAS_COMPUTE_32F || compute == CUBLAS_COMPUTE_32F_PEDANTIC ||
                       compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    return known && description.scale == CUDA_R_32F && description.pointer_mode == 0;
}

// Everything but addresses, alpha and beta; whether these shapes go together.
cublasStatus_t plan(const cublasLtMatmulDescOpaque_t& description, const cublasLtMatrixLayoutOpaque_t& a,
                    const cublasLtMatrixLayoutOpaque_t& b, const cublasLtMatrixLayoutOpaque_t& c,
                    const cublasLtMatrixLayoutOpaque_t& d, Gemm& gemm) {
    const Epilogue* epilogue = find_epilogue(description.epilogue);
    if (!epilogue || !computes_in_f32(description)) return CUBLAS_STATUS_NOT_SUPPORTED;
    for (const auto* layout : {&a, &b, &c, &d}) {
        if (!is_possible(*layout) || layout->batches != d.batches) return CUBLAS_STATUS_INVALID_VALUE;
    }
    // f32 goes with f32; bf16 factors give either.
    if (a.type != b.type || c.type != d.type || (a.type == CUDA_R_32F && d.type != CUDA_R_32F)) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    const bool aux_fits = description.aux_leading % 8 == 0 && description.aux_leading >= int64_t(d.rows);
    if (epilogue->has_aux && !aux_fits) return CUBLAS_STATUS_INVALID_VALUE;
    const bool ta = description.transpose_a, tb = description.transpose_b;
    const uint64_t m = ta ? a.columns : a.rows, k = ta ? a.rows : a.columns, n = tb ? b.rows : b.columns;
    const bool fits = (tb ? b.columns : b.rows) == k && d.rows == m && d.columns == n && c.rows == m && c.columns == n;
    if (!fits) return CUBLAS_STATUS_INVALID_VALUE;
    gemm = {.transpose_a = ta, .transpose_b = tb, .tf32 = description.compute == CUBLAS_COMPUTE_32F_FAST_TF32,
            .alpha = 1, .beta = 0, .a = matrix(nullptr, a), .b = matrix(nullptr, b), .c = matrix(nullptr, c),
            .d = matrix(nullptr, d), .batches = d.batches, .activation = epilogue->activation, .bias = epilogue->bias,
            .bias_vector = {}, .has_aux = epilogue->has_aux, .aux = {}};
    const int64_t bias_length = epilogue->bias == Bias::sum_of_b ? n : m;
    const auto bias_type = Element(description.bias_type < 0 ? d.type : description.bias_type);
    gemm.bias_vector = {description.bias, bias_type, bias_length, 1, bias_length, false, description.bias_batch_stride};
    const auto aux_type = Element(description.aux_type < 0 ? d.type : description.aux_type);
    gemm.aux = {description.aux, aux_type, int64_t(m), int64_t(n), description.aux_leading, d.order == 1,
                description.aux_batch_stride};
    return CUBLAS_STATUS_SUCCESS;
}

bool on_card(const Matrix& matrix, int64_t batches) {
    const int64_t elements = matrix.extent() + (batches - 1) * matrix.batch_stride;
    return DeviceMemory::all().holds(matrix.data, elements * bytes_of(matrix.type));
}

// Whether a batch is one: results that overlap are a race, and factors without a stride the same ones again and again.
bool lies_apart(const Gemm& gemm) {
    return gemm.batches == 1 ||
           (gemm.a.batch_stride != 0 && gemm.b.batch_stride != 0 && gemm.d.batch_stride >= gemm.d.extent());
}

bool is_aligned(const Matrix& matrix, int64_t batches, uint64_t alignment) {
    const uint64_t apart = batches > 1 ? matrix.batch_stride * bytes_of(matrix.type) : 0;
    return (reinterpret_cast<uint64_t>(matrix.data) | apart) % alignment == 0;
}

bool is_as_chosen(const Gemm& gemm, const cublasLtMatmulAlgo_t& algorithm) {
    const uint64_t* alignments = algorithm.data + 2;
    return is_aligned(gemm.a, gemm.batches, alignments[0]) && is_aligned(gemm.b, gemm.batches, alignments[1]) &&
           (gemm.beta == 0.0f || is_aligned(gemm.c, gemm.batches, alignments[2])) &&
           is_aligned(gemm.d, gemm.batches, alignments[3]);
}

// On a card this is a fault like a kernel's own.
std::optional<Failure> run(const Gemm& gemm, const cublasLtMatmulAlgo_t& algorithm, void* workspace) {
    const size_t workspace_bytes = algorithm.data[1];
    const bool reachable = on_card(gemm.a, gemm.batches) && on_card(gemm.b, gemm.batches) &&
                           on_card(gemm.d, gemm.batches) && (gemm.beta == 0.0f || on_card(gemm.c, gemm.batches)) &&
                           (gemm.bias == Bias::none || on_card(gemm.bias_vector, gemm.batches)) &&
                           (!gemm.has_aux || on_card(gemm.aux, gemm.batches)) &&
                           DeviceMemory::all().holds(workspace, workspace_bytes);
    if (!reachable) return Failure{Error::illegal_address, "a matrix lies outside of an allocation"};
    if (!lies_apart(gemm)) return Failure{Error::launch_failed, "the matrices of a batch do not lie apart"};
    if ((gemm.bias != Bias::none && !is_aligned(gemm.bias_vector, 1, EPILOGUE_ALIGNMENT)) ||
        (gemm.has_aux && !is_aligned(gemm.aux, 1, EPILOGUE_ALIGNMENT))) {
        return Failure{Error::misaligned_address, "an epilogue's vector or matrix does not begin on 16 bytes"};
    }
    if (!is_as_chosen(gemm, algorithm)) return Failure{Error::misaligned_address, "a matrix is aligned worse than was said"};
    const DeviceMemory::Access access;
    memset(workspace, 0xff, workspace_bytes);
    multiply(gemm);
    return std::nullopt;
}

}  // namespace

size_t cublasLtGetVersion() { return 130002; }

const char* cublasLtGetStatusName(cublasStatus_t status) {
    switch (status) {
        case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
        case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
        case CUBLAS_STATUS_ALLOC_FAILED: return "CUBLAS_STATUS_ALLOC_FAILED";
        case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
        case CUBLAS_STATUS_ARCH_MISMATCH: return "CUBLAS_STATUS_ARCH_MISMATCH";
        case CUBLAS_STATUS_MAPPING_ERROR: return "CUBLAS_STATUS_MAPPING_ERROR";
        case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
        case CUBLAS_STATUS_INTERNAL_ERROR: return "CUBLAS_STATUS_INTERNAL_ERROR";
        case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
        case CUBLAS_STATUS_LICENSE_ERROR: return "CUBLAS_STATUS_LICENSE_ERROR";
    }
    return "CUBLAS_STATUS_UNKNOWN";
}

const char* cublasLtGetStatusString(cublasStatus_t status) { return cublasLtGetStatusName(status); }

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
    if (usable()) return CUBLAS_STATUS_NOT_INITIALIZED;
    *handle = new cublasLtContext;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
    *description = new cublasLtMatmulDescOpaque_t{.compute = compute, .scale = scale};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
    delete description;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
    return set(field_of(*description, attribute), value, bytes);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type, uint64_t rows,
                                          uint64_t columns, int64_t leading) {
    *layout = new cublasLtMatrixLayoutOpaque_t{.type = type, .rows = rows, .columns = columns, .leading = leading};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* value, size_t bytes) {
    return set(field_of(*layout, attribute), value, bytes);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
    *preference = new cublasLtMatmulPreferenceOpaque_t;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t bytes) {
    switch (attribute) {
        case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return set(field(preference->workspace_bytes_max), value, bytes);
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return set(field(preference->alignments[0]), value, bytes);
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return set(field(preference->alignments[1]), value, bytes);
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return set(field(preference->alignments[2]), value, bytes);
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return set(field(preference->alignments[3]), value, bytes);
        // There is one algorithm, and these would choose among many.
        case CUBLASLT_MATMUL_PREF_SEARCH_MODE:
        case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
            return bytes == sizeof(uint32_t) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t description,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
    *found = 0;
    if (!handle || wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
    Gemm gemm;
    if (cublasStatus_t wrong = plan(*description, *a, *b, *c, *d, gemm)) return wrong;
    const bool is_plain = gemm.batches == 1 && description->epilogue == CUBLASLT_EPILOGUE_DEFAULT;
    if (settings().plain_products && !is_plain) return CUBLAS_STATUS_NOT_SUPPORTED;
    const size_t workspace_bytes = preference->workspace_bytes_max < WORKSPACE_BYTES ? 0 : WORKSPACE_BYTES;
    const uint32_t* alignments = preference->alignments;
    results[0] = {{{ALGORITHM, workspace_bytes, alignments[0], alignments[1], alignments[2], alignments[3]}}, workspace_bytes, CUBLAS_STATUS_SUCCESS, 1.0f, {}};
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t description, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algorithm, cublasLtMatmulHeuristicResult_t* result) {
    Gemm gemm;
    if (algorithm->data[0] != ALGORITHM) return CUBLAS_STATUS_INVALID_VALUE;
    if (cublasStatus_t wrong = plan(*description, *a, *b, *c, *d, gemm)) return wrong;
    *result = {*algorithm, size_t(algorithm->data[1]), CUBLAS_STATUS_SUCCESS, 1.0f, {}};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t description, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, CUstream stream) {
    const auto lock = driver_lock();
    if (usable()) return CUBLAS_STATUS_EXECUTION_FAILED;
    if (!handle || !alpha || !beta) return CUBLAS_STATUS_INVALID_VALUE;
    // With no algorithm named the library looks for one itself.
    const cublasLtMatmulAlgo_t chosen = algorithm ? *algorithm : cublasLtMatmulAlgo_t{{ALGORITHM, 0, 1, 1, 1, 1}};
    if (chosen.data[0] != ALGORITHM || workspace_bytes < chosen.data[1]) return CUBLAS_STATUS_INVALID_VALUE;
    Gemm gemm;
    if (cublasStatus_t wrong = plan(*description, *a_layout, *b_layout, *c_layout, *d_layout, gemm)) return wrong;
    gemm.alpha = *static_cast<const float*>(alpha);
    gemm.beta = *static_cast<const float*>(beta);
    gemm.a.data = const_cast<void*>(a);
    gemm.b.data = const_cast<void*>(b);
    gemm.c.data = const_cast<void*>(c);
    gemm.d.data = d;
    const uint32_t epilogue = description->epilogue;
    const std::string what = epilogue == CUBLASLT_EPILOGUE_DEFAULT ? "" : " with epilogue " + std::to_string(epilogue);
    const Work work = {"cublasLtMatmul" + what, [=] { return run(gemm, chosen, workspace); }};
    return enqueue(stream, work) ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}
