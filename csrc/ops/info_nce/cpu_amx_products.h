// What a sweep does to a tile of pairs, with products in bfloat16 and float32 sums on AMX tiles: see common/cpu/amx.h.
#pragma once

#include "common/cpu/amx.h"
#include "common/cpu/latin_walk.h"
#include "ops/info_nce/cpu_products.h"

namespace mi {
namespace MI_SIMD_LEVEL {

// The members are BlasProducts'. Points that came as bfloat16 are multiplied as they came: unit length is not a
// bfloat16 matter, so a normalised point is packed as its original times a power of two, which is exact, and the rest
// of its norm (a factor in (1/2, 1]) goes to the scores and to the weights. Weights are rounded to bfloat16, and so are
// exponentials while they are kept, which halves what goes to memory and back; all else, their sums too, stays float.
// Weights are formed, rounded and laid out for both products in one pass. Both operands are packed once, in the two
// layouts each that the products read them in; gradients are summed as tiles, that of the columns transposed, so that
// the weights need no transposition: dright^T = left^T tile.
class AmxProducts {
 public:
  using Kept = bf16;
  using Tile = PairTile<float, Kept>;
  static constexpr bool kInPlace = false;
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
    const int64_t across = dims_ / kTileDepth, side = dims_ / kTileSide;
    const int64_t units = max_of(aligned(n), aligned(m)) / kAlign, tasks = min_of(runtime.threads, units);
    parallel(runtime, tasks, [&](int64_t task) {
      Buffer<bf16> tiles(kAlign * dims_);  // of some points, to be transposed
      for (int64_t unit = units * task / tasks; unit < units * (task + 1) / tasks; ++unit) {
        const int64_t at = unit * kAlign, block = at * dims_;
        if (at < n) {
          const float* from = left + at * d;
          pack_left(from, d, n - at, d, left_lengths_.from(at), nullptr, 2, across, left_rows_.get() + block);
          if (dright != nullptr) {
            pack_right(from, d, n - at, d, left_lengths_.from(at), 1, side, tiles.get());
            for (int64_t c = 0; c < side; ++c)
              transpose_pairs(tiles.get() + c * kTileElements,
                              left_columns_.get() + (c * (aligned(n) / kTileDepth) + unit) * kTileElements);
          }
          if (dleft != nullptr)
            for (int64_t k = 0; k < kAlign * dims_; ++k) by_rows_[block + k] = 0;
        }
        if (at < m) {
          const float* from = right + at * d;
          pack_left(from, d, m - at, d, right_lengths_.from(at), nullptr, 2, across, tiles.get());
          for (int64_t t = 0; t < 2 * across; ++t)
            transpose_pairs(tiles.get() + t * kTileElements, right_pairs_.get() + block + t * kTileElements);
          if (dleft != nullptr)
            pack_right(from, d, m - at, d, right_lengths_.from(at), 1, side, right_rows_.get() + block);
          if (dright != nullptr)
            for (int64_t k = 0; k < kAlign * dims_; ++k) by_columns_[block + k] = 0;
        }
      }
    });
  }

  // Two layouts of the weights.
  static int64_t scratch(int64_t tile_rows, int64_t tile_cols) { return tile_rows * tile_cols; }

  void scores(Range rows, Range cols, const Tile& tile) const {
    const TileUnit unit;
    const int64_t depth = dims_ / kTileDepth;
    for (int64_t j = cols.begin; j < cols.end; j += kAlign)
      for (int64_t i = rows.begin; i < rows.end; i += kAlign) {
        float* corner = tile.data + (i - rows.begin) * tile.ld + (j - cols.begin);
        float* const below = corner + kTileSide * tile.ld;
        float* const sums[2][2] = {{corner, corner + kTileSide}, {below, below + kTileSide}};
        multiply_2x2(unit, depth, left_rows_.get() + i * dims_, depth, right_pairs_.get() + j * dims_, 1, depth, sums,
                     tile.ld * static_cast<int64_t>(sizeof(float)), false);
      }
  }

  template <bool kColumns>
  void exponentials(Range rows, Range cols, const Tile& tile, double* row_sums, double* col_sums,
                    float* columns) const {
    const auto keep = [&](int64_t first, int64_t count) {
      if (tile.kept == nullptr) return;
      for (int64_t i = first; i < first + count; ++i)
        round_row(tile.data + i * tile.ld, cols.size(), tile.kept + i * tile.ld);
    };
    scaled([&](const auto& scaling) {
      exponentials_of_tile<kColumns>(tile.data, tile.ld, rows, cols, scaling, row_sums, col_sums, columns, keep);
    });
  }

  template <bool kColumns>
  void weigh(Range rows, Range cols, const Tile& tile, const float* u, const float* v, float* spare, bool by_rows,
             bool by_columns) const {
    const PairFactors of_weights{u + rows.begin, kColumns ? v + cols.begin : nullptr};
    bf16* const left = by_rows ? reinterpret_cast<bf16*>(spare) : nullptr;
    bf16* const right = by_columns ? packed_for_columns(rows, cols, spare) : nullptr;
    const float* const left_factor = right_lengths_.inverse(cols.begin);
    const float* const right_factor = left_lengths_.inverse(rows.begin);
    if (tile.kept != nullptr) {
      pack_weights(tile.kept, tile.ld, rows.size(), cols.size(), of_weights, left_factor, right_factor, left, right);
      return;
    }
    scaled([&](const auto& scaling) { exponentials_alone(rows, cols, tile, scaling); });
    pack_weights(tile.data, tile.ld, rows.size(), cols.size(), of_weights, left_factor, right_factor, left, right);
  }

  void by_rows(Range rows, Range cols, const Tile&, float* spare, bool) {
    const bf16* weights = reinterpret_cast<const bf16*>(spare);
    const int64_t deep = aligned(cols.size()) / kTileDepth, side = dims_ / kTileSide;
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

  void by_columns(Range rows, Range cols, const Tile&, float* spare, bool) {
    const bf16* weights = packed_for_columns(rows, cols, spare);
    const int64_t deep = aligned(rows.size()) / kTileDepth, wide = aligned(cols.size()) / kTileSide;
    const int64_t points = aligned(m_) / kTileSide, depth_of_left = aligned(n_) / kTileDepth;
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
        const int64_t tile = i / kTileSide, inner = i % kTileSide, side = dims_ / kTileSide;
        for (int64_t c = 0; dleft_ != nullptr && i < n_ && c < ceil_div(d_, kTileSide); ++c) {
          const float* __restrict sums = sum_tile(by_rows_.get(), tile, c, side) + inner * kTileSide;
          float* __restrict out = dleft_ + i * d_ + c * kTileSide;
#pragma omp simd
          for (int64_t k = 0; k < min_of(kTileSide, d_ - c * kTileSide); ++k) out[k] = scale_ * sums[k];
        }
        for (int64_t c = 0; dright_ != nullptr && i < m_ && c < ceil_div(d_, kTileSide); ++c) {
          const float* __restrict sums = sum_tile(by_columns_.get(), c, tile, aligned(m_) / kTileSide) + inner;
          float* __restrict out = dright_ + i * d_ + c * kTileSide;
          const bool add = dright_ == dleft_;
#pragma omp simd
          for (int64_t k = 0; k < min_of(kTileSide, d_ - c * kTileSide); ++k) {
            const float sum = scale_ * sums[k * kTileSide];
            out[k] = add ? out[k] + sum : sum;
          }
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

  // Calls body with what the products of tiles are multiplied by to be scores.
  template <class F>
  void scaled(const F& body) const {
    if (left_lengths_.none())
      body(Scaling<false, float>{scale_, nullptr, nullptr});
    else
      body(Scaling<true, float>{scale_, left_lengths_.inverse(0), right_lengths_.inverse(0)});
  }

  template <bool kFactors>
  static void exponentials_alone(Range rows, Range cols, const Tile& tile, const Scaling<kFactors, float>& scaling) {
    const float* factor = kFactors ? scaling.by_column + cols.begin : nullptr;
    for (int64_t i = 0; i < rows.size(); ++i) {
      const float scale = scaling.of_row(rows.begin + i);
      float sum;
      MI_SIMD_LEVEL::exponentials<1, false, kFactors>(tile.data + i * tile.ld, tile.ld, cols.size(), &scale, factor,
                                                      static_cast<float*>(nullptr), &sum);
    }
  }

  // The weights as right tiles lie behind those as left tiles.
  static bf16* packed_for_columns(Range rows, Range cols, float* spare) {
    return reinterpret_cast<bf16*>(spare) + aligned(rows.size()) * aligned(cols.size());
  }

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
