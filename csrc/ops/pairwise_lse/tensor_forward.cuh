// The forward kernels of pairwise log-sum-exp of dot products on tensor cores; cuda_tensor.cuh says how they work
// together.
#pragma once

#include "common/cuda/mma_tile.cuh"
#include "common/cuda/online_lse.cuh"
#include "ops/pairwise_lse/tensor_operands.cuh"

namespace mi::cuda {

struct TensorLsePass {
  MmaPoints x, y;
  const float* scale;
  const float* bias;      // or null
  const float* row_bias;  // or null; for the columns' states
  Groups row_groups, col_groups;
  const PairBounds* bounds;
  bool exclude_diagonal;
  bool allow_tf32;
  bool triangle;               // y is x: tiles above the diagonal serve both of their sides
  LseState<float>* row_parts;  // [splits * kColWarps, n]
  LseState<float>* col_parts;  // [strips, m], or null
};

constexpr int kLseRows = 128, kLseCols = 64;
constexpr int kLseTiles = kLseRows / kLseCols;  // column tiles as wide as a row tile

// Shared memory: the row tile, or a ring of its chunks, and a ring of chunks of column tiles.
template <typename T, int kChunks>
struct LseShared {
  static constexpr int kStages = kChunks > 0 ? 4 : 3;
  static constexpr int kRowChunks = kChunks > 0 ? kChunks : kStages;
  static constexpr int kCols = kChunkBytes * kLseRows * kRowChunks;
  static constexpr int kBytes = kCols + kChunkBytes * kLseCols * kStages;
  using Rows = ChunkTile<kLseRows * kRowChunks>;
  using Cols = ChunkTile<kLseCols * kStages>;
};

// Good to a few units in the last place.
__device__ __forceinline__ float exp_fast(float v) { return exp2_fast(v * kLog2E); }
struct FastExp {
  static __device__ __forceinline__ float of(float v) { return exp_fast(v); }
};

// What combines sums of the columns: numbers without a shift, or states.
__device__ __forceinline__ float combine(float a, float b) { return a + b; }
__device__ __forceinline__ LseState<float> combine(const LseState<float>& a, const LseState<float>& b) {
  return lse_merge<FastExp>(a, b);
}
// One of two, by value: a reference to either would have both in memory.
__device__ __forceinline__ float choose(bool first, float a, float b) { return first ? a : b; }
__device__ __forceinline__ LseState<float> choose(bool first, const LseState<float>& a, const LseState<float>& b) {
  return {first ? a.max : b.max, first ? a.sum : b.sum};
}
__device__ __forceinline__ float shuffle_xor(float v, int lanes) { return __shfl_xor_sync(kFullWarp, v, lanes); }
__device__ __forceinline__ LseState<float> shuffle_xor(const LseState<float>& v, int lanes) {
  return {__shfl_xor_sync(kFullWarp, v.max, lanes), __shfl_xor_sync(kFullWarp, v.sum, lanes)};
}

// Combines of_column(0..7) of the eight lanes of one t, index by index; the lane with g = 0..7 gets that of index g. In
// each of three rounds half of what a lane still holds goes to the lane that differs in one bit, and as much comes
// back.
template <typename V, typename F>
__device__ __forceinline__ V reduce_columns(int lane, const F& of_column) {
  const bool third = (lane & 16) != 0, second = (lane & 8) != 0, first = (lane & 4) != 0;
  V values[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const V low = of_column(i), high = of_column(i + 4);
    values[i] = combine(choose(third, high, low), shuffle_xor(choose(third, low, high), 16));
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const V low = values[i], high = values[i + 2];
    values[i] = combine(choose(second, high, low), shuffle_xor(choose(second, low, high), 8));
  }
  return combine(choose(first, values[1], values[0]), shuffle_xor(choose(first, values[0], values[1]), 4));
}

// The column tiles of a block, split, split + splits, ..: of row tile `row_tile` in a triangle those that begin where
// it does, or after.
__device__ __forceinline__ int first_col_tile(bool triangle, int row_tile) {
  const int split = static_cast<int>(blockIdx.y), splits = static_cast<int>(gridDim.y);
  const int from = triangle ? row_tile * kLseTiles : 0;
  return from > split ? split + (from - split + splits - 1) / splits * splits : split;
}

// Scores of a tile in place of its products, in units of log2 where they need no shift; -inf for what is left out.
template <typename T>
__device__ __forceinline__ void finish_scores(const TensorLsePass& p, float (&q)[2][4][4], int64_t row0, int64_t col0,
                                              const ScoreFactor<T>& factor, float unit, const MmaThread& thread) {
  const TileMask mask(row0, p.x.count, kLseRows, p.row_groups, col0, p.y.count, kLseCols, p.col_groups,
                      p.exclude_diagonal);
  const int first_row = thread.warp_row * kWarpRows + thread.g, first_col = thread.warp_col * 32 + 2 * thread.t;
  const float* const biases = p.bias == nullptr ? nullptr : p.bias + col0;
  const uint32_t left_out = mask.bits(first_row, first_col);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int col = first_col + i / 2 * 8 + i % 2;
    const float bias = biases != nullptr && col < mask.cols ? unit * biases[col] : 0.0f;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      float& score = q[r / 2][i / 2][r % 2 * 2 + i % 2];
      score = (left_out >> (4 * i + r) & 1) != 0 ? -infinity<float>() : factor(score, bias);
    }
  }
}

// Blocks on an SM. Before compute capability 9.0, the form without a resident row tile takes a few registers more than
// two blocks leave it.
template <typename T, int kChunks>
constexpr int kLseBlocks =
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
    kIsFloat<T> || kChunks == 0 ? 1 : 2;
#else
    kIsFloat<T> ? 1 : 2;
#endif

// Grid: (strips, splits). kChunks > 0: all coordinates of a row tile, at most kChunks chunks, stay in shared memory
// while the column tiles pass; 0: the chunks of both pass.
template <typename T, int kChunks>
__global__ void __launch_bounds__(kThreads, (kLseBlocks<T, kChunks>))
    tensor_lse_kernel(const __grid_constant__ TensorLsePass p) {
  using Shared = LseShared<T, kChunks>;
  constexpr bool kResident = kChunks > 0;
  constexpr int kStages = Shared::kStages;
  auto& rows = dynamic_shared<typename Shared::Rows>(0);
  auto& cols = dynamic_shared<typename Shared::Cols>(Shared::kCols);
  __shared__ SharedTile<LseState<float>, 4, kLseCols> col_states;

  const MmaThread thread;
  const PairBounds bounds = gather_bounds(p.bounds);
  const float scale = *p.scale;
  const bool shift_free = is_shift_free(bounds, scale), corrected = !p.allow_tf32 && is_finite(bounds);
  const float unit = shift_free ? kLog2E : 1.0f;
  const ScoreFactor<T> factor(scale, shift_free);
  const LseState<float> nothing = {shift_free ? 0.0f : -infinity<float>(), 0.0f};
  const int row_tiles = static_cast<int>(ceil_div(p.x.count, kLseRows));
  const int col_tiles = static_cast<int>(ceil_div(p.y.count, kLseCols));
  const int strip = static_cast<int>(blockIdx.x), splits = static_cast<int>(gridDim.y);
  const int chunks = p.x.chunks();
  const int column = static_cast<int>(threadIdx.x);
  LseState<float>* const col_parts = p.col_parts == nullptr ? nullptr : p.col_parts + strip * p.y.count;

  if (p.triangle) {  // column tiles that no row tile of this strip meets
    for (int tile = static_cast<int>(blockIdx.y); tile < strip * kLseTiles && tile < col_tiles; tile += splits) {
      const int64_t j = static_cast<int64_t>(tile) * kLseCols + column;
      if (column < kLseCols && j < p.y.count) col_parts[j] = nothing;
    }
  }

  for (int row_tile = strip; row_tile < row_tiles; row_tile += static_cast<int>(gridDim.x)) {
    const int64_t row0 = static_cast<int64_t>(row_tile) * kLseRows;
    LseState<float> row_states[4] = {nothing, nothing, nothing, nothing};
    const auto bias_of_row = [&](int r) {
      const int64_t i = row0 + thread.warp_row * kWarpRows + r * 8 + thread.g;
      return i < p.x.count ? p.row_bias[i] : 0.0f;
    };

    // Chunks of column tiles, in order, kStages - 1 of them ahead of the products.
    int next_tile = first_col_tile(p.triangle, row_tile), next_chunk = 0, stage = 0;
    const auto load_next = [&](int into) {
      if (next_tile < col_tiles) {
        if constexpr (!kResident) {
          load_chunk<kThreads, kLseRows>(rows, into * kLseRows, p.x, row0, next_chunk);
        }
        load_chunk<kThreads, kLseCols>(cols, into * kLseCols, p.y, static_cast<int64_t>(next_tile) * kLseCols,
                                       next_chunk);
        if (++next_chunk == chunks) {
          next_chunk = 0;
          next_tile += splits;
        }
      }
      copy_commit();
    };
    __syncthreads();  // the last products of the row tile before are done
    if constexpr (kResident) {
      if (next_tile < col_tiles) {
#pragma unroll 1
        for (int c = 0; c < chunks; ++c) load_chunk<kThreads, kLseRows>(rows, c * kLseRows, p.x, row0, c);
      }
    }
#pragma unroll 1
    for (int ahead = 0; ahead < kStages - 1; ++ahead) load_next(ahead);

    for (int col_tile = first_col_tile(p.triangle, row_tile); col_tile < col_tiles; col_tile += splits) {
      const int64_t col0 = static_cast<int64_t>(col_tile) * kLseCols;
      float q[2][4][4];
      clear_sums(q);
#pragma unroll 1
      for (int c = 0; c < chunks; ++c) {
        copy_wait<kStages - 2>();
        __syncthreads();
        load_next(stage == 0 ? kStages - 1 : stage - 1);  // to where the products before this barrier were taken from
        if constexpr (kResident) {
          add_scores<T>(q, rows, c * kLseRows + thread.warp_row * kWarpRows, cols,
                        stage * kLseCols + thread.warp_col * 32, p.x.steps(c), corrected, thread);
        } else {
          add_chunk_scores<T>(q, rows, stage * kLseRows + thread.warp_row * kWarpRows, cols,
                              stage * kLseCols + thread.warp_col * 32, corrected, thread);
        }
        stage = stage + 1 == kStages ? 0 : stage + 1;
      }
      finish_scores(p, q, row0, col0, factor, unit, thread);

      const bool wants_cols = col_parts != nullptr && !(p.triangle && row_tile == col_tile / kLseTiles);
      LseState<float> col_state = nothing;  // of the column that this lane keeps
      if (shift_free) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          float sum = 0.0f;
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            float& e = q[r / 2][i / 2][r % 2 * 2 + i % 2];
            e = exp2_fast(e);
            sum += e;
          }
          row_states[r].sum += sum;
        }
        if (wants_cols) {
          float factors[4];
#pragma unroll
          for (int r = 0; r < 4; ++r) factors[r] = p.row_bias == nullptr ? 1.0f : exp_fast(bias_of_row(r));
          col_state.sum = reduce_columns<float>(thread.lane, [&](int i) {
            float sum = 0.0f;
#pragma unroll
            for (int r = 0; r < 4; ++r) sum = fmaf(q[r / 2][i / 2][r % 2 * 2 + i % 2], factors[r], sum);
            return sum;
          });
        }
      } else {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          float s[8];
#pragma unroll
          for (int i = 0; i < 8; ++i) s[i] = q[r / 2][i / 2][r % 2 * 2 + i % 2];
          lse_push<FastExp>(row_states[r], s);
        }
        if (wants_cols) {
          float biases[4];
#pragma unroll
          for (int r = 0; r < 4; ++r) biases[r] = p.row_bias == nullptr ? 0.0f : bias_of_row(r);
          col_state = reduce_columns<LseState<float>>(thread.lane, [&](int i) {
            float s[4];
#pragma unroll
            for (int r = 0; r < 4; ++r) s[r] = q[r / 2][i / 2][r % 2 * 2 + i % 2] + biases[r];
            LseState<float> state = lse_empty<float>();
            lse_push<FastExp>(state, s);
            return state;
          });
        }
      }
      if (col_parts == nullptr) continue;
      col_states(thread.warp_row, thread.warp_col * 32 + thread.g / 2 * 8 + 2 * thread.t + thread.g % 2) = col_state;
      __syncthreads();
      const int64_t j = col0 + column;
      if (column < kLseCols && j < p.y.count) {
        LseState<float> state = row_tile == strip ? nothing : col_parts[j];
#pragma unroll
        for (int w = 0; w < 4; ++w) state = combine(state, col_states(w, column));
        col_parts[j] = state;
      }
    }

#pragma unroll
    for (int r = 0; r < 4; ++r) {
      LseState<float> state = combine(row_states[r], shuffle_xor(row_states[r], 1));
      state = combine(state, shuffle_xor(state, 2));
      const int64_t i = row0 + thread.warp_row * kWarpRows + r * 8 + thread.g;
      if (thread.t == 0 && i < p.x.count) {
        p.row_parts[(static_cast<int64_t>(blockIdx.y) * kColWarps + thread.warp_col) * p.x.count + i] = state;
      }
    }
  }
}

}  // namespace mi::cuda
