// Pairwise log-sum-exp on the CPU. Compiled once for each SIMD level (see common/cpu/simd.h).
//
// Maths: kernel.h. With p = score(x_i, y_j), the tile epilogues compute s = scale p + bias_j and then
//   forward    online (max, sum) of the rows and, when asked for, of the columns
//   backward   G in place of p; then dx += scale G Y and dy += scale G^T X for the dot product, and for
//              -|x - y|^2: dx_i = 2 scale ((G Y)_i - (sum_j G_ij) x_i), dy_j = 2 scale ((G^T X)_j - (sum_i G_ij) y_j)
//
// Threads: rows and columns are each cut into T chunks, walked as a Latin square: at step s thread t owns row chunk t
// and column chunk (t + s) mod T. So each row statistic and gradient and each column one has a single writer at any
// time: no atomics, no per-thread copies of dy (which would cost threads * M * d), and a fixed order of summation, so
// results repeat bit for bit for a given thread count. T steps, one barrier each. When nothing is written by columns
// the steps need no barrier and are run back to back.
//
// Tiles: inside a cell, kTileRows x kTileCols scores at a time, by one BLAS product into a buffer of the thread that
// stays in L2 through the epilogue and, in the backward pass, through the two products that consume it. Scratch memory
// is one tile for each thread; nothing grows with N M.
//
// Numerics: sums are shifted by the running maximum; a running sum is kept in double (once for each row and tile, so
// it costs nothing) and sums within a tile in T. -inf scores (bias) contribute exp(-inf) = 0; while a row or column has
// seen nothing finite its shift is taken as 0, so that -inf - -inf is never formed. Squared distances by products lose
// digits when the points are far from the origin: they are centred first, and a point's distance to itself is set to 0
// exactly. For d <= kDirectMaxDim, or when the problem is small, the differences are formed directly instead: exact
// for close points and, for small d, faster than a product.
//
// Tried and rejected: a copy of dy for each thread (memory, and a reduction that costs as much as it saves); one exp
// for rows and columns by a shift common to the tile (underflows at low temperature).
#include <cstdlib>
#include <new>

#include "common/cpu/simd.h"
#include "ops/pairwise_lse/cpu.h"

namespace mi {
namespace MI_SIMD_LEVEL {
namespace {

constexpr int64_t kTileRows = 256;
constexpr int64_t kTileCols = 1024;
constexpr int64_t kMinChunk = 64;         // rows or columns under which another thread does not pay
constexpr int64_t kDirectMaxDim = 16;     // squared distances by differences up to here
constexpr int64_t kDirectMaxWork = 4096;  // ... and up to this n * m at any d
constexpr int64_t kDirectBlock = 16;      // dimensions summed before their sum joins the total: keeps rounding small

MI_INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
MI_INLINE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
MI_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T>
constexpr T infinity() {
  return static_cast<T>(__builtin_inf());
}

// Uninitialised array, aligned for the widest vectors.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size) {
    if (size > 0 && posix_memalign(reinterpret_cast<void**>(&data_), 64, static_cast<size_t>(size) * sizeof(T)) != 0) {
      throw std::bad_alloc();
    }
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { free(data_); }
  T* get() { return data_; }
  const T* get() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }

  Buffer& fill(int64_t size, T value) {
    for (int64_t i = 0; i < size; ++i) data_[i] = value;
    return *this;
  }

 private:
  T* data_ = nullptr;
};

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

MI_INLINE Range chunk(int64_t size, int64_t chunks, int64_t index) {
  const int64_t width = ceil_div(size, chunks);
  return {min_of(size, index * width), min_of(size, (index + 1) * width)};
}

template <class F>
void parallel(const CpuRuntime& runtime, int64_t tasks, const F& body) {
  if (tasks == 1) return body(0);
  runtime.parallel(
      tasks, [](void* context, int64_t task) { (*static_cast<const F*>(context))(task); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

MI_INLINE void gemm(const CpuRuntime& runtime, bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha,
                    const float* a, int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  runtime.gemm_f32(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
MI_INLINE void gemm(const CpuRuntime& runtime, bool ta, bool tb, int64_t m, int64_t n, int64_t k, double alpha,
                    const double* a, int64_t lda, const double* b, int64_t ldb, double beta, double* c, int64_t ldc) {
  runtime.gemm_f64(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

// The points and everything both passes derive from them.
template <class T>
class Pairs {
 public:
  Pairs(const PairwiseScores& args, const CpuRuntime& host)
      : runtime(host),
        n(args.n),
        m(args.m),
        d(args.d),
        x(static_cast<const T*>(args.x)),
        y(static_cast<const T*>(args.y)),
        scale(*static_cast<const T*>(args.scale)),
        exclude_diagonal(args.exclude_diagonal),
        self(args.x == args.y),
        squared(args.score == Score::sqeuclidean),
        direct(squared && (d <= kDirectMaxDim || n * m <= kDirectMaxWork)),
        bias_(args.bias != nullptr ? 0 : m),
        centred_x_(squared && !direct ? n * d : 0),
        centred_y_(squared && !direct && !self ? m * d : 0),
        norm_x_(squared && !direct ? n : 0),
        norm_y_(squared && !direct && !self ? m : 0) {
    bias = args.bias != nullptr ? static_cast<const T*>(args.bias) : bias_.fill(m, T(0)).get();
    if (squared && !direct) centre();
  }

  const CpuRuntime& runtime;
  const int64_t n, m, d;
  const T* x;
  const T* y;
  const T scale;
  const T* bias;
  const T* norm_x = nullptr;
  const T* norm_y = nullptr;
  const bool exclude_diagonal, self, squared, direct;

  // The scores score(x_i, y_j) of a tile, row stride ld. Squared distances come with their sign: -|x - y|^2.
  void scores(Range rows, Range cols, T* tile, int64_t ld, T* columns_of_y) const {
    if (direct) return direct_scores(rows, cols, tile, ld, columns_of_y);
    gemm(runtime, false, true, rows.size(), cols.size(), d, squared ? T(2) : T(1), x + rows.begin * d, d,
         y + cols.begin * d, d, T(0), tile, ld);
    if (!squared) return;
    for (int64_t i = 0; i < rows.size(); ++i) {
      T* row = tile + i * ld;
      const T own = norm_x[rows.begin + i];
      const T* other = norm_y + cols.begin;
      const int64_t width = cols.size();
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) {
        const T score = row[j] - own - other[j];
        row[j] = score > T(0) ? T(0) : score;
      }
      const int64_t twin = rows.begin + i - cols.begin;
      if (self && twin >= 0 && twin < width) row[twin] = T(0);
    }
  }

  // columns_of_y[k * width + j] = y[cols.begin + j][k]: the layout in which the direct path reads y.
  void transpose_y(Range cols, T* columns_of_y) const {
    for (int64_t j = 0; j < cols.size(); ++j)
      for (int64_t k = 0; k < d; ++k) columns_of_y[k * cols.size() + j] = y[(cols.begin + j) * d + k];
  }

 private:
  void direct_scores(Range rows, Range cols, T* tile, int64_t ld, T* columns_of_y) const {
    transpose_y(cols, columns_of_y);
    const int64_t width = cols.size();
    constexpr int64_t kStrip = 64;
    for (int64_t i = 0; i < rows.size(); ++i) {
      const T* point = x + (rows.begin + i) * d;
      for (int64_t first = 0; first < width; first += kStrip) {
        const int64_t strip = min_of(kStrip, width - first);
        T total[kStrip] = {};
        for (int64_t k0 = 0; k0 < d; k0 += kDirectBlock) {
          T part[kStrip] = {};
          const int64_t k1 = min_of(k0 + kDirectBlock, d);
          for (int64_t k = k0; k < k1; ++k) {
            const T own = point[k];
            const T* other = columns_of_y + k * width + first;
#pragma omp simd
            for (int64_t j = 0; j < strip; ++j) {
              const T difference = own - other[j];
              part[j] += difference * difference;
            }
          }
          for (int64_t j = 0; j < kStrip; ++j) total[j] -= part[j];
        }
        T* row = tile + i * ld + first;
        for (int64_t j = 0; j < strip; ++j) row[j] = total[j];
      }
    }
  }

  void centre() {
    Buffer<double> mean(d);
    mean.fill(d, 0.0);
    for (int64_t j = 0; j < m; ++j)
      for (int64_t k = 0; k < d; ++k) mean[k] += static_cast<double>(y[j * d + k]);
    for (int64_t k = 0; k < d; ++k) mean[k] /= static_cast<double>(m);
    const T* raw_x = x;
    x = move(raw_x, n, mean.get(), centred_x_.get(), norm_x_.get());
    norm_x = norm_x_.get();
    y = self ? x : move(y, m, mean.get(), centred_y_.get(), norm_y_.get());
    norm_y = self ? norm_x : norm_y_.get();
  }

  const T* move(const T* points, int64_t count, const double* mean, T* moved, T* norms) const {
    for (int64_t i = 0; i < count; ++i) {
      double norm = 0;
      for (int64_t k = 0; k < d; ++k) {
        const T value = static_cast<T>(static_cast<double>(points[i * d + k]) - mean[k]);
        moved[i * d + k] = value;
        norm += static_cast<double>(value) * static_cast<double>(value);
      }
      norms[i] = static_cast<T>(norm);
    }
    return moved;
  }

  Buffer<T> bias_, centred_x_, centred_y_, norm_x_, norm_y_;
};

// Calls body(thread, rows, cols, first_cols, first_rows) for every tile, in the Latin order described above.
// first_cols: the first tile of its row block that the walk meets; first_rows: the first of its column tile.
// by_columns: some output is written by columns, so the steps need barriers between them.
struct Walk {
  int64_t n, m, chunks, tile_rows, tile_cols;
  bool by_columns;

  Walk(int64_t rows, int64_t cols, bool by_columns_, const CpuRuntime& runtime)
      : n(rows), m(cols), by_columns(by_columns_) {
    chunks = min_of(runtime.threads, ceil_div(n, kMinChunk));
    if (by_columns) chunks = min_of(chunks, ceil_div(m, kMinChunk));
    chunks = max_of(chunks, 1);
    tile_rows = min_of(kTileRows, ceil_div(n, chunks));
    tile_cols = min_of(kTileCols, ceil_div(m, chunks));
  }

  template <class F>
  void cell(int64_t thread, int64_t step, const F& body) const {
    const Range rows = chunk(n, chunks, thread), cols = chunk(m, chunks, (thread + step) % chunks);
    for (int64_t i = rows.begin; i < rows.end; i += tile_rows)
      for (int64_t j = cols.begin; j < cols.end; j += tile_cols)
        body(thread, Range{i, min_of(i + tile_rows, rows.end)}, Range{j, min_of(j + tile_cols, cols.end)},
             step == 0 && j == cols.begin, step == 0 && i == rows.begin);
  }

  template <class F>
  void run(const CpuRuntime& runtime, const F& body) const {
    if (!by_columns) {
      return parallel(runtime, chunks, [&](int64_t thread) {
        for (int64_t step = 0; step < chunks; ++step) cell(thread, step, body);
      });
    }
    for (int64_t step = 0; step < chunks; ++step)
      parallel(runtime, chunks, [&](int64_t thread) { cell(thread, step, body); });
  }
};

// ------------------------------------------------------------------------------------------------------ forward

// row[j] = scale * row[j] + bias[j]; returns the maximum and, when asked for, raises column_max to it elementwise.
template <bool kColumns, class T>
MI_INLINE T to_logits(T* __restrict row, const T* __restrict bias, T scale, int64_t width, T* __restrict column_max) {
  T highest = -infinity<T>();
#pragma omp simd reduction(max : highest)
  for (int64_t j = 0; j < width; ++j) {
    const T s = scale * row[j] + bias[j];
    row[j] = s;
    highest = s > highest ? s : highest;
    if (kColumns) column_max[j] = s > column_max[j] ? s : column_max[j];
  }
  return highest;
}

template <class T>
MI_INLINE T sum_exp(const T* __restrict row, T shift, int64_t width) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < width; ++j) sum += vexp(row[j] - shift);
  return sum;
}

// The shift under which exp is taken: the maximum, or 0 while there is none.
template <class T>
MI_INLINE T shift_of(T highest) {
  return highest == -infinity<T>() ? T(0) : highest;
}

// Running log-sum-exp of many rows (or columns): maximum and sum relative to it.
template <class T>
class OnlineLse {
 public:
  explicit OnlineLse(int64_t size) : highest_(size), sum_(size), size_(size) {
    highest_.fill(size, -infinity<T>());
    sum_.fill(size, 0.0);
  }

  // Raises the maximum of entry i to at least `highest` and returns the shift to take exponentials under.
  MI_INLINE T raise(int64_t i, T highest) {
    const T before = highest_[i];
    if (highest > before) {
      if (before != -infinity<T>()) sum_[i] *= static_cast<double>(vexp(before - highest));
      highest_[i] = highest;
    }
    return shift_of(highest_[i]);
  }
  MI_INLINE void add(int64_t i, T sum) { sum_[i] += static_cast<double>(sum); }

  void finish(T* out) {
    for (int64_t i = 0; i < size_; ++i)
      out[i] = static_cast<T>(static_cast<double>(highest_[i]) + __builtin_log(sum_[i]));
  }

 private:
  Buffer<T> highest_;
  Buffer<double> sum_;
  int64_t size_;
};

template <class T>
void forward(const PairwiseLseForward& args, const CpuRuntime& runtime) {
  const Pairs<T> pairs(args.pairs, runtime);
  const bool columns = args.col_lse != nullptr;
  const Walk walk(pairs.n, pairs.m, columns, runtime);
  const int64_t ld = walk.tile_cols, transposed = pairs.direct ? pairs.d * ld : 0;
  const int64_t scratch_size = walk.tile_rows * ld + 2 * ld + transposed;
  Buffer<T> scratch(walk.chunks * scratch_size);
  OnlineLse<T> row_state(pairs.n), col_state(columns ? pairs.m : 0);

  walk.run(runtime, [&](int64_t thread, Range rows, Range cols, bool, bool) {
    T* tile = scratch.get() + thread * scratch_size;
    T* column_max = tile + walk.tile_rows * ld;
    T* column_sum = column_max + ld;
    const int64_t width = cols.size();
    const T* bias = pairs.bias + cols.begin;
    pairs.scores(rows, cols, tile, ld, column_sum + ld);
    if (columns)
      for (int64_t j = 0; j < width; ++j) column_max[j] = -infinity<T>(), column_sum[j] = T(0);

    for (int64_t i = 0; i < rows.size(); ++i) {
      T* row = tile + i * ld;
      const auto logits = [&](int64_t from, int64_t to) {
        return columns ? to_logits<true>(row + from, bias + from, pairs.scale, to - from, column_max + from)
                       : to_logits<false>(row + from, bias + from, pairs.scale, to - from, column_max);
      };
      const int64_t own = rows.begin + i - cols.begin;
      T highest;
      if (pairs.exclude_diagonal && own >= 0 && own < width) {
        const T left = logits(0, own), right = logits(own + 1, width);
        row[own] = -infinity<T>();
        highest = left > right ? left : right;
      } else {
        highest = logits(0, width);
      }
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

// ----------------------------------------------------------------------------------------------------- backward

template <class T>
struct RowSums {
  T mass = 0;    // sum_j G_ij
  T moment = 0;  // sum_j G_ij score_ij
};

// row[j]: score -> G_ij. Adds G to column_mass when kMass.
template <bool kRows, bool kCols, bool kMass, class T>
MI_INLINE void to_gradient(T* __restrict row, const T* __restrict bias, T scale, T grad_row, T row_lse,
                           const T* __restrict grad_col, const T* __restrict col_lse, int64_t width,
                           T* __restrict column_mass, RowSums<T>& sums) {
  T mass = 0, moment = 0;
#pragma omp simd reduction(+ : mass, moment)
  for (int64_t j = 0; j < width; ++j) {
    const T score = row[j], s = scale * score + bias[j];
    T g = 0;
    if (kRows) g += grad_row * vexp(s - row_lse);
    if (kCols) g += grad_col[j] * vexp(s - col_lse[j]);
    row[j] = g;
    mass += g;
    moment += g * score;
    if (kMass) column_mass[j] += g;
  }
  sums.mass += mass;
  sums.moment += moment;
}

template <class T>
class Gradient {
 public:
  Gradient(const PairwiseLseBackward& args, const CpuRuntime& runtime)
      : args_(args),
        pairs_(args.pairs, runtime),
        want_x_(args.dx != nullptr),
        want_y_(args.dy != nullptr || (pairs_.self && want_x_)),
        want_column_mass_(args.dbias != nullptr || (want_y_ && pairs_.squared && !pairs_.direct)),
        walk_(pairs_.n, pairs_.m, want_y_ || want_column_mass_, runtime),
        dx_(static_cast<T*>(args.dx)),
        second_role_(pairs_.self && want_x_ ? pairs_.m * pairs_.d : 0),
        dy_(pairs_.self && want_x_ ? second_role_.get() : static_cast<T*>(args.dy)),
        row_lse_(args.grad_row != nullptr ? pairs_.n : 0),
        col_lse_(args.grad_col != nullptr ? pairs_.m : 0),
        row_mass_(pairs_.n),
        column_mass_(want_column_mass_ ? pairs_.m : 0),
        moment_(walk_.chunks) {
    // exp(s - +inf) = 0: a row or column without a finite score passes no gradient.
    if (args.grad_row != nullptr) guard(static_cast<const T*>(args.row_lse), row_lse_.get(), pairs_.n);
    if (args.grad_col != nullptr) guard(static_cast<const T*>(args.col_lse), col_lse_.get(), pairs_.m);
    row_mass_.fill(pairs_.n, 0.0);
    if (want_column_mass_) column_mass_.fill(pairs_.m, 0.0);
    moment_.fill(walk_.chunks, 0.0);
  }

  void run() {
    const int64_t ld = walk_.tile_cols, transposed = pairs_.direct ? 2 * pairs_.d * ld : 0;
    const int64_t scratch_size = walk_.tile_rows * ld + ld + transposed;
    Buffer<T> scratch(walk_.chunks * scratch_size);
    walk_.run(pairs_.runtime, [&](int64_t thread, Range rows, Range cols, bool first_cols, bool first_rows) {
      T* tile = scratch.get() + thread * scratch_size;
      T* tile_mass = tile + walk_.tile_rows * ld;
      T* columns_of_y = tile_mass + ld;
      pairs_.scores(rows, cols, tile, ld, columns_of_y);
      epilogue(thread, rows, cols, tile, ld, tile_mass);
      if (pairs_.direct) {
        direct_products(rows, cols, tile, ld, columns_of_y, first_cols, first_rows);
      } else {
        products(rows, cols, tile, ld, first_cols, first_rows);
      }
    });
    finish();
  }

 private:
  static void guard(const T* lse, T* out, int64_t size) {
    for (int64_t i = 0; i < size; ++i) out[i] = lse[i] == -infinity<T>() ? infinity<T>() : lse[i];
  }

  void epilogue(int64_t thread, Range rows, Range cols, T* tile, int64_t ld, T* tile_mass) {
    const int64_t width = cols.size();
    const T* grad_row = static_cast<const T*>(args_.grad_row);
    const T* grad_col = static_cast<const T*>(args_.grad_col);
    if (want_column_mass_)
      for (int64_t j = 0; j < width; ++j) tile_mass[j] = T(0);
    for (int64_t i = 0; i < rows.size(); ++i) {
      T* row = tile + i * ld;
      const int64_t point = rows.begin + i, own = point - cols.begin;
      RowSums<T> sums;
      const auto gradient = [&](int64_t from, int64_t to) {
        const auto call = [&](auto by_rows, auto by_cols, auto mass) {
          to_gradient<by_rows.value, by_cols.value, mass.value>(
              row + from, pairs_.bias + cols.begin + from, pairs_.scale, by_rows.value ? grad_row[point] : T(0),
              by_rows.value ? row_lse_[point] : T(0), by_cols.value ? grad_col + cols.begin + from : nullptr,
              by_cols.value ? col_lse_.get() + cols.begin + from : nullptr, to - from, tile_mass + from, sums);
        };
        const bool mass = want_column_mass_;
        if (grad_row != nullptr && grad_col != nullptr)
          mass ? call(Yes{}, Yes{}, Yes{}) : call(Yes{}, Yes{}, No{});
        else if (grad_row != nullptr)
          mass ? call(Yes{}, No{}, Yes{}) : call(Yes{}, No{}, No{});
        else
          mass ? call(No{}, Yes{}, Yes{}) : call(No{}, Yes{}, No{});
      };
      if (pairs_.exclude_diagonal && own >= 0 && own < width) {
        gradient(0, own);
        gradient(own + 1, width);
        row[own] = T(0);
      } else {
        gradient(0, width);
      }
      row_mass_[point] += static_cast<double>(sums.mass);
      moment_[thread] += static_cast<double>(sums.moment);
    }
    if (want_column_mass_)
      for (int64_t j = 0; j < width; ++j) column_mass_[cols.begin + j] += static_cast<double>(tile_mass[j]);
  }

  void products(Range rows, Range cols, const T* tile, int64_t ld, bool first_cols, bool first_rows) {
    const int64_t d = pairs_.d;
    const T alpha = pairs_.squared ? 2 * pairs_.scale : pairs_.scale;
    if (want_x_)
      gemm(pairs_.runtime, false, false, rows.size(), d, cols.size(), alpha, tile, ld, pairs_.y + cols.begin * d, d,
           first_cols ? T(0) : T(1), dx_ + rows.begin * d, d);
    if (want_y_)
      gemm(pairs_.runtime, true, false, cols.size(), d, rows.size(), alpha, tile, ld, pairs_.x + rows.begin * d, d,
           first_rows ? T(0) : T(1), dy_ + cols.begin * d, d);
  }

  // ds/dx_i = -2 scale (x_i - y_j), with the differences formed one by one.
  void direct_products(Range rows, Range cols, const T* tile, int64_t ld, T* columns_of_y, bool first_cols,
                       bool first_rows) {
    const int64_t d = pairs_.d, width = cols.size();
    const T alpha = -2 * pairs_.scale;
    T* column_sums = columns_of_y + d * width;  // [d, width]: what dy receives from this tile
    for (int64_t k = 0; k < d * width; ++k) column_sums[k] = T(0);
    for (int64_t i = 0; i < rows.size(); ++i) {
      const T* g = tile + i * ld;
      const int64_t point = rows.begin + i;
      for (int64_t k = 0; k < d; ++k) {
        const T own = pairs_.x[point * d + k];
        const T* other = columns_of_y + k * width;
        T* sums = column_sums + k * width;
        T sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < width; ++j) {
          const T term = g[j] * (own - other[j]);
          sum += term;
          sums[j] += term;
        }
        if (want_x_) {
          T& target = dx_[point * d + k];
          target = (first_cols ? T(0) : target) + alpha * sum;
        }
      }
    }
    if (!want_y_) return;
    for (int64_t j = 0; j < width; ++j)
      for (int64_t k = 0; k < d; ++k) {
        T& target = dy_[(cols.begin + j) * d + k];
        target = (first_rows ? T(0) : target) - alpha * column_sums[k * width + j];
      }
  }

  void finish() {
    const int64_t d = pairs_.d;
    if (pairs_.squared && !pairs_.direct) {
      if (want_x_) subtract_own(dx_, pairs_.x, row_mass_.get(), pairs_.n);
      if (want_y_) subtract_own(dy_, pairs_.y, column_mass_.get(), pairs_.m);
    }
    if (pairs_.self && want_x_)
      for (int64_t k = 0; k < pairs_.n * d; ++k) dx_[k] += dy_[k];
    if (args_.dscale != nullptr) {
      double total = 0;
      for (int64_t thread = 0; thread < walk_.chunks; ++thread) total += moment_[thread];
      *static_cast<T*>(args_.dscale) = static_cast<T>(total);
    }
    if (args_.dbias != nullptr)
      for (int64_t j = 0; j < pairs_.m; ++j) static_cast<T*>(args_.dbias)[j] = static_cast<T>(column_mass_[j]);
  }

  void subtract_own(T* gradient, const T* points, const double* mass, int64_t count) const {
    for (int64_t i = 0; i < count; ++i) {
      const T factor = static_cast<T>(2 * static_cast<double>(pairs_.scale) * mass[i]);
      for (int64_t k = 0; k < pairs_.d; ++k) gradient[i * pairs_.d + k] -= factor * points[i * pairs_.d + k];
    }
  }

  struct Yes {
    static constexpr bool value = true;
  };
  struct No {
    static constexpr bool value = false;
  };

  const PairwiseLseBackward& args_;
  const Pairs<T> pairs_;
  const bool want_x_, want_y_, want_column_mass_;
  const Walk walk_;
  T* dx_;
  Buffer<T> second_role_;  // in self mode the column role is summed apart: rows and columns have other writers
  T* dy_;
  Buffer<T> row_lse_, col_lse_;
  Buffer<double> row_mass_, column_mass_, moment_;
};

}  // namespace

void pairwise_lse_forward(DType dtype, const PairwiseLseForward& args, const CpuRuntime& runtime) {
  dtype == DType::f64 ? forward<double>(args, runtime) : forward<float>(args, runtime);
}

void pairwise_lse_backward(DType dtype, const PairwiseLseBackward& args, const CpuRuntime& runtime) {
  dtype == DType::f64 ? Gradient<double>(args, runtime).run() : Gradient<float>(args, runtime).run();
}

}  // namespace MI_SIMD_LEVEL
}  // namespace mi
