// sinkhorn_iteration on CUDA: what the binding calls. No torch here. Workspace and errors as in
// ops/pairwise_lse/cuda.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "ops/sinkhorn_iteration/kernel.h"

namespace mi {

size_t sinkhorn_iteration_workspace_bytes(DType dtype, const SinkhornIteration& args);

cudaError_t sinkhorn_iteration(DType dtype, const SinkhornIteration& args, void* workspace, cudaStream_t stream);

}  // namespace mi
