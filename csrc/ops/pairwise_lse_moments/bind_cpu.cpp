// The CPU kernel of pairwise_lse_moments behind torch's dispatcher, on the stable ABI.
#include <tuple>

#include "ops/pairwise_lse/bind_operands.h"
#include "ops/pairwise_lse/profiles.h"
#include "ops/pairwise_lse_moments/cpu.h"

namespace {

using torch::stable::Tensor;

std::tuple<Tensor, Tensor> pairwise_lse_moments(Tensor x, std::optional<Tensor> y, Tensor scales,
                                                std::optional<Tensor> bias, std::string score, bool exclude_diagonal) {
  STD_TORCH_CHECK(scales.dim() == 1 && scales.numel() > 0, "pairwise_lse_moments: scales must be a non-empty vector");
  const mi::Operands operands(x, y, torch::stable::narrow(scales, 0, 0, 1), bias, std::nullopt, std::nullopt, score,
                              exclude_diagonal);
  STD_TORCH_CHECK(!mi::is_profile(operands.pairs.score), "pairwise_lse_moments: score must be dot or sqeuclidean");
  const Tensor all_scales = mi::as(scales, operands.accumulation);
  const int64_t count = scales.numel(), n = operands.pairs.n;
  Tensor lse = torch::stable::new_empty(x, {count, n}, operands.accumulation);
  Tensor moment = torch::stable::new_empty(x, {count, n}, operands.accumulation);
  mi::PairwiseLseMoments args;
  args.pairs = operands.pairs;
  args.scales = all_scales.const_data_ptr();
  args.count = count;
  args.lse = lse.mutable_data_ptr();
  args.moment = moment.mutable_data_ptr();
  MI_BEST_LEVEL(pairwise_lse_moments)(operands.dtype, args, mi::torch_runtime());
  return {lse, moment};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mi_estimators, CPU, m) { m.impl("pairwise_lse_moments", TORCH_BOX(&pairwise_lse_moments)); }
