// Many Sinkhorn problems of one size: the argument structs shared by the CPU and the CUDA kernels.
//
// For each problem, with z = scores / epsilon and the potentials phi of rows and psi of columns (0 at first), n_iter
// times, in this order or, unless rows_first, in the other:
//   phi_i = log_a_i - log sum_j exp(z_ij + psi_j)        psi_j = log_b_j - log sum_i exp(z_ij + phi_i)
//   plan_ij = exp(z_ij + phi_i + psi_j)
// A row or column of weight -inf is no part of its problem: its scores are not looked at, its plan is 0, its potential
// -inf, and so is all of one without a finite score. The backward is the exact derivative of these n_iter iterations.
//
// Element type T: double, float, __nv_bfloat16, __half. Accumulation type A: double for double, else float. scores
// holds T, all else A. All buffers are contiguous, on one device. This header knows no torch and no CUDA.
#pragma once

#include "common/dtype.h"

namespace mi {

struct SinkhornProblems {
  const void* scores = nullptr;  // [batch, n, m]
  const void* log_a = nullptr;   // [batch, n] or null: 0
  const void* log_b = nullptr;   // [batch, m], null exactly when log_a is: log(n / m)
  int64_t batch = 0, n = 0, m = 0, n_iter = 1;
  double epsilon = 1;
  bool rows_first = true;
};

struct SinkhornBatchForward {
  SinkhornProblems problems;
  void* plan = nullptr;  // [batch, n, m]
  void* phi = nullptr;   // [batch, n] or null: potentials not wanted
  void* psi = nullptr;   // [batch, m], null exactly when phi is
};

struct SinkhornBatchBackward {
  SinkhornProblems problems;
  const void* grad_plan = nullptr;  // [batch, n, m]
  const void* grad_phi = nullptr;   // [batch, n] or null: no gradient flows through the potentials
  const void* grad_psi = nullptr;   // [batch, m], null exactly when grad_phi is
  void* dscores = nullptr;          // [batch, n, m]
  void* dlog_a = nullptr;           // [batch, n] or null: not wanted
  void* dlog_b = nullptr;           // [batch, m], null exactly when dlog_a is
};

}  // namespace mi
