// Plain loops over f32 copies of the factors, see gemm.h.
#include "gemm.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "cuda_bf16.h"

namespace cuda_on_cpu {

namespace {

float load(const Matrix& matrix, int64_t batch, int64_t row, int64_t column) {
    const int64_t at = batch * matrix.batch_stride + matrix.offset(row, column);
    if (matrix.type == Element::f32) return static_cast<const float*>(matrix.data)[at];
    return static_cast<const __nv_bfloat16*>(matrix.data)[at];
}

void store(const Matrix& matrix, int64_t batch, int64_t row, int64_t column, float value) {
    const int64_t at = batch * matrix.batch_stride + matrix.offset(row, column);
    if (matrix.type == Element::f32) {
        static_cast<float*>(matrix.data)[at] = value;
    } else {
        static_cast<__nv_bfloat16*>(matrix.data)[at] = value;
    }
}

// To nearest, ties away from zero, as the tensor cores' conversion does.
float round_to_tf32(float x) { return __uint_as_float((__float_as_uint(x) + 0x1000) & 0xffffe000); }

// Rows of op(A), or columns of op(B), one after the other: [outer, inner].
std::vector<float> unpack(const Matrix& matrix, int64_t batch, bool rows_are_inner, bool tf32) {
    const int64_t inner = rows_are_inner ? matrix.rows : matrix.columns;
    const int64_t outer = rows_are_inner ? matrix.columns : matrix.rows;
    const bool round = tf32 && matrix.type == Element::f32;
    std::vector<float> values(outer * inner);
    for (int64_t o = 0; o < outer; o++) {
        for (int64_t i = 0; i < inner; i++) {
            const float value = rows_are_inner ? load(matrix, batch, i, o) : load(matrix, batch, o, i);
            values[o * inner + i] = round ? round_to_tf32(value) : value;
        }
    }
    return values;
}

// The sum of x[i] y[i] in eight interleaved parts, so that the compiler makes one vector of them.
float dot(const float* x, const float* y, int64_t count) {
    constexpr int PARTS = 8;
    float parts[PARTS] = {};
    int64_t i = 0;
    for (; i + PARTS <= count; i += PARTS) {
        for (int part = 0; part < PARTS; part++) parts[part] = fmaf(x[i + part], y[i + part], parts[part]);
    }
    float sum = 0.0f;
    for (float part : parts) sum += part;
    for (; i < count; i++) sum = fmaf(x[i], y[i], sum);
    return sum;
}

constexpr float GELU_SCALE = 0.7978845608f, GELU_CUBIC = 0.044715f;  // sqrt(2/pi): the approximation by tanh

float gelu(float x) { return 0.5f * x * (1.0f + tanhf(GELU_SCALE * (x + GELU_CUBIC * x * x * x))); }

float gelu_gradient(float x) {
    const float t = tanhf(GELU_SCALE * (x + GELU_CUBIC * x * x * x));
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * GELU_SCALE * (1.0f + 3.0f * GELU_CUBIC * x * x);
}

float activate(const Gemm& gemm, int64_t batch, int64_t row, int64_t column, float value) {
    switch (gemm.activation) {
        case Activation::none: return value;
        case Activation::relu: return fmaxf(value, 0.0f);
        case Activation::gelu_gradient: return value * gelu_gradient(load(gemm.aux, batch, row, column));
        case Activation::gelu:
            if (gemm.has_aux) store(gemm.aux, batch, row, column, value);
            return gelu(value);
    }
    return value;
}

// The sum of each row of `values`: [outer, inner].
void store_row_sums(const Gemm& gemm, int64_t batch, const std::vector<float>& values, int64_t outer) {
    const int64_t inner = values.size() / outer;
    for (int64_t o = 0; o < outer; o++) {
        float sum = 0.0f;
        for (int64_t i = 0; i < inner; i++) sum += values[o * inner + i];
        store(gemm.bias_vector, batch, o, 0, sum);
    }
}

void multiply_one(const Gemm& gemm, int64_t batch) {
    const int64_t m = gemm.d.rows, n = gemm.d.columns;
    const std::vector<float> a = unpack(gemm.a, batch, gemm.transpose_a, gemm.tf32);   // [m, k]
    const std::vector<float> b = unpack(gemm.b, batch, !gemm.transpose_b, gemm.tf32);  // [n, k]
    const int64_t k = a.size() / m;
    std::vector<float> d(m * n);
    for (int64_t i = 0; i < m; i++) {
        const float bias = gemm.bias == Bias::add ? load(gemm.bias_vector, batch, i, 0) : 0.0f;
        for (int64_t j = 0; j < n; j++) {
            float value = gemm.alpha * dot(&a[i * k], &b[j * k], k);
            // As BLAS has it: where beta is 0, C is not read, and may be NaN.
            if (gemm.beta != 0.0f) value += gemm.beta * load(gemm.c, batch, i, j);
            d[i * n + j] = activate(gemm, batch, i, j, value + bias);
        }
    }
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) store(gemm.d, batch, i, j, d[i * n + j]);
    }
    if (gemm.bias == Bias::sum_of_d) store_row_sums(gemm, batch, d, m);
    if (gemm.bias == Bias::sum_of_a) store_row_sums(gemm, batch, a, m);
    if (gemm.bias == Bias::sum_of_b) store_row_sums(gemm, batch, b, n);
}

}  // namespace

int64_t Matrix::extent() const { return rows && columns ? offset(rows - 1, columns - 1) + 1 : 0; }

void multiply(const Gemm& gemm) {
    for (int64_t batch = 0; batch < gemm.batches; batch++) multiply_one(gemm, batch);
}

}  // namespace cuda_on_cpu
