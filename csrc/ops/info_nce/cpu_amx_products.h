// The three products of a sweep in bfloat16 with float32 sums, on AMX tiles: see common/cpu/amx.h.
#pragma once

#include "common/cpu/amx.h"
#include "common/cpu/latin_walk.h"

namespace mi {
namespace MI_SIMD_LEVEL {

// The members are BlasProducts'. Points that came as bfloat16 are multiplied as they came: unit length is not a
// bfloat16 matter, so a normalised point is packed as its original times a power of two, which is exact, and the rest
// of its norm (a factor in (1/2, 1]) goes to the scores and to the weights. Weights are rounded to bfloat16; all else
// stays float. Both operands are packed once, in the two layouts each that the products read them in; gradients are
// summed as tiles, that of the columns transposed, so that the weights need no transposition: dright^T = left^T tile.
class AmxProducts {
 public:
  static constexpr bool kAnySign = false;  // kept to the plain case

  AmxProducts(const CpuRuntime& runtime, const float* left, const double* left_inverse, int64_t n, const float* right,
              const double* right_inverse, int64_t m, int64_t d, float scale, float* dleft, float* dright)
      : runtime_(runtime),
        n_(n),
        m_(m),
        d_(d),
        dims_(aligned(d)),
        scale_(scale),
        dleft_(dleft),
        dright_(dright),
        left_lengths_(left_inverse, n),
        right_lengths_(right_inverse, m),
        left_rows_(aligned(n) * dims_),
        right_pairs_(aligned(m) * dims_),
        left_columns_(dright != nullptr ? aligned(n) * dims_ : 0),
        right_rows_(dleft != nullptr ? aligned(m) * dims_ : 0),
        by_rows_(dleft != nullptr ? aligned(n) * dims_ : 0),
        by_columns_(dright != nullptr ? aligned(m) * dims_ : 0) {
    const int64_t across = dims_ / kTileDepth, units = max_of(aligned(n), aligned(m)) / kAlign;
    const int64_t tasks = min_of(runtime.threads, units);
    parallel(runtime, tasks, [&](int64_t task) {
      for (int64_t unit = units * task / tasks; unit < units * (task + 1) / tasks; ++unit) {
        const int64_t at = unit * kAlign, tile = at / kTileSide, block = at * dims_;
        if (at < n) {
          const float* from = left + at * d;
          pack_left(from, d, n - at, d, left_lengths_.from(at), nullptr, 2, across, left_rows_.get() + block);
          if (dright != nullptr)
            pack_left_transposed(left, d, n, d, left_lengths_.from(0), unit, dims_ / kTileSide, aligned(n) / kTileDepth,
                                 left_columns_.get());
          if (dleft != nullptr)
            for (int64_t k = 0; k < kAlign * dims_; ++k) by_rows_[block + k] = 0;
        }
        if (at < m) {
          for (int64_t half = 0; half < 2; ++half)
            pack_right_transposed(right, d, m, d, right_lengths_.from(0), tile + half, across, right_pairs_.get());
          if (dleft != nullptr)
            pack_right(right + at * d, d, m - at, d, right_lengths_.from(at), 1, dims_ / kTileSide,
                       right_rows_.get() + block);
          if (dright != nullptr)
            for (int64_t k = 0; k < kAlign * dims_; ++k) by_columns_[block + k] = 0;
        }
      }
    });
  }

  static int64_t scratch(int64_t tile_rows, int64_t tile_cols) { return tile_rows * tile_cols / 2; }

  void scores(Range rows, Range cols, float* tile, int64_t ld) const {
    const TileUnit unit;
    const int64_t depth = dims_ / kTileDepth;
    for (int64_t j = cols.begin; j < cols.end; j += kAlign)
      for (int64_t i = rows.begin; i < rows.end; i += kAlign) {
        float* corner = tile + (i - rows.begin) * ld + (j - cols.begin);
        float* const sums[2][2] = {{corner, corner + kTileSide},
                                   {corner + kTileSide * ld, corner + kTileSide * ld + kTileSide}};
        multiply_2x2(unit, depth, left_rows_.get() + i * dims_, depth, right_pairs_.get() + j * dims_, 1, depth, sums,
                     ld * static_cast<int64_t>(sizeof(float)), false);
      }
    if (left_lengths_.none()) return;
    const float* __restrict by_column = right_lengths_.inverse(cols.begin);
    for (int64_t i = 0; i < rows.size(); ++i) {
      const float by_row = *left_lengths_.inverse(rows.begin + i);
      float* __restrict row = tile + i * ld;
#pragma omp simd
      for (int64_t j = 0; j < cols.size(); ++j) row[j] *= by_row * by_column[j];
    }
  }

  void by_rows(Range rows, Range cols, const float* tile, int64_t ld, float* scratch, bool) {
    bf16* weights = reinterpret_cast<bf16*>(scratch);
    const int64_t deep = aligned(cols.size()) / kTileDepth, side = dims_ / kTileSide;
    pack_left(tile, ld, rows.size(), cols.size(), nullptr, right_lengths_.inverse(cols.begin),
              aligned(rows.size()) / kTileSide, deep, weights);
    const TileUnit unit;
    for (int64_t k = 0; k < deep; k += kDepthAtOnce)
      for (int64_t c = 0; c < side; c += 2)
        for (int64_t i = 0; i < rows.size(); i += kAlign) {
          float* const first = sum_tile(by_rows_.get(), (rows.begin + i) / kTileSide, c, side);
          float* const sums[2][2] = {{first, first + kSumElements},
                                     {first + side * kSumElements, first + (side + 1) * kSumElements}};
          multiply_2x2(unit, min_of(kDepthAtOnce, deep - k), weights + (i / kTileSide * deep + k) * kTileElements, deep,
                       right_rows_.get() + ((cols.begin / kTileDepth + k) * side + c) * kTileElements, side, 1, sums,
                       64, true);
        }
  }

  void by_columns(Range rows, Range cols, const float* tile, int64_t ld, float* scratch, bool) {
    bf16* weights = reinterpret_cast<bf16*>(scratch);
    const int64_t deep = aligned(rows.size()) / kTileDepth, wide = aligned(cols.size()) / kTileSide;
    const int64_t points = aligned(m_) / kTileSide, depth_of_left = aligned(n_) / kTileDepth;
    pack_right(tile, ld, rows.size(), cols.size(), left_lengths_.inverse(rows.begin), deep, wide, weights);
    const TileUnit unit;
    for (int64_t j = 0; j < wide; j += 2)
      for (int64_t c = 0; c < dims_ / kTileSide; c += 2) {
        float* const first = sum_tile(by_columns_.get(), c, cols.begin / kTileSide + j, points);
        float* const sums[2][2] = {{first, first + kSumElements},
                                   {first + points * kSumElements, first + (points + 1) * kSumElements}};
        multiply_2x2(unit, deep, left_columns_.get() + (c * depth_of_left + rows.begin / kTileDepth) * kTileElements,
                     depth_of_left, weights + j * kTileElements, wide, 1, sums, 64, true);
      }
  }

  void collect() {
    const int64_t units = max_of(aligned(n_), aligned(m_)) / kAlign, tasks = min_of(runtime_.threads, units);
    parallel(runtime_, tasks, [&](int64_t task) {
      for (int64_t i = units * task / tasks * kAlign; i < units * (task + 1) / tasks * kAlign; ++i) {
        const int64_t tile = i / kTileSide, inner = i % kTileSide;
        if (dleft_ != nullptr && i < n_)
          for (int64_t k = 0; k < d_; ++k)
            dleft_[i * d_ + k] = scale_ * sum_tile(by_rows_.get(), tile, k / kTileSide,
                                                   dims_ / kTileSide)[inner * kTileSide + k % kTileSide];
        if (dright_ != nullptr && i < m_)
          for (int64_t k = 0; k < d_; ++k) {
            const float sum = scale_ * sum_tile(by_columns_.get(), k / kTileSide, tile,
                                                aligned(m_) / kTileSide)[k % kTileSide * kTileSide + inner];
            dright_[i * d_ + k] = dright_ == dleft_ ? dright_[i * d_ + k] + sum : sum;
          }
      }
    });
  }

 private:
  // For points of unit length: what to multiply them by to get their originals times a power of two, in [1, 2), and the
  // inverse of that.
  class Lengths {
   public:
    Lengths(const double* inverse_norms, int64_t count)
        : size_(inverse_norms == nullptr ? 0 : count), length_(size_), inverse_(size_) {
      for (int64_t i = 0; i < size_; ++i) {
        int exponent = 0;
        const double fraction = 2 * __builtin_frexp(1 / inverse_norms[i], &exponent);
        length_[i] = static_cast<float>(fraction);
        inverse_[i] = static_cast<float>(1 / fraction);
      }
    }
    bool none() const { return size_ == 0; }
    const float* from(int64_t i) const { return none() ? nullptr : length_.get() + i; }
    const float* inverse(int64_t i) const { return none() ? nullptr : inverse_.get() + i; }

   private:
    int64_t size_;
    Buffer<float> length_, inverse_;
  };

  static constexpr int64_t kSumElements = kTileSide * kTileSide;
  static constexpr int64_t kDepthAtOnce = 16;  // tiles: two panels of right tiles, 32 KiB, stay in L1

  static float* sum_tile(float* sums, int64_t row, int64_t col, int64_t col_tiles) {
    return sums + (row * col_tiles + col) * kSumElements;
  }
  static const float* sum_tile(const float* sums, int64_t row, int64_t col, int64_t col_tiles) {
    return sums + (row * col_tiles + col) * kSumElements;
  }

  const CpuRuntime& runtime_;
  const int64_t n_, m_, d_, dims_;
  const float scale_;
  float* dleft_;
  float* dright_;
  const Lengths left_lengths_, right_lengths_;
  Buffer<bf16> left_rows_;     // left tiles of left
  Buffer<bf16> right_pairs_;   // right tiles of right^T
  Buffer<bf16> left_columns_;  // left tiles of left^T
  Buffer<bf16> right_rows_;    // right tiles of right
  Buffer<float> by_rows_;      // sum tiles of dleft
  Buffer<float> by_columns_;   // sum tiles of dright^T
};

}  // namespace MI_SIMD_LEVEL
}  // namespace mi
