// The three products of a sweep by torch's BLAS. Another kind of product is another class with these members.
#pragma once

#include "common/cpu/runtime.h"
#include "ops/pairwise_lse/cpu_scores.h"

namespace mi {
namespace MI_SIMD_LEVEL {

template <class T>
class BlasProducts {
 public:
  static constexpr bool kAnySign = true;  // scale may be negative

  // left [n, d] against right [m, d]; gradients go to dleft and dright (one matrix, if left and right are one; null:
  // not wanted), each multiplied by scale. Inverse norms tell how the points were scaled to unit length; null if they
  // were not.
  BlasProducts(const CpuRuntime& runtime, const T* left, const double*, int64_t, const T* right, const double*, int64_t,
               int64_t d, T scale, T* dleft, T* dright)
      : runtime_(runtime), left_(left), right_(right), d_(d), scale_(scale), dleft_(dleft), dright_(dright) {}

  // Scratch memory that a thread needs beside the tile.
  static int64_t scratch(int64_t, int64_t) { return 0; }

  // tile = left right^T
  void scores(Range rows, Range cols, T* tile, int64_t ld) const {
    gemm(runtime_, false, true, rows.size(), cols.size(), d_, T(1), left_ + rows.begin * d_, d_,
         right_ + cols.begin * d_, d_, T(0), tile, ld);
  }

  // dleft += tile right, or dleft = tile right if first
  void by_rows(Range rows, Range cols, const T* tile, int64_t ld, T*, bool first) const {
    gemm(runtime_, false, false, rows.size(), d_, cols.size(), scale_, tile, ld, right_ + cols.begin * d_, d_,
         first ? T(0) : T(1), dleft_ + rows.begin * d_, d_);
  }

  // dright += tile^T left, or dright = tile^T left if first
  void by_columns(Range rows, Range cols, const T* tile, int64_t ld, T*, bool first) const {
    gemm(runtime_, true, false, cols.size(), d_, rows.size(), scale_, tile, ld, left_ + rows.begin * d_, d_,
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
