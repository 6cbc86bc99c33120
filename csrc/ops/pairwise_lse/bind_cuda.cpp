// The CUDA kernels of pairwise_lse behind torch's dispatcher, on the stable ABI. Argument errors that a user can make
// are reported by the Python function; the checks here keep a direct call of the operator from reading out of bounds.
#include <tuple>

#include "ops/pairwise_lse/bind_cuda_operands.h"
#include "ops/pairwise_lse/cuda.h"

namespace {

using namespace mi::cuda;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor> forward(Tensor x, std::optional<Tensor> y, Tensor scale, std::optional<Tensor> bias,
                                   std::optional<Tensor> row_groups, std::optional<Tensor> col_groups,
                                   std::string score, bool exclude_diagonal, bool columns, bool allow_tf32) {
  const Operands operands(x, y, scale, bias, row_groups, col_groups, score, exclude_diagonal);
  Tensor row_lse = new_tensor(x, {operands.pairs.n}, operands.accumulation);
  Tensor col_lse = new_tensor(x, {columns ? operands.pairs.m : 0}, operands.accumulation);
  mi::PairwiseLseForward args;
  args.pairs = operands.pairs;
  args.pairs.allow_tf32 = allow_tf32;
  args.row_lse = row_lse.mutable_data_ptr();
  args.col_lse = columns ? col_lse.mutable_data_ptr() : nullptr;
  launch("pairwise_lse", x, mi::pairwise_lse_workspace_bytes(operands.dtype, args), mi::pairwise_lse_forward,
         operands.dtype, args);
  return {row_lse, col_lse};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(std::optional<Tensor> grad_row, std::optional<Tensor> grad_col,
                                                    Tensor row_lse, Tensor col_lse, Tensor x, std::optional<Tensor> y,
                                                    Tensor scale, std::optional<Tensor> bias,
                                                    std::optional<Tensor> row_groups, std::optional<Tensor> col_groups,
                                                    std::string score, bool exclude_diagonal, bool need_x, bool need_y,
                                                    bool need_scale, bool need_bias, bool allow_tf32) {
  const Operands operands(x, y, scale, bias, row_groups, col_groups, score, exclude_diagonal);
  const mi::PairwiseScores& pairs = operands.pairs;
  const bool want_y = need_y && y.has_value();

  // An unwanted gradient is an empty tensor here, and null to the kernels.
  Tensor dx = need_x ? torch::stable::empty_like(operands.x) : new_tensor(x, {0}, x.scalar_type());
  Tensor dy = want_y ? torch::stable::empty_like(operands.y) : new_tensor(x, {0}, x.scalar_type());
  Tensor dscale = need_scale ? torch::stable::empty_like(operands.scale) : new_tensor(x, {0}, operands.accumulation);
  Tensor dbias = new_tensor(x, {need_bias ? pairs.m : 0}, operands.accumulation);

  mi::PairwiseLseBackward args;
  args.pairs = pairs;
  args.pairs.allow_tf32 = allow_tf32;
  std::optional<Tensor> rows, cols, row_grads, col_grads;  // keep contiguous copies alive until the launch
  if (grad_row.has_value()) {
    args.row_lse = rows.emplace(operands.vector(row_lse, "row_lse", pairs.n)).const_data_ptr();
    args.grad_row = row_grads.emplace(operands.vector(*grad_row, "grad_row", pairs.n)).const_data_ptr();
  }
  if (grad_col.has_value()) {
    args.col_lse = cols.emplace(operands.vector(col_lse, "col_lse", pairs.m)).const_data_ptr();
    args.grad_col = col_grads.emplace(operands.vector(*grad_col, "grad_col", pairs.m)).const_data_ptr();
  }
  args.dx = need_x ? dx.mutable_data_ptr() : nullptr;
  args.dy = want_y ? dy.mutable_data_ptr() : nullptr;
  args.dscale = need_scale ? dscale.mutable_data_ptr() : nullptr;
  args.dbias = need_bias ? dbias.mutable_data_ptr() : nullptr;
  launch("pairwise_lse_backward", x, mi::pairwise_lse_workspace_bytes(operands.dtype, args), mi::pairwise_lse_backward,
         operands.dtype, args);
  return {dx, dy, dscale, dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mi_estimators, CUDA, m) {
  m.impl("pairwise_lse", TORCH_BOX(&forward));
  m.impl("pairwise_lse_backward", TORCH_BOX(&backward));
}
