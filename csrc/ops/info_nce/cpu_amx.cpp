// InfoNCE with bfloat16 products on AMX: the sweep of cpu.cpp with other products. Compiled once, for CPUs with AMX.
#include "ops/info_nce/cpu.h"
#include "ops/info_nce/cpu_amx_products.h"
#include "ops/info_nce/cpu_sweep.h"

namespace mi {
namespace MI_SIMD_LEVEL {

void info_nce_bf16(const InfoNce& args, const CpuRuntime& runtime) { Sweep<float, AmxProducts>(args, runtime).run(); }

}  // namespace MI_SIMD_LEVEL
}  // namespace mi
