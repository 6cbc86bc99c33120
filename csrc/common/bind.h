// What the bindings of every operator share: torch's element types as the kernels know them, and checked inputs.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "common/dtype.h"

namespace mi {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline DType element_type(const Tensor& tensor, const char* operation) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return DType::f64;
    case ScalarType::Float:
      return DType::f32;
    case ScalarType::BFloat16:
      return DType::bf16;
    case ScalarType::Half:
      return DType::f16;
    default:
      STD_TORCH_CHECK(false, operation, ": want float64, float32, bfloat16 or float16");
  }
}

// The type that sums are held in.
inline ScalarType accumulation_type(DType dtype) {
  return dtype == DType::f64 ? ScalarType::Double : ScalarType::Float;
}

// `tensor` contiguous, once it is known to hold `size` numbers of the type on the device of `like`.
inline Tensor beside(const Tensor& like, const Tensor& tensor, ScalarType type, int64_t size, const char* operation,
                     const char* name) {
  const bool same_device = tensor.is_cpu() == like.is_cpu() && tensor.is_cuda() == like.is_cuda() &&
                           (like.is_cpu() || tensor.get_device_index() == like.get_device_index());
  STD_TORCH_CHECK(same_device && tensor.scalar_type() == type && tensor.numel() == size, operation, ": ", name,
                  " has the wrong device, dtype or size");
  return torch::stable::contiguous(tensor);
}

}  // namespace mi
