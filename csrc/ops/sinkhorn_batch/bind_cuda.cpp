// The CUDA kernels of sinkhorn_batch behind torch's dispatcher, on the stable ABI.
#include "common/cuda/bind.h"
#include "ops/sinkhorn_batch/bind_problems.h"
#include "ops/sinkhorn_batch/cuda.h"

namespace {

struct Launch {
  void operator()(const mi::Problems& problems, const mi::SinkhornBatchForward& args) const {
    mi::cuda::launch("sinkhorn_batch", problems.scores,
                     mi::sinkhorn_batch_forward_workspace(problems.dtype, problems.args), mi::sinkhorn_batch_forward,
                     problems.dtype, args);
  }
  void operator()(const mi::Problems& problems, const mi::SinkhornBatchBackward& args) const {
    mi::cuda::launch("sinkhorn_batch", problems.scores,
                     mi::sinkhorn_batch_backward_workspace(problems.dtype, problems.args), mi::sinkhorn_batch_backward,
                     problems.dtype, args);
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mi_estimators, CUDA, m) {
  m.impl("sinkhorn_batch", TORCH_BOX(&mi::sinkhorn_batch_bound<Launch>));
  m.impl("sinkhorn_batch_backward", TORCH_BOX(&mi::sinkhorn_batch_backward_bound<Launch>));
}
