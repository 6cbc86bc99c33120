// The CUDA kernels of info_nce behind torch's dispatcher, on the stable ABI. Argument errors that a user can make are
// reported by the Python functions; the checks here keep a direct call of the operator from reading out of bounds.
#include <optional>
#include <string>
#include <tuple>

#include "common/cuda/bind.h"
#include "ops/info_nce/cuda.h"

namespace {

using mi::beside;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor, Tensor, Tensor> info_nce(Tensor x, Tensor y, Tensor scale, std::optional<Tensor> weights,
                                                    std::optional<Tensor> groups, std::string candidates,
                                                    bool symmetric, bool normalize, bool decoupled, double factor,
                                                    bool need_x, bool need_y, bool need_scale, bool allow_tf32) {
  constexpr const char* kName = "info_nce";
  STD_TORCH_CHECK(x.dim() == 2 && x.numel() > 0, "info_nce: x must be a non-empty matrix");
  STD_TORCH_CHECK(y.dim() == 2 && y.size(0) == x.size(0), "info_nce: y must have the shape of x");
  STD_TORCH_CHECK(candidates == "other" || candidates == "both", "info_nce: unknown candidates ", candidates);
  const mi::DType dtype = mi::element_type(x, kName);
  const ScalarType wide = mi::accumulation_type(dtype);
  const int64_t n = x.size(0), d = x.size(1);
  const Tensor points = torch::stable::contiguous(x);
  const Tensor partners = beside(x, y, x.scalar_type(), n * d, kName, "y");
  Tensor scales, of_pairs, ids;
  mi::InfoNce args;
  args.x = points.const_data_ptr();
  args.y = partners.const_data_ptr();
  if (scale.is_cpu()) {  // a number that the caller has: nothing is copied, and a graph may hold it
    STD_TORCH_CHECK(scale.numel() == 1 && scale.scalar_type() == wide, "info_nce: scale has the wrong dtype or size");
    args.scale_value = wide == ScalarType::Double ? *static_cast<const double*>(scale.const_data_ptr())
                                                  : *static_cast<const float*>(scale.const_data_ptr());
  } else {
    scales = beside(x, scale, wide, 1, kName, "scale");
    args.scale = scales.const_data_ptr();
  }
  if (weights.has_value()) {
    of_pairs = beside(x, *weights, wide, n, kName, "weights");
    args.weights = of_pairs.const_data_ptr();
  }
  if (groups.has_value()) {
    ids = beside(x, *groups, ScalarType::Long, n, kName, "groups");
    args.groups = static_cast<const int64_t*>(ids.const_data_ptr());
  }
  args.n = n;
  args.d = d;
  args.both = candidates == "both";
  args.symmetric = symmetric;
  args.normalize = normalize;
  args.decoupled = decoupled;
  args.factor = factor;
  args.allow_tf32 = allow_tf32;

  // An unwanted gradient is an empty tensor here, and null to the kernels.
  const auto output = [&](bool wanted, torch::headeronly::IntHeaderOnlyArrayRef shape, ScalarType type) {
    if (wanted) return torch::stable::new_empty(x, shape, type);
    return torch::stable::new_empty(x, {0}, type);
  };
  Tensor loss = torch::stable::new_empty(x, {}, wide), dx = output(need_x, {n, d}, x.scalar_type());
  Tensor dy = output(need_y, {n, d}, x.scalar_type()), dscale = output(need_scale, scale.sizes(), wide);
  args.loss = loss.mutable_data_ptr();
  args.dx = need_x ? dx.mutable_data_ptr() : nullptr;
  args.dy = need_y ? dy.mutable_data_ptr() : nullptr;
  args.dscale = need_scale ? dscale.mutable_data_ptr() : nullptr;
  mi::cuda::launch(kName, x, mi::info_nce_workspace_bytes(dtype, args), mi::info_nce, dtype, args);
  return {loss, dx, dy, dscale};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mi_estimators, CUDA, m) { m.impl("info_nce", TORCH_BOX(&info_nce)); }
