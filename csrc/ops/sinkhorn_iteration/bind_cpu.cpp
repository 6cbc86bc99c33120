// The CPU kernel of sinkhorn_iteration behind torch's dispatcher, on the stable ABI.
#include <tuple>

#include "ops/pairwise_lse/bind_operands.h"
#include "ops/pairwise_lse/profiles.h"
#include "ops/sinkhorn_iteration/cpu.h"

namespace {

using torch::stable::Tensor;

std::tuple<Tensor, Tensor, Tensor> sinkhorn_iteration(Tensor x, Tensor y, Tensor scale, Tensor a, Tensor b, Tensor phi,
                                                      Tensor psi, Tensor damping, std::optional<Tensor> products,
                                                      double relaxation, std::string score) {
  const mi::Operands operands(x, y, scale, std::nullopt, std::nullopt, std::nullopt, score, false);
  STD_TORCH_CHECK(!mi::is_profile(operands.pairs.score), "sinkhorn_iteration: score must be dot or sqeuclidean");
  const int64_t n = operands.pairs.n, m = operands.pairs.m;
  const auto vector = [&](const Tensor& tensor, int64_t size, const char* name) {
    return mi::beside(x, tensor, operands.accumulation, size, "sinkhorn_iteration", name);
  };
  const Tensor row_weights = vector(a, n, "a"), col_weights = vector(b, m, "b");
  const Tensor row_potential = vector(phi, n, "phi"), col_potential = vector(psi, m, "psi");
  const Tensor factor = vector(damping, 1, "damping");
  Tensor row_lse = mi::new_vector(x, n, operands.accumulation);
  Tensor new_phi = mi::new_vector(x, n, operands.accumulation);
  Tensor col_lse = mi::new_vector(x, m, operands.accumulation);
  mi::SinkhornIteration args;
  args.pairs = operands.pairs;
  args.a = row_weights.const_data_ptr();
  args.b = col_weights.const_data_ptr();
  args.phi = row_potential.const_data_ptr();
  args.psi = col_potential.const_data_ptr();
  args.damping = factor.const_data_ptr();
  Tensor known;
  if (products.has_value()) {
    known = vector(*products, n * m, "products");
    args.products = known.const_data_ptr();
  }
  args.relaxation = relaxation;
  args.row_lse = row_lse.mutable_data_ptr();
  args.new_phi = new_phi.mutable_data_ptr();
  args.col_lse = col_lse.mutable_data_ptr();
  MI_BEST_LEVEL(sinkhorn_iteration)(operands.dtype, args, mi::torch_runtime());
  return {row_lse, new_phi, col_lse};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mi_estimators, CPU, m) { m.impl("sinkhorn_iteration", TORCH_BOX(&sinkhorn_iteration)); }
