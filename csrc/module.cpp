// The importable module: importing it registers the CPU operators; build_info() says what was compiled and what runs.
// The macros are set by setup.py.
#include <pybind11/pybind11.h>

#include "common/cpu/host.h"

namespace py = pybind11;

PYBIND11_MODULE(_C, module) {
  module.doc() = "Compiled CPU kernels of mi_estimators.";
  module.def("build_info", [] {
    py::dict info;
    info["compiler"] = MI_COMPILER;
#if defined(MI_WITH_AMX)
    info["simd_levels"] = "baseline,avx2,avx512,amx";
#elif defined(MI_WITH_X86_LEVELS)
    info["simd_levels"] = "baseline,avx2,avx512";
#else
    info["simd_levels"] = "baseline";
#endif
    info["simd_level"] = mi::name_of(mi::simd_level());
    info["torch_stable_abi"] = MI_TORCH_TARGET;
    info["built_with_torch"] = MI_TORCH_VERSION;
    info["nvcc"] = MI_NVCC;
    info["cuda_archs"] = MI_CUDA_ARCHS;
    return info;
  });
}
