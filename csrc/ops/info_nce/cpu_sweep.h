// The sweeps over the pairs: exponentials and their sums, loss and weights, products; and the regime for each problem.
#pragma once

#include "common/cpu/triangle_walk.h"
#include "ops/info_nce/cpu_products.h"
#include "ops/info_nce/kernel.h"
#include "ops/pairwise_lse/cpu_backward.h"
#include "ops/pairwise_lse/cpu_forward.h"

namespace mi {
namespace MI_SIMD_LEVEL {

constexpr int64_t kHeldBytes = int64_t{64} << 20;  // exponentials kept from the forward sweep
constexpr double kSmallestNorm = 1e-12;            // as torch.nn.functional.normalize

// Memory lent by the host for one call.
class Loan {
 public:
  Loan(const CpuRuntime& runtime, int64_t bytes)
      : runtime_(runtime), data_(bytes > 0 ? runtime.borrow(bytes) : nullptr) {}
  Loan(const Loan&) = delete;
  Loan& operator=(const Loan&) = delete;
  ~Loan() {
    if (data_ != nullptr) runtime_.give_back(data_);
  }
  void* get() const { return data_; }

 private:
  const CpuRuntime& runtime_;
  void* data_;
};

template <class T, class Products>
class Sweep {
  using Kept = typename Products::Kept;
  using Tile = typename Products::Tile;

 public:
  Sweep(const InfoNce& args, const CpuRuntime& runtime)
      : args_(args),
        runtime_(runtime),
        n_(args.n),
        d_(args.d),
        scale_(*static_cast<const T*>(args.scale)),
        weights_(static_cast<const T*>(args.weights)),
        two_sided_(args.both || args.symmetric),
        gradients_(args.dx != nullptr || args.dy != nullptr || args.dscale != nullptr),
        // The temperature's gradient comes out of one side's; both sides as candidates are differentiated as one set.
        want_x_(args.dx != nullptr || (gradients_ && (args.both || args.dy == nullptr))),
        want_y_(args.dy != nullptr || (gradients_ && args.both)),
        copied_(args.both || args.normalize),
        points_(copied_ ? 2 * n_ * d_ : 0),
        own_gradient_(args.both && gradients_         ? 2 * n_ * d_
                      : want_x_ && args.dx == nullptr ? n_ * d_
                                                      : 0),
        inverse_norm_(args.normalize ? 2 * n_ : 0),
        product_(n_),
        slope_(n_),
        factors_(gradients_ ? 2 * n_ : 0) {
    dx_ = args.both || args.dx == nullptr ? own_gradient_.get() : static_cast<T*>(args.dx);
    dy_ = args.both ? own_gradient_.get() + n_ * d_ : static_cast<T*>(args.dy);
  }

  void run() {
    prepare();
    const bool sign = Products::kAnySign ? scale_ != T(0) : scale_ > T(0);
    const bool swept = sign && bound_ <= kTry && sweep();
    if (!swept) shifted();
    finish(swept);
  }

 private:
  // ------------------------------------------------------------------------------------------ points and positives

  // Points of unit length if asked for, their positives, and a bound on every score.
  void prepare() {
    const T* x = static_cast<const T*>(args_.x);
    const T* y = static_cast<const T*>(args_.y);
    px_ = copied_ ? points_.get() : x;
    py_ = copied_ ? points_.get() + n_ * d_ : y;
    Buffer<double> longest(2 * runtime_.threads);
    longest.fill(2 * runtime_.threads, 0.0);
    over_rows(runtime_, n_, [&](int64_t part, Range rows) {
      double* local = longest.get() + 2 * part;
      for (int64_t i = rows.begin; i < rows.end; ++i) {
        raise(local[0], prepared(x, i, 0));
        raise(local[1], prepared(y, i, n_));
        product_[i] = dot(px_ + i * d_, py_ + i * d_, d_);
      }
    });
    double x_norm = 0, y_norm = 0;
    for (int64_t part = 0; part < runtime_.threads; ++part) {
      raise(x_norm, longest[2 * part]);
      raise(y_norm, longest[2 * part + 1]);
    }
    if (args_.both) {
      raise(x_norm, y_norm);
      y_norm = x_norm;
    }
    bound_ = __builtin_fabs(static_cast<double>(scale_)) * x_norm * y_norm;
  }

  // A NaN is the largest of all, so that the bound tells of it.
  static void raise(double& largest, double value) {
    if (!(value <= largest)) largest = value;
  }

  // Prepares point i of a side and returns its length.
  double prepared(const T* side, int64_t i, int64_t offset) {
    const T* from = side + i * d_;
    const double norm = __builtin_sqrt(dot(from, from, d_));
    if (!copied_) return norm;
    T* to = points_.get() + (offset + i) * d_;
    if (!args_.normalize) {
      for (int64_t k = 0; k < d_; ++k) to[k] = from[k];
      return norm;
    }
    const double inverse = 1 / (norm > kSmallestNorm ? norm : norm == norm ? kSmallestNorm : norm);
    inverse_norm_[offset + i] = inverse;
    const T factor = static_cast<T>(inverse);
    for (int64_t k = 0; k < d_; ++k) to[k] = from[k] * factor;
    return norm * inverse;
  }

  // ------------------------------------------------------------------------------------------------------- a sweep

  // Loss and gradients by exponentials without a shift. False: some sum left the range in which that is exact.
  bool sweep() {
    const int64_t m = args_.both ? 2 * n_ : n_;
    slope_.fill(n_, 0.0);
    loss_ = 0;

    held_cols_ = aligned(m);
    const int64_t row_bytes = held_cols_ * static_cast<int64_t>(sizeof(Kept));
    const int64_t all = held_cols_ * row_bytes,
                  limit = args_.both ? 2 * kHeldBytes : kHeldBytes;  // a triangle uses half
    const int64_t held = !gradients_ ? 0 : all <= limit ? held_cols_ : kHeldBytes / row_bytes / kAlign * kAlign;
    const bool strips = gradients_ && !two_sided_ && held < n_ && held >= runtime_.threads * kMinChunk;
    const Loan loan(runtime_, held * row_bytes);
    held_ = static_cast<Kept*>(loan.get());
    held_rows_ = held_ == nullptr ? 0 : held;

    T* dx = want_x_ ? dx_ : nullptr;
    T* dy = want_y_ ? dy_ : nullptr;
    const double* inverse = args_.normalize ? inverse_norm_.get() : nullptr;
    const double* inverse_y = args_.normalize ? inverse + n_ : nullptr;
    Products products = args_.both ? Products(runtime_, px_, inverse, m, px_, inverse, m, d_, scale_, dx, dx)
                                   : Products(runtime_, px_, inverse, m, py_, inverse_y, m, d_, scale_, dx, dy);
    bool done = args_.both && swept_triangle(products);
    if (!args_.both) {
      Buffer<double> sums(2 * n_);
      sums.fill(2 * n_, 0.0);
      const int64_t count = strips ? ceil_div(n_, held) : 1;
      done = true;
      for (int64_t strip = 0; done && strip < count; ++strip)
        done = swept_strip(products, chunk(n_, count, strip), strip == 0, sums.get(), sums.get() + n_);
    }
    if (done && gradients_) products.collect();
    return done;
  }

  bool swept_strip(Products& products, Range strip, bool first_strip, double* row_sums, double* col_sums) {
    const Walk walk(strip.size(), n_, two_sided_ || want_y_, runtime_);
    hold(strip.size(), walk.chunks);
    const int64_t tile_size = walk.tile_rows * walk.tile_cols, columns_at = tile_size + walk.tile_cols;
    const int64_t scratch = columns_at + products.scratch(walk.tile_rows, walk.tile_cols);
    const auto placed = [&](Range rows) { return Range{rows.begin + strip.begin, rows.end + strip.begin}; };
    walk.run(runtime_, [&](int64_t, Range inner, Range cols, bool, bool) {
      const Scratch<T> memory(scratch);
      const Range rows = placed(inner);
      const Tile tile = place(inner, cols, memory.get());
      products.scores(rows, cols, tile);
      exclude(rows, cols, tile);
      T* columns = memory.get() + tile_size;
      two_sided_ ? products.template exponentials<true>(rows, cols, tile, row_sums, col_sums, columns)
                 : products.template exponentials<false>(rows, cols, tile, row_sums, col_sums, columns);
    });
    if (!close(strip, row_sums, two_sided_ ? col_sums : nullptr)) return false;
    if (!gradients_) return true;
    walk.run(runtime_, [&](int64_t, Range inner, Range cols, bool first_cols, bool first_rows) {
      const Scratch<T> memory(scratch);
      const Range rows = placed(inner);
      const Tile tile = place(inner, cols, memory.get());
      T* spare = memory.get() + columns_at;
      weigh(products, rows, cols, tile, spare, want_x_, want_y_);
      if (want_x_) products.by_rows(rows, cols, tile, spare, first_cols);
      if (want_y_) products.by_columns(rows, cols, tile, spare, first_rows && first_strip);
    });
    return true;
  }

  // Both sides as one set z of 2 n points, in which point i and point i + n are partners.
  bool swept_triangle(Products& products) {
    const int64_t m = 2 * n_;
    const TriangleWalk walk(m, runtime_);
    hold(m, walk.chunks);
    const int64_t tile_size = walk.tile_rows * max_of(walk.tile_rows, walk.tile_cols);
    const int64_t columns_at = tile_size + walk.tile_cols;
    const int64_t scratch = columns_at + products.scratch(walk.tile_rows, max_of(walk.tile_rows, walk.tile_cols));
    for (int64_t k = 0; gradients_ && k < m * d_; ++k) dx_[k] = T(0);
    Buffer<double> sums(m);
    sums.fill(m, 0.0);
    walk.run(runtime_, [&](Range rows, Range cols, bool diagonal) {
      const Scratch<T> memory(scratch);
      T* columns = memory.get() + tile_size;
      const Tile tile = place(rows, cols, memory.get());
      products.scores(rows, cols, tile);
      exclude(rows, cols, tile);
      diagonal ? products.template exponentials<false>(rows, cols, tile, sums.get(), sums.get(), columns)
               : products.template exponentials<true>(rows, cols, tile, sums.get(), sums.get(), columns);
    });
    if (!close(Range{0, n_}, sums.get(), sums.get() + n_)) return false;
    if (!gradients_) return true;
    walk.run(runtime_, [&](Range rows, Range cols, bool diagonal) {
      const Scratch<T> memory(scratch);
      const Tile tile = place(rows, cols, memory.get());
      T* spare = memory.get() + columns_at;
      weigh(products, rows, cols, tile, spare, true, !diagonal);
      products.by_rows(rows, cols, tile, spare, false);
      if (!diagonal) products.by_columns(rows, cols, tile, spare, false);
    });
    return true;
  }

  // What of a walk over the rows of `chunks` chunks is held: everything, or as many rows of each chunk as there is
  // memory for, so that every thread is spared the same work.
  void hold(int64_t rows, int64_t chunks) {
    walked_rows_ = rows;
    walked_chunks_ = chunks;
    held_of_chunk_ = rows <= held_rows_ ? rows : held_rows_ / chunks / kAlign * kAlign;
  }

  // Where the tile lives between the sweeps, or the scratch memory. Held tiles lie one after another: a block of h rows
  // takes h held_cols_ elements, of which the tile that starts at column j takes those from h j on.
  Tile place(Range rows, Range cols, T* scratch) const {
    int64_t row = rows.begin, from_chunk = rows.begin;
    if (held_of_chunk_ < walked_rows_) {
      int64_t index = 0;
      while (chunk(walked_rows_, walked_chunks_, index).end <= rows.begin) ++index;
      from_chunk = rows.begin - chunk(walked_rows_, walked_chunks_, index).begin;
      row = index * held_of_chunk_ + from_chunk;
    }
    const bool held = from_chunk + rows.size() <= held_of_chunk_;
    Kept* const kept = held ? held_ + row * held_cols_ + cols.begin * aligned(rows.size()) : nullptr;
    if constexpr (Products::kInPlace)
      if (held) return {kept, aligned(cols.size()), kept};
    return {scratch, aligned(cols.size()), kept};
  }

  // A logit of -inf for what is no negative: the anchor itself, its positive, and points of its group.
  void exclude(Range rows, Range cols, const Tile& tile) const {
    const T nothing = scale_ > T(0) ? -infinity<T>() : infinity<T>();
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      T* row = tile.data + (i - rows.begin) * tile.ld;
      const auto drop = [&](int64_t j) {
        if (j >= cols.begin && j < cols.end) row[j - cols.begin] = nothing;
      };
      drop(i);
      if (args_.both) drop(i < n_ ? i + n_ : i - n_);
      if (args_.groups == nullptr) continue;
      const int64_t group = args_.groups[i < n_ ? i : i - n_];
      // The columns of a tile of z may run from one side into the other.
      const int64_t seam = min_of(max_of(n_, cols.begin), cols.end);
      drop_group(row, nothing, group, args_.groups + cols.begin, seam - cols.begin);
      if (args_.both)
        drop_group(row + (seam - cols.begin), nothing, group, args_.groups + (seam - n_), cols.end - seam);
    }
  }

  static void drop_group(T* __restrict row, T nothing, int64_t group, const int64_t* __restrict groups, int64_t width) {
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) row[j] = groups[j] == group ? nothing : row[j];
  }

  void weigh(const Products& products, Range rows, Range cols, const Tile& tile, T* spare, bool by_rows,
             bool by_columns) const {
    const T* u = factors_.get();
    const T* v = args_.both ? u : u + n_;
    if (tile.kept == nullptr) {
      products.scores(rows, cols, tile);
      exclude(rows, cols, tile);
    }
    two_sided_ ? products.template weigh<true>(rows, cols, tile, u, v, spare, by_rows, by_columns)
               : products.template weigh<false>(rows, cols, tile, u, v, spare, by_rows, by_columns);
  }

  // Losses of a range of pairs by the sums of one side or of both, and the factors of the weights. False: a sum is out
  // of range.
  bool close(Range pairs, const double* sums, const double* other_sums) {
    const int64_t sides = other_sums == nullptr ? 1 : 2;
    Buffer<double> losses(pairs.size());
    Buffer<int32_t> failed(runtime_.threads);
    failed.fill(runtime_.threads, 0);
    over_rows(runtime_, pairs.size(), [&](int64_t part, Range inner) {
      for (int64_t i = pairs.begin + inner.begin; i < pairs.begin + inner.end; ++i) {
        const double positive = static_cast<double>(scale_) * product_[i], own = __builtin_exp(positive);
        const double f = args_.factor * (weights_ == nullptr ? 1.0 : static_cast<double>(weights_[i]));
        double loss = 0;
        for (int64_t side = 0; side < sides; ++side) {
          const double sum = side == 0 ? sums[i] : other_sums[i], whole = args_.decoupled ? sum : sum + own;
          if (!sum_is_exact(sum) || !(own <= 1e300)) failed[part] = 1;
          loss += args_.decoupled ? __builtin_log(sum) - positive : __builtin_log1p(sum / own);
          slope_[i] += f * (sum / whole);
          if (gradients_) factors_[side * n_ + i] = static_cast<T>(f / whole);
        }
        losses[i - pairs.begin] = f * loss;
      }
    });
    for (int64_t part = 0; part < runtime_.threads; ++part)
      if (failed[part] != 0) return false;
    for (int64_t i = 0; i < pairs.size(); ++i) loss_ += losses[i];
    return true;
  }

  // ------------------------------------------------------------------------------------------------------- shifted

  // The same through the log-sum-exp with its running maximum: right at any scores, four products.
  void shifted() {
    const int64_t rows = args_.both ? 2 * n_ : n_;
    Buffer<int64_t> partners(args_.both ? rows : 0);
    PairwiseScores pairs;
    pairs.x = px_;
    pairs.y = args_.both ? nullptr : py_;
    pairs.scale = args_.scale;
    pairs.n = pairs.m = rows;
    pairs.d = d_;
    pairs.exclude_diagonal = true;
    pairs.row_groups = pairs.col_groups = args_.groups;
    if (args_.both) {
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t pair = i < n_ ? i : i - n_;
        partners[i] = args_.groups == nullptr ? pair : args_.groups[pair];
      }
      pairs.row_groups = pairs.col_groups = partners.get();
    }
    const bool columns = args_.symmetric && !args_.both;
    Buffer<T> row_lse(rows), col_lse(columns ? n_ : 0), row_slope(rows), col_slope(columns ? n_ : 0);
    PairwiseLseForward ahead;
    ahead.pairs = pairs;
    ahead.row_lse = row_lse.get();
    ahead.col_lse = columns ? col_lse.get() : nullptr;
    forward<T>(ahead, runtime_);

    loss_ = 0;
    slope_.fill(n_, 0.0);
    close_shifted(row_lse.get(), row_slope.get());
    if (args_.both) close_shifted(row_lse.get() + n_, row_slope.get() + n_);
    if (columns) close_shifted(col_lse.get(), col_slope.get());
    if (!gradients_) return;
    PairwiseLseBackward back;
    back.pairs = pairs;
    back.row_lse = row_lse.get();
    back.grad_row = row_slope.get();
    back.col_lse = columns ? col_lse.get() : nullptr;
    back.grad_col = columns ? col_slope.get() : nullptr;
    back.dx = want_x_ ? dx_ : nullptr;
    back.dy = want_y_ && !args_.both ? dy_ : nullptr;
    T moment = 0;
    back.dscale = args_.dscale != nullptr ? &moment : nullptr;
    Gradient<T>(back, runtime_).run();
    if (args_.dscale == nullptr) return;
    dscale_ = static_cast<double>(moment);
    for (int64_t i = 0; i < n_; ++i) dscale_ -= slope_[i] * product_[i];
  }

  void close_shifted(const T* lse, T* slopes) {
    for (int64_t i = 0; i < n_; ++i) {
      const double gap = static_cast<double>(lse[i]) - static_cast<double>(scale_) * product_[i];
      const double f = args_.factor * (weights_ == nullptr ? 1.0 : static_cast<double>(weights_[i]));
      const double tail = __builtin_exp(-__builtin_fabs(gap));  // NaN stays NaN
      const double slope = args_.decoupled ? 1.0 : gap > 0 ? 1 / (1 + tail) : tail / (1 + tail);
      loss_ += f * (args_.decoupled ? gap : (gap > 0 ? gap : 0.0) + __builtin_log1p(tail));
      slopes[i] = static_cast<T>(f * slope);
      slope_[i] += f * slope;
    }
  }

  // ----------------------------------------------------------------------------------------------------- gradients

  // The positives' part, the temperature's gradient, and the way back through the normalisation.
  void finish(bool swept) {
    *static_cast<T*>(args_.loss) = static_cast<T>(loss_);
    if (!gradients_) return;
    Buffer<double> radial(n_);
    over_rows(runtime_, n_, [&](int64_t, Range rows) {
      for (int64_t i = rows.begin; i < rows.end; ++i) {
        const double by_x = want_x_ ? finish_row(i, px_, py_, 0, dx_, static_cast<T*>(args_.dx)) : 0;
        const double by_y = want_y_ ? finish_row(i, py_, px_, n_, dy_, static_cast<T*>(args_.dy)) : 0;
        radial[i] = args_.both ? (by_x + by_y) / 2 : want_x_ ? by_x : by_y;
      }
    });
    if (args_.dscale == nullptr) return;
    if (swept) {  // sum_i p_i.dp_i is scale times it
      for (int64_t i = 0; i < n_; ++i) dscale_ += radial[i];
      dscale_ /= static_cast<double>(scale_);
    }
    *static_cast<T*>(args_.dscale) = static_cast<T>(dscale_);
  }

  // The gradient of one point, to where it is wanted (out may be null). Returns p_i . dp_i.
  double finish_row(int64_t i, const T* own, const T* partner, int64_t offset, T* gradient, T* out) {
    const T positive = static_cast<T>(static_cast<double>(scale_) * slope_[i]);
    T* g = gradient + i * d_;
    const T* p = own + i * d_;
    const T* q = partner + i * d_;
    for (int64_t k = 0; k < d_; ++k) g[k] -= positive * q[k];
    const double radial = dot(p, g, d_);
    if (out == nullptr) return radial;
    T* to = out + i * d_;
    if (!args_.normalize) {
      if (to != g)
        for (int64_t k = 0; k < d_; ++k) to[k] = g[k];
      return radial;
    }
    const double inverse = inverse_norm_[offset + i];
    const T along = inverse < 1 / kSmallestNorm ? static_cast<T>(radial) : T(0), factor = static_cast<T>(inverse);
    for (int64_t k = 0; k < d_; ++k) to[k] = (g[k] - along * p[k]) * factor;
    return radial;
  }

  const InfoNce& args_;
  const CpuRuntime& runtime_;
  const int64_t n_, d_;
  const T scale_;
  const T* weights_;
  const bool two_sided_, gradients_, want_x_, want_y_, copied_;
  Buffer<T> points_, own_gradient_;
  Buffer<double> inverse_norm_, product_, slope_;
  Buffer<T> factors_;  // u of the rows, then v of the columns
  const T* px_ = nullptr;
  const T* py_ = nullptr;
  T* dx_;
  T* dy_;
  Kept* held_ = nullptr;
  int64_t held_rows_ = 0, held_cols_ = 0, held_of_chunk_ = 0, walked_rows_ = 0, walked_chunks_ = 1;
  double bound_ = 0, loss_ = 0, dscale_ = 0;
};

}  // namespace MI_SIMD_LEVEL
}  // namespace mi
