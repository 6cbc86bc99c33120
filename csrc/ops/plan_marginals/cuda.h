// plan_marginals on CUDA: what the binding calls. No torch here. Workspace and errors as in ops/pairwise_lse/cuda.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "ops/plan_marginals/kernel.h"

namespace mi {

size_t plan_marginals_workspace_bytes(DType dtype, const PlanMarginals& args);

cudaError_t plan_marginals(DType dtype, const PlanMarginals& args, void* workspace, cudaStream_t stream);

}  // namespace mi
