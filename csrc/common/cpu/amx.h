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

MI_INLINE bf16 round_to_bf16(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return static_cast<bf16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
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

// The transpose as left tiles: tile (k / 16, i / 32) holds columns k and rows i, tiles of one k a step of 1 apart, of
// depth_tiles in all. Packs the tiles of 32 rows, number `tile`.
inline void pack_left_transposed(const float* matrix, int64_t ld, int64_t rows, int64_t cols, const float* row_factor,
                                 int64_t tile, int64_t col_tiles, int64_t depth_tiles, bf16* out) {
  for (int64_t c = 0; c < col_tiles * kTileSide; ++c) {
    bf16* to = out + ((c / kTileSide) * depth_tiles + tile) * kTileElements + (c % kTileSide) * kTileDepth;
    for (int64_t k = 0; k < kTileDepth; ++k) {
      const int64_t i = tile * kTileDepth + k;
      to[k] = i < rows && c < cols ? round_to_bf16(matrix[i * ld + c] * factor_of(row_factor, i)) : bf16{0};
    }
  }
}

// The transpose as right tiles whose depth is the columns: tile (i / 16, k / 32), row after row. Packs the tiles of 16
// rows, number `tile`.
inline void pack_right_transposed(const float* matrix, int64_t ld, int64_t rows, int64_t cols, const float* row_factor,
                                  int64_t tile, int64_t depth_tiles, bf16* out) {
  for (int64_t r = 0; r < kTileSide; ++r) {
    const int64_t i = tile * kTileSide + r;
    for (int64_t k = 0; k < depth_tiles * kTileDepth; ++k) {
      bf16* to = out + (tile * depth_tiles + k / kTileDepth) * kTileElements + (k % kTileDepth) / 2 * kTileDepth;
      to[2 * r + k % 2] = i < rows && k < cols ? round_to_bf16(matrix[i * ld + k] * factor_of(row_factor, i)) : bf16{0};
    }
  }
}

}  // namespace MI_SIMD_LEVEL
}  // namespace mi
