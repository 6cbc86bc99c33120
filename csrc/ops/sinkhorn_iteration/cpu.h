// CPU launch declarations of sinkhorn_iteration: one copy for each SIMD level that was compiled.
#pragma once

#include "common/cpu/runtime.h"
#include "ops/sinkhorn_iteration/kernel.h"

#define MI_DECLARE_LEVEL(level)                                                                   \
  namespace level {                                                                               \
  void sinkhorn_iteration(DType dtype, const SinkhornIteration& args, const CpuRuntime& runtime); \
  }

namespace mi {

// dtype is f64 or f32; the binding widens half types. Throws std::bad_alloc when the scratch does not fit.
MI_DECLARE_LEVEL(baseline)
MI_DECLARE_LEVEL(avx2)
MI_DECLARE_LEVEL(avx512)

}  // namespace mi

#undef MI_DECLARE_LEVEL
