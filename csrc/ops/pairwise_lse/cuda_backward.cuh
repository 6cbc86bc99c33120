// The backward kernels of pairwise log-sum-exp; cuda.cu says how they work together.
#pragma once

#include "common/cuda/numeric.cuh"
#include "common/cuda/reduce.cuh"
#include "common/cuda/tile.cuh"
#include "ops/pairwise_lse/cuda_profiles.cuh"

namespace mi::cuda {

// One of the two ways in which a point can be `own`: as the row of its pairs or as their column.
template <typename A>
struct Role {
  const A* own_grad;  // gradient of the lse of `own`, or null; and likewise of `other`
  const A* own_lse;
  const A* other_grad;
  const A* other_lse;
  const A* own_bias;  // the bias belongs to the column: at most one of the two is set
  const A* other_bias;
};

template <typename T>
struct GradPass {
  using A = Acc<T>;
  const T* own;
  const T* other;
  const A* scale;
  const int64_t* own_groups;  // both or neither null
  const int64_t* other_groups;
  int64_t n_own, n_other, d;
  mi::Score score;
  bool exclude_diagonal;
  bool as_row, as_col;  // the roles that `own` takes
  Role<A> row, col;
  A* point_parts;       // [splits, n_own, d]: sum_other G d score / d own, but for its factors; or null
  A* bias_parts;        // [splits * kRowParts, n_own]: sum_other G_{other,own}, or null
  double* scale_parts;  // [blocks]: sum G score (G pull score for a profile), or null
};

// What a thread needs of a point to weigh its pairs in one role.
template <typename A>
struct RolePoint {
  A grad, lse, bias;
};

template <typename A>
__device__ __forceinline__ RolePoint<A> role_point(const A* grad, const A* lse, const A* bias, int64_t i) {
  // Without a gradient the lse may not exist either; -inf stands for weight 0.
  return {grad != nullptr ? grad[i] : A(0), grad != nullptr ? lse[i] : -infinity<A>(),
          bias != nullptr ? bias[i] : A(0)};
}

template <typename A>
__device__ __forceinline__ A lse_weight(const RolePoint<A>& point, A s) {
  return point.lse == -infinity<A>() ? A(0) : point.grad * exp(s - point.lse);
}

// G of a pair, in one role. s has to be rounded as in the forward pass; adding the absent bias of one side, 0, is
// exact, and so is the factor 1 that a profile's logit has.
template <typename A>
__device__ __forceinline__ A pair_weight(const RolePoint<A>& own, const RolePoint<A>& other, A scale, A score) {
  const A s = fma(scale, score, own.bias + other.bias);
  return lse_weight(own, s) + lse_weight(other, s);
}

// Adds weights @ other to the sums of this block's own tile. `weights` holds (other, own); begins with a barrier.
template <typename T, typename Score, typename A = Acc<T>>
__device__ __forceinline__ void add_product(const GradPass<T>& p, A* sums, bool first_tile, int64_t own0,
                                            int64_t other0, const typename Tile<A>::Pairs& weights,
                                            typename Tile<A>::ColChunk& chunk) {
  using Shape = Tile<A>;
  constexpr int R = Shape::kThreadRows, C = Shape::kThreadCols;
  const int first_row = thread_y() * R, first_col = thread_x() * C;
  const int rows_left = points_left<Shape::kRows>(own0, p.n_own) - first_row;
  const int others_left = points_left<Shape::kCols>(other0, p.n_other);
  for (int64_t c0 = 0; c0 < p.d; c0 += Shape::kCols) {
    const int cols_left = points_left<Shape::kCols>(c0, p.d) - first_col;
    const int64_t offset = (own0 + first_row) * p.d + c0 + first_col;
    A own[R][C], sum[R][C];
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int c = 0; c < C; ++c) {
        const bool needed = Score::kNeedsOwn && r < rows_left && c < cols_left;
        own[r][c] = needed ? widen(p.own[offset + r * p.d + c]) : A(0);
        sum[r][c] = A(0);
      }
    }
    for (int t0 = 0; t0 < others_left; t0 += Shape::kDepth) {
      __syncthreads();
      load_rows(chunk, p.other, other0 + t0, p.n_other, c0, p.d);
      __syncthreads();
#pragma unroll kUnroll
      for (int t = 0; t < Shape::kDepth; ++t) {
        A weight[R], other[C];
#pragma unroll
        for (int r = 0; r < R; ++r) weight[r] = weights(t0 + t, first_row + r);
#pragma unroll
        for (int c = 0; c < C; ++c) other[c] = chunk(t, first_col + c);
#pragma unroll
        for (int r = 0; r < R; ++r) {
#pragma unroll
          for (int c = 0; c < C; ++c) {
            sum[r][c] = Score::gradient_step(weight[r], other[c], own[r][c], sum[r][c]);
          }
        }
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int c = 0; c < C; ++c) {
        if (r >= rows_left || c >= cols_left) continue;
        A& total = sums[offset + r * p.d + c];
        total = first_tile ? sum[r][c] : total + sum[r][c];
      }
    }
  }
}

// Grid: (tiles of own, splits of other).
template <typename T, typename Score>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm<T>) gradient_kernel(GradPass<T> p) {
  using A = Acc<T>;
  using Shape = Tile<A>;
  constexpr int R = Shape::kThreadRows, C = Shape::kThreadCols;
  __shared__ typename Shape::RowChunk own_chunk;
  __shared__ typename Shape::ColChunk other_chunk;
  __shared__ typename Shape::Pairs pairs;  // scores, then weights
  __shared__ SharedTile<double, 1, kThreads / kWarpSize> warp_sums;

  const int thread = static_cast<int>(threadIdx.x), first_row = thread_y() * R, first_col = thread_x() * C;
  const int row = thread % Shape::kRows, part = thread / Shape::kRows;
  const A scale = *p.scale;
  const int64_t own0 = static_cast<int64_t>(blockIdx.x) * Shape::kRows, own = own0 + row;
  const TileRange tiles = tile_range(ceil_div(p.n_other, Shape::kCols), blockIdx.y, gridDim.y);
  RolePoint<A> own_as_row{}, own_as_col{};
  if (own < p.n_own) {
    own_as_row = role_point(p.row.own_grad, p.row.own_lse, p.row.own_bias, own);
    own_as_col = role_point(p.col.own_grad, p.col.own_lse, p.col.own_bias, own);
  }
  const int64_t own_group = p.own_groups != nullptr && own < p.n_own ? p.own_groups[own] : 0;
  A bias_sum = A(0);
  double scale_sum = 0;

  for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
    const int64_t other0 = tile * Shape::kCols;
    A q[R][C];
    score_tile<Score>(q, own_chunk, other_chunk, p.own, own0, p.n_own, p.other, other0, p.n_other, p.d);
#pragma unroll
    for (int c = 0; c < C; ++c) {
#pragma unroll
      for (int r = 0; r < R; ++r) pairs(first_col + c, first_row + r) = q[r][c];
    }
    __syncthreads();

    A tile_bias = A(0), tile_scale = A(0);
#pragma unroll 2
    for (int c = part * Shape::kPartCols; c < (part + 1) * Shape::kPartCols; ++c) {
      const int64_t other = other0 + c;
      const A score = pairs(c, row);
      A row_weight = A(0), col_weight = A(0), pull = A(1);
      if (own < p.n_own && other < p.n_other && !(p.exclude_diagonal && own == other) &&
          (p.own_groups == nullptr || own_group != p.other_groups[other])) {
        A factor = scale, logit = score;
        if constexpr (kIsProfile<Score>) {
          factor = A(1);
          logit = profile_logit(p.score, scale, score);
          pull = profile_pull(p.score, scale, score);
        }
        if (p.as_row) {
          const RolePoint<A> point = role_point(p.row.other_grad, p.row.other_lse, p.row.other_bias, other);
          row_weight = pair_weight(own_as_row, point, factor, logit);
        }
        if (p.as_col) {
          const RolePoint<A> point = role_point(p.col.other_grad, p.col.other_lse, p.col.other_bias, other);
          col_weight = pair_weight(own_as_col, point, factor, logit);
        }
      }
      pairs(c, row) = (row_weight + col_weight) * pull;
      tile_bias += col_weight;
      // Over all pairs the two roles have the same sum.
      tile_scale = fma((p.as_col ? col_weight : row_weight) * pull, score, tile_scale);
    }
    bias_sum += tile_bias;
    scale_sum += tile_scale;

    if (p.point_parts != nullptr) {
      A* sums = p.point_parts + blockIdx.y * p.n_own * p.d;
      add_product<T, Score>(p, sums, tile == tiles.begin, own0, other0, pairs, other_chunk);
    }
  }

  if (p.bias_parts != nullptr && own < p.n_own) {
    p.bias_parts[(blockIdx.y * Shape::kRowParts + part) * p.n_own + own] = bias_sum;
  }
  if (p.scale_parts != nullptr) {
    const double sum = block_sum<kThreads>(scale_sum, warp_sums);
    if (thread == 0) p.scale_parts[static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x] = sum;
  }
}

// One block. *out = degree * sum_part parts[part].
template <typename A>
__global__ void __launch_bounds__(kThreads) sum_scale_kernel(const double* parts, int64_t count, int degree, A* out) {
  __shared__ SharedTile<double, 1, kThreads / kWarpSize> warp_sums;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += parts[i];
  sum = block_sum<kThreads>(sum, warp_sums);
  if (threadIdx.x == 0) *out = static_cast<A>(degree * sum);
}

}  // namespace mi::cuda
