// The CPU kernels of sinkhorn_knopp behind torch's dispatcher, on the stable ABI.
#include <sys/mman.h>

#include "common/cpu/host.h"
#include "ops/sinkhorn_knopp/bind_samples.h"
#include "ops/sinkhorn_knopp/cpu.h"

namespace {

// A hint for a large result: faults of small pages would cost several times what is computed into them.
void prefer_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / kPage * kPage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

struct Launch {
  void operator()(const mi::Samples& samples, const mi::SinkhornColumns& args) const {
    MI_BEST_LEVEL(sinkhorn_columns)(samples.dtype, args, mi::torch_runtime());
  }
  void operator()(const mi::Samples& samples, const mi::SinkhornSweep& args) const {
    MI_BEST_LEVEL(sinkhorn_sweep)(samples.dtype, args, mi::torch_runtime());
  }
  void operator()(const mi::Samples& samples, const mi::SinkhornCodes& args) const {
    const int64_t size = samples.dtype == mi::DType::f64 ? 8 : 4;
    prefer_huge_pages(args.codes, samples.args.rows * samples.args.cols * size);
    MI_BEST_LEVEL(sinkhorn_codes)(samples.dtype, args, mi::torch_runtime());
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mi_estimators, CPU, m) {
  m.impl("sinkhorn_knopp_columns", TORCH_BOX(&mi::sinkhorn_columns_bound<Launch>));
  m.impl("sinkhorn_knopp_sweep", TORCH_BOX(&mi::sinkhorn_sweep_bound<Launch>));
  m.impl("sinkhorn_knopp_codes", TORCH_BOX(&mi::sinkhorn_codes_bound<Launch>));
}
