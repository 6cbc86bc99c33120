// What the CPU bindings of the pairwise operators share: operands as contiguous tensors in the type of the sums,
// checked so that a direct call of an operator cannot read out of bounds.
#pragma once

#include <optional>
#include <string>

#include "common/bind.h"
#include "common/cpu/host.h"
#include "ops/pairwise_lse/kernel.h"
#include "ops/pairwise_lse/score_names.h"

namespace mi {

inline Tensor as(const Tensor& tensor, ScalarType dtype) {
  return torch::stable::contiguous(tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype));
}

inline Tensor as_groups(const Tensor& groups, int64_t size) {
  STD_TORCH_CHECK(groups.is_cpu() && groups.scalar_type() == ScalarType::Long && groups.numel() == size,
                  "pairwise_lse: groups must hold ", size, " int64 on the CPU");
  return torch::stable::contiguous(groups);
}

inline Tensor new_vector(const Tensor& like, int64_t size, ScalarType dtype) {
  return torch::stable::new_empty(like, {size}, dtype);
}

// Contiguous tensors, points and numbers in the accumulation type, and the pointers to them.
struct Operands {
  Tensor x, y, scale, bias, row_groups, col_groups;
  DType dtype;
  ScalarType accumulation;
  PairwiseScores pairs;

  Operands(const Tensor& x_, const std::optional<Tensor>& y_, const Tensor& scale_, const std::optional<Tensor>& bias_,
           const std::optional<Tensor>& row_groups_, const std::optional<Tensor>& col_groups_, const std::string& score,
           bool exclude_diagonal)
      : accumulation(x_.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float) {
    STD_TORCH_CHECK(x_.dim() == 2 && x_.numel() > 0, "pairwise_lse: x must be a non-empty matrix");
    STD_TORCH_CHECK(find_score(score, pairs.score), "pairwise_lse: unknown score ", score);
    STD_TORCH_CHECK(scale_.numel() == 1, "pairwise_lse: scale must have one element");
    x = as(x_, accumulation);
    y = x;
    if (y_.has_value()) {
      STD_TORCH_CHECK(y_->dim() == 2 && y_->numel() > 0 && y_->size(1) == x_.size(1) && y_->is_cpu(),
                      "pairwise_lse: y must be a non-empty CPU matrix with as many columns as x");
      STD_TORCH_CHECK(y_->scalar_type() == x_.scalar_type(), "pairwise_lse: x and y must have one dtype");
      y = as(*y_, accumulation);
    }
    scale = as(scale_, accumulation);
    if (bias_.has_value()) {
      STD_TORCH_CHECK(bias_->numel() == y.size(0), "pairwise_lse: bias must have one element for each column");
      bias = as(*bias_, accumulation);
      pairs.bias = bias.const_data_ptr();
    }
    STD_TORCH_CHECK(y_.has_value() ? row_groups_.has_value() == col_groups_.has_value() : !col_groups_.has_value(),
                    "pairwise_lse: want groups of both sides or of neither, and of the rows alone when y is absent");
    if (row_groups_.has_value()) {
      row_groups = as_groups(*row_groups_, x.size(0));
      col_groups = col_groups_.has_value() ? as_groups(*col_groups_, y.size(0)) : row_groups;
      pairs.row_groups = static_cast<const int64_t*>(row_groups.const_data_ptr());
      pairs.col_groups = static_cast<const int64_t*>(col_groups.const_data_ptr());
    }
    pairs.x = x.const_data_ptr();
    pairs.y = y_.has_value() ? y.const_data_ptr() : nullptr;
    pairs.scale = scale.const_data_ptr();
    pairs.n = x.size(0);
    pairs.m = y.size(0);
    pairs.d = x.size(1);
    pairs.exclude_diagonal = exclude_diagonal;
    dtype = accumulation == ScalarType::Double ? DType::f64 : DType::f32;
  }
};

}  // namespace mi
