// Checks of libcublasLt: products of every layout against sums in f64, epilogues against their definitions.
#include <cmath>
#include <string>

#include "cublaslt_api.h"
#include "cuda_bf16.h"
#include "selfcheck.h"

namespace {

using bf16 = __nv_bfloat16;

// What a product is made of; A is [m, k] and B is [k, n] after transposing, all by columns, with a leading dimension three
// longer than need be.
struct Product {
    int64_t m, n, k;
    bool transpose_a = false, transpose_b = false;
    int batches = 1;
    float alpha = 1.0f, beta = 0.0f;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
    // What may be wrong: the batches that D's layout says, by how many elements its results overlap, whether A's stride
    // is set, and the alignment that is said of all.
    int batches_of_d = 0;
    int64_t overlap = 0;
    bool strides_a = true;
    uint32_t alignment = 2;

    int64_t rows_of_a() const { return transpose_a ? k : m; }
    int64_t columns_of_a() const { return transpose_a ? m : k; }
    int64_t rows_of_b() const { return transpose_b ? n : k; }
    int64_t columns_of_b() const { return transpose_b ? k : n; }
};

constexpr int64_t PADDING = 3;
constexpr int64_t AUX_UNIT = 8;

// Numbers between -1 and 1 that bf16 holds exactly, so that both types have the same reference.
template <class T>
std::vector<T> numbers(size_t count, unsigned seed) {
    std::vector<T> values;
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525 + 1013904223;
        values.push_back(T(float(int(seed >> 25) - 64) / 64.0f));
    }
    return values;
}

template <class T>
constexpr cudaDataType_t TYPE = sizeof(T) == 4 ? CUDA_R_32F : CUDA_R_16BF;

bool is_good(cublasStatus_t status) {
    if (status != CUBLAS_STATUS_SUCCESS) printf("cuBLASLt: %s\n", cublasLtGetStatusString(status));
    return status == CUBLAS_STATUS_SUCCESS;
}

cublasLtMatrixLayout_t layout(cudaDataType_t type, int64_t rows, int64_t columns, int batches, int64_t overlap) {
    cublasLtMatrixLayout_t made;
    const int64_t leading = rows + PADDING, stride = leading * columns - overlap;
    is_good(cublasLtMatrixLayoutCreate(&made, type, rows, columns, leading));
    is_good(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batches, sizeof batches));
    if (stride > 0) {
        is_good(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride));
    }
    return made;
}

// A product with its operands on the card. In takes part in the product, Out is what comes of it.
template <class In, class Out>
class Run {
public:
    explicit Run(const Product& p)
        : p(p),
          a_values(numbers<In>((p.rows_of_a() + PADDING) * p.columns_of_a() * p.batches, 1)),
          b_values(numbers<In>((p.rows_of_b() + PADDING) * p.columns_of_b() * p.batches, 2)),
          c_values(numbers<Out>((p.m + PADDING) * p.n * p.batches, 3)),
          bias_values(numbers<Out>(std::max(p.m, p.n), 4)),
          aux_values(numbers<Out>(aux_leading() * p.n, 5)),
          a(a_values), b(b_values), c(c_values), d(c_values.size()), bias(bias_values), aux(aux_values), workspace(65536) {}

    // False if the library refuses.
    bool multiply() {
        cublasLtHandle_t handle;
        cublasLtMatmulDesc_t description;
        cublasLtMatmulPreference_t preference;
        cublasLtMatmulHeuristicResult_t found;
        int count;
        const int64_t never = p.strides_a ? 0 : INT64_MAX;
        const auto la = layout(TYPE<In>, p.rows_of_a(), p.columns_of_a(), p.batches, never);
        const auto lb = layout(TYPE<In>, p.rows_of_b(), p.columns_of_b(), p.batches, 0);
        const auto ld = layout(TYPE<Out>, p.m, p.n, p.batches_of_d ? p.batches_of_d : p.batches, p.overlap);
        const uint64_t workspace_bytes = workspace.count;
        bool good = is_good(cublasLtCreate(&handle)) && is_good(cublasLtMatmulDescCreate(&description, p.compute, CUDA_R_32F)) &&
                    describe(description) && is_good(cublasLtMatmulPreferenceCreate(&preference)) &&
                    is_good(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                                 &workspace_bytes, sizeof workspace_bytes)) &&
                    align(preference) &&
                    is_good(cublasLtMatmulAlgoGetHeuristic(handle, description, la, lb, ld, ld, preference, 1, &found, &count));
        return good && is_good(cublasLtMatmul(handle, description, &p.alpha, at(a), la, at(b), lb, &p.beta, at(c), ld, at(d), ld,
                                              &found.algo, at(workspace), found.workspace_bytes, card.stream));
    }

    // Before its epilogue, in f64.
    double expected(int batch, int64_t i, int64_t j) const {
        double sum = 0.0;
        for (int64_t l = 0; l < p.k; l++) sum += a_at(batch, i, l) * b_at(batch, l, j);
        return p.alpha * sum + (p.beta != 0.0f ? p.beta * double(float(c_values[d_index(batch, i, j)])) : 0.0);
    }

    double a_at(int batch, int64_t i, int64_t l) const {
        const int64_t leading = p.rows_of_a() + PADDING, start = batch * leading * p.columns_of_a();
        return float(a_values[start + (p.transpose_a ? i * leading + l : l * leading + i)]);
    }
    double b_at(int batch, int64_t l, int64_t j) const {
        const int64_t leading = p.rows_of_b() + PADDING, start = batch * leading * p.columns_of_b();
        return float(b_values[start + (p.transpose_b ? l * leading + j : j * leading + l)]);
    }
    int64_t d_index(int batch, int64_t i, int64_t j) const { return (batch * p.n + j) * (p.m + PADDING) + i; }
    int64_t aux_leading() const { return (p.m + AUX_UNIT - 1) / AUX_UNIT * AUX_UNIT; }

    Product p;
    Card card;
    std::vector<In> a_values, b_values;
    std::vector<Out> c_values, bias_values, aux_values;
    Array<In> a, b;
    Array<Out> c, d, bias, aux;
    Array<unsigned char> workspace;

private:
    bool align(cublasLtMatmulPreference_t preference) {
        for (auto attribute : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                               CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
            if (!is_good(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &p.alignment, 4))) return false;
        }
        return true;
    }

    template <class T>
    static void* at(const Array<T>& array) {
        return reinterpret_cast<void*>(array.address);
    }

    bool describe(cublasLtMatmulDesc_t description) {
        const int32_t transpose[2] = {p.transpose_a, p.transpose_b};
        const int64_t leading = aux_leading();
        auto set = [&](cublasLtMatmulDescAttributes_t attribute, const void* value, size_t bytes) {
            return is_good(cublasLtMatmulDescSetAttribute(description, attribute, value, bytes));
        };
        return set(CUBLASLT_MATMUL_DESC_TRANSA, &transpose[0], 4) && set(CUBLASLT_MATMUL_DESC_TRANSB, &transpose[1], 4) &&
               set(CUBLASLT_MATMUL_DESC_EPILOGUE, &p.epilogue, 4) && set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.address, 8) &&
               set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux.address, 8) &&
               set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &leading, 8);
    }
};

bool close(double found, double expected, double relative) {
    if (std::abs(found - expected) <= relative * std::max(1.0, std::abs(expected))) return true;
    printf("%g, not %g\n", found, expected);
    return false;
}

// Every element of D against `epilogue(what the product gives, row, column)`.
template <class In, class Out, class Epilogue>
bool holds(Run<In, Out>& run, Epilogue epilogue) {
    if (!run.multiply()) return false;
    const double relative = sizeof(Out) == 4 ? 1e-5 : 1.0 / 256;
    const auto d = run.d.read();
    for (int batch = 0; batch < run.p.batches; batch++) {
        for (int64_t j = 0; j < run.p.n; j++) {
            for (int64_t i = 0; i < run.p.m; i++) {
                const double expected = epilogue(run.expected(batch, i, j), i, j);
                if (!close(float(d[run.d_index(batch, i, j)]), expected, relative)) return false;
            }
            // What lies between columns is nobody's.
            if (!std::isnan(float(d[run.d_index(batch, run.p.m, j)]))) return false;
        }
    }
    return true;
}

template <class In, class Out>
bool plain(const Product& p) {
    Run<In, Out> run(p);
    return holds(run, [](double x, int64_t, int64_t) { return x; });
}

double gelu(double x) { return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x))); }

// By central differences.
double gelu_gradient(double x) { return (gelu(x + 1e-5) - gelu(x - 1e-5)) / 2e-5; }

bool bias_is_added() {
    Run<bf16, float> run({.m = 9, .n = 5, .k = 20, .epilogue = CUBLASLT_EPILOGUE_BIAS});
    return holds(run, [&](double x, int64_t i, int64_t) { return x + run.bias_values[i]; });
}

bool gelu_keeps_its_input() {
    Run<float, float> run({.m = 9, .n = 5, .k = 20, .alpha = 0.25f, .epilogue = CUBLASLT_EPILOGUE_GELU_AUX_BIAS});
    if (!holds(run, [&](double x, int64_t i, int64_t) { return gelu(x + run.bias_values[i]); })) return false;
    const auto aux = run.aux.read();
    for (int64_t j = 0; j < 5; j++) {
        for (int64_t i = 0; i < 9; i++) {
            if (!close(aux[j * run.aux_leading() + i], run.expected(0, i, j) + run.bias_values[i], 1e-5)) return false;
        }
    }
    return true;
}

bool gelu_gradient_and_its_sums() {
    Run<float, float> run({.m = 9, .n = 5, .k = 20, .epilogue = CUBLASLT_EPILOGUE_DGELU_BGRAD});
    auto gradient = [&](double x, int64_t i, int64_t j) {
        return x * gelu_gradient(run.aux_values[j * run.aux_leading() + i]);
    };
    if (!holds(run, gradient)) return false;
    const auto sums = run.bias.read();
    for (int64_t i = 0; i < 9; i++) {
        double sum = 0.0;
        for (int64_t j = 0; j < 5; j++) sum += gradient(run.expected(0, i, j), i, j);
        if (!close(sums[i], sum, 1e-4)) return false;
    }
    return true;
}

// Over the inner dimension: of A a sum for each row of D, of B one for each column.
bool sums_of_factors() {
    Run<float, float> of_a({.m = 6, .n = 4, .k = 11, .transpose_a = true, .epilogue = CUBLASLT_EPILOGUE_BGRADA});
    Run<float, float> of_b({.m = 6, .n = 4, .k = 11, .transpose_b = true, .epilogue = CUBLASLT_EPILOGUE_BGRADB});
    if (!of_a.multiply() || !of_b.multiply()) return false;
    const auto a = of_a.bias.read(), b = of_b.bias.read();
    for (int64_t i = 0; i < 6; i++) {
        double sum = 0.0;
        for (int64_t l = 0; l < 11; l++) sum += of_a.a_at(0, i, l);
        if (!close(a[i], sum, 1e-5)) return false;
    }
    for (int64_t j = 0; j < 4; j++) {
        double sum = 0.0;
        for (int64_t l = 0; l < 11; l++) sum += of_b.b_at(0, l, j);
        if (!close(b[j], sum, 1e-5)) return false;
    }
    return true;
}

// 1 + 2^-12 is 1 in TF32, and itself in f32.
bool tf32_shows() {
    for (auto compute : {CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32}) {
        Run<float, float> run({.m = 1, .n = 1, .k = 1, .compute = compute});
        const float x = 1.0f + 1.0f / 4096, one = 1.0f;
        MUST(cuMemcpyHtoD_v2(run.a.address, &x, 4));
        MUST(cuMemcpyHtoD_v2(run.b.address, &one, 4));
        if (!run.multiply() || run.d.read()[0] != (compute == CUBLAS_COMPUTE_32F ? x : one)) return false;
    }
    return true;
}

bool is_captured() {
    Run<float, float> run({.m = 3, .n = 3, .k = 3});
    CUgraph graph;
    CUgraphExec executable;
    MUST(cuStreamBeginCapture_v2(run.card.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    if (!run.multiply()) return false;
    MUST(cuStreamEndCapture(run.card.stream, &graph));
    if (!std::isnan(run.d.read()[0])) return false;
    MUST(cuGraphInstantiateWithFlags(&executable, graph, 0));
    MUST(cuGraphLaunch(executable, run.card.stream));
    return close(run.d.read()[0], run.expected(0, 0, 0), 1e-5);
}

CUresult bias_of_eight_bytes() {
    Run<bf16, bf16> run({.m = 4, .n = 8, .k = 8, .epilogue = CUBLASLT_EPILOGUE_BIAS});
    run.bias.address += 8;
    run.multiply();
    return cuStreamSynchronize(run.card.stream);
}

CUresult matrix_outside() {
    Run<float, float> run({.m = 64, .n = 64, .k = 64});
    run.b.address += 64;
    run.multiply();
    return cuStreamSynchronize(run.card.stream);
}

template <class T>
CUresult outcome(const Product& p) {
    Run<T, T> run(p);
    run.multiply();
    return cuStreamSynchronize(run.card.stream);
}

}  // namespace

void check_cublaslt() {
    for (int transposed = 0; transposed < 4; transposed++) {
        const Product p = {.m = 7, .n = 13, .k = 37, .transpose_a = transposed % 2 == 1, .transpose_b = transposed / 2 == 1,
                           .batches = 3, .alpha = 0.5f, .beta = transposed == 0 ? 0.0f : 2.0f};
        const char* const which[] = {"neither", "A", "B", "both"};
        const std::string of = std::string(", transposed: ") + which[transposed];
        expect(("f32 products" + of).c_str(), [&] { return plain<float, float>(p); });
        expect(("bf16 products" + of).c_str(), [&] { return plain<bf16, bf16>(p); });
        expect(("bf16 products in f32" + of).c_str(), [&] { return plain<bf16, float>(p); });
    }
    expect("a bias is added to each row", bias_is_added);
    expect("GELU keeps its input", gelu_keeps_its_input);
    expect("GELU's gradient, and its sums", gelu_gradient_and_its_sums);
    expect("sums of the factors", sums_of_factors);
    expect("TF32 shows", tf32_shows);
    expect("products are captured", is_captured);
    expect("a matrix outside of its allocation", CUDA_ERROR_ILLEGAL_ADDRESS, matrix_outside);
    expect("a bias that does not begin on 16 bytes", CUDA_ERROR_MISALIGNED_ADDRESS, bias_of_eight_bytes);
    const Product batch = {.m = 8, .n = 8, .k = 8, .batches = 3};
    const auto with = [&](auto change) {
        Product p = batch;
        change(p);
        return p;
    };
    const Product other_count = with([](Product& p) { p.batches_of_d = 2; });
    expect("a batch that the layouts disagree about", [=] { return !Run<float, float>(other_count).multiply(); });
    const Product no_stride = with([](Product& p) { p.strides_a = false; });
    expect("a batch without a stride", CUDA_ERROR_LAUNCH_FAILED, [=] { return outcome<float>(no_stride); });
    const Product overlapping = with([](Product& p) { p.overlap = PADDING + 1; });
    expect("results of a batch that overlap", CUDA_ERROR_LAUNCH_FAILED, [=] { return outcome<float>(overlapping); });
    const Product unaligned = with([](Product& p) { p.alignment = 16; p.n = 5; });
    expect("a batch that is aligned worse than was said", CUDA_ERROR_MISALIGNED_ADDRESS,
           [=] { return outcome<bf16>(unaligned); });
    expect("a library that has no way to do a batch", [=] {
        setenv("CUDA_ON_CPU_CUBLASLT", "plain", 1);
        return !Run<float, float>(batch).multiply() && Run<float, float>({.m = 8, .n = 8, .k = 8}).multiply();
    });
}
