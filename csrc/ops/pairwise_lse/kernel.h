// Pairwise log-sum-exp: the argument structs and launch declarations shared by the CPU and the CUDA kernels.
//
//   s_ij      = phi(x_i, y_j) + bias_j                  phi = scale x.y, -scale |x - y|^2, or a profile (profiles.h)
//   row_lse_i = log sum_j exp(s_ij)                     col_lse_j = log sum_i exp(s_ij)
//   G_ij      = grad_row_i exp(s_ij - row_lse_i) + grad_col_j exp(s_ij - col_lse_j)
//   dx_i = sum_j G_ij ds_ij/dx_i    dy_j = sum_i G_ij ds_ij/dy_j
//   dscale = sum_ij G_ij ds_ij/dscale   dbias_j = sum_i G_ij
//
// Left out of every sum: pairs with i == j when exclude_diagonal is set, and pairs whose groups are equal when groups
// are given. A row or column with no finite score has the value -inf and gradient 0.
//
// Element type T: double, float, or (CUDA only) __nv_bfloat16, __half. Accumulation type A: double for double, else
// float. x, y, dx, dy hold T; every other buffer holds A. All buffers are contiguous, on one device.
// This header knows no torch and no CUDA.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/dtype.h"

namespace mi {

// In the order of kScoreNames in score_names.h. The powers of 1 - scale r^2 follow one another: profiles.h counts on
// it.
enum class Score : int32_t {
  dot = 0,
  sqeuclidean,
  euclidean,
  tophat,
  epanechnikov,
  biweight,
  triweight,
  triangular,
  cosine
};

// The pairs and their scores: what forward and backward share.
struct PairwiseScores {
  const void* x = nullptr;      // [n, d]
  const void* y = nullptr;      // [m, d]; null in self mode: the points of x are paired with themselves, and m is n
  const void* scale = nullptr;  // [1]
  const void* bias = nullptr;   // [m] or null
  const int64_t* row_groups = nullptr;  // [n] or null
  const int64_t* col_groups = nullptr;  // [m], null exactly when row_groups is; in self mode the same as row_groups
  int64_t n = 0, m = 0, d = 0;
  Score score = Score::dot;
  bool exclude_diagonal = false;
  bool allow_tf32 = false;  // on tensor cores, dot products of floats: one TF32 product is accurate enough

  bool self() const { return y == nullptr; }
  const void* columns() const { return self() ? x : y; }

  // The same pairs with the roles of rows and columns exchanged. Two sides, no groups.
  PairwiseScores exchanged(const void* row_bias) const {
    PairwiseScores pairs = *this;
    pairs.x = y;
    pairs.y = x;
    pairs.n = m;
    pairs.m = n;
    pairs.bias = row_bias;
    return pairs;
  }
};

struct PairwiseLseForward {
  PairwiseScores pairs;
  void* row_lse = nullptr;  // [n]
  void* col_lse = nullptr;  // [m], or null: columns not wanted
  // CUDA only: [n], added to the scores in col_lse alone, or null. The CPU's plan_marginals has other sums.
  const void* row_bias = nullptr;
};

// A null output is not wanted and costs nothing. In self mode dy is null and dx receives both roles.
struct PairwiseLseBackward {
  PairwiseScores pairs;
  const void* row_lse = nullptr;   // [n]
  const void* col_lse = nullptr;   // [m], or null when grad_col is
  const void* grad_row = nullptr;  // [n], or null: no gradient flows through the rows
  const void* grad_col = nullptr;  // [m], or null: none through the columns
  void* dx = nullptr;              // [n, d]
  void* dy = nullptr;              // [m, d]
  void* dscale = nullptr;          // [1]
  void* dbias = nullptr;           // [m]
};

}  // namespace mi
