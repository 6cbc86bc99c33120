// One alternating Sinkhorn iteration on the CPU. Compiled once for each SIMD level.
//
// Maths: kernel.h. The columns' sums need the new row potentials, which need whole rows. But the new potential of row i
// only multiplies that row's exponentials by one number, so with
//     e_ij = exp(scale score_ij + phi_i + psi_j),   r_i = sum_j b_j e_ij,   w_i = a_i exp(new_phi_i - phi_i)
// the sums of the columns are sum_i w_i e_ij: one product and one exponential a pair, where two log-sum-exps take two.
//
// Tiling: each thread has its rows, and takes a block of them against all columns, tile by tile: a product, then
// exponentials in its place, with the sums of the rows. When the block is whole it is read once more, for the columns.
// Squares of points go into the potentials, so that nothing else is done to a product. Rows of a block: as many as fit
// into kBlockBytes of cache, but enough that a product of them is worth its overhead. Where that many do not fit into
// kMostBytes, the iteration takes two passes of pairwise_lse, which it also takes where the sums ask for it.
//
// Memory: a block and one sum a column for each thread. The sums of threads are added in order, so results repeat bit
// for bit for a given number of threads.
//
// Numerics: near the solution r_i and the sums of the columns are about 1. A sum is right if nothing in it could
// overflow and all that could underflow is far below it, which is checked of each (Range). Rows whose sums are not are
// computed again with a running maximum before their block goes to the columns, columns afterwards; where they are
// many, as in first steps at small epsilon, all are, in two passes.
#include "ops/sinkhorn_iteration/cpu.h"

#include "ops/pairwise_lse/cpu_forward.h"

namespace mi {
namespace MI_SIMD_LEVEL {
namespace {

constexpr int64_t kBlockBytes = 2 << 20, kMostBytes = 16 << 20;
constexpr int64_t kLeastRows = 32, kMostRows = 256;
constexpr int64_t kFewLost = 16;  // one of so many rows is computed again at most

// out[j] = exp(factor in[j] + v[j] + u) in four rows, and their sums with the weights of the columns. in may be out.
template <class T>
MI_INLINE void exp_four_rows(const T* in, int64_t in_ld, T* out, int64_t out_ld, int64_t width, T factor, const T* u,
                             const T* __restrict v, const T* __restrict weight, T* sums) {
  const T u0 = u[0], u1 = u[1], u2 = u[2], u3 = u[3];
  T sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
#pragma omp simd reduction(+ : sum0, sum1, sum2, sum3)
  for (int64_t j = 0; j < width; ++j) {
    const T e0 = quick_exp((factor * in[j] + v[j]) + u0);
    const T e1 = quick_exp((factor * in[in_ld + j] + v[j]) + u1);
    const T e2 = quick_exp((factor * in[2 * in_ld + j] + v[j]) + u2);
    const T e3 = quick_exp((factor * in[3 * in_ld + j] + v[j]) + u3);
    out[j] = e0;
    out[out_ld + j] = e1;
    out[2 * out_ld + j] = e2;
    out[3 * out_ld + j] = e3;
    sum0 += weight[j] * e0;
    sum1 += weight[j] * e1;
    sum2 += weight[j] * e2;
    sum3 += weight[j] * e3;
  }
  sums[0] = sum0, sums[1] = sum1, sums[2] = sum2, sums[3] = sum3;
}

template <class T>
MI_INLINE void exp_row(const T* in, T* out, int64_t width, T factor, T u, const T* __restrict v,
                       const T* __restrict weight, T* sums) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < width; ++j) {
    const T e = quick_exp((factor * in[j] + v[j]) + u);
    out[j] = e;
    sum += weight[j] * e;
  }
  *sums = sum;
}

// sums[j] += sum over the rows of w_i block_ij.
template <class T>
void add_rows(const T* block, int64_t ld, int64_t rows, int64_t width, const T* w, T* __restrict part, double* sums) {
  for (int64_t j = 0; j < width; ++j) part[j] = T(0);
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4) {
    const T* __restrict row = block + i * ld;
    const T w0 = w[i], w1 = w[i + 1], w2 = w[i + 2], w3 = w[i + 3];
#pragma omp simd
    for (int64_t j = 0; j < width; ++j)
      part[j] += (w0 * row[j] + w1 * row[ld + j]) + (w2 * row[2 * ld + j] + w3 * row[3 * ld + j]);
  }
  for (; i < rows; ++i) {
    const T* __restrict row = block + i * ld;
    const T w0 = w[i];
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) part[j] += w0 * row[j];
  }
  for (int64_t j = 0; j < width; ++j) sums[j] += static_cast<double>(part[j]);
}

// The sums of weights e that are right although e was taken without a shift: those above `low` miss nothing that fell
// under the smallest number, and with one below `high` no e can have been as large as the largest.
template <class T>
struct SumRange {
  double low, high;

  SumRange(double all_weights, double least_weight)
      : low(all_weights / Reach<T>::sum), high(least_weight < 1 ? least_weight * Reach<T>::sum : Reach<T>::sum) {}

  bool holds(double sum) const { return sum >= low && sum <= high; }
};

template <class T>
class Iteration {
 public:
  Iteration(const SinkhornIteration& args, const CpuRuntime& runtime)
      : args_(args),
        runtime_(runtime),
        n_(args.pairs.n),
        m_(args.pairs.m),
        a_(static_cast<const T*>(args.a)),
        b_(static_cast<const T*>(args.b)),
        phi_(static_cast<const T*>(args.phi)),
        psi_(static_cast<const T*>(args.psi)),
        row_lse_(static_cast<T*>(args.row_lse)),
        new_phi_(static_cast<T*>(args.new_phi)),
        col_lse_(static_cast<T*>(args.col_lse)),
        keep_(1 - args.relaxation),
        take_(args.relaxation * static_cast<double>(*static_cast<const T*>(args.damping))),
        col_bias_(m_) {
    add_logs(b_, psi_, m_, col_bias_.get());
  }

  void run() {
    if (!in_one_sweep()) in_two_passes();
  }

 private:
  static void add_logs(const T* weights, const T* potential, int64_t size, T* out) {
    for (int64_t i = 0; i < size; ++i)
      out[i] = weights[i] > T(0)
                   ? static_cast<T>(__builtin_log(static_cast<double>(weights[i])) + static_cast<double>(potential[i]))
                   : -infinity<T>();
  }

  static bool all_finite(const T* values, int64_t size) {
    bool found = true;
    for (int64_t i = 0; i < size; ++i) found &= values[i] - values[i] == T(0);
    return found;
  }

  T step(int64_t i, double lse) const {
    const double kept = keep_ == 0 ? 0 : keep_ * static_cast<double>(phi_[i]);  // that may be infinite
    return static_cast<T>(kept - take_ * lse);
  }

  PairwiseScores rows_first() const {
    PairwiseScores pairs = args_.pairs;
    pairs.bias = col_bias_.get();
    return pairs;
  }

  void in_two_passes() {
    PairwiseLseForward pass;
    pass.pairs = rows_first();
    pass.row_lse = row_lse_;
    forward<T>(pass, runtime_);
    for (int64_t i = 0; i < n_; ++i) new_phi_[i] = step(i, static_cast<double>(row_lse_[i]));
    Buffer<T> row_bias(n_);
    add_logs(a_, new_phi_, n_, row_bias.get());
    pass.pairs = args_.pairs.exchanged(row_bias.get());
    pass.row_lse = col_lse_;
    forward<T>(pass, runtime_);
  }

  // False: not for these numbers. What was written by then is worthless.
  bool in_one_sweep() {
    const int64_t bytes_a_row = aligned(m_) * static_cast<int64_t>(sizeof(T));
    if (min_of(n_, m_) < kMinChunk || kLeastRows * bytes_a_row > kMostBytes) return false;
    if (!all_finite(phi_, n_) || !all_finite(psi_, m_) || !(__builtin_fabs(take_) < __builtin_inf())) return false;
    const Pairs<T> pairs(rows_first(), runtime_);
    if (!pairs.finite()) return false;
    const Sweep sweep(*this, pairs, min_of(kMostRows, max_of(kLeastRows, kBlockBytes / bytes_a_row / 4 * 4)));
    const int64_t parts = max_of(1, min_of(runtime_.threads, n_ / kRowsAtOnce));
    Buffer<double> sums(parts * m_);
    Buffer<T> w(n_);
    Buffer<int64_t> lost(parts);
    parallel(runtime_, parts, [&](int64_t part) {
      lost[part] = sweep.run(chunk(n_, parts, part), w.get(), sums.get() + part * m_) ? 0 : 1;
    });
    for (int64_t part = 0; part < parts; ++part)
      if (lost[part] != 0) return false;
    for (int64_t part = 1; part < parts; ++part)
      for (int64_t j = 0; j < m_; ++j) sums[j] += sums[part * m_ + j];
    return close_columns(sums.get(), w.get());
  }

  bool close_columns(const double* sums, const T* w) {
    double all = 0, least = __builtin_inf();
    for (int64_t i = 0; i < n_; ++i) {
      const double weight = static_cast<double>(w[i]);
      all += weight;
      if (a_[i] > T(0) && !(weight >= least)) least = weight;
    }
    const SumRange<T> range(all, least);
    int64_t lost = 0;
    for (int64_t j = 0; j < m_; ++j) {
      col_lse_[j] = static_cast<T>(__builtin_log(sums[j]) - static_cast<double>(psi_[j]));
      lost += range.holds(sums[j]) ? 0 : 1;
    }
    if (lost > m_ / kFewLost) return false;
    if (lost == 0) return true;
    Buffer<T> row_bias(n_);
    add_logs(a_, new_phi_, n_, row_bias.get());
    const Pairs<T> swapped(args_.pairs.exchanged(row_bias.get()), runtime_);
    const int64_t parts = min_of(runtime_.threads, m_);
    parallel(runtime_, parts, [&](int64_t part) {
      for (int64_t j = part; j < m_; j += parts)
        if (!range.holds(sums[j])) col_lse_[j] = static_cast<T>(shifted_row(swapped, j, swapped.scale).lse);
    });
    return true;
  }

  // What the threads share in one sweep.
  class Sweep {
   public:
    Sweep(const Iteration& iteration, const Pairs<T>& pairs, int64_t block_rows)
        : it_(iteration),
          pairs_(pairs),
          block_rows_(block_rows),
          products_(static_cast<const T*>(iteration.args_.products)),
          expanded_(pairs.squared && (products_ != nullptr || !pairs.direct)),
          factor_(expanded_ ? 2 * pairs.scale : pairs.scale),
          u_(it_.n_),
          v_(it_.m_),
          range_(range_of(it_.b_, it_.m_)) {
      less_squares(it_.phi_, static_cast<const T*>(it_.args_.pairs.x), pairs.norm_x, it_.n_, u_.get());
      less_squares(it_.psi_, static_cast<const T*>(it_.args_.pairs.y), pairs.norm_y, it_.m_, v_.get());
      const int64_t tiles = ceil_div(it_.m_, kTileCols);
      tile_cols_ = aligned(ceil_div(it_.m_, tiles));
      ld_ = aligned(it_.m_) + kAlign / 2;  // rows a multiple of 4 KiB apart would share cache sets
    }

    // The rows of one thread: row_lse, new_phi and w of them, and their part of the columns' sums. False: too many rows
    // need a shift.
    bool run(Range rows, T* w, double* col_sums) const {
      Buffer<T> memory(block_rows_ * ld_ + tile_cols_ + pairs_.transposed_size(tile_cols_));
      T *block = memory.get(), *spare = block + block_rows_ * ld_;
      for (int64_t j = 0; j < it_.m_; ++j) col_sums[j] = 0;
      double row_sums[kMostRows];
      int64_t lost = 0;
      for (int64_t i = rows.begin; i < rows.end; i += block_rows_) {
        const Range at{i, min_of(i + block_rows_, rows.end)};
        exponentials(at, block, spare, row_sums);
        for (int64_t k = 0; k < at.size(); ++k) {
          const int64_t row = i + k;
          if (range_.holds(row_sums[k])) {
            const double lse = __builtin_log(row_sums[k]) - static_cast<double>(it_.phi_[row]);
            it_.row_lse_[row] = static_cast<T>(lse);
            it_.new_phi_[row] = it_.step(row, lse);
            w[row] =
                static_cast<T>(static_cast<double>(it_.a_[row]) * __builtin_exp(static_cast<double>(it_.new_phi_[row]) -
                                                                                static_cast<double>(it_.phi_[row])));
          } else {
            if (++lost > rows.size() / kFewLost) return false;
            anew(row, block + k * ld_, spare);
            w[row] = it_.a_[row];
          }
        }
        over_columns([&](Range cols) {
          add_rows(block + cols.begin, ld_, at.size(), cols.size(), w + i, spare, col_sums + cols.begin);
        });
      }
      return true;
    }

   private:
    static SumRange<T> range_of(const T* weights, int64_t size) {
      double all = 0, least = __builtin_inf();
      for (int64_t j = 0; j < size; ++j) {
        const double weight = static_cast<double>(weights[j]);
        all += weight;
        if (weight > 0 && weight < least) least = weight;
      }
      return SumRange<T>(all, least);
    }

    // The potential, less what the squared lengths of the points take from the scores where these are products. The
    // products that were handed in are those of the points as they are; others, of points moved to the mean.
    void less_squares(const T* potential, const T* points, const T* norms, int64_t size, T* out) const {
      const int64_t d = pairs_.d;
      for (int64_t i = 0; i < size; ++i) {
        T square = 0;
        if (expanded_)
          square = products_ == nullptr ? norms[i] : static_cast<T>(dot(points + i * d, points + i * d, d));
        out[i] = potential[i] - pairs_.scale * square;
      }
    }

    template <class F>
    void over_columns(const F& body) const {
      for (int64_t j = 0; j < it_.m_; j += tile_cols_) body(Range{j, min_of(j + tile_cols_, it_.m_)});
    }

    // The scores of a tile, or the products that they are made of.
    void fill(Range rows, Range cols, T* tile, T* spare) const {
      if (!expanded_) return pairs_.scores(rows, cols, tile, ld_, spare);
      const int64_t d = pairs_.d;
      gemm(pairs_.runtime, false, true, rows.size(), cols.size(), d, T(1), pairs_.x + rows.begin * d, d,
           pairs_.y + cols.begin * d, d, T(0), tile, ld_);
    }

    void exponentials(Range rows, T* block, T* spare, double* row_sums) const {
      for (int64_t k = 0; k < rows.size(); ++k) row_sums[k] = 0;
      over_columns([&](Range cols) {
        T* tile = block + cols.begin;
        const T* in = products_ == nullptr ? tile : products_ + rows.begin * it_.m_ + cols.begin;
        const int64_t in_ld = products_ == nullptr ? ld_ : it_.m_;
        if (products_ == nullptr) fill(rows, cols, tile, spare);
        const T *u = u_.get() + rows.begin, *v = v_.get() + cols.begin, *weight = it_.b_ + cols.begin;
        T sums[4];
        int64_t i = 0;
        for (; i + 4 <= rows.size(); i += 4) {
          exp_four_rows(in + i * in_ld, in_ld, tile + i * ld_, ld_, cols.size(), factor_, u + i, v, weight, sums);
          for (int64_t k = 0; k < 4; ++k) row_sums[i + k] += static_cast<double>(sums[k]);
        }
        for (; i < rows.size(); ++i) {
          exp_row(in + i * in_ld, tile + i * ld_, cols.size(), factor_, u[i], v, weight, sums);
          row_sums[i] += static_cast<double>(sums[0]);
        }
      });
    }

    // A row whose sum is out of reach: by a running maximum, then its exponentials at its new potential.
    void anew(int64_t row, T* exponentials, T* spare) const {
      const double lse = shifted_row(pairs_, row, pairs_.scale).lse;
      it_.row_lse_[row] = static_cast<T>(lse);
      const T phi = it_.new_phi_[row] = it_.step(row, lse);
      over_columns([&](Range cols) {
        T* at = exponentials + cols.begin;
        pairs_.scores(Range{row, row + 1}, cols, at, ld_, spare);
        T ignored;
        exp_row(at, at, cols.size(), pairs_.scale, phi, it_.psi_ + cols.begin, it_.b_ + cols.begin, &ignored);
      });
    }

    const Iteration& it_;
    const Pairs<T>& pairs_;
    const int64_t block_rows_;
    const T* products_;    // [n, m], or null: they are computed
    const bool expanded_;  // -|x - y|^2 by a product, the squares within u and v
    const T factor_;
    Buffer<T> u_, v_;
    const SumRange<T> range_;
    int64_t tile_cols_, ld_;
  };

  const SinkhornIteration& args_;
  const CpuRuntime& runtime_;
  const int64_t n_, m_;
  const T *a_, *b_, *phi_, *psi_;
  T *row_lse_, *new_phi_, *col_lse_;
  const double keep_, take_;  // new_phi = keep phi - take row_lse
  Buffer<T> col_bias_;        // psi + log b
};

}  // namespace

void sinkhorn_iteration(DType dtype, const SinkhornIteration& args, const CpuRuntime& runtime) {
  dtype == DType::f64 ? Iteration<double>(args, runtime).run() : Iteration<float>(args, runtime).run();
}

}  // namespace MI_SIMD_LEVEL
}  // namespace mi
