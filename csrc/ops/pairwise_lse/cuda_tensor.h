// Pairwise log-sum-exp of dot products on tensor cores: what the launching code of all scores (cuda.cu) calls.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "ops/pairwise_lse/kernel.h"

namespace mi::tensor {

// As those of cuda.h, for valid problems of dot products and element type T, which is not double.
template <typename T>
struct Kernels {
  static size_t workspace_bytes(const PairwiseLseForward& args);
  static size_t workspace_bytes(const PairwiseLseBackward& args);
  static cudaError_t forward(const PairwiseLseForward& args, void* workspace, cudaStream_t stream);
  static cudaError_t backward(const PairwiseLseBackward& args, void* workspace, cudaStream_t stream);
};

}  // namespace mi::tensor
