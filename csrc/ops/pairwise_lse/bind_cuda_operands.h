// The inputs of the pairwise operators on CUDA, checked and contiguous, for their bindings. The checks keep a direct
// call of an operator from reading out of bounds.
#pragma once

#include <optional>
#include <string>

#include "common/cuda/bind.h"
#include "ops/pairwise_lse/kernel.h"
#include "ops/pairwise_lse/score_names.h"

namespace mi::cuda {

inline Tensor new_tensor(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef shape, ScalarType dtype) {
  return torch::stable::new_empty(like, shape, dtype);
}

// The inputs, contiguous, and what the kernels need to know of them.
struct Operands {
  Tensor x, y, scale;
  std::optional<Tensor> bias, row_groups, col_groups;
  mi::DType dtype;
  ScalarType accumulation;
  mi::PairwiseScores pairs;

  Operands(const Tensor& x_, const std::optional<Tensor>& y_, const Tensor& scale_, const std::optional<Tensor>& bias_,
           const std::optional<Tensor>& row_groups_, const std::optional<Tensor>& col_groups_, const std::string& score,
           bool exclude_diagonal)
      : x(torch::stable::contiguous(x_)),
        y(y_.has_value() ? torch::stable::contiguous(*y_) : x),
        scale(torch::stable::contiguous(scale_)),
        dtype(element_type(x_, "pairwise_lse")),
        accumulation(accumulation_type(dtype)) {
    STD_TORCH_CHECK(x.dim() == 2 && x.numel() > 0, "pairwise_lse: x must be a non-empty matrix");
    STD_TORCH_CHECK(y.dim() == 2 && y.numel() > 0 && y.size(1) == x.size(1) && y.scalar_type() == x.scalar_type(),
                    "pairwise_lse: y must be a non-empty matrix with as many columns as x, and of its dtype");
    STD_TORCH_CHECK(mi::find_score(score, pairs.score), "pairwise_lse: unknown score ", score);
    STD_TORCH_CHECK(scale.numel() == 1, "pairwise_lse: scale must have one element");
    check_beside_x(y, "y");
    check_beside_x(scale, "scale", accumulation);
    pairs.x = x.const_data_ptr();
    pairs.y = y_.has_value() ? y.const_data_ptr() : nullptr;
    pairs.scale = scale.const_data_ptr();
    if (bias_.has_value()) {
      bias = vector(*bias_, "bias", y.size(0));
      pairs.bias = bias->const_data_ptr();
    }
    STD_TORCH_CHECK(y_.has_value() ? row_groups_.has_value() == col_groups_.has_value() : !col_groups_.has_value(),
                    "pairwise_lse: want groups of both sides or of neither, and of the rows alone when y is absent");
    if (row_groups_.has_value()) {
      row_groups = vector(*row_groups_, "row_groups", x.size(0), ScalarType::Long);
      col_groups =
          col_groups_.has_value() ? vector(*col_groups_, "col_groups", y.size(0), ScalarType::Long) : row_groups;
      pairs.row_groups = static_cast<const int64_t*>(row_groups->const_data_ptr());
      pairs.col_groups = static_cast<const int64_t*>(col_groups->const_data_ptr());
    }
    pairs.n = x.size(0);
    pairs.m = y.size(0);
    pairs.d = x.size(1);
    pairs.exclude_diagonal = exclude_diagonal;
  }

  void check_beside_x(const Tensor& tensor, const char* name) const {
    STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == x.get_device_index(), "pairwise_lse: ", name,
                    " must be on the device of x");
  }

  void check_beside_x(const Tensor& tensor, const char* name, ScalarType type) const {
    check_beside_x(tensor, name);
    STD_TORCH_CHECK(tensor.scalar_type() == type, "pairwise_lse: ", name, " has the wrong dtype");
  }

  // `tensor` as `size` contiguous numbers of the accumulation dtype.
  Tensor vector(const Tensor& tensor, const char* name, int64_t size) const {
    return vector(tensor, name, size, accumulation);
  }

  Tensor vector(const Tensor& tensor, const char* name, int64_t size, ScalarType type) const {
    check_beside_x(tensor, name, type);
    STD_TORCH_CHECK(tensor.numel() == size, "pairwise_lse: ", name, " must have ", size, " elements");
    return torch::stable::contiguous(tensor);
  }
};

}  // namespace mi::cuda
