// The CPU kernel of plan_marginals behind torch's dispatcher, on the stable ABI.
#include <tuple>

#include "ops/pairwise_lse/bind_operands.h"
#include "ops/pairwise_lse/profiles.h"
#include "ops/plan_marginals/cpu.h"

namespace {

using torch::stable::Tensor;

std::tuple<Tensor, Tensor> plan_marginals(Tensor x, Tensor y, Tensor scale, Tensor log_u, Tensor log_v,
                                          std::string score) {
  const mi::Operands operands(x, y, scale, log_v, std::nullopt, std::nullopt, score, false);
  STD_TORCH_CHECK(!mi::is_profile(operands.pairs.score), "plan_marginals: score must be dot or sqeuclidean");
  STD_TORCH_CHECK(log_u.numel() == operands.pairs.n, "plan_marginals: log_u must have one element for each row");
  const Tensor u = mi::as(log_u, operands.accumulation);
  Tensor row_lse = mi::new_vector(x, operands.pairs.n, operands.accumulation);
  Tensor col_lse = mi::new_vector(x, operands.pairs.m, operands.accumulation);
  mi::PlanMarginals args;
  args.pairs = operands.pairs;
  args.log_u = u.const_data_ptr();
  args.row_lse = row_lse.mutable_data_ptr();
  args.col_lse = col_lse.mutable_data_ptr();
  MI_BEST_LEVEL(plan_marginals)(operands.dtype, args, mi::torch_runtime());
  return {row_lse, col_lse};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mi_estimators, CPU, m) { m.impl("plan_marginals", TORCH_BOX(&plan_marginals)); }
