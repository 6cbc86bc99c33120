// What the tensor-core kernels need of their operands before they begin: rows aligned to 16 bytes, and bounds of all
// scores and gradients.
#pragma once

#include "common/cuda/mma_tile.cuh"
#include "common/cuda/reduce.cuh"

namespace mi::cuda {

// Largest values over all points: squared norms of both sides, |bias| (where it is not -inf, which only leaves pairs
// out) of both sides, and |gradient| of both log-sum-exps. NaN is passed over: it shows in the results by itself.
struct PairBounds {
  float x, y, col_bias, row_bias, gradient;
};

constexpr int kBoundBlocks = 64;
constexpr int kRangePoints = 64;
// |s| up to which exponentials are taken without a shift: a sum of 10^7 of e^40 and a weight of e^-40 / 10^7 are
// normal floats.
constexpr float kShiftFree = 40.0f;

struct BoundsPass {
  const void* x;
  const void* y;  // null: as x
  int64_t n, m, d;
  const float* bias[2];       // of the columns, of the rows; each [m] or [n], or null
  const float* gradients[2];  // of the rows, of the columns; each [n] or [m], or null
  const int64_t* groups[2];   // of the rows, of the columns, or null
  GroupRange* ranges[2];      // of every 64 of them
  PairBounds* parts;          // [kBoundBlocks]
};

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) v = fmaxf(v, __shfl_xor_sync(kFullWarp, v, offset));
  return v;
}

template <typename T>
__device__ __forceinline__ float largest_norm(const T* points, int64_t n, int64_t d) {
  constexpr int kWarps = kThreads / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  float largest = 0.0f;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + warp; i < n; i += kBoundBlocks * kWarps) {
    float sum = 0.0f;
    for (int64_t k = lane; k < d; k += kWarpSize) {
      const float v = widen(points[i * d + k]);
      sum = fmaf(v, v, sum);
    }
#pragma unroll
    for (int offset = kWarpSize / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(kFullWarp, sum, offset);
    largest = fmaxf(largest, sum);
  }
  return largest;
}

__device__ __forceinline__ float largest_size(const float* values, int64_t n) {
  float largest = 0.0f;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; values != nullptr && i < n;
       i += kBoundBlocks * kThreads) {
    if (values[i] != -infinity<float>()) largest = fmaxf(largest, fabsf(values[i]));
  }
  return largest;
}

// The ranges of groups group_of(0), .., group_of(n - 1). Every thread of kBoundBlocks blocks must call it.
template <typename F>
__device__ __forceinline__ void find_ranges(int64_t n, const F& group_of, GroupRange* ranges) {
  constexpr int kWarps = kThreads / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  for (int64_t part = static_cast<int64_t>(blockIdx.x) * kWarps + warp; part * kRangePoints < n;
       part += kBoundBlocks * kWarps) {
    const int64_t first = part * kRangePoints + lane, second = first + kWarpSize;
    const int64_t a = group_of(first < n ? first : n - 1), b = group_of(second < n ? second : n - 1);
    GroupRange range = {a < b ? a : b, a < b ? b : a};
#pragma unroll
    for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
      const int64_t least = __shfl_xor_sync(kFullWarp, range.least, offset);
      const int64_t greatest = __shfl_xor_sync(kFullWarp, range.greatest, offset);
      range.least = least < range.least ? least : range.least;
      range.greatest = greatest > range.greatest ? greatest : range.greatest;
    }
    if (lane == 0) ranges[part] = range;
  }
}

using BoundsScratch = SharedTile<float, 5, kThreads / kWarpSize>;

// The bounds of a block, in thread 0, from those of its warps, which all their lanes know.
__device__ __forceinline__ PairBounds block_bounds(const PairBounds& of_warp, BoundsScratch& scratch) {
  constexpr int kWarps = kThreads / kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  if (static_cast<int>(threadIdx.x) % kWarpSize == 0) {
    scratch(0, warp) = of_warp.x;
    scratch(1, warp) = of_warp.y;
    scratch(2, warp) = of_warp.col_bias;
    scratch(3, warp) = of_warp.row_bias;
    scratch(4, warp) = of_warp.gradient;
  }
  __syncthreads();
  float largest[5] = {};
  if (threadIdx.x == 0) {
#pragma unroll
    for (int i = 0; i < 5; ++i) {
#pragma unroll
      for (int w = 0; w < kWarps; ++w) largest[i] = fmaxf(largest[i], scratch(i, w));
    }
  }
  return {largest[0], largest[1], largest[2], largest[3], largest[4]};
}

// Grid: kBoundBlocks.
template <typename T>
__global__ void __launch_bounds__(kThreads, 4) bounds_kernel(BoundsPass p) {
  __shared__ BoundsScratch scratch;
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    const int64_t* const groups = p.groups[side];
    if (p.ranges[side] == nullptr) continue;
    find_ranges(side == 0 ? p.n : p.m, [&](int64_t i) { return groups[i]; }, p.ranges[side]);
  }
  PairBounds bounds{};
  bounds.x = largest_norm(static_cast<const T*>(p.x), p.n, p.d);
  bounds.y = p.y == nullptr ? bounds.x : largest_norm(static_cast<const T*>(p.y), p.m, p.d);
  bounds.col_bias = warp_max(largest_size(p.bias[0], p.m));
  bounds.row_bias = warp_max(largest_size(p.bias[1], p.n));
  bounds.gradient = warp_max(fmaxf(largest_size(p.gradients[0], p.n), largest_size(p.gradients[1], p.m)));
  bounds = block_bounds(bounds, scratch);
  if (threadIdx.x == 0) p.parts[blockIdx.x] = bounds;
}

// The bounds of all blocks. All lanes of a warp must call it.
__device__ __forceinline__ PairBounds gather_bounds(const PairBounds* parts) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  static_assert(kBoundBlocks == 2 * kWarpSize);
  const PairBounds a = parts[lane], b = parts[lane + kWarpSize];
  return {warp_max(fmaxf(a.x, b.x)), warp_max(fmaxf(a.y, b.y)), warp_max(fmaxf(a.col_bias, b.col_bias)),
          warp_max(fmaxf(a.row_bias, b.row_bias)), warp_max(fmaxf(a.gradient, b.gradient))};
}

// Whether no score can pass kShiftFree, by the inequality of Cauchy and Schwarz, with room for rounding.
__device__ __forceinline__ bool is_shift_free(const PairBounds& bounds, float scale) {
  return 1.0001f * fabsf(scale) * sqrtf(bounds.x) * sqrtf(bounds.y) + bounds.col_bias + bounds.row_bias <= kShiftFree;
}

// From a product to a score, in units of log2 where it needs no shift. The float nearest to scale log2(e) is off by as
// much, in proportion, as float's own rounding, and off for all pairs alike: float products take the rest of it too.
template <typename T>
struct ScoreFactor {
  float high, low;

  __device__ __forceinline__ ScoreFactor(float scale, bool shift_free) {
    constexpr float kRest = 1.92596299112661746887e-8f;  // of log2(e)
    high = shift_free ? scale * kLog2E : scale;
    low = shift_free ? fmaf(scale, kRest, fmaf(scale, kLog2E, -high)) : 0.0f;
  }

  __device__ __forceinline__ float operator()(float q, float bias) const {
    // Infinite products only come with low = 0, which would make NaN of them.
    return fmaf(high, q, kIsFloat<T> && low != 0.0f ? fmaf(low, q, bias) : bias);
  }
};

__device__ __forceinline__ bool is_finite(const PairBounds& bounds) {
  return bounds.x < infinity<float>() && bounds.y < infinity<float>();
}

// Rows of d elements as rows of whole units. A thread writes one element.
template <typename T>
__global__ void __launch_bounds__(kThreads) align_kernel(const T* points, int64_t n, int64_t d, int64_t pitch, T* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n * pitch) return;
  const int64_t row = i / pitch, k = i % pitch;
  out[i] = k < d ? points[row * d + k] : narrow<T>(0.0f);
}

}  // namespace mi::cuda
