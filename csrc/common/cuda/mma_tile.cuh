// The tiles of the tensor-core kernels: warps stand as so many x 2, each with 32 rows of the block's.
//
// Points pass through shared memory in chunks of 128 bytes of each point, copied asynchronously. Unit u of row r stands
// at place u ^ (r % 8) of its row: eight rows of one unit, what a fragment load takes at a time, then lie in different
// banks, and so do the eight units of one row.
//
// float is multiplied as TF32 in three products, high x high, high x low and low x high: what is left out is 2^-22 of a
// product at most; where that is allowed, in the first alone, which leaves out 2^-10 of it. Tensor cores truncate when
// they add, so sums of floats are begun anew with every eight coordinates, small products first, and added up outside
// of them.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/cuda/numeric.cuh"
#include "common/cuda/shared.cuh"
#include "common/cuda/tensor_core.cuh"
#include "common/cuda/tile.cuh"

namespace mi::cuda {

constexpr int kUnits = 8;  // of a point in a chunk
constexpr int kChunkBytes = kUnits * static_cast<int>(sizeof(Unit));
constexpr int kWarpRows = 32;
constexpr int kColWarps = 2;
constexpr float kLog2E = 1.44269504088896341f;

template <typename T>
constexpr bool kIsFloat = std::is_same_v<T, float>;

// Points in device memory: rows of `width` units, aligned to 16 bytes, the last unit filled up with zeros.
struct MmaPoints {
  const Unit* units;
  int64_t count, width;

  __device__ __forceinline__ int chunks() const { return static_cast<int>(ceil_div(width, kUnits)); }

  // Steps of a product, two units each, that chunk `chunk` takes.
  __device__ __forceinline__ int steps(int chunk) const {
    const int64_t units = width - static_cast<int64_t>(chunk) * kUnits;
    return units < kUnits ? static_cast<int>(units + 1) / 2 : kUnits / 2;
  }
};

template <int kRows>
using ChunkTile = SharedTile<Unit, kRows, kUnits>;

__device__ __forceinline__ int place(int row, int unit) { return unit ^ (row % kUnits); }

// Where a thread stands in the tile and in the fragments of its warp.
struct MmaThread {
  int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  int g = lane / 4, t = lane % 4;
  int warp_row = warp / kColWarps, warp_col = warp % kColWarps;
};

// Begins to copy a chunk of kRows points to rows `tile_row`.. (a multiple of 8) of the tile; zeros where there is none.
template <int kBlockThreads, int kRows, int kTileRows>
__device__ __forceinline__ void load_chunk(ChunkTile<kTileRows>& tile, int tile_row, const MmaPoints& points,
                                           int64_t first, int64_t chunk) {
  const int unit = static_cast<int>(threadIdx.x) % kUnits, start = static_cast<int>(threadIdx.x) / kUnits;
  const int left = chunk * kUnits + unit < points.width ? points_left<kRows>(first, points.count) : 0;
#pragma unroll 1
  for (int step = 0; step < kRows; step += kBlockThreads / kUnits) {
    const int row = start + step;
    const bool exists = row < left;
    const Unit* from = points.units + (exists ? (first + row) * points.width + chunk * kUnits + unit : 0);
    copy_async(unit_at(tile, tile_row + row, place(row, unit)), from, exists);
  }
}

// The least and the greatest group of some consecutive points. Tiles whose ranges do not meet have no pair of one
// group: all but a few, where groups follow the order of the points.
struct GroupRange {
  int64_t least, greatest;

  __device__ __forceinline__ bool meets(const GroupRange& other) const {
    return least <= other.greatest && other.least <= greatest;
  }
};

// The groups of the points of one side, or nulls.
struct Groups {
  const int64_t* of_points;
  const GroupRange* ranges;  // of every 64 points
};

// Which pairs of a tile do not count, in coordinates of the tile.
struct TileMask {
  int rows, cols;  // that exist
  int diagonal;    // the pair (r, c) is on the diagonal if c - r is this; out of the tile's reach if none is left out
  const int64_t* row_groups;  // of the tile's first row; null where no groups are equal
  const int64_t* col_groups;
  bool any;

  // A tile of max_rows rows from row0 on, which is a multiple of them, and likewise of columns.
  __device__ __forceinline__ TileMask(int64_t row0, int64_t n, int max_rows, const Groups& of_rows, int64_t col0,
                                      int64_t m, int max_cols, const Groups& of_cols, bool exclude_diagonal)
      : rows(n - row0 < max_rows ? static_cast<int>(n - row0) : max_rows),
        cols(m - col0 < max_cols ? static_cast<int>(m - col0) : max_cols),
        diagonal(max_cols),
        row_groups(nullptr),
        col_groups(nullptr) {
    const int64_t offset = row0 - col0;
    if (exclude_diagonal && -max_rows < offset && offset < max_cols) diagonal = static_cast<int>(offset);
    if (of_rows.of_points != nullptr) {
      bool meet = false;
      for (int r = 0; r < rows; r += 64)
        meet = meet || of_rows.ranges[(row0 + r) / 64].meets(of_cols.ranges[col0 / 64]);
      if (meet) {
        row_groups = of_rows.of_points + row0;
        col_groups = of_cols.of_points + col0;
      }
    }
    any = rows < max_rows || cols < max_cols || diagonal < max_cols || row_groups != nullptr;
  }

  __device__ __forceinline__ bool operator()(int row, int col) const {
    return row >= rows || col >= cols || col - row == diagonal ||
           (row_groups != nullptr && row_groups[row] == col_groups[col]);
  }

  // Bit 4 i + r for the results of a thread in row `row` + 8 r, and column i / 2 * 8 + i % 2 from `col` on. As bits,
  // found by a loop: unrolled over the registers of the results it would take as many again.
  __device__ __forceinline__ uint32_t bits(int row, int col) const {
    uint32_t bits = 0;
#pragma unroll 1
    for (int k = 0; any && k < 32; ++k) {
      if ((*this)(row + k % 4 * 8, col + k / 8 * 8 + k / 4 % 2)) bits |= 1u << k;
    }
    return bits;
  }
};

template <int kTiles>
__device__ __forceinline__ void clear_sums(float (&sums)[2][kTiles][4]) {
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[m][n][i] = 0.0f;
    }
  }
}

template <int kTiles>
__device__ __forceinline__ void add_sums(float (&sums)[2][kTiles][4], const float (&more)[2][kTiles][4]) {
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[m][n][i] += more[m][n][i];
    }
  }
}

// What TF32 holds of the rest of a float, beside its high part.
__device__ __forceinline__ uint32_t rest_of(uint32_t word, uint32_t high) {
  return to_tf32(__uint_as_float(word) - __uint_as_float(high));
}

// sums[m] += A_m B for both 16-row halves of a warp's rows. `corrected` (float only): with the products of low parts;
// without them results are those of TF32, and infinite coordinates stay infinite instead of turning into NaN.
template <typename T>
struct RowFragments {
  uint32_t words[2][4];

  __device__ __forceinline__ void split(bool) {}

  __device__ __forceinline__ void multiply(float (&first)[4], float (&second)[4], const uint32_t (&b)[2], bool) const {
    mma(T{}, first, words[0], b);
    mma(T{}, second, words[1], b);
  }
};

template <>
struct RowFragments<float> {
  uint32_t words[2][4];  // from split() on, their high parts
  uint32_t low[2][4];    // if corrected

  // Once for all products that these rows have a part in: the compiler does not find out by itself.
  __device__ __forceinline__ void split(bool corrected) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t word = words[m][i];
        words[m][i] = to_tf32(__uint_as_float(word));
        low[m][i] = corrected ? rest_of(word, words[m][i]) : 0;
      }
    }
  }

  __device__ __forceinline__ void multiply(float (&first)[4], float (&second)[4], const uint32_t (&b)[2],
                                           bool corrected) const {
    const uint32_t high[2] = {to_tf32(__uint_as_float(b[0])), to_tf32(__uint_as_float(b[1]))};
    float part0[4] = {}, part1[4] = {};
    if (corrected) {
      const uint32_t rest[2] = {rest_of(b[0], high[0]), rest_of(b[1], high[1])};
      mma(0.0f, part0, low[0], high);
      mma(0.0f, part1, low[1], high);
      mma(0.0f, part0, words[0], rest);
      mma(0.0f, part1, words[1], rest);
    }
    mma(0.0f, part0, words[0], high);
    mma(0.0f, part1, words[1], high);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      first[i] += part0[i];
      second[i] += part1[i];
    }
  }
};

// Loads the fragments of 32 rows from `row` on, step `step` of a chunk.
template <typename T, int kTileRows>
__device__ __forceinline__ void load_fragments(RowFragments<T>& fragments, ChunkTile<kTileRows>& tile, int row,
                                               int step, const MmaThread& thread) {
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    const int own = row + m * 16 + thread.lane % 16;
    load_matrices(fragments.words[m], unit_at(tile, own, place(own, step * 2 + thread.lane / 16)));
  }
}

// q[m][n] += products of 32 rows of `rows` with 8 kTiles rows of `cols`, over the first `steps` steps of a chunk.
template <typename T, int kTiles, int kRowTile, int kColTile>
__device__ __forceinline__ void add_scores(float (&q)[2][kTiles][4], ChunkTile<kRowTile>& rows, int row,
                                           ChunkTile<kColTile>& cols, int col, int steps, bool corrected,
                                           const MmaThread& thread) {
#pragma unroll(kIsFloat<T> ? 1 : 2)
  for (int step = 0; step < kUnits / 2; ++step) {
    if (step >= steps) break;
    RowFragments<T> a;
    load_fragments(a, rows, row, step, thread);
    a.split(corrected);
#pragma unroll
    for (int n = 0; n < kTiles; n += 2) {
      const int own = col + n * 8 + thread.lane / 16 * 8 + thread.lane % 8;
      uint32_t words[4];
      load_matrices(words, unit_at(cols, own, place(own, step * 2 + thread.lane / 8 % 2)));
      const uint32_t b0[2] = {words[0], words[1]}, b1[2] = {words[2], words[3]};
      a.multiply(q[0][n], q[1][n], b0, corrected);
      a.multiply(q[0][n + 1], q[1][n + 1], b1, corrected);
    }
  }
}

// The same of a whole chunk, where many follow one another. Tensor cores truncate when they add, so long sums are made
// of sums of a chunk each.
template <typename T, int kTiles, int kRowTile, int kColTile>
__device__ __forceinline__ void add_chunk_scores(float (&q)[2][kTiles][4], ChunkTile<kRowTile>& rows, int row,
                                                 ChunkTile<kColTile>& cols, int col, bool corrected,
                                                 const MmaThread& thread) {
  if constexpr (kIsFloat<T>) {  // as short as can be already
    add_scores<T>(q, rows, row, cols, col, kUnits / 2, corrected, thread);
  } else {
    float part[2][kTiles][4];
    clear_sums(part);
    add_scores<T>(part, rows, row, cols, col, kUnits / 2, corrected, thread);
    add_sums(q, part);
  }
}

// ---- weights of pairs as the left factor of a second product: 64 rows and columns in the element type

constexpr int kWeightRows = 64, kWeightCols = 64;
template <typename T>
using WeightTile = ChunkTile<kWeightRows*(kIsFloat<T> ? 2 : 1)>;

// Weights of columns 8 n + 2t and 8 n + 2t + 1. As float, those of eight columns stand in the order 0 2 4 6 1 3 5 7:
// the rows of the right factor that a product then takes together are every other one, which lie in different banks.
template <typename T>
__device__ __forceinline__ void store_weights(WeightTile<T>& tile, int row, int n, int t, float first, float second) {
  if constexpr (kIsFloat<T>) {
    const int tile_row = n / 4 * kWeightRows + row, unit = n % 4 * 2;
    tile(tile_row, place(row, unit)).words[t] = __float_as_uint(first);
    tile(tile_row, place(row, unit + 1)).words[t] = __float_as_uint(second);
  } else {
    tile(row, place(row, n)).words[t] = pack(T{}, first, second);
  }
}

// out[m][n] += the weights of 32 rows times columns 8 (first + n).. of `values`, which holds 64 points by chunks: chunk
// c of point k is its row value_row + 64 c + k.
template <typename T, int kTiles, int kValueTile>
__device__ __forceinline__ void add_weighted(float (&out)[2][kTiles][4], WeightTile<T>& weights, int row,
                                             ChunkTile<kValueTile>& values, int value_row, int first, bool corrected,
                                             const MmaThread& thread) {
  constexpr int kDepth = 32 / sizeof(T);
#pragma unroll 1
  for (int step = 0; step < kWeightCols / kDepth; ++step) {
    RowFragments<T> a;
    load_fragments(a, weights, row + step / 4 * kWeightRows, step % 4, thread);
    a.split(corrected);
#pragma unroll
    for (int n = 0; n < kTiles; n += 2) {
      if constexpr (kIsFloat<T>) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int column = (first + n + half) * 8 + thread.g;
          const int from = value_row + column / 32 * kWeightCols + step * kDepth + 2 * thread.t;
          const int unit = column / 4 % kUnits;
          const uint32_t b[2] = {values(from, place(from, unit)).words[column % 4],
                                 values(from + 1, place(from + 1, unit)).words[column % 4]};
          a.multiply(out[0][n + half], out[1][n + half], b, corrected);
        }
      } else {
        const int unit = first + n;  // as wide as eight columns
        const int from = value_row + unit / kUnits * kWeightCols + step * kDepth + thread.lane % 16;
        uint32_t words[4];
        load_matrices_transposed(words, unit_at(values, from, place(from, unit % kUnits + thread.lane / 16)));
        const uint32_t b0[2] = {words[0], words[1]}, b1[2] = {words[2], words[3]};
        a.multiply(out[0][n], out[1][n], b0, corrected);
        a.multiply(out[0][n + 1], out[1][n + 1], b1, corrected);
      }
    }
  }
}

}  // namespace mi::cuda
