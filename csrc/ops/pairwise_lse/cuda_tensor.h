// Pairwise log-sum-exp of dot products on tensor cores: what the launching code of all scores (cuda.cu) calls.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstddef>

#include "ops/pairwise_lse/kernel.h"

namespace mi::tensor {

struct LsePlan;  // tensor_plan.cuh
struct GradientPlan;

// As those of cuda.h, for valid problems of dot products and element type T, which is not double.
template <typename T>
struct Kernels {
  using Element = T;
  static size_t workspace_bytes(const PairwiseLseForward& args);
  static size_t workspace_bytes(const PairwiseLseBackward& args);
  static cudaError_t forward(const PairwiseLseForward& args, void* workspace, cudaStream_t stream);
  static cudaError_t backward(const PairwiseLseBackward& args, void* workspace, cudaStream_t stream);

  // The sweeps alone, for operators that prepare the points and put the parts together in kernels of their own.
  static cudaError_t sweep(const LsePlan& plan, cudaStream_t stream);
  static cudaError_t sweep(const GradientPlan& plan, cudaStream_t stream);
  static int64_t slices(int64_t d);  // in how many a gradient of so many coordinates is computed
};

// Whether the tensor cores take a problem: dot products of half types, and of floats that fill more than a chunk. Short
// floats are multiplied as fast on CUDA cores as by three TF32 products, a few of which in a row can be off by more
// than twice float's own rounding; where one TF32 product will do, the tensor cores take them too.
inline bool takes(DType dtype, const PairwiseScores& pairs) {
  constexpr int64_t kFloatsOfChunk = 32;
  if (pairs.score != Score::dot) return false;
  return dtype == DType::bf16 || dtype == DType::f16 ||
         (dtype == DType::f32 && (pairs.allow_tf32 || pairs.d > kFloatsOfChunk));
}

// Calls f(Kernels<T>) for the element type of a problem that they take.
template <typename F>
auto with_kernels(DType dtype, const F& f) {
  switch (dtype) {
    case DType::bf16:
      return f(Kernels<__nv_bfloat16>{});
    case DType::f16:
      return f(Kernels<__half>{});
    default:
      return f(Kernels<float>{});
  }
}

}  // namespace mi::tensor
