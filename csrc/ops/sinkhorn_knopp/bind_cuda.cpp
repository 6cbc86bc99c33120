// The CUDA kernels of sinkhorn_knopp behind torch's dispatcher, on the stable ABI.
#include "common/cuda/bind.h"
#include "ops/sinkhorn_knopp/bind_samples.h"
#include "ops/sinkhorn_knopp/cuda.h"

namespace {

struct Launch {
  void operator()(const mi::Samples& samples, const mi::SinkhornColumns& args) const {
    start(mi::sinkhorn_columns, samples, args);
  }
  void operator()(const mi::Samples& samples, const mi::SinkhornSweep& args) const {
    start(mi::sinkhorn_sweep, samples, args);
  }
  void operator()(const mi::Samples& samples, const mi::SinkhornCodes& args) const {
    start(mi::sinkhorn_codes, samples, args);
  }

 private:
  template <class Args>
  static void start(cudaError_t (*kernel)(mi::DType, const Args&, void*, cudaStream_t), const mi::Samples& samples,
                    const Args& args) {
    mi::cuda::launch("sinkhorn_knopp", samples.scores, mi::sinkhorn_knopp_workspace_bytes(samples.args), kernel,
                     samples.dtype, args);
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mi_estimators, CUDA, m) {
  m.impl("sinkhorn_knopp_columns", TORCH_BOX(&mi::sinkhorn_columns_bound<Launch>));
  m.impl("sinkhorn_knopp_sweep", TORCH_BOX(&mi::sinkhorn_sweep_bound<Launch>));
  m.impl("sinkhorn_knopp_codes", TORCH_BOX(&mi::sinkhorn_codes_bound<Launch>));
}
