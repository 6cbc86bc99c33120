// The CPU kernels of sinkhorn_batch behind torch's dispatcher, on the stable ABI.
#include "common/cpu/host.h"
#include "ops/sinkhorn_batch/bind_problems.h"
#include "ops/sinkhorn_batch/cpu.h"

namespace {

struct Launch {
  void operator()(const mi::Problems& problems, const mi::SinkhornBatchForward& args) const {
    MI_BEST_LEVEL(sinkhorn_batch_forward)(problems.dtype, args, mi::torch_runtime());
  }
  void operator()(const mi::Problems& problems, const mi::SinkhornBatchBackward& args) const {
    MI_BEST_LEVEL(sinkhorn_batch_backward)(problems.dtype, args, mi::torch_runtime());
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mi_estimators, CPU, m) {
  m.impl("sinkhorn_batch", TORCH_BOX(&mi::sinkhorn_batch_bound<Launch>));
  m.impl("sinkhorn_batch_backward", TORCH_BOX(&mi::sinkhorn_batch_backward_bound<Launch>));
}
