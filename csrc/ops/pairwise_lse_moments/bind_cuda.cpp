// The CUDA kernel of pairwise_lse_moments behind torch's dispatcher, on the stable ABI.
#include <tuple>

#include "ops/pairwise_lse/bind_cuda_operands.h"
#include "ops/pairwise_lse_moments/cuda.h"

namespace {

using namespace mi::cuda;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor> pairwise_lse_moments(Tensor x, std::optional<Tensor> y, Tensor scales,
                                                std::optional<Tensor> bias, std::string score, bool exclude_diagonal) {
  STD_TORCH_CHECK(scales.dim() == 1 && scales.numel() > 0, "pairwise_lse_moments: scales must be a non-empty vector");
  const Operands operands(x, y, torch::stable::narrow(scales, 0, 0, 1), bias, std::nullopt, std::nullopt, score,
                          exclude_diagonal);
  const mi::PairwiseScores& pairs = operands.pairs;
  STD_TORCH_CHECK(pairs.score == mi::Score::dot || pairs.score == mi::Score::sqeuclidean,
                  "pairwise_lse_moments: score must be dot or sqeuclidean");
  const Tensor all_scales = torch::stable::contiguous(scales);
  mi::PairwiseLseMoments args;
  args.pairs = pairs;
  args.scales = all_scales.const_data_ptr();
  args.count = scales.numel();
  Tensor lse = new_tensor(x, {args.count, pairs.n}, operands.accumulation);
  Tensor moment = new_tensor(x, {args.count, pairs.n}, operands.accumulation);
  args.lse = lse.mutable_data_ptr();
  args.moment = moment.mutable_data_ptr();
  launch("pairwise_lse_moments", x, mi::pairwise_lse_moments_workspace_bytes(operands.dtype, args),
         mi::pairwise_lse_moments, operands.dtype, args);
  return {lse, moment};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mi_estimators, CUDA, m) { m.impl("pairwise_lse_moments", TORCH_BOX(&pairwise_lse_moments)); }
