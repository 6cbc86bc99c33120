// Pairwise log-sum-exp at several scales, with moments, on the CPU. Compiled once for each SIMD level.
//
// Maths: kernel.h. Tiling, memory: the walks and tiles of pairwise_lse; beside them 2 sums in double for each row and
// scale. A tile of scores is computed once and read once for every scale while it stays in L2.
//
// Numerics: single exponentials under an offset for each scale (ops/pairwise_lse/cpu_sums.h), rows that it does not
// suit again with a running maximum. Scores are formed before they are weighted: the mean of 2 x.y - |x|^2 - |y|^2 by
// parts would lose the digits of small distances.
//
// Considered and left out: one exponential for a ladder of scales that double, by squaring; the search for a bandwidth
// asks for scales that depend on what it saw before.
#include "ops/pairwise_lse_moments/cpu.h"

#include "ops/pairwise_lse/cpu_sums.h"

namespace mi {
namespace MI_SIMD_LEVEL {

template <class T>
class Moments {
 public:
  Moments(const PairwiseLseMoments& args, const CpuRuntime& runtime)
      : args_(args),
        pairs_(args.pairs, runtime),
        count_(args.count),
        by_sums_(count_),
        scales_(count_),
        u_(count_ * pairs_.n),
        sums_(count_ * pairs_.n),
        moments_(count_ * pairs_.n) {
    const bool tried = min_of(pairs_.n, pairs_.m) >= kMinChunk && pairs_.finite();
    for (int64_t b = 0; b < count_; ++b) {
      const T scale = static_cast<const T*>(args.scales)[b];
      scales_[b] = scale == T(0) ? kTiny : scale;  // 0 times the infinite score of a pair left out would be NaN
      T offset = 0;
      by_sums_[b] = tried && find_offset(pairs_, scales_[b], &offset);
      for (int64_t i = 0; i < pairs_.n; ++i) u_[b * pairs_.n + i] = offset;
    }
    sums_.fill(count_ * pairs_.n, 0.0);
    moments_.fill(count_ * pairs_.n, 0.0);
  }

  void run() {
    bool any = false;
    for (int64_t b = 0; b < count_; ++b) any = any || by_sums_[b];
    if (any) sweep();
    for (int64_t b = 0; b < count_; ++b) finish(b);
  }

 private:
  static constexpr T kTiny = T(1e-30);

  void sweep() {
    const int64_t n = pairs_.n;
    const bool triangles = pairs_.self && !pairs_.has_bias();
    over_tiles(pairs_, triangles, false, [&](Range rows, Range cols, bool by_columns, T* tile, int64_t ld, T* scratch) {
      const auto add = by_columns ? add_tile<true, true, T> : add_tile<false, true, T>;
      for (int64_t b = 0; b < count_; ++b) {
        if (!by_sums_[b]) continue;
        double *sums = sums_.get() + b * n, *moments = moments_.get() + b * n;
        pairs_.leave_out(rows, cols, tile, ld, left_out_score(scales_[b]));
        add(tile, ld, rows, cols, scales_[b], u_.get() + b * n, pairs_.bias, SumTargets{sums, sums, moments, moments},
            scratch);
      }
    });
  }

  void finish(int64_t b) {
    const int64_t n = pairs_.n;
    const double *sums = sums_.get() + b * n, *moments = moments_.get() + b * n;
    T *lse = static_cast<T*>(args_.lse) + b * n, *moment = static_cast<T*>(args_.moment) + b * n;
    const auto redo = [&](int64_t i) {
      const RowResult row = shifted_row(pairs_, i, scales_[b]);
      lse[i] = static_cast<T>(row.lse);
      moment[i] = static_cast<T>(row.moment);
    };
    if (by_sums_[b]) {
      for (int64_t i = 0; i < n; ++i) {
        lse[i] = static_cast<T>(__builtin_log(sums[i]) - static_cast<double>(u_[b * n + i]));
        moment[i] = static_cast<T>(moments[i] / sums[i]);
      }
      if (redo_rows<T>(pairs_.runtime, sums, n, redo)) return;
    }
    over_rows(pairs_.runtime, n, [&](int64_t, Range rows) {
      for (int64_t i = rows.begin; i < rows.end; ++i) redo(i);
    });
  }

  const PairwiseLseMoments& args_;
  const Pairs<T> pairs_;
  const int64_t count_;
  Buffer<bool> by_sums_;
  Buffer<T> scales_, u_;
  Buffer<double> sums_, moments_;
};

void pairwise_lse_moments(DType dtype, const PairwiseLseMoments& args, const CpuRuntime& runtime) {
  dtype == DType::f64 ? Moments<double>(args, runtime).run() : Moments<float>(args, runtime).run();
}

}  // namespace MI_SIMD_LEVEL
}  // namespace mi
