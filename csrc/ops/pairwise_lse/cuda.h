// Pairwise log-sum-exp on CUDA: what the binding calls. No torch here.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "ops/pairwise_lse/kernel.h"

namespace mi {

// Scratch memory, in bytes of device memory, that a call of the same arguments needs. O((n + m) d), and never 0.
size_t pairwise_lse_workspace_bytes(DType dtype, const PairwiseLseForward& args);
size_t pairwise_lse_workspace_bytes(DType dtype, const PairwiseLseBackward& args);

// Queue the work on `stream` and return; device memory only, no host synchronisation. `workspace` is aligned to 16
// bytes and may be reused once the queued work is done. cudaErrorInvalidValue for an empty or inconsistent problem.
cudaError_t pairwise_lse_forward(DType dtype, const PairwiseLseForward& args, void* workspace, cudaStream_t stream);

cudaError_t pairwise_lse_backward(DType dtype, const PairwiseLseBackward& args, void* workspace, cudaStream_t stream);

}  // namespace mi
