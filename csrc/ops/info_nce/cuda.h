// InfoNCE on CUDA: what the binding calls. No torch here. Workspace and errors as in ops/pairwise_lse/cuda.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "ops/info_nce/kernel.h"
#include "ops/pairwise_lse/kernel.h"

namespace mi {

size_t info_nce_workspace_bytes(DType dtype, const InfoNce& args);

cudaError_t info_nce(DType dtype, const InfoNce& args, void* workspace, cudaStream_t stream);

}  // namespace mi
