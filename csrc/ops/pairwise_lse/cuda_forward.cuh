// The forward kernels of pairwise log-sum-exp; cuda.cu says how they work together.
#pragma once

#include "common/cuda/numeric.cuh"
#include "common/cuda/online_lse.cuh"
#include "common/cuda/tile.cuh"
#include "ops/pairwise_lse/cuda_profiles.cuh"

namespace mi::cuda {

template <typename T>
struct LsePass {
  using A = Acc<T>;
  const T* x;
  const T* y;
  const A* scale;
  const A* bias;              // or null
  const A* row_bias;          // or null; for the columns' states
  const int64_t* row_groups;  // both or neither null
  const int64_t* col_groups;
  int64_t n, m, d;
  mi::Score score;
  bool exclude_diagonal;
  LseState<A>* row_parts;  // [splits * kRowParts, n]
  LseState<A>* col_parts;  // [strips * kColParts, m], or null
};

// Grid: (strips, splits).
template <typename T, typename Score>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm<T>) lse_tiles_kernel(LsePass<T> p) {
  using A = Acc<T>;
  using Shape = Tile<A>;
  constexpr int R = Shape::kThreadRows, C = Shape::kThreadCols;
  constexpr int kPush = 8;  // pairs per move of the running maximum
  __shared__ typename Shape::RowChunk row_chunk;
  __shared__ typename Shape::ColChunk col_chunk;
  __shared__ typename Shape::Pairs pairs;

  const int thread = static_cast<int>(threadIdx.x), first_row = thread_y() * R, first_col = thread_x() * C;
  const int row = thread % Shape::kRows, row_part = thread / Shape::kRows;
  const int col = thread % Shape::kCols, col_part = thread / Shape::kCols;
  const A scale = *p.scale;
  const TileRange row_tiles = tile_range(ceil_div(p.n, Shape::kRows), blockIdx.x, gridDim.x);
  const TileRange col_tiles = tile_range(ceil_div(p.m, Shape::kCols), blockIdx.y, gridDim.y);

  for (int64_t row_tile = row_tiles.begin; row_tile < row_tiles.end; ++row_tile) {
    const int64_t row0 = row_tile * Shape::kRows;
    LseState<A> row_state = lse_empty<A>();

    for (int64_t col_tile = col_tiles.begin; col_tile < col_tiles.end; ++col_tile) {
      const int64_t col0 = col_tile * Shape::kCols;
      A q[R][C];
      score_tile<Score>(q, row_chunk, col_chunk, p.x, row0, p.n, p.y, col0, p.m, p.d);
#pragma unroll
      for (int c = 0; c < C; ++c) {
        const int64_t j = col0 + first_col + c;
        const A bias = p.bias != nullptr && j < p.m ? p.bias[j] : A(0);
#pragma unroll
        for (int r = 0; r < R; ++r) {
          const int64_t i = row0 + first_row + r;
          const bool excluded = i >= p.n || j >= p.m || (p.exclude_diagonal && i == j);
          const A logit = kIsProfile<Score> ? q[r][c] : fma(scale, q[r][c], bias);
          pairs(first_col + c, first_row + r) = excluded ? -infinity<A>() : logit;
        }
      }
      if (p.row_groups != nullptr) {  // apart from the loop above: without groups, one branch for all pairs
#pragma unroll 1
        for (int c = 0; c < C && col0 + first_col + c < p.m; ++c) {
          const int64_t group = p.col_groups[col0 + first_col + c];
#pragma unroll
          for (int r = 0; r < R; ++r) {
            const int64_t i = row0 + first_row + r;
            if (i < p.n && p.row_groups[i] == group) pairs(first_col + c, first_row + r) = -infinity<A>();
          }
        }
      }
      if constexpr (kIsProfile<Score>) {  // by the walk of the rows below: on the register tile it would be 32 copies
        __syncthreads();
#pragma unroll 1
        for (int c = row_part * Shape::kPartCols; c < (row_part + 1) * Shape::kPartCols; ++c) {
          const A q = pairs(c, row);
          const int64_t j = col0 + c;
          const A bias = p.bias != nullptr && j < p.m ? p.bias[j] : A(0);
          if (q != -infinity<A>()) pairs(c, row) = profile_logit(p.score, scale, q) + bias;
        }
      }
      __syncthreads();

#pragma unroll 1
      for (int c = 0; c < Shape::kPartCols; c += kPush) {
        A s[kPush];
#pragma unroll
        for (int i = 0; i < kPush; ++i) s[i] = pairs(row_part * Shape::kPartCols + c + i, row);
        lse_push(row_state, s);
      }
      if (p.col_parts != nullptr && col0 + col < p.m) {
        LseState<A>& stored = p.col_parts[(blockIdx.x * Shape::kColParts + col_part) * p.m + col0 + col];
        LseState<A> col_state = row_tile == row_tiles.begin ? lse_empty<A>() : stored;
#pragma unroll 1
        for (int r = 0; r < Shape::kPartRows; r += kPush) {
          A s[kPush];
#pragma unroll
          for (int i = 0; i < kPush; ++i) {
            const int own = col_part * Shape::kPartRows + r + i;
            s[i] = pairs(col, own) + (p.row_bias != nullptr && row0 + own < p.n ? p.row_bias[row0 + own] : A(0));
          }
          lse_push(col_state, s);
        }
        stored = col_state;
      }
    }
    if (row0 + row < p.n) p.row_parts[(blockIdx.y * Shape::kRowParts + row_part) * p.n + row0 + row] = row_state;
  }
}

}  // namespace mi::cuda
