// The CPU kernels of pairwise_lse behind torch's dispatcher, on the stable ABI. Argument errors that a user can make
// are reported by the Python function; the checks here keep a direct call of the operator from reading out of bounds.
#include "ops/pairwise_lse/bind_operands.h"

#include <tuple>

#include "ops/pairwise_lse/cpu.h"

namespace {

using mi::as;
using mi::new_vector;
using mi::Operands;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor> forward(Tensor x, std::optional<Tensor> y, Tensor scale, std::optional<Tensor> bias,
                                   std::optional<Tensor> row_groups, std::optional<Tensor> col_groups,
                                   std::string score, bool exclude_diagonal, bool columns, bool /*allow_tf32*/) {
  const Operands operands(x, y, scale, bias, row_groups, col_groups, score, exclude_diagonal);
  Tensor row_lse = new_vector(x, operands.pairs.n, operands.accumulation);
  Tensor col_lse = new_vector(x, columns ? operands.pairs.m : 0, operands.accumulation);
  mi::PairwiseLseForward args;
  args.pairs = operands.pairs;
  args.row_lse = row_lse.mutable_data_ptr();
  args.col_lse = columns ? col_lse.mutable_data_ptr() : nullptr;
  MI_BEST_LEVEL(pairwise_lse_forward)(operands.dtype, args, mi::torch_runtime());
  return {row_lse, col_lse};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(std::optional<Tensor> grad_row, std::optional<Tensor> grad_col,
                                                    Tensor row_lse, Tensor col_lse, Tensor x, std::optional<Tensor> y,
                                                    Tensor scale, std::optional<Tensor> bias,
                                                    std::optional<Tensor> row_groups, std::optional<Tensor> col_groups,
                                                    std::string score, bool exclude_diagonal, bool need_x, bool need_y,
                                                    bool need_scale, bool need_bias, bool /*allow_tf32*/) {
  const Operands operands(x, y, scale, bias, row_groups, col_groups, score, exclude_diagonal);
  const ScalarType accumulation = operands.accumulation;
  const int64_t n = operands.pairs.n, m = operands.pairs.m, d = operands.pairs.d;
  STD_TORCH_CHECK(row_lse.numel() == n && (!grad_row.has_value() || grad_row->numel() == n),
                  "pairwise_lse_backward: row_lse and grad_row must have one element for each row");
  STD_TORCH_CHECK(!grad_col.has_value() || (grad_col->numel() == m && col_lse.numel() == m),
                  "pairwise_lse_backward: col_lse and grad_col must have one element for each column");
  STD_TORCH_CHECK(grad_row.has_value() || grad_col.has_value(), "pairwise_lse_backward: no incoming gradient");

  mi::PairwiseLseBackward args;
  args.pairs = operands.pairs;
  const Tensor rows = as(row_lse, accumulation), cols = as(col_lse, accumulation);
  Tensor row_gradient, col_gradient;
  if (grad_row.has_value()) {
    row_gradient = as(*grad_row, accumulation);
    args.grad_row = row_gradient.const_data_ptr();
    args.row_lse = rows.const_data_ptr();
  }
  if (grad_col.has_value()) {
    col_gradient = as(*grad_col, accumulation);
    args.grad_col = col_gradient.const_data_ptr();
    args.col_lse = cols.const_data_ptr();
  }
  const auto matrix = [&](bool wanted, int64_t size) {
    return wanted ? torch::stable::new_empty(x, {size, d}, accumulation) : new_vector(x, 0, accumulation);
  };
  const bool want_y = need_y && y.has_value();  // in self mode dx holds both roles
  Tensor dx = matrix(need_x, n), dy = matrix(want_y, m);
  Tensor dscale =
      need_scale ? torch::stable::new_empty(x, scale.sizes(), accumulation) : new_vector(x, 0, accumulation);
  Tensor dbias = new_vector(x, need_bias ? m : 0, accumulation);
  args.dx = need_x ? dx.mutable_data_ptr() : nullptr;
  args.dy = want_y ? dy.mutable_data_ptr() : nullptr;
  args.dscale = need_scale ? dscale.mutable_data_ptr() : nullptr;
  args.dbias = need_bias ? dbias.mutable_data_ptr() : nullptr;
  MI_BEST_LEVEL(pairwise_lse_backward)(operands.dtype, args, mi::torch_runtime());
  return {as(dx, x.scalar_type()), as(dy, x.scalar_type()), dscale, dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mi_estimators, CPU, m) {
  m.impl("pairwise_lse", TORCH_BOX(&forward));
  m.impl("pairwise_lse_backward", TORCH_BOX(&backward));
}
