// Forward pass: online (maximum, sum) of rows and columns over the tiles.
#pragma once

#include "common/cpu/latin_walk.h"
#include "ops/pairwise_lse/cpu_online.h"
#include "ops/pairwise_lse/cpu_profiles.h"
#include "ops/pairwise_lse/cpu_scores.h"
#include "ops/pairwise_lse/cpu_sums.h"

namespace mi {
namespace MI_SIMD_LEVEL {

// By sums of single exponentials. False: not for these scores.
template <class T>
bool forward_by_sums(const PairwiseLseForward& args, const Pairs<T>& pairs) {
  const bool columns = args.col_lse != nullptr;
  if (pairs.profiled || min_of(pairs.n, pairs.m) < kMinChunk || pairs.scale == T(0) || !pairs.finite()) return false;
  T offset;
  if (!find_offset(pairs, pairs.scale, &offset)) return false;
  const bool triangles = pairs.self && !columns && !pairs.has_bias();
  Buffer<T> u(pairs.n);
  u.fill(pairs.n, offset);
  Buffer<double> row_sums(pairs.n), col_sums(columns ? pairs.m : 0);
  row_sums.fill(pairs.n, 0.0);
  if (columns) col_sums.fill(pairs.m, 0.0);
  const SumTargets targets{row_sums.get(), triangles ? row_sums.get() : col_sums.get(), nullptr, nullptr};
  over_tiles(pairs, triangles, columns, [&](Range rows, Range cols, bool by_columns, T* tile, int64_t ld, T* scratch) {
    pairs.leave_out(rows, cols, tile, ld, left_out_score(pairs.scale));
    const auto add = by_columns ? add_tile<true, false, T> : add_tile<false, false, T>;
    add(tile, ld, rows, cols, pairs.scale, u.get(), pairs.bias, targets, scratch);
  });
  T* row_lse = static_cast<T*>(args.row_lse);
  const auto finish = [&](const double* sums, int64_t size, T* out) {
    for (int64_t i = 0; i < size; ++i) out[i] = static_cast<T>(__builtin_log(sums[i]) - static_cast<double>(offset));
  };
  if (columns) {
    for (int64_t j = 0; j < pairs.m; ++j)
      if (!within_reach<T>(col_sums[j])) return false;
    finish(col_sums.get(), pairs.m, static_cast<T*>(args.col_lse));
  }
  finish(row_sums.get(), pairs.n, row_lse);
  return redo_rows<T>(pairs.runtime, row_sums.get(), pairs.n,
                      [&](int64_t i) { row_lse[i] = static_cast<T>(shifted_row(pairs, i, pairs.scale).lse); });
}

template <class T>
void forward(const PairwiseLseForward& args, const CpuRuntime& runtime) {
  const Pairs<T> pairs(args.pairs, runtime);
  if (forward_by_sums(args, pairs)) return;
  const bool columns = args.col_lse != nullptr;
  const Walk walk(pairs.n, pairs.m, columns, runtime);
  const int64_t ld = walk.tile_cols, transposed = pairs.transposed_size(ld);
  const int64_t scratch_size = walk.tile_rows * ld + 2 * ld + transposed;
  OnlineLse<T> row_state(pairs.n), col_state(columns ? pairs.m : 0);
  const T scale = pairs.profiled ? T(1) : pairs.scale;

  walk.run(runtime, [&](int64_t, Range rows, Range cols, bool, bool) {
    const Scratch<T> scratch(scratch_size);
    T* tile = scratch.get();
    T* column_max = tile + walk.tile_rows * ld;
    T* column_sum = column_max + ld;
    const int64_t width = cols.size();
    const T* bias = pairs.bias + cols.begin;
    pairs.scores(rows, cols, tile, ld, column_sum + ld);
    if (columns)
      for (int64_t j = 0; j < width; ++j) column_max[j] = -infinity<T>(), column_sum[j] = T(0);

    for (int64_t i = 0; i < rows.size(); ++i) {
      T* row = tile + i * ld;
      if (pairs.profiled) profile_logits(pairs.score, pairs.scale, row, row, width);
      const auto logits = [&](int64_t from, int64_t to) {
        return columns ? to_logits<true>(row + from, bias + from, scale, to - from, column_max + from)
                       : to_logits<false>(row + from, bias + from, scale, to - from, column_max);
      };
      T highest = -infinity<T>();
      const auto keep = [&](int64_t from, int64_t to) {
        const T found = logits(from, to);
        highest = found > highest ? found : highest;
      };
      pairs.split(rows.begin + i, cols, keep, [&](int64_t j) { row[j] = -infinity<T>(); });
      const T shift = row_state.raise(rows.begin + i, highest);
      row_state.add(rows.begin + i, sum_exp(row, shift, width));
    }
    if (!columns) return;
    for (int64_t j = 0; j < width; ++j) column_max[j] = col_state.raise(cols.begin + j, column_max[j]);
    for (int64_t i = 0; i < rows.size(); ++i) {
      const T* row = tile + i * ld;
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) column_sum[j] += vexp(row[j] - column_max[j]);
    }
    for (int64_t j = 0; j < width; ++j) col_state.add(cols.begin + j, column_sum[j]);
  });

  row_state.finish(static_cast<T*>(args.row_lse));
  if (columns) col_state.finish(static_cast<T*>(args.col_lse));
}

}  // namespace MI_SIMD_LEVEL
}  // namespace mi
