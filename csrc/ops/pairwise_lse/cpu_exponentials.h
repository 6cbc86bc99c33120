// Exponentials without a shift: e = exp(s), one for each pair, which serves its row and its column alike and, times a
// factor for each, is the weight of the pair in the gradient.
//
// Exact as long as no sum overflows and no term that matters is under the smallest normal number. A bound on |s| of
// kSafe guarantees both; up to kTry it may be tried, and the sums tell: in [exp(-kSafe), exp(kHighest)] they lost
// nothing.
#pragma once

#include "common/cpu/arrays.h"

namespace mi {
namespace MI_SIMD_LEVEL {

constexpr double kSafe = 60, kTry = 200, kHighest = 70;

inline bool sum_is_exact(double sum) {
  return sum >= 8.75651076269652e-27 && sum <= 2.515438670919167e30;  // exp(-kSafe), exp(kHighest)
}

// kRows rows of a tile at a time: score p -> e = quick_exp(scale p), with row sums, and column sums if kColumns.
// Several rows at once spread the loads and stores of the column sums, and overlap the latencies of several
// exponentials.
template <int kRows, bool kColumns, class T>
MI_INLINE void exponentials(T* __restrict tile, int64_t ld, int64_t width, T scale, T* __restrict column_sum,
                            T* row_sum) {
  static_assert(kRows == 1 || kRows == 4);
  T sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
#pragma omp simd reduction(+ : sum0, sum1, sum2, sum3)
  for (int64_t j = 0; j < width; ++j) {
    T total = quick_exp(scale * tile[j]);
    tile[j] = total;
    sum0 += total;
    if constexpr (kRows == 4) {
      const T e1 = quick_exp(scale * tile[ld + j]), e2 = quick_exp(scale * tile[2 * ld + j]);
      const T e3 = quick_exp(scale * tile[3 * ld + j]);
      tile[ld + j] = e1;
      tile[2 * ld + j] = e2;
      tile[3 * ld + j] = e3;
      sum1 += e1;
      sum2 += e2;
      sum3 += e3;
      total = (total + e1) + (e2 + e3);
    }
    if (kColumns) column_sum[j] += total;
  }
  row_sum[0] = sum0;
  if constexpr (kRows == 4) {
    row_sum[1] = sum1;
    row_sum[2] = sum2;
    row_sum[3] = sum3;
  }
}

// Exponentials of a tile; adds to the sums of its rows, and to those of its columns (tile_columns: scratch) if
// kColumns.
template <bool kColumns, class T>
void exponentials_of_tile(T* tile, int64_t ld, Range rows, Range cols, T scale, double* row_sums, double* column_sums,
                          T* tile_columns) {
  const int64_t width = cols.size(), height = rows.size();
  if (kColumns)
    for (int64_t j = 0; j < width; ++j) tile_columns[j] = T(0);
  T sums[4];
  int64_t i = 0;
  for (; i + 4 <= height; i += 4) {
    exponentials<4, kColumns>(tile + i * ld, ld, width, scale, tile_columns, sums);
    for (int64_t k = 0; k < 4; ++k) row_sums[rows.begin + i + k] += static_cast<double>(sums[k]);
  }
  for (; i < height; ++i) {
    exponentials<1, kColumns>(tile + i * ld, ld, width, scale, tile_columns, sums);
    row_sums[rows.begin + i] += static_cast<double>(sums[0]);
  }
  if (kColumns)
    for (int64_t j = 0; j < width; ++j) column_sums[cols.begin + j] += static_cast<double>(tile_columns[j]);
}

// The weights of a tile: e (u_i + v_j), without v when kColumns is not set; kFormed: the tile holds e, not scores.
template <bool kColumns, bool kFormed, class T>
void weights_of_tile(T* tile, int64_t ld, Range rows, Range cols, T scale, const T* u, const T* v) {
  const int64_t width = cols.size();
  const T* by_column = kColumns ? v + cols.begin : nullptr;
  for (int64_t i = 0; i < rows.size(); ++i) {
    T* __restrict row = tile + i * ld;
    const T by_row = u[rows.begin + i];
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) {
      const T e = kFormed ? row[j] : quick_exp(scale * row[j]);
      row[j] = e * (kColumns ? by_row + by_column[j] : by_row);
    }
  }
}

}  // namespace MI_SIMD_LEVEL
}  // namespace mi
