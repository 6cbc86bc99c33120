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

template <int kCount>
struct Count {
  constexpr int operator()() const { return kCount; }
};

inline bool sum_is_exact(double sum) {
  return sum >= 8.75651076269652e-27 && sum <= 2.515438670919167e30;  // exp(-kSafe), exp(kHighest)
}

// kRows rows of a tile at a time: score p -> e = quick_exp(scale p), with row sums, and column sums if kColumns. A row
// has a scale of its own; a column has a factor if kFactors. Several rows at once spread the loads and stores of the
// column sums, and overlap the latencies of several exponentials.
template <int kRows, bool kColumns, bool kFactors, class T>
MI_INLINE void exponentials(T* __restrict tile, int64_t ld, int64_t width, const T* scale, const T* __restrict factor,
                            T* __restrict column_sum, T* row_sum) {
  static_assert(kRows == 1 || kRows == 4);
  T sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
  const T scale0 = scale[0], scale1 = kRows == 4 ? scale[1] : 0, scale2 = kRows == 4 ? scale[2] : 0,
          scale3 = kRows == 4 ? scale[3] : 0;
#pragma omp simd reduction(+ : sum0, sum1, sum2, sum3)
  for (int64_t j = 0; j < width; ++j) {
    const T by_column = kFactors ? factor[j] : T(1);
    T total = quick_exp(scale0 * (kFactors ? by_column * tile[j] : tile[j]));
    tile[j] = total;
    sum0 += total;
    if constexpr (kRows == 4) {
      const T p1 = tile[ld + j], p2 = tile[2 * ld + j], p3 = tile[3 * ld + j];
      const T e1 = quick_exp(scale1 * (kFactors ? by_column * p1 : p1));
      const T e2 = quick_exp(scale2 * (kFactors ? by_column * p2 : p2));
      const T e3 = quick_exp(scale3 * (kFactors ? by_column * p3 : p3));
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

// What scores are multiplied by: scale, and a factor for each row and column if kFactors.
template <bool kFactors, class T>
struct Scaling {
  T scale;
  const T *by_row, *by_column;  // indexed as the points are

  T of_row(int64_t i) const { return kFactors ? scale * by_row[i] : scale; }
};

// Exponentials of a tile; adds to the sums of its rows, and to those of its columns (tile_columns: scratch) if
// kColumns. Calls formed(i, count) for rows i, .. of the tile as soon as their exponentials are there.
template <bool kColumns, bool kFactors, class T, class F>
void exponentials_of_tile(T* tile, int64_t ld, Range rows, Range cols, const Scaling<kFactors, T>& scaling,
                          double* row_sums, double* column_sums, T* tile_columns, const F& formed) {
  const int64_t width = cols.size(), height = rows.size();
  const T* factor = kFactors ? scaling.by_column + cols.begin : nullptr;
  if (kColumns)
    for (int64_t j = 0; j < width; ++j) tile_columns[j] = T(0);
  T scales[4], sums[4];
  const auto some = [&](auto count, int64_t i) {
    for (int64_t k = 0; k < count(); ++k) scales[k] = scaling.of_row(rows.begin + i + k);
    exponentials<count(), kColumns, kFactors>(tile + i * ld, ld, width, scales, factor, tile_columns, sums);
    for (int64_t k = 0; k < count(); ++k) row_sums[rows.begin + i + k] += static_cast<double>(sums[k]);
    formed(i, count());
  };
  int64_t i = 0;
  for (; i + 4 <= height; i += 4) some(Count<4>(), i);
  for (; i < height; ++i) some(Count<1>(), i);
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
