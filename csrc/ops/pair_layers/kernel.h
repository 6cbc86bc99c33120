// First and last layer of a network over all pairs: the argument structs of the CPU kernels.
//
//   pair_relu            out_(ij)k = max(a_ik + b_jk, 0)            i < n, j < m, k < h; pairs are rows i m + j
//   pair_relu_backward   e_(ij)k = grad_(ij)k where out > 0, else 0;   da_ik = sum_j e,   db_jk = sum_i e
//   relu_dot             out_p = sum_k w_k max(z_pk, 0)
//   relu_dot_backward    dz_pk = grad_p w_k where z > 0, else 0;    dw_k = sum_p grad_p max(z_pk, 0),   sums_k = sum_p
//   dz
//
// What is of the size of the pairs (out and grad of the first, z and dz of the last) is stored as float64, float32 or
// bfloat16, everything else in the type of the sums: float64 with the first, float32 with the others. Contiguous. NaN
// stays NaN forward; backward an entry that is NaN counts as positive, as in torch. This header knows no torch.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace mi {

struct PairRelu {
  const void* a = nullptr;  // [n, h]
  const void* b = nullptr;  // [m, h]
  int64_t n = 0, m = 0, h = 0;
  void* out = nullptr;  // [n m, h]
};

struct PairReluBackward {
  const void* grad = nullptr;  // [n m, h]
  const void* out = nullptr;   // [n m, h]
  int64_t n = 0, m = 0, h = 0;
  void* da = nullptr;  // [n, h]
  void* db = nullptr;  // [m, h]
};

struct ReluDot {
  const void* z = nullptr;       // [rows, h]
  const void* weight = nullptr;  // [h]
  int64_t rows = 0, h = 0;
  void* out = nullptr;  // [rows]
};

struct ReluDotBackward {
  const void* grad = nullptr;    // [rows]
  const void* z = nullptr;       // [rows, h]
  const void* weight = nullptr;  // [h]
  int64_t rows = 0, h = 0;
  void* dz = nullptr;       // [rows, h]
  void* dweight = nullptr;  // [h]
  void* sums = nullptr;     // [h]
};

}  // namespace mi
