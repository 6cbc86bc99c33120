// Sinkhorn-Knopp on a matrix of scores: the argument structs shared by the CPU and the CUDA kernels.
//
// With s_ij the score of sample i for prototype j, x_ij = (s_ij - shift_j) / epsilon + log_weight_j, and samples whose
// mask is 0 left out of everything:
//   columns   shift_j = max_i s_ij,  total_j = sum_i exp((s_ij - shift_j) / epsilon)
//   sweep     total_j = sum_i exp(x_ij - log sum_k exp x_ik)
//   codes     codes_ij = exp(x_ij - log sum_k exp x_ik), or 1 at the first largest x_ij and 0 elsewhere when hard;
//             0 for the samples left out; bad_rows counts samples whose sum is not a positive finite number
// One iteration scales columns, then rows; these are its two halves, cut where several ranks add up their totals.
//
// Element type T: double, float, __nv_bfloat16, __half. Accumulation type A: double for double, else float. Totals and
// log_weight are double, so that sums over many samples or ranks lose nothing. A column without a finite score has the
// shift -inf in the output of columns, and total 0; a NaN score makes its column's total NaN.
// All buffers are contiguous, on one device. This header knows no torch and no CUDA.
#pragma once

#include "common/dtype.h"

namespace mi {

struct SampleScores {
  const void* scores = nullptr;   // T [rows, cols]
  const uint8_t* mask = nullptr;  // [rows] or null: every sample counts
  int64_t rows = 0, cols = 0;
  double epsilon = 1;
};

struct SinkhornColumns {
  SampleScores samples;
  void* shift = nullptr;    // A [cols]
  double* total = nullptr;  // [cols]
};

struct SinkhornSweep {
  SampleScores samples;
  const void* shift = nullptr;         // A [cols], finite
  const double* log_weight = nullptr;  // [cols], finite or -inf
  double* total = nullptr;             // [cols]
};

struct SinkhornCodes {
  SampleScores samples;
  const void* shift = nullptr;         // A [cols], finite
  const double* log_weight = nullptr;  // [cols], finite or -inf
  bool hard = false;
  void* codes = nullptr;        // A [rows, cols]
  int64_t* bad_rows = nullptr;  // [1]
};

}  // namespace mi
