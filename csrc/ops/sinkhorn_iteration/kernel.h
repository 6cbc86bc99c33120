// One alternating iteration of Sinkhorn from points: the arguments of the kernels.
//
// With e_ij = exp(scale score(x_i, y_j)) and potentials phi, psi in units of epsilon,
//
//   row_lse_i = log sum_j b_j e_ij exp(psi_j)
//   new_phi_i = (1 - relaxation) phi_i - relaxation damping row_lse_i
//   col_lse_j = log sum_i a_i e_ij exp(new_phi_i)
//
// damping is 1 where the rows' marginal is held and rho / (epsilon + rho) where it is priced. Points of weight 0 are in
// no sum, but have sums of their own. Types as in ops/pairwise_lse/kernel.h; the pairs have no bias, no groups and two
// sides, and score is dot or sqeuclidean.
#pragma once

#include "ops/pairwise_lse/kernel.h"

namespace mi {

struct SinkhornIteration {
  PairwiseScores pairs;
  const void* a = nullptr;         // [n], >= 0
  const void* b = nullptr;         // [m], >= 0
  const void* phi = nullptr;       // [n]
  const void* psi = nullptr;       // [m]
  const void* damping = nullptr;   // [1]
  const void* products = nullptr;  // [n, m], x_i . y_j where they are known already, or null; a kernel need not look
  double relaxation = 1;
  void* row_lse = nullptr;  // [n]
  void* new_phi = nullptr;  // [n]
  void* col_lse = nullptr;  // [m]
};

}  // namespace mi
