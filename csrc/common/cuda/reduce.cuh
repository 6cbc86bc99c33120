// Reductions across the threads of a warp and of a block, in an order that never changes.
#pragma once

#include <cuda_runtime.h>

#include "common/cuda/shared.cuh"

namespace mi::cuda {

constexpr int kWarpSize = 32;
constexpr unsigned kFullWarp = 0xffffffffu;

// Sums `v` over a warp; lane 0 holds the sum. All 32 lanes must call it.
template <typename A>
__device__ __forceinline__ A warp_sum(A v) {
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) v += __shfl_down_sync(kFullWarp, v, offset);
  return v;
}

// Sums `v` over a block of kThreads threads; thread 0 holds the sum. Every thread must call it, and `scratch` must be
// free: no thread may still be reading it.
template <int kThreads, typename A>
__device__ __forceinline__ A block_sum(A v, SharedTile<A, 1, kThreads / kWarpSize>& scratch) {
  constexpr int kWarps = kThreads / kWarpSize;
  const int thread = static_cast<int>(threadIdx.x);
  v = warp_sum(v);
  if (thread % kWarpSize == 0) scratch(0, thread / kWarpSize) = v;
  __syncthreads();
  if (thread == 0) {
#pragma unroll
    for (int warp = 1; warp < kWarps; ++warp) v += scratch(0, warp);
  }
  return v;
}

}  // namespace mi::cuda
