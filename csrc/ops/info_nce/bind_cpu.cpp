// The CPU kernel of info_nce behind torch's dispatcher, on the stable ABI. Argument errors that a user can make are
// reported by the Python functions; the checks here keep a direct call of the operator from reading out of bounds.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <tuple>

#include "common/cpu/host.h"
#include "ops/info_nce/cpu.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Tensor as(const Tensor& tensor, ScalarType dtype) {
  return torch::stable::contiguous(tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype));
}

void launch(ScalarType given, const mi::InfoNce& args) {
  const mi::CpuRuntime runtime = mi::torch_runtime();
  const mi::DType dtype = given == ScalarType::Double ? mi::DType::f64 : mi::DType::f32;
#if defined(MI_WITH_AMX)
  if (given == ScalarType::BFloat16 && mi::simd_level() == mi::SimdLevel::amx)
    return mi::amx::info_nce_bf16(args, runtime);
#endif
  MI_BEST_LEVEL(info_nce)(dtype, args, runtime);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> info_nce(Tensor x, Tensor y, Tensor scale, std::optional<Tensor> weights,
                                                    std::optional<Tensor> groups, std::string candidates,
                                                    bool symmetric, bool normalize, bool decoupled, double factor,
                                                    bool need_x, bool need_y, bool need_scale, bool /*allow_tf32*/) {
  STD_TORCH_CHECK(x.dim() == 2 && x.numel() > 0, "info_nce: x must be a non-empty matrix");
  STD_TORCH_CHECK(y.dim() == 2 && y.size(0) == x.size(0) && y.size(1) == x.size(1) && y.is_cpu(),
                  "info_nce: y must be a CPU matrix of the shape of x");
  STD_TORCH_CHECK(y.scalar_type() == x.scalar_type(), "info_nce: x and y must have one dtype");
  STD_TORCH_CHECK(scale.numel() == 1, "info_nce: scale must have one element");
  STD_TORCH_CHECK(candidates == "other" || candidates == "both", "info_nce: unknown candidates ", candidates);
  const int64_t n = x.size(0), d = x.size(1);
  STD_TORCH_CHECK(!weights.has_value() || weights->numel() == n,
                  "info_nce: weights must have one element for each pair");
  STD_TORCH_CHECK(!groups.has_value() || (groups->numel() == n && groups->scalar_type() == ScalarType::Long),
                  "info_nce: groups must have one 64-bit integer for each pair");

  const ScalarType wide = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const Tensor wide_x = as(x, wide), wide_y = as(y, wide), wide_scale = as(scale, wide);
  Tensor wide_weights, ids;
  mi::InfoNce args;
  args.x = wide_x.const_data_ptr();
  args.y = wide_y.const_data_ptr();
  args.scale = wide_scale.const_data_ptr();
  if (weights.has_value()) {
    wide_weights = as(*weights, wide);
    args.weights = wide_weights.const_data_ptr();
  }
  if (groups.has_value()) {
    ids = torch::stable::contiguous(*groups);
    args.groups = static_cast<const int64_t*>(ids.const_data_ptr());
  }
  args.n = n;
  args.d = d;
  args.both = candidates == "both";
  args.symmetric = symmetric;
  args.normalize = normalize;
  args.decoupled = decoupled;
  args.factor = factor;

  const auto output = [&](bool wanted, torch::headeronly::IntHeaderOnlyArrayRef shape) {
    if (wanted) return torch::stable::new_empty(x, shape, wide);
    return torch::stable::new_empty(x, {0}, wide);
  };
  Tensor loss = torch::stable::new_empty(x, {}, wide), dx = output(need_x, {n, d}), dy = output(need_y, {n, d});
  Tensor dscale = output(need_scale, scale.sizes());
  args.loss = loss.mutable_data_ptr();
  args.dx = need_x ? dx.mutable_data_ptr() : nullptr;
  args.dy = need_y ? dy.mutable_data_ptr() : nullptr;
  args.dscale = need_scale ? dscale.mutable_data_ptr() : nullptr;
  launch(x.scalar_type(), args);
  return {loss, as(dx, x.scalar_type()), as(dy, x.scalar_type()), dscale};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mi_estimators, CPU, m) { m.impl("info_nce", TORCH_BOX(&info_nce)); }
