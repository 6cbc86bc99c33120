// The block tile that the pairwise kernels share: 256 threads as a 16 x 16 grid, each with a small register tile.
//
// In products, thread (ty, tx) = (thread / 16, thread % 16) owns rows ty * kThreadRows + r and columns
// tx * kThreadCols + c. The finished tile then goes to shared memory, column by column, where a thread can walk along
// one row or one column of it: `thread % kRows` is its row and `thread / kRows` the part of the columns that it takes,
// and likewise for columns. What is done per pair then needs no registers per pair, and small code.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/cuda/numeric.cuh"
#include "common/cuda/score.cuh"
#include "common/cuda/shared.cuh"

namespace mi::cuda {

constexpr int kThreads = 256;
constexpr int kSide = 16;
constexpr int kUnroll = 4;  // coordinates per loop turn: more of them only lengthen the compile

// fp64 tiles need more registers than two blocks an SM leave.
template <typename T>
constexpr int kBlocksPerSm = std::is_same_v<T, double> ? 1 : 2;

// Rows x columns of pairs per tile, and how many coordinates pass through shared memory at a time.
template <typename A>
struct TileShape {
  static constexpr int kRows = 128, kCols = 64, kDepth = 16;
};
template <>
struct TileShape<double> {
  static constexpr int kRows = 64, kCols = 64, kDepth = 8;
};

template <typename A>
struct Tile : TileShape<A> {
  using TileShape<A>::kRows;
  using TileShape<A>::kCols;
  using TileShape<A>::kDepth;
  static constexpr int kThreadRows = kRows / kSide;
  static constexpr int kThreadCols = kCols / kSide;
  // Four elements more than a row needs: threads that store a transposed chunk then hit different banks, and rows stay
  // aligned to 16 bytes.
  static constexpr int kRowPitch = kRows + 4;
  static constexpr int kColPitch = kCols + 4;
  // How many threads share a row (a column), and how many columns (rows) each of them takes.
  static constexpr int kRowParts = kThreads / kRows;
  static constexpr int kPartCols = kCols / kRowParts;
  static constexpr int kColParts = kThreads / kCols;
  static constexpr int kPartRows = kRows / kColParts;
  using RowChunk = SharedTile<A, kDepth, kRows, kRowPitch>;
  using ColChunk = SharedTile<A, kDepth, kCols, kColPitch>;
  using Pairs = SharedTile<A, kCols, kRows, kRowPitch>;  // (column, row)
};

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The half-open range of tiles that part `part` of `parts` works on.
struct TileRange {
  int64_t begin, end;
};
__device__ __forceinline__ TileRange tile_range(int64_t tiles, unsigned part, unsigned parts) {
  return {tiles * part / parts, tiles * (part + 1) / parts};
}

__device__ __forceinline__ int thread_y() { return static_cast<int>(threadIdx.x) / kSide; }
__device__ __forceinline__ int thread_x() { return static_cast<int>(threadIdx.x) % kSide; }

// How many of the kPoints points from `first` on exist.
template <int kPoints>
__device__ __forceinline__ int points_left(int64_t first, int64_t count) {
  return count - first < kPoints ? static_cast<int>(count - first) : kPoints;
}

// chunk(k, p) = points[first + p][k0 + k], and 0 outside the points: zeros add nothing to a score or to a product.
// A thread keeps to one coordinate and steps through the points, with one running pointer.
template <typename T, typename A, int kDepth, int kPoints, int kPitch>
__device__ __forceinline__ void load_transposed(SharedTile<A, kDepth, kPoints, kPitch>& chunk, const T* points,
                                                int64_t first, int64_t count, int64_t k0, int64_t d) {
  constexpr int kStep = kThreads / kDepth;
  const int k = static_cast<int>(threadIdx.x) % kDepth, p = static_cast<int>(threadIdx.x) / kDepth;
  const int left = k0 + k < d ? points_left<kPoints>(first, count) : 0;
  const T* source = points + (first + p) * d + k0 + k;
#pragma unroll
  for (int step = 0; step < kPoints; step += kStep, source += kStep * d) {
    chunk(k, p + step) = p + step < left ? widen(*source) : A(0);
  }
}

// chunk(p, c) = points[first + p][c0 + c], and 0 outside the points.
template <typename T, typename A, int kPoints, int kWidth, int kPitch>
__device__ __forceinline__ void load_rows(SharedTile<A, kPoints, kWidth, kPitch>& chunk, const T* points, int64_t first,
                                          int64_t count, int64_t c0, int64_t d) {
  constexpr int kStep = kThreads / kWidth;
  const int c = static_cast<int>(threadIdx.x) % kWidth, p = static_cast<int>(threadIdx.x) / kWidth;
  const int left = c0 + c < d ? points_left<kPoints>(first, count) : 0;
  const T* source = points + (first + p) * d + c0 + c;
#pragma unroll
  for (int step = 0; step < kPoints; step += kStep, source += kStep * d) {
    chunk(p + step, c) = p + step < left ? widen(*source) : A(0);
  }
}

// q[r][c] = Score of (rows[row0 + this thread's row r], cols[col0 + its column c]); pairs outside the points get some
// value. Each chunk of kDepth coordinates is summed on its own and then added: the error grows with the root of d /
// kDepth rather than of d. Begins with a barrier, so shared memory that was read before the call may be written after
// it.
template <typename Score, typename T, typename A = Acc<T>>
__device__ __forceinline__ void score_tile(A (&q)[Tile<A>::kThreadRows][Tile<A>::kThreadCols],
                                           typename Tile<A>::RowChunk& row_chunk, typename Tile<A>::ColChunk& col_chunk,
                                           const T* rows, int64_t row0, int64_t n_rows, const T* cols, int64_t col0,
                                           int64_t n_cols, int64_t d) {
  using Shape = Tile<A>;
  constexpr int R = Shape::kThreadRows, C = Shape::kThreadCols;
  const int first_row = thread_y() * R, first_col = thread_x() * C;
#pragma unroll
  for (int r = 0; r < R; ++r) {
#pragma unroll
    for (int c = 0; c < C; ++c) q[r][c] = A(0);
  }
  for (int64_t k0 = 0; k0 < d; k0 += Shape::kDepth) {
    __syncthreads();
    load_transposed(row_chunk, rows, row0, n_rows, k0, d);
    load_transposed(col_chunk, cols, col0, n_cols, k0, d);
    __syncthreads();
    A part[R][C] = {};
#pragma unroll kUnroll
    for (int k = 0; k < Shape::kDepth; ++k) {
      A a[R], b[C];
#pragma unroll
      for (int r = 0; r < R; ++r) a[r] = row_chunk(k, first_row + r);
#pragma unroll
      for (int c = 0; c < C; ++c) b[c] = col_chunk(k, first_col + c);
#pragma unroll
      for (int r = 0; r < R; ++r) {
#pragma unroll
        for (int c = 0; c < C; ++c) part[r][c] = Score::step(a[r], b[c], part[r][c]);
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int c = 0; c < C; ++c) q[r][c] += part[r][c];
    }
  }
}

}  // namespace mi::cuda
