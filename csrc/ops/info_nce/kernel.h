// InfoNCE and NT-Xent of a batch of pairs, with gradients: the argument struct of the CPU and CUDA kernels.
//
//   s_ij = scale p_i.q_j        p, q: the points, scaled to unit length when normalize is set
//   n_i  = log sum_j exp(s_ij)  over the negatives of anchor i
//   l_i  = log(1 + exp(n_i - s_ii)), or n_i - s_ii when decoupled
//   loss = factor sum_i weights_i l_i, over the anchors of x, and those of y when symmetric or both is set
//
// Negatives of x_i: every y_j with j != i; with both, every point of x and y but x_i and y_i. Points of the anchor's
// own group are no negatives. The gradients are those of loss.
//
// Element type T: double, float, or (CUDA only) __nv_bfloat16, __half. Accumulation type A: double for double, else
// float. x, y, dx, dy hold T; scale, weights, loss, dscale hold A. Contiguous, on one device. This header knows no
// torch.
#pragma once

#include <cstdint>

namespace mi {

struct InfoNce {
  const void* x = nullptr;          // [n, d]
  const void* y = nullptr;          // [n, d]
  const void* scale = nullptr;      // [1]; CUDA: or null, for scale_value
  const void* weights = nullptr;    // [n] or null: all one
  const int64_t* groups = nullptr;  // [n] or null
  int64_t n = 0, d = 0;
  bool both = false, symmetric = false, normalize = false, decoupled = false;
  bool allow_tf32 = false;  // CUDA: as in PairwiseScores
  double factor = 1, scale_value = 1;
  void* loss = nullptr;    // [1]
  void* dx = nullptr;      // [n, d] or null: not wanted, and costs nothing
  void* dy = nullptr;      // [n, d] or null
  void* dscale = nullptr;  // [1] or null
};

}  // namespace mi
