// What a sweep does to a tile of pairs: scores, exponentials, weights, and the two products of the gradients. Here by
// torch's BLAS, in place; another way is another class with these members.
#pragma once

#include "common/cpu/runtime.h"
#include "ops/pairwise_lse/cpu_exponentials.h"
#include "ops/pairwise_lse/cpu_scores.h"

namespace mi {
namespace MI_SIMD_LEVEL {

// A tile's values: scores, then exponentials. kept: where exponentials are kept for the second sweep; null: nowhere.
template <class T, class Kept>
struct PairTile {
  T* data;
  int64_t ld;
  Kept* kept;
};

template <class T>
class BlasProducts {
 public:
  using Kept = T;
  using Tile = PairTile<T, Kept>;
  static constexpr bool kInPlace = true;  // a tile that is kept lives where it is kept
  static constexpr bool kAnySign = true;  // scale may be negative

  // left [n, d] against right [m, d]; gradients go to dleft and dright (one matrix, if left and right are one; null:
  // not wanted), each multiplied by scale. Inverse norms tell how the points were scaled to unit length; null if they
  // were not.
  BlasProducts(const CpuRuntime& runtime, const T* left, const double*, int64_t, const T* right, const double*, int64_t,
               int64_t d, T scale, T* dleft, T* dright)
      : runtime_(runtime), left_(left), right_(right), d_(d), scale_(scale), dleft_(dleft), dright_(dright) {}

  // Scratch memory that a thread needs beside the tile: `spare` below.
  static int64_t scratch(int64_t, int64_t) { return 0; }

  // tile = left right^T, which times scale are scores
  void scores(Range rows, Range cols, const Tile& tile) const {
    gemm(runtime_, false, true, rows.size(), cols.size(), d_, T(1), left_ + rows.begin * d_, d_,
         right_ + cols.begin * d_, d_, T(0), tile.data, tile.ld);
  }

  // Exponentials of the scores, kept if they are to be; adds to row sums, and to column sums if kColumns.
  template <bool kColumns>
  void exponentials(Range rows, Range cols, const Tile& tile, double* row_sums, double* col_sums, T* columns) const {
    exponentials_of_tile<kColumns>(tile.data, tile.ld, rows, cols, Scaling<false, T>{scale_, nullptr, nullptr},
                                   row_sums, col_sums, columns, [](int64_t, int64_t) {});
  }

  // Weights e (u_i + v_j), without v unless kColumns, of what is kept or else of scores; for which products is said.
  template <bool kColumns>
  void weigh(Range rows, Range cols, const Tile& tile, const T* u, const T* v, T*, bool, bool) const {
    tile.kept != nullptr ? weights_of_tile<kColumns, true>(tile.data, tile.ld, rows, cols, scale_, u, v)
                         : weights_of_tile<kColumns, false>(tile.data, tile.ld, rows, cols, scale_, u, v);
  }

  // dleft += weights right, or dleft = weights right if first
  void by_rows(Range rows, Range cols, const Tile& tile, T*, bool first) const {
    gemm(runtime_, false, false, rows.size(), d_, cols.size(), scale_, tile.data, tile.ld, right_ + cols.begin * d_, d_,
         first ? T(0) : T(1), dleft_ + rows.begin * d_, d_);
  }

  // dright += weights^T left, or dright = that if first
  void by_columns(Range rows, Range cols, const Tile& tile, T*, bool first) const {
    gemm(runtime_, true, false, cols.size(), d_, rows.size(), scale_, tile.data, tile.ld, left_ + rows.begin * d_, d_,
         first ? T(0) : T(1), dright_ + cols.begin * d_, d_);
  }

  // Called once, after the last product.
  void collect() const {}

 private:
  const CpuRuntime& runtime_;
  const T* left_;
  const T* right_;
  const int64_t d_;
  const T scale_;
  T* dleft_;
  T* dright_;
};

}  // namespace MI_SIMD_LEVEL
}  // namespace mi
