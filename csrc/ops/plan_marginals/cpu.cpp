// Row and column log-sums of a transport plan on the CPU. Compiled once for each SIMD level.
//
// Maths: kernel.h. Tiling, memory: the Latin walk and tiles of pairwise_lse; one product and one exponential a pair.
//
// Numerics: the potentials serve as offsets (ops/pairwise_lse/cpu_sums.h). Near the plan sought the sums are about its
// marginals. Rows and columns whose sums are out of reach are computed again with a running maximum; where these are
// many, as in the first steps of an iteration from nothing, all are, in two passes of pairwise_lse.
#include "ops/plan_marginals/cpu.h"

#include "ops/pairwise_lse/cpu_forward.h"

namespace mi {
namespace MI_SIMD_LEVEL {

template <class T>
class Marginals {
 public:
  Marginals(const PlanMarginals& args, const CpuRuntime& runtime)
      : args_(args),
        runtime_(runtime),
        pairs_(args.pairs, runtime),
        u_(static_cast<const T*>(args.log_u)),
        row_lse_(static_cast<T*>(args.row_lse)),
        col_lse_(static_cast<T*>(args.col_lse)) {}

  void run() {
    if (by_sums()) return;
    PairwiseLseForward rows;
    rows.pairs = args_.pairs;
    rows.row_lse = row_lse_;
    forward<T>(rows, runtime_);
    for (int64_t i = 0; i < pairs_.n; ++i) row_lse_[i] += u_[i];
    PairwiseLseForward cols;
    cols.pairs = args_.pairs.exchanged(u_);
    cols.row_lse = col_lse_;
    forward<T>(cols, runtime_);
    for (int64_t j = 0; j < pairs_.m; ++j) col_lse_[j] += pairs_.bias[j];
  }

 private:
  bool by_sums() {
    const int64_t n = pairs_.n, m = pairs_.m;
    if (min_of(n, m) < kMinChunk || pairs_.scale == T(0) || !pairs_.finite()) return false;
    for (int64_t i = 0; i < n; ++i)
      if (!(u_[i] < infinity<T>())) return false;
    Buffer<double> sums(n + m);
    sums.fill(n + m, 0.0);
    double *row_sums = sums.get(), *col_sums = sums.get() + n;
    over_tiles(pairs_, false, true, [&](Range rows, Range cols, bool, const T* tile, int64_t ld, T* scratch) {
      add_tile<true, false>(tile, ld, rows, cols, pairs_.scale, u_, pairs_.bias,
                            SumTargets{row_sums, col_sums, nullptr, nullptr}, scratch);
    });
    close(row_sums, u_, n, row_lse_);
    close(col_sums, pairs_.bias, m, col_lse_);
    const auto redo_row = [&](int64_t i) {
      row_lse_[i] = static_cast<T>(shifted_row(pairs_, i, pairs_.scale).lse + static_cast<double>(u_[i]));
    };
    if (!redo_rows<T>(runtime_, row_sums, n, redo_row)) return false;
    if (all_within(col_sums, m)) return true;
    const Pairs<T> swapped(args_.pairs.exchanged(u_), runtime_);
    return redo_rows<T>(runtime_, col_sums, m, [&](int64_t j) {
      col_lse_[j] = static_cast<T>(shifted_row(swapped, j, pairs_.scale).lse + static_cast<double>(pairs_.bias[j]));
    });
  }

  static bool all_within(const double* sums, int64_t size) {
    for (int64_t i = 0; i < size; ++i)
      if (!within_reach<T>(sums[i])) return false;
    return true;
  }

  // Logarithms of the sums. What its own potential leaves out has the sum 0, rightly: it is marked as within reach.
  static void close(double* sums, const T* own, int64_t size, T* out) {
    for (int64_t i = 0; i < size; ++i) {
      out[i] = static_cast<T>(__builtin_log(sums[i]));
      if (own[i] == -infinity<T>()) sums[i] = 1;
    }
  }

  const PlanMarginals& args_;
  const CpuRuntime& runtime_;
  const Pairs<T> pairs_;
  const T* u_;
  T *row_lse_, *col_lse_;
};

void plan_marginals(DType dtype, const PlanMarginals& args, const CpuRuntime& runtime) {
  dtype == DType::f64 ? Marginals<double>(args, runtime).run() : Marginals<float>(args, runtime).run();
}

}  // namespace MI_SIMD_LEVEL
}  // namespace mi
