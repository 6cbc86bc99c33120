// Row and column sums of e_ij = exp(scale score_ij + u_i + v_j) without a running maximum: one exponential for each
// pair, which serves its row and its column alike.
//
// The offsets u bring the sums to the middle of the exponent's range. What they should be is known before the pass: the
// potentials of a transport plan make the sums its marginals, and log-sum-exps of a few rows tell those of the others.
// The sums then say for themselves whether they were right: within [1 / Reach::sum, Reach::sum] nothing overflowed, and
// what fell under the smallest normal number does not matter to them. A row outside is computed again with a shift
// (redo_rows); when that is so for more than a few, the caller takes the shifted pass for all.
//
// Points paired with themselves have e_ij = e_ji: each tile above the diagonal serves the rows of both its sides.
#pragma once

#include "common/cpu/latin_walk.h"
#include "common/cpu/triangle_walk.h"
#include "ops/pairwise_lse/cpu_online.h"
#include "ops/pairwise_lse/cpu_scores.h"

namespace mi {
namespace MI_SIMD_LEVEL {

template <class T>
struct Reach;
// Under the logarithm of the largest number with room for a million terms; twice this is left to the smallest one.
template <>
struct Reach<float> {
  static constexpr double spread = 100, sum = 7.694785265142018e23;  // exp(55)
};
template <>
struct Reach<double> {
  static constexpr double spread = 900, sum = 1.4035922178528375e217;  // exp(500)
};

template <class T>
bool within_reach(double sum) {
  return sum >= 1 / Reach<T>::sum && sum <= Reach<T>::sum;
}

// Where the sums of a tile go; moments, the sums of e_ij score_ij, may be null.
struct SumTargets {
  double *row, *col, *row_moment, *col_moment;
};

// The logit without u is rounded first, as the backward pass forms it: what its rounding does to the sums then cancels
// in the weights. The loops are written out: a lambda in them would keep the compiler from vectorising.
template <bool kColumns, bool kMoment, class T>
MI_INLINE void sum_four_rows(const T* __restrict tile, int64_t ld, int64_t width, T scale, const T* u,
                             const T* __restrict v, T* __restrict column_sum, T* __restrict column_moment, T* row_sum,
                             T* row_moment) {
  const T u0 = u[0], u1 = u[1], u2 = u[2], u3 = u[3];
  T sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0, moment0 = 0, moment1 = 0, moment2 = 0, moment3 = 0;
#pragma omp simd reduction(+ : sum0, sum1, sum2, sum3, moment0, moment1, moment2, moment3)
  for (int64_t j = 0; j < width; ++j) {
    const T p0 = tile[j], p1 = tile[ld + j], p2 = tile[2 * ld + j], p3 = tile[3 * ld + j];
    const T e0 = quick_exp((scale * p0 + v[j]) + u0), e1 = quick_exp((scale * p1 + v[j]) + u1);
    const T e2 = quick_exp((scale * p2 + v[j]) + u2), e3 = quick_exp((scale * p3 + v[j]) + u3);
    sum0 += e0;
    sum1 += e1;
    sum2 += e2;
    sum3 += e3;
    if (kColumns) column_sum[j] += (e0 + e1) + (e2 + e3);
    if (kMoment) {
      // A pair that is left out has an infinite score, and 0 inf would be NaN.
      const T m0 = e0 > T(0) ? e0 * p0 : T(0), m1 = e1 > T(0) ? e1 * p1 : T(0);
      const T m2 = e2 > T(0) ? e2 * p2 : T(0), m3 = e3 > T(0) ? e3 * p3 : T(0);
      moment0 += m0;
      moment1 += m1;
      moment2 += m2;
      moment3 += m3;
      if (kColumns) column_moment[j] += (m0 + m1) + (m2 + m3);
    }
  }
  row_sum[0] = sum0, row_sum[1] = sum1, row_sum[2] = sum2, row_sum[3] = sum3;
  if (kMoment) row_moment[0] = moment0, row_moment[1] = moment1, row_moment[2] = moment2, row_moment[3] = moment3;
}

template <bool kColumns, bool kMoment, class T>
MI_INLINE void sum_row(const T* __restrict row, int64_t width, T scale, T u, const T* __restrict v,
                       T* __restrict column_sum, T* __restrict column_moment, T* row_sum, T* row_moment) {
  T sum = 0, moment = 0;
#pragma omp simd reduction(+ : sum, moment)
  for (int64_t j = 0; j < width; ++j) {
    const T p = row[j], e = quick_exp((scale * p + v[j]) + u);
    sum += e;
    if (kColumns) column_sum[j] += e;
    if (kMoment) {
      const T m = e > T(0) ? e * p : T(0);
      moment += m;
      if (kColumns) column_moment[j] += m;
    }
  }
  *row_sum = sum;
  if (kMoment) *row_moment = moment;
}

// Adds a tile of scores to the sums; `scratch` holds 2 ld numbers. u and v are indexed by row and column of the whole.
template <bool kColumns, bool kMoment, class T>
void add_tile(const T* tile, int64_t ld, Range rows, Range cols, T scale, const T* u, const T* v,
              const SumTargets& targets, T* scratch) {
  const int64_t width = cols.size();
  T *column_sum = scratch, *column_moment = scratch + ld;
  if (kColumns)
    for (int64_t j = 0; j < 2 * ld; ++j) scratch[j] = T(0);
  T sums[4], moments[4];
  int64_t i = 0;
  const auto add = [&](int64_t count) {
    for (int64_t k = 0; k < count; ++k) targets.row[rows.begin + i + k] += static_cast<double>(sums[k]);
    if (kMoment)
      for (int64_t k = 0; k < count; ++k) targets.row_moment[rows.begin + i + k] += static_cast<double>(moments[k]);
  };
  for (; i + 4 <= rows.size(); i += 4) {
    sum_four_rows<kColumns, kMoment>(tile + i * ld, ld, width, scale, u + rows.begin + i, v + cols.begin, column_sum,
                                     column_moment, sums, moments);
    add(4);
  }
  for (; i < rows.size(); ++i) {
    sum_row<kColumns, kMoment>(tile + i * ld, width, scale, u[rows.begin + i], v + cols.begin, column_sum,
                               column_moment, sums, moments);
    add(1);
  }
  if (kColumns)
    for (int64_t j = 0; j < width; ++j) targets.col[cols.begin + j] += static_cast<double>(column_sum[j]);
  if (kColumns && kMoment)
    for (int64_t j = 0; j < width; ++j) targets.col_moment[cols.begin + j] += static_cast<double>(column_moment[j]);
}

// The score that takes a pair out of the sums at this scale.
template <class T>
T left_out_score(T scale) {
  return scale > T(0) ? -infinity<T>() : infinity<T>();
}

// Calls visit(rows, cols, by_columns, tile, ld, scratch) with every tile of scores, of which none is left out yet. By
// triangles each pair of chunks comes once, with by_columns telling that the tile is meant for its columns, too; else
// by_columns is `columns`.
template <class T, class F>
void over_tiles(const Pairs<T>& pairs, bool triangles, bool columns, const F& visit) {
  const auto body = [&](Range rows, Range cols, bool by_columns, int64_t tile_rows, int64_t ld) {
    const Scratch<T> scratch(tile_rows * ld + 2 * ld + pairs.transposed_size(ld));
    T* tile = scratch.get();
    pairs.scores(rows, cols, tile, ld, tile + (tile_rows + 2) * ld);
    visit(rows, cols, by_columns, tile, ld, tile + tile_rows * ld);
  };
  if (triangles) {
    const TriangleWalk walk(pairs.n, pairs.runtime);
    walk.run(pairs.runtime, [&](Range rows, Range cols, bool diagonal) {
      body(rows, cols, !diagonal, walk.tile_rows, max_of(walk.tile_rows, walk.tile_cols));
    });
  } else {
    const Walk walk(pairs.n, pairs.m, columns, pairs.runtime);
    walk.run(pairs.runtime, [&](int64_t, Range rows, Range cols, bool, bool) {
      body(rows, cols, columns, walk.tile_rows, walk.tile_cols);
    });
  }
}

// log-sum-exp of row i by a running maximum, and the mean score under its softmax.
struct RowResult {
  double lse, moment;
};

template <class T>
RowResult shifted_row(const Pairs<T>& pairs, int64_t i, T scale) {
  const int64_t ld = min_of(kTileCols, aligned(pairs.m));
  const Scratch<T> scratch(2 * ld + pairs.transposed_size(ld));
  T *row = scratch.get(), *logits = row + ld;
  const T nothing = left_out_score(scale);
  double highest = -__builtin_inf(), sum = 0, moment = 0;
  for (int64_t j0 = 0; j0 < pairs.m; j0 += ld) {
    const Range cols{j0, min_of(j0 + ld, pairs.m)};
    const int64_t width = cols.size();
    pairs.scores(Range{i, i + 1}, cols, row, ld, logits + ld);
    pairs.leave_out(Range{i, i + 1}, cols, row, ld, nothing);
    for (int64_t j = 0; j < width; ++j) logits[j] = row[j];
    const double top = static_cast<double>(to_logits<false>(logits, pairs.bias + j0, scale, width, row));
    if (top > highest) {
      const double factor = highest == -__builtin_inf() ? 0 : __builtin_exp(highest - top);
      sum *= factor;
      moment *= factor;
      highest = top;
    }
    const T shift = shift_of(static_cast<T>(highest));
    T part = 0, part_moment = 0;
#pragma omp simd reduction(+ : part, part_moment)
    for (int64_t j = 0; j < width; ++j) {
      const T e = vexp(logits[j] - shift);
      part += e;
      part_moment += e > T(0) ? e * row[j] : T(0);
    }
    sum += static_cast<double>(part);
    moment += static_cast<double>(part_moment);
  }
  if (highest == -__builtin_inf()) return {highest, 0};
  return {static_cast<double>(shift_of(static_cast<T>(highest))) + __builtin_log(sum), moment / sum};
}

// The offset that brings the sums of the rows to about 1, from the log-sum-exps of a few of them. False: they lie too
// far apart for one offset, or are not finite.
template <class T>
bool find_offset(const Pairs<T>& pairs, T scale, T* offset) {
  constexpr int64_t kSamples = 8;
  if (pairs.self && pairs.squared && !pairs.exclude_diagonal && pairs.row_groups == nullptr && !pairs.has_bias()) {
    *offset = T(0);  // each sum holds exp(0)
    return true;
  }
  double lowest = __builtin_inf(), highest = -__builtin_inf();
  for (int64_t k = 0; k < kSamples; ++k) {
    const double lse = shifted_row(pairs, (2 * k + 1) * pairs.n / (2 * kSamples), scale).lse;
    if (!(__builtin_fabs(lse) < 1e30)) return false;
    lowest = lse < lowest ? lse : lowest;
    highest = lse > highest ? lse : highest;
  }
  *offset = static_cast<T>(-(lowest + highest) / 2);
  return highest - lowest <= Reach<T>::spread;
}

// Calls redo(i) for the entries whose sums are out of reach, in parallel. False, and no calls: too many of them.
template <class T, class F>
bool redo_rows(const CpuRuntime& runtime, const double* sums, int64_t size, const F& redo) {
  int64_t lost = 0;
  for (int64_t i = 0; i < size; ++i) lost += within_reach<T>(sums[i]) ? 0 : 1;
  if (lost > size / 16) return false;
  if (lost == 0) return true;
  Buffer<int64_t> rows(lost);
  for (int64_t i = 0, k = 0; i < size; ++i)
    if (!within_reach<T>(sums[i])) rows[k++] = i;
  const int64_t parts = min_of(runtime.threads, lost);
  parallel(runtime, parts, [&](int64_t part) {
    for (int64_t k = part; k < lost; k += parts) redo(rows.get()[k]);
  });
  return true;
}

}  // namespace MI_SIMD_LEVEL
}  // namespace mi
