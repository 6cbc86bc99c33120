// torch's BLAS and thread pool as a CpuRuntime, and the SIMD level to run at. For bindings only.
#pragma once

#include "common/cpu/runtime.h"

namespace mi {

enum class SimdLevel { baseline, avx2, avx512, amx };  // amx: avx512, and bfloat16 products on the tile unit

// The best level that was compiled and that this CPU has; MI_ESTIMATORS_SIMD=baseline|avx2|avx512|amx lowers it.
SimdLevel simd_level();
const char* name_of(SimdLevel level);

CpuRuntime torch_runtime();

}  // namespace mi
