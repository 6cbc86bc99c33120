// The CUDA kernel of plan_marginals behind torch's dispatcher, on the stable ABI.
#include <tuple>

#include "ops/pairwise_lse/bind_cuda_operands.h"
#include "ops/plan_marginals/cuda.h"

namespace {

using namespace mi::cuda;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor> plan_marginals(Tensor x, Tensor y, Tensor scale, Tensor log_u, Tensor log_v,
                                          std::string score) {
  const Operands operands(x, y, scale, log_v, std::nullopt, std::nullopt, score, false);
  const mi::PairwiseScores& pairs = operands.pairs;
  STD_TORCH_CHECK(pairs.score == mi::Score::dot || pairs.score == mi::Score::sqeuclidean,
                  "plan_marginals: score must be dot or sqeuclidean");
  const Tensor u = operands.vector(log_u, "log_u", pairs.n);
  Tensor row_lse = new_tensor(x, {pairs.n}, operands.accumulation);
  Tensor col_lse = new_tensor(x, {pairs.m}, operands.accumulation);
  mi::PlanMarginals args;
  args.pairs = pairs;
  args.log_u = u.const_data_ptr();
  args.row_lse = row_lse.mutable_data_ptr();
  args.col_lse = col_lse.mutable_data_ptr();
  launch("plan_marginals", x, mi::plan_marginals_workspace_bytes(operands.dtype, args), mi::plan_marginals,
         operands.dtype, args);
  return {row_lse, col_lse};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mi_estimators, CUDA, m) { m.impl("plan_marginals", TORCH_BOX(&plan_marginals)); }
