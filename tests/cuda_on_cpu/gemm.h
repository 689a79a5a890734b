// The arithmetic behind cublaslt.cpp: one matrix multiplication with its epilogue, on memory that can be reached.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cuda_on_cpu {

enum class Element : int { f32 = 0, bf16 = 14 };  // numbered as cudaDataType_t

constexpr size_t bytes_of(Element type) { return type == Element::f32 ? 4 : 2; }

// A matrix as it lies in memory, or a batch of them.
struct Matrix {
    void* data;
    Element type;
    int64_t rows, columns;
    int64_t leading;       // from one column to the next, or from one row to the next
    bool row_major;
    int64_t batch_stride;  // in elements

    // Of one matrix of the batch, from its first element to its last.
    int64_t extent() const;
    int64_t offset(int64_t row, int64_t column) const {
        return row_major ? row * leading + column : column * leading + row;
    }
};

enum class Activation { none, relu, gelu, gelu_gradient };

// Where an epilogue's vector comes from or goes to: the bias added to each row of D; or the sum over D's columns, over A's
// or over B's inner dimension.
enum class Bias { none, add, sum_of_d, sum_of_a, sum_of_b };

struct Gemm {
    bool transpose_a, transpose_b;
    bool tf32;  // f32 factors are rounded to ten bits of mantissa first
    float alpha, beta;
    Matrix a, b, c, d;
    int64_t batches;
    Activation activation;
    Bias bias;
    Matrix bias_vector;  // one column
    // What the activation is applied to, kept or given back: as D, or nothing.
    bool has_aux;
    Matrix aux;
};

// D = activation(alpha op(A) op(B) + beta C + bias). The order of every sum depends on the shape alone.
void multiply(const Gemm& gemm);

}  // namespace cuda_on_cpu
