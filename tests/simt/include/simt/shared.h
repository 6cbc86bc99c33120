// Shared-memory tiles of the CPU build: the interface of common/cuda/shared.cuh, with every index checked.
#pragma once

#include <cstring>
#include <map>
#include <type_traits>

#include "simt/engine.h"

namespace mi::cuda {

template <typename T, int kRows, int kCols, int kPitch = kCols>
class SharedTile {
  static_assert(kPitch >= kCols && std::is_trivially_copyable_v<T>);

 public:
  // What the tile takes on a GPU.
  static constexpr size_t kBytes = sizeof(T) * kRows * kPitch;

  T& operator()(int row, int col, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (static_cast<unsigned>(row) >= static_cast<unsigned>(kRows) ||
        static_cast<unsigned>(col) >= static_cast<unsigned>(kCols)) {
      simt::fail(simt::text("shared memory out of bounds at %s: (%d, %d) of a %d x %d tile",
                            simt::describe({file, line}).c_str(), row, col, kRows, kCols));
    }
    if (block_ != simt::engine.block_serial) {
      // The first touch in this block: nothing in it may come from the block before. All ones is NaN to any float.
      memset(static_cast<void*>(data_), 0xff, sizeof(data_));
      block_ = simt::engine.block_serial;
    }
    return data_[row * kPitch + col];
  }
  const T& operator()(int row, int col, const char* file = __builtin_FILE(), int line = __builtin_LINE()) const {
    return const_cast<SharedTile&>(*this)(row, col, file, line);
  }

 private:
  T data_[kRows * kPitch];
  uint64_t block_;
};

// A tile `offset` bytes into the block's dynamic shared memory. Tiles that overlap do not share storage here: one that
// is read where only the other was written yields NaN.
template <typename Tile>
Tile& dynamic_shared(int offset) {
  static std::map<int, Tile> tiles;
  if (offset < 0 || offset % 16 != 0 || static_cast<size_t>(offset) + Tile::kBytes > simt::engine.dynamic_bytes) {
    simt::fail(simt::text("dynamic shared memory out of bounds: %zu bytes at %d of %zu", Tile::kBytes, offset,
                          simt::engine.dynamic_bytes));
  }
  return tiles[offset];
}

}  // namespace mi::cuda
