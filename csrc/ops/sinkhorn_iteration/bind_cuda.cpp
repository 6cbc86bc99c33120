// The CUDA kernel of sinkhorn_iteration behind torch's dispatcher, on the stable ABI.
#include <tuple>

#include "ops/pairwise_lse/bind_cuda_operands.h"
#include "ops/sinkhorn_iteration/cuda.h"

namespace {

using namespace mi::cuda;
using torch::stable::Tensor;

// `products` are not looked at.
std::tuple<Tensor, Tensor, Tensor> sinkhorn_iteration(Tensor x, Tensor y, Tensor scale, Tensor a, Tensor b, Tensor phi,
                                                      Tensor psi, Tensor damping, std::optional<Tensor> /*products*/,
                                                      double relaxation, std::string score) {
  const Operands operands(x, y, scale, std::nullopt, std::nullopt, std::nullopt, score, false);
  const mi::PairwiseScores& pairs = operands.pairs;
  STD_TORCH_CHECK(pairs.score == mi::Score::dot || pairs.score == mi::Score::sqeuclidean,
                  "sinkhorn_iteration: score must be dot or sqeuclidean");
  const Tensor row_weights = operands.vector(a, "a", pairs.n), col_weights = operands.vector(b, "b", pairs.m);
  const Tensor row_potential = operands.vector(phi, "phi", pairs.n),
               col_potential = operands.vector(psi, "psi", pairs.m);
  const Tensor factor = operands.vector(damping, "damping", 1);
  Tensor row_lse = new_tensor(x, {pairs.n}, operands.accumulation);
  Tensor new_phi = new_tensor(x, {pairs.n}, operands.accumulation);
  Tensor col_lse = new_tensor(x, {pairs.m}, operands.accumulation);
  mi::SinkhornIteration args;
  args.pairs = pairs;
  args.a = row_weights.const_data_ptr();
  args.b = col_weights.const_data_ptr();
  args.phi = row_potential.const_data_ptr();
  args.psi = col_potential.const_data_ptr();
  args.damping = factor.const_data_ptr();
  args.relaxation = relaxation;
  args.row_lse = row_lse.mutable_data_ptr();
  args.new_phi = new_phi.mutable_data_ptr();
  args.col_lse = col_lse.mutable_data_ptr();
  launch("sinkhorn_iteration", x, mi::sinkhorn_iteration_workspace_bytes(operands.dtype, args), mi::sinkhorn_iteration,
         operands.dtype, args);
  return {row_lse, new_phi, col_lse};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mi_estimators, CUDA, m) { m.impl("sinkhorn_iteration", TORCH_BOX(&sinkhorn_iteration)); }
