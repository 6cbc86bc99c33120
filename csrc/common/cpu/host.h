// torch's BLAS and thread pool as a CpuRuntime, and the SIMD level to run at. For bindings only.
#pragma once

#include <type_traits>

#include "common/cpu/runtime.h"

namespace mi {

enum class SimdLevel { baseline, avx2, avx512, amx };  // amx: avx512, and bfloat16 products on the tile unit

// The best level that was compiled and that this CPU has; MI_ESTIMATORS_SIMD=baseline|avx2|avx512|amx lowers it.
SimdLevel simd_level();
const char* name_of(SimdLevel level);

CpuRuntime torch_runtime();

// Of the copies of a kernel, one for each level that was compiled, the one to run.
template <class Kernel>
Kernel best_level(Kernel baseline, std::type_identity_t<Kernel> avx2, std::type_identity_t<Kernel> avx512) {
  const SimdLevel level = simd_level();
  return level >= SimdLevel::avx512 ? avx512 : level == SimdLevel::avx2 ? avx2 : baseline;
}

}  // namespace mi

#if defined(MI_WITH_X86_LEVELS)
#define MI_BEST_LEVEL(function) mi::best_level(mi::baseline::function, mi::avx2::function, mi::avx512::function)
#else
#define MI_BEST_LEVEL(function) mi::best_level(mi::baseline::function, nullptr, nullptr)
#endif
