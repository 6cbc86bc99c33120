// Shared-memory tiles that kernels index by row and column.
//
// On the GPU a tile is a raw array. The CPU build of the kernels (MI_SIMT, tests only) puts a type of the same
// interface in its place that checks every index and poisons what was not written.
#pragma once

#ifdef MI_SIMT
#include "simt/shared.h"
#else

#include <cuda_runtime.h>

namespace mi::cuda {

// Rows of kCols elements, kPitch apart. The alignment lets neighbouring elements of a row be read as one 16-byte word.
template <typename T, int kRows, int kCols, int kPitch = kCols>
struct alignas(16) SharedTile {
  static_assert(kPitch >= kCols);
  T data[kRows * kPitch];

  static __device__ __forceinline__ int offset(int row, int col) { return row * kPitch + col; }
  __device__ __forceinline__ T& operator()(int row, int col) { return data[row * kPitch + col]; }
  __device__ __forceinline__ const T& operator()(int row, int col) const { return data[row * kPitch + col]; }
};

// A tile `offset` bytes (a multiple of 16) into the dynamic shared memory that the launch asked for.
template <typename Tile>
__device__ __forceinline__ Tile& dynamic_shared(int offset) {
  extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[];
  return *reinterpret_cast<Tile*>(dynamic_shared_bytes + offset);
}

}  // namespace mi::cuda

#endif
