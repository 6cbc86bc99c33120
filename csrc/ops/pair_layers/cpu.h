// CPU launch declarations of pair_relu, relu_dot and their backwards: one copy for each SIMD level that was compiled.
#pragma once

#include "ops/pair_layers/kernel.h"

#define MI_DECLARE_LEVEL(level)                                       \
  namespace level {                                                   \
  void pair_relu(DType dtype, const PairRelu& args);                  \
  void pair_relu_backward(DType dtype, const PairReluBackward& args); \
  void relu_dot(DType dtype, const ReluDot& args);                    \
  void relu_dot_backward(DType dtype, const ReluDotBackward& args);   \
  }

namespace mi {

// dtype is that of the pairs: f64, f32 or bf16. Throws std::bad_alloc when scratch of a few rows does not fit.
MI_DECLARE_LEVEL(baseline)
MI_DECLARE_LEVEL(avx2)
MI_DECLARE_LEVEL(avx512)

}  // namespace mi

#undef MI_DECLARE_LEVEL
