// What the launching code of the pairwise operators shares: workspace, dispatch by element type, checks.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "common/cuda/tile.cuh"
#include "ops/pairwise_lse/kernel.h"

namespace mi::cuda {

// Hands out consecutive 16-byte aligned pieces. On no memory at all it hands out null, and counts.
class Workspace {
 public:
  explicit Workspace(void* base) : base_(static_cast<char*>(base)) {}

  template <typename V>
  V* take(int64_t count) {
    char* piece = base_ != nullptr ? base_ + used_ : nullptr;
    used_ += static_cast<size_t>(ceil_div(count * static_cast<int64_t>(sizeof(V)), 16)) * 16;
    return reinterpret_cast<V*>(piece);
  }

  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

template <typename T>
struct TypeTag {
  using type = T;
};

// Calls f(TypeTag<T>) for the element type at hand.
template <typename F>
auto with_element_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::f64:
      return f(TypeTag<double>{});
    case DType::bf16:
      return f(TypeTag<__nv_bfloat16>{});
    case DType::f16:
      return f(TypeTag<__half>{});
    default:
      return f(TypeTag<float>{});
  }
}

inline bool valid(const PairwiseScores& pairs) {
  return pairs.x != nullptr && pairs.scale != nullptr && pairs.n >= 1 && pairs.m >= 1 && pairs.d >= 1 &&
         (!pairs.self() || pairs.m == pairs.n) && (pairs.row_groups == nullptr) == (pairs.col_groups == nullptr);
}

// How a forward pass is cut. The shapes alone decide, not the device: the same bits on every machine of a kind.
struct LseGrid {
  int64_t strips, splits;  // of the tiles of rows, of columns
};

inline LseGrid lse_grid(int64_t row_tiles, int64_t col_tiles, int64_t most_strips, int64_t most_splits) {
  // The shorter side leaves blocks over for the longer one.
  const int64_t few_strips = std::min(row_tiles, most_strips), few_splits = std::min(col_tiles, most_splits);
  const int64_t blocks = most_strips * most_splits;
  return {std::min(row_tiles, blocks / few_splits), std::min(col_tiles, blocks / few_strips)};
}

inline unsigned blocks_for(int64_t size) { return static_cast<unsigned>(ceil_div(size, kThreads)); }

}  // namespace mi::cuda
