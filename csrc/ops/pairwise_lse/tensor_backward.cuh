// The backward kernels of pairwise log-sum-exp of dot products on tensor cores; cuda_tensor.cuh says how they work
// together.
#pragma once

#include <cuda_fp16.h>

#include "common/cuda/mma_tile.cuh"
#include "common/cuda/reduce.cuh"
#include "ops/pairwise_lse/cuda_backward.cuh"
#include "ops/pairwise_lse/tensor_forward.cuh"
#include "ops/pairwise_lse/tensor_operands.cuh"

namespace mi::cuda {

// One side of the pairs: the values of its points, for both roles that a point can have.
struct TensorSide {
  MmaPoints points;
  Groups groups;
  const float* row_grad;  // gradient of the row's log-sum-exp, or null; and so on
  const float* row_lse;
  const float* col_grad;
  const float* col_lse;
  const float* bias;
};

// The gradients of one side. `own` is the side they belong to; its points take their role as rows, as columns, or (if
// the points are paired with themselves) both.
struct TensorGradPass {
  TensorSide own, other;
  bool as_row, as_col;
  float* point_parts;   // [splits, own count, d], or null
  float* bias_parts;    // [splits * kColWarps, own count], or null
  double* scale_parts;  // [splits, row tiles], or null
};

struct TensorGradPasses {
  TensorGradPass of[2];
  const float* scale;
  const PairBounds* bounds;
  int64_t d;
  int splits, slices;
  bool exclude_diagonal;
  bool allow_tf32;
};

constexpr int kGradThreads = 128, kGradRows = kWeightRows, kGradCols = kWeightCols;
constexpr int kFlushTiles = 256;  // after so many, sums leave the tensor cores' registers: they add by truncation

// How a point enters the weights of its pairs.
//   Without a shift:  weight as a row    e^(scale q) (own.row other.bias + other.col)
//                     weight as a column e^(scale q) (other.row own.bias + own.col)
//     with row = grad e^-lse of its row, bias = e^bias, col = e^bias grad e^-lse of its column.
//   With a shift: gradients and log-sum-exps as they are.
struct PointRoles {
  float row, bias, col;
  float row_lse, col_lse;  // with a shift only
};

__device__ __forceinline__ PointRoles point_roles(const TensorSide& side, bool as_row, bool as_col, int64_t i,
                                                  bool shift_free) {
  PointRoles roles = {0.0f, shift_free ? 1.0f : 0.0f, 0.0f, -infinity<float>(), -infinity<float>()};
  if (i >= side.points.count) return roles;
  const bool row = as_row && side.row_grad != nullptr, col = as_col && side.col_grad != nullptr;
  const float bias = as_col && side.bias != nullptr ? side.bias[i] : 0.0f;
  if (row) roles.row_lse = side.row_lse[i];
  if (col) roles.col_lse = side.col_lse[i];
  if (row && roles.row_lse != -infinity<float>()) roles.row = side.row_grad[i];
  if (col && roles.col_lse != -infinity<float>()) roles.col = side.col_grad[i];
  roles.bias = bias;
  if (shift_free) {
    roles.bias = exp(bias);
    roles.row = roles.row == 0.0f ? 0.0f : roles.row * exp(-roles.row_lse);
    roles.col = roles.col == 0.0f ? 0.0f : roles.bias * roles.col * exp(-roles.col_lse);
  }
  return roles;
}

__device__ __forceinline__ float shifted_weight(float gradient, float lse, float s) {
  return lse == -infinity<float>() ? 0.0f : gradient * exp_fast(s - lse);
}

struct PairWeights {
  float as_row, as_col;
};

template <typename T>
__device__ __forceinline__ PairWeights pair_weights(const PointRoles& own, const PointRoles& other, bool as_row,
                                                    bool as_col, bool shift_free, const ScoreFactor<T>& factor,
                                                    float q) {
  PairWeights weights = {0.0f, 0.0f};
  if (shift_free) {
    const float e = exp2_fast(factor(q, 0.0f));
    if (as_row) weights.as_row = e * fmaf(own.row, other.bias, other.col);
    if (as_col) weights.as_col = e * fmaf(other.row, own.bias, own.col);
  } else {
    if (as_row) {
      const float s = factor(q, other.bias);
      weights.as_row = shifted_weight(own.row, own.row_lse, s) + shifted_weight(other.col, other.col_lse, s);
    }
    if (as_col) {
      const float s = factor(q, own.bias);
      weights.as_col = shifted_weight(other.row, other.row_lse, s) + shifted_weight(own.col, own.col_lse, s);
    }
  }
  return weights;
}

// What weights are multiplied with before they are stored as half: a power of two that brings the largest gradient to
// the upper end of its range, as weights of 1 / N^2 are below it.
template <typename T>
__device__ __forceinline__ float weight_unit(float gradient) {
  if (!std::is_same_v<T, __half> || !(gradient > 0.0f) || gradient == infinity<float>()) return 1.0f;
  int exponent;
  frexpf(gradient, &exponent);
  return ldexpf(1.0f, exponent < -114 ? 126 : 12 - exponent);
}

// kResident: all coordinates of the block's points, and of a tile of their partners, at most kChunks chunks, are in
// shared memory together. If not, chunks of both pass for the scores, and the kChunks of the block's slice of
// coordinates, whose gradients it computes, for the second product.
template <typename T, bool kResident, int kChunks>
struct GradShared {
  static constexpr int kOwnRows = kGradRows * (kResident ? kChunks : 2);
  static constexpr int kOtherRows = 2 * kGradCols * (kResident ? kChunks : 1);
  static constexpr int kValueRows = kResident ? 0 : kGradCols * kChunks;
  static constexpr int kOther = kChunkBytes * kOwnRows;
  static constexpr int kValues = kOther + kChunkBytes * kOtherRows;
  static constexpr int kWeights = kValues + kChunkBytes * kValueRows;
  static constexpr int kBytes = kWeights + kChunkBytes * kGradRows * (kIsFloat<T> ? 2 : 1);
};

// Blocks on an SM, as registers leave them.
template <typename T, bool kResident, int kChunks>
constexpr int kGradBlocks = kResident && kChunks == 2 && !kIsFloat<T> ? 3 : 2;

// Grid: (tiles of own, splits * slices, passes). No more splits than tiles of partners.
template <typename T, bool kResident, int kChunks>
__global__ void __launch_bounds__(kGradThreads, (kGradBlocks<T, kResident, kChunks>))
    tensor_gradient_kernel(const __grid_constant__ TensorGradPasses passes) {
  using Shared = GradShared<T, kResident, kChunks>;
  constexpr int kChunkColumns = kChunkBytes / static_cast<int>(sizeof(T));
  constexpr int kOutTiles = kChunks * kChunkColumns / 8 / kColWarps;
  auto& own_tile = dynamic_shared<ChunkTile<Shared::kOwnRows>>(0);
  auto& other_tile = dynamic_shared<ChunkTile<Shared::kOtherRows>>(Shared::kOther);
  auto& weights = dynamic_shared<WeightTile<T>>(Shared::kWeights);
  __shared__ SharedTile<PointRoles, 1, kGradRows> own_roles;
  __shared__ SharedTile<PointRoles, 2, kGradCols> other_roles;
  __shared__ SharedTile<float, 4, kGradThreads> bias_sums;  // a thread's own, as the next: registers are all taken
  __shared__ SharedTile<double, 1, kGradThreads> scale_sums;
  __shared__ SharedTile<float, 1, 1> weight_factor;
  __shared__ SharedTile<double, 1, kGradThreads / kWarpSize> warp_sums;

  const TensorGradPass& p = passes.of[blockIdx.z];
  const MmaPoints own_points = p.own.points, other_points = p.other.points;
  const int64_t own0 = static_cast<int64_t>(blockIdx.x) * kGradRows;
  if (own0 >= own_points.count) return;  // the other pass has more tiles
  const int split = static_cast<int>(blockIdx.y) / passes.slices, slice = static_cast<int>(blockIdx.y) % passes.slices;
  const TileRange range = tile_range(ceil_div(other_points.count, kGradCols), split, passes.splits);
  const int first = static_cast<int>(range.begin), end = static_cast<int>(range.end);
  const MmaThread thread;
  const int column = static_cast<int>(threadIdx.x);
  const PairBounds bounds = gather_bounds(passes.bounds);
  const float scale = *passes.scale;
  const bool shift_free = is_shift_free(bounds, scale), corrected = !passes.allow_tf32 && is_finite(bounds);
  const ScoreFactor<T> factor(scale, shift_free);
  if (column == 0) weight_factor(0, 0) = weight_unit<T>(bounds.gradient);
  const int chunks = own_points.chunks();
  const int first_chunk = slice * kChunks;
  const bool as_row = p.as_row, as_col = p.as_col;

  if (column < kGradRows) own_roles(0, column) = point_roles(p.own, as_row, as_col, own0 + column, shift_free);
#pragma unroll
  for (int r = 0; r < 4; ++r) bias_sums(r, column) = 0.0f;
  scale_sums(0, column) = 0;
  float out[2][kOutTiles][4];
  clear_sums(out);

  const auto load_roles = [&](int tile) {  // of the columns of a tile, by the first threads
    if (column < kGradCols) {
      other_roles((tile - first) % 2, column) =
          point_roles(p.other, as_col, as_row, static_cast<int64_t>(tile) * kGradCols + column, shift_free);
    }
  };
  // Adds the sums to those of this block's part, and begins anew.
  const auto flush = [&](bool written) {
    const float from_weights = 1.0f / weight_factor(0, 0);
    // One offset in memory, and small ones from there.
    const int64_t first_column =
        static_cast<int64_t>(first_chunk) * kChunkColumns + thread.warp_col * kOutTiles * 8 + 2 * thread.t;
    const int first_row = thread.warp_row * kWarpRows + thread.g, d = static_cast<int>(passes.d);
    const int rows_left = points_left<kGradRows>(own0, own_points.count) - first_row;
    const int cols_left = static_cast<int>(passes.d - first_column);
    float* const sums = p.point_parts + (split * own_points.count + own0 + first_row) * passes.d + first_column;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
#pragma unroll
      for (int i = 0; i < 2 * kOutTiles; ++i) {
        const int k = i / 2 * 8 + i % 2;
        if (r * 8 >= rows_left || k >= cols_left) continue;
        float& total = sums[r * 8 * d + k];
        const float sum = out[r / 2][i / 2][r % 2 * 2 + i % 2] * from_weights;
        total = written ? total + sum : sum;
      }
    }
    clear_sums(out);
  };

  {
    const int64_t other0 = range.begin * kGradCols;
    if constexpr (kResident) {
      for (int c = 0; c < chunks; ++c)
        load_chunk<kGradThreads, kGradRows>(own_tile, c * kGradRows, own_points, own0, c);
      for (int c = 0; c < chunks; ++c)
        load_chunk<kGradThreads, kGradCols>(other_tile, c * kGradCols, other_points, other0, c);
    } else {
      load_chunk<kGradThreads, kGradRows>(own_tile, 0, own_points, own0, 0);
      load_chunk<kGradThreads, kGradCols>(other_tile, 0, other_points, other0, 0);
    }
    copy_commit();
    load_roles(first);
  }

  int stage = 0;
  for (int tile = first; tile < end; ++tile) {
    const int64_t other0 = static_cast<int64_t>(tile) * kGradCols;
    const int buffer = (tile - first) % 2;
    float q[2][4][4];
    clear_sums(q);
    if constexpr (kResident) {
      copy_wait<0>();
      __syncthreads();
      if (tile + 1 < end) {
#pragma unroll 1
        for (int c = 0; c < chunks; ++c) {
          load_chunk<kGradThreads, kGradCols>(other_tile, ((buffer ^ 1) * kChunks + c) * kGradCols, other_points,
                                              other0 + kGradCols, c);
        }
        load_roles(tile + 1);
      }
      copy_commit();
#pragma unroll 1
      for (int c = 0; c < chunks; ++c) {
        add_scores<T>(q, own_tile, c * kGradRows + thread.warp_row * kWarpRows, other_tile,
                      (buffer * kChunks + c) * kGradCols + thread.warp_col * 32, own_points.steps(c), corrected,
                      thread);
      }
    } else {
      auto& values = dynamic_shared<ChunkTile<Shared::kValueRows>>(Shared::kValues);
#pragma unroll 1
      for (int c = 0; c < chunks; ++c) {
        copy_wait<0>();
        __syncthreads();
        if (c == 0) {
          if (p.point_parts != nullptr) {
#pragma unroll 1
            for (int v = 0; v < kChunks; ++v) {
              load_chunk<kGradThreads, kGradCols>(values, v * kGradCols, other_points, other0, first_chunk + v);
            }
          }
          if (tile + 1 < end) load_roles(tile + 1);
        }
        const bool same_tile = c + 1 < chunks;
        if (same_tile || tile + 1 < end) {
          const int next_chunk = same_tile ? c + 1 : 0;
          load_chunk<kGradThreads, kGradRows>(own_tile, (stage ^ 1) * kGradRows, own_points, own0, next_chunk);
          load_chunk<kGradThreads, kGradCols>(other_tile, (stage ^ 1) * kGradCols, other_points,
                                              same_tile ? other0 : other0 + kGradCols, next_chunk);
        }
        copy_commit();
        add_chunk_scores<T>(q, own_tile, stage * kGradRows + thread.warp_row * kWarpRows, other_tile,
                            stage * kGradCols + thread.warp_col * 32, corrected, thread);
        stage ^= 1;
      }
    }

    const TileMask mask(own0, own_points.count, kGradRows, p.own.groups, other0, other_points.count, kGradCols,
                        p.other.groups, passes.exclude_diagonal);
    const uint32_t left_out = mask.bits(thread.warp_row * kWarpRows + thread.g, thread.warp_col * 32 + 2 * thread.t);
    const float unit = weight_factor(0, 0);
    float tile_scale = 0.0f, tile_bias[4] = {};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int col = thread.warp_col * 32 + i / 2 * 8 + 2 * thread.t + i % 2;
      const PointRoles partner = other_roles(buffer, col);
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int row = thread.warp_row * kWarpRows + r * 8 + thread.g;
        float& score = q[r / 2][i / 2][r % 2 * 2 + i % 2];
        PairWeights w = pair_weights(own_roles(0, row), partner, as_row, as_col, shift_free, factor, score);
        if (left_out >> (4 * i + r) & 1) {
          w = {0.0f, 0.0f};
          score = 0.0f;
        }
        // Over all pairs the two roles have the same sum.
        tile_scale = fmaf(as_col ? w.as_col : w.as_row, score, tile_scale);
        tile_bias[r] += w.as_col;
        score = (w.as_row + w.as_col) * unit;
      }
    }
    scale_sums(0, column) += tile_scale;
#pragma unroll
    for (int r = 0; r < 4; ++r) bias_sums(r, column) += tile_bias[r];

    if (p.point_parts == nullptr) continue;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int row = thread.warp_row * kWarpRows + r * 8 + thread.g;
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        store_weights<T>(weights, row, thread.warp_col * 4 + n, thread.t, q[r / 2][n][r % 2 * 2],
                         q[r / 2][n][r % 2 * 2 + 1]);
      }
    }
    if constexpr (!kResident) copy_wait<0>();  // the values
    __syncthreads();
    const int first_tile = thread.warp_col * kOutTiles, row = thread.warp_row * kWarpRows;
    if constexpr (kResident) {
      add_weighted<T>(out, weights, row, other_tile, buffer * kChunks * kGradCols, first_tile, corrected, thread);
    } else {
      auto& values = dynamic_shared<ChunkTile<Shared::kValueRows>>(Shared::kValues);
      add_weighted<T>(out, weights, row, values, 0, first_tile, corrected, thread);
    }
    const bool full = !kIsFloat<T> && (tile - first) % kFlushTiles == kFlushTiles - 1;
    if (full || tile + 1 == end) flush(!kIsFloat<T> && tile - first >= kFlushTiles);
  }

  if (slice != 0) return;
  if (p.bias_parts != nullptr) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      float sum = bias_sums(r, column);
      sum += __shfl_xor_sync(kFullWarp, sum, 1);
      sum += __shfl_xor_sync(kFullWarp, sum, 2);
      const int64_t i = own0 + thread.warp_row * kWarpRows + r * 8 + thread.g;
      if (thread.t == 0 && i < own_points.count) {
        p.bias_parts[(static_cast<int64_t>(split) * kColWarps + thread.warp_col) * own_points.count + i] = sum;
      }
    }
  }
  if (p.scale_parts != nullptr) {
    const double sum = block_sum<kGradThreads>(scale_sums(0, column), warp_sums);
    if (threadIdx.x == 0) {
      p.scale_parts[static_cast<int64_t>(split) * ceil_div(own_points.count, kGradRows) + blockIdx.x] = sum;
    }
  }
}

}  // namespace mi::cuda
