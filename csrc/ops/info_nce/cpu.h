// CPU launch declarations of info_nce: one copy for each SIMD level that was compiled.
#pragma once

#include "common/cpu/runtime.h"
#include "common/dtype.h"
#include "ops/info_nce/kernel.h"

#define MI_DECLARE_LEVEL(level)                                               \
  namespace level {                                                           \
  void info_nce(DType dtype, const InfoNce& args, const CpuRuntime& runtime); \
  }

namespace mi {

// dtype is f64 or f32; the binding widens half types. Throws std::bad_alloc when the scratch tiles do not fit.
MI_DECLARE_LEVEL(baseline)
MI_DECLARE_LEVEL(avx2)
MI_DECLARE_LEVEL(avx512)

namespace amx {
// Buffers hold f32; products are taken in bfloat16, so the points should have come as such.
void info_nce_bf16(const InfoNce& args, const CpuRuntime& runtime);
}  // namespace amx

}  // namespace mi

#undef MI_DECLARE_LEVEL
