// bfloat16 products with float32 sums on the AMX tile unit of x86 CPUs, and the blocked layouts it reads.
//
// A tile register holds 16 rows of 64 bytes. One instruction multiplies a left tile [16, 32] of bfloat16 with a right
// tile [32, 16], stored as 16 rows of pairs (rows 2r and 2r + 1 of the operand interleaved), into a tile [16, 16] of
// floats. Every operand here is an array of such tiles of 1 KiB, each contiguous: no strides that fall on few cache
// sets, no page crossed inside a tile. The kernel takes 2 x 2 output tiles at a time, so that four loads feed four
// products: the unit, not the load ports, is the limit as long as one operand's tiles stay in L1.
#pragma once

// GCC 12 takes the deliberately undefined registers of its own intrinsics for uninitialised variables.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include "common/cpu/arrays.h"

namespace mi {
namespace MI_SIMD_LEVEL {

using bf16 = uint16_t;
constexpr int64_t kTileSide = 16, kTileDepth = 32;
constexpr int64_t kTileElements = kTileSide * kTileDepth;  // of bfloat16: 1 KiB

// Tile registers 0-3 are sums, 4-5 left, 6-7 right tiles. The configuration is the thread's; it is released because a
// thread that keeps tiles alive costs the system 8 KiB of state at every switch.
class TileUnit {
 public:
  TileUnit() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    // The intrinsics of GCC 12 do not say what memory they read: stores before must not be dropped or moved past them.
    asm volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
  }
  TileUnit(const TileUnit&) = delete;
  TileUnit& operator=(const TileUnit&) = delete;
  ~TileUnit() { _tile_release(); }
};

// sums[2][2] (+)= sum over `depth` tiles of left[r][k] right[k][c]. left: tile (r, k) at left + (r row_step + k);
// right: tile (k, c) at right + (k depth_step + c col_step); steps in tiles. sums: float tiles at sums[r][c], rows
// `stride` bytes apart.
MI_INLINE void multiply_2x2(const TileUnit&, int64_t depth, const bf16* left, int64_t row_step, const bf16* right,
                            int64_t depth_step, int64_t col_step, float* const (&sums)[2][2], int64_t stride,
                            bool accumulate) {
  if (accumulate) {
    _tile_loadd(0, sums[0][0], stride);
    _tile_loadd(1, sums[0][1], stride);
    _tile_loadd(2, sums[1][0], stride);
    _tile_loadd(3, sums[1][1], stride);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const bf16* lower = left + row_step * kTileElements;
  const bf16* beside = right + col_step * kTileElements;
  for (int64_t k = 0; k < depth; ++k) {
    _tile_loadd(4, left + k * kTileElements, 64);
    _tile_loadd(6, right + k * depth_step * kTileElements, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, beside + k * depth_step * kTileElements, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, lower + k * kTileElements, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums[0][0], stride);
  _tile_stored(1, sums[0][1], stride);
  _tile_stored(2, sums[1][0], stride);
  _tile_stored(3, sums[1][1], stride);
}

// Packing. A matrix [rows, cols] of floats with row stride ld is rounded to bfloat16 and laid out in tiles, which reach
// past it with zeros. Rows are multiplied by row_factor, columns by col_factor, where these are not null.

MI_INLINE float factor_of(const float* factors, int64_t i) { return factors == nullptr ? 1.0f : factors[i]; }

MI_INLINE __mmask16 lanes(int64_t count) {
  return static_cast<__mmask16>(count <= 0 ? 0u : count >= 16 ? 0xffffu : 0xffffu >> (16 - count));
}

// 16 elements of a row from column k on; zeros beyond the matrix.
MI_INLINE __m512 load(const float* row, int64_t k, int64_t cols, float row_factor, const float* col_factor) {
  const __mmask16 mask = lanes(cols - k);
  if (mask == 0) return _mm512_setzero_ps();
  const __m512 values = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, row + k), _mm512_set1_ps(row_factor));
  return col_factor == nullptr ? values : _mm512_mul_ps(values, _mm512_maskz_loadu_ps(mask, col_factor + k));
}

// A row rounded to bfloat16.
inline void round_row(const float* row, int64_t cols, bf16* out) {
  for (int64_t k = 0; k < cols; k += kTileDepth) {
    const __m512 low = load(row, k, cols, 1.0f, nullptr), high = load(row, k + kTileSide, cols, 1.0f, nullptr);
    const __m512i pair = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
    const int64_t left = cols - k;
    _mm512_mask_storeu_epi16(out + k, left >= kTileDepth ? 0xffffffffu : (uint32_t{1} << left) - 1, pair);
  }
}

// Left tiles: tile (i / 16, k / 32) holds rows i and columns k; row_tiles x depth_tiles of them, row after row.
inline void pack_left(const float* matrix, int64_t ld, int64_t rows, int64_t cols, const float* row_factor,
                      const float* col_factor, int64_t row_tiles, int64_t depth_tiles, bf16* out) {
  for (int64_t r = 0; r < row_tiles * kTileSide; ++r) {
    const float* row = matrix + (r < rows ? r : 0) * ld;
    const float factor = r < rows ? factor_of(row_factor, r) : 0.0f;
    const int64_t width = r < rows ? cols : 0;
    for (int64_t t = 0; t < depth_tiles; ++t) {
      bf16* to = out + ((r / kTileSide) * depth_tiles + t) * kTileElements + (r % kTileSide) * kTileDepth;
      const __m512 low = load(row, t * kTileDepth, width, factor, col_factor);
      const __m512 high = load(row, t * kTileDepth + kTileSide, width, factor, col_factor);
      _mm512_storeu_si512(to, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
    }
  }
}

// Right tiles whose depth is the rows: tile (i / 32, k / 16); depth_tiles x col_tiles of them, row after row.
inline void pack_right(const float* matrix, int64_t ld, int64_t rows, int64_t cols, const float* row_factor,
                       int64_t depth_tiles, int64_t col_tiles, bf16* out) {
  for (int64_t r = 0; r < depth_tiles * kTileDepth; r += 2)
    for (int64_t t = 0; t < col_tiles; ++t) {
      bf16* to = out + ((r / kTileDepth) * col_tiles + t) * kTileElements + (r % kTileDepth) * kTileSide;
      const auto row = [&](int64_t i) {
        const __m512 values = i < rows ? load(matrix + i * ld, t * kTileSide, cols, factor_of(row_factor, i), nullptr)
                                       : _mm512_setzero_ps();
        return _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values)));
      };
      _mm512_storeu_si512(to, _mm512_or_si512(row(r), _mm512_slli_epi32(row(r + 1), 16)));
    }
}

MI_INLINE __m512 load_lanes(const float* from, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, from); }
MI_INLINE __m512 load_lanes(const bf16* from, __mmask16 mask) {
  const __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
  return reinterpret_cast<__m512>(_mm512_slli_epi32(bits, 16));
}

// The factor of pair (i, j): by_row[i] + by_column[j], the latter 0 where by_column is null.
struct PairFactors {
  const float *by_row, *by_column;
};

// Elements times their pair's factor, [rows, cols], as left tiles with columns times col_factor, and as right tiles
// whose depth is the rows with rows times row_factor; each if not null. One visit of the matrix.
template <class T>
void pack_weights(const T* matrix, int64_t ld, int64_t rows, int64_t cols, PairFactors factors, const float* col_factor,
                  const float* row_factor, bf16* left, bf16* right) {
  const int64_t deep = aligned(cols) / kTileDepth, wide = 2 * deep;
  const __m512i interleaved = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                               6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  for (int64_t r = 0; r < aligned(rows); r += 2) {
    const T* row[2];
    __mmask16 within[2];
    __m512 by_row[2], right_by_row[2];
    for (int64_t k = 0; k < 2; ++k) {
      const int64_t i = min_of(r + k, rows - 1);  // rows beyond the matrix are read as zeros
      row[k] = matrix + i * ld;
      within[k] = r + k < rows ? 0xffffu : 0u;
      by_row[k] = _mm512_set1_ps(factors.by_row[i]);
      right_by_row[k] = _mm512_set1_ps(factor_of(row_factor, i));
    }
    bf16* to_left =
        left == nullptr ? nullptr : left + (r / kTileSide * deep) * kTileElements + r % kTileSide * kTileDepth;
    bf16* to_right =
        right == nullptr ? nullptr : right + (r / kTileDepth * wide) * kTileElements + r % kTileDepth * kTileSide;
    for (int64_t t = 0; t < deep; ++t) {
      __m512 weights[2][2];
      for (int64_t half = 0; half < 2; ++half) {
        const int64_t j = t * kTileDepth + half * kTileSide;
        const __mmask16 mask = lanes(cols - j);
        const __m512 by_column =
            factors.by_column == nullptr ? _mm512_setzero_ps() : load_lanes(factors.by_column + j, mask);
        for (int64_t k = 0; k < 2; ++k)
          weights[k][half] = _mm512_mul_ps(load_lanes(row[k] + j, static_cast<__mmask16>(mask & within[k])),
                                           _mm512_add_ps(by_row[k], by_column));
        if (right != nullptr) {
          const __m512 upper = _mm512_mul_ps(weights[0][half], right_by_row[0]);
          const __m512 lower = _mm512_mul_ps(weights[1][half], right_by_row[1]);
          const __m512i pair = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(lower, upper));
          _mm512_storeu_si512(to_right + (2 * t + half) * kTileElements, _mm512_permutexvar_epi16(interleaved, pair));
        }
      }
      if (left == nullptr) continue;
      const int64_t j = t * kTileDepth;
      if (col_factor != nullptr)
        for (int64_t half = 0; half < 2; ++half) {
          const __m512 factor = load_lanes(col_factor + j + half * kTileSide, lanes(cols - j - half * kTileSide));
          for (int64_t k = 0; k < 2; ++k) weights[k][half] = _mm512_mul_ps(weights[k][half], factor);
        }
      for (int64_t k = 0; k < 2; ++k)
        _mm512_storeu_si512(to_left + t * kTileElements + k * kTileDepth,
                            reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(weights[k][1], weights[k][0])));
    }
  }
}

// A tile as a matrix of 16 x 16 pairs, transposed: a left tile of a matrix becomes the right tile of the transpose
// whose depth is the columns, and a right tile the left tile of the transpose.
inline void transpose_pairs(const bf16* tile, bf16* out) {
  const __m512i rows = _mm512_set_epi32(240, 224, 208, 192, 176, 160, 144, 128, 112, 96, 80, 64, 48, 32, 16, 0);
  for (int64_t c = 0; c < kTileSide; ++c)
    _mm512_storeu_si512(out + c * kTileDepth, _mm512_i32gather_epi32(rows, tile + 2 * c, 4));
}

}  // namespace MI_SIMD_LEVEL
}  // namespace mi
