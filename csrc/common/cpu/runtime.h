// What a CPU kernel asks of its host: matrix products and threads. The binding fills this with torch's own, so that
// kernels use torch's BLAS and thread pool without knowing torch.
#pragma once

#include <cstdint>

namespace mi {

struct CpuRuntime {
  // c = alpha op(a) op(b) + beta c; row-major, op(a) is [m, k], op(b) is [k, n]. beta == 0 ignores what c holds.
  void (*gemm_f32)(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a,
                   int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc);
  void (*gemm_f64)(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, double alpha, const double* a,
                   int64_t lda, const double* b, int64_t ldb, double beta, double* c, int64_t ldc);
  // Calls body(context, task) once for each task in [0, tasks), in parallel, and returns when all are done.
  void (*parallel)(int64_t tasks, void (*body)(void*, int64_t), void* context);
  int64_t threads;
  // At least `bytes` of memory, zero pages or not, aligned for vectors; null when there is none to have. The host keeps
  // what it lends: fresh pages for every call would cost as much as the arithmetic they save.
  void* (*borrow)(int64_t bytes);
  void (*give_back)(void* memory);
};

}  // namespace mi
