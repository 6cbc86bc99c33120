// InfoNCE with its gradients on the CPU. Compiled once for each SIMD level (see common/cpu/simd.h).
//
// Maths: kernel.h. With S_i = sum over the negatives of exp(s_ij) and E_i = exp(s_ii), the loss of an anchor is
// log(1 + S_i / E_i), and with f_i = factor weights_i the gradient of the whole loss by a score is
//   d loss / d s_ij = exp(s_ij) u_i,  u_i = f_i / (S_i + E_i)     (decoupled: f_i / S_i)
//   d loss / d s_ii = -f_i S_i / (S_i + E_i)                      (decoupled: -f_i)
// so the exponentials of the forward pass are, up to a factor for each row and column, what the backward pass needs:
// one exponential a pair, e_ij = exp(s_ij), and the weight of a pair is e_ij (u_i + v_j).
//
// Regimes, and the products each needs (a product: 2 n^2 d operations):
//   held        scores of a whole problem fit in kHeldBytes: e is kept from the forward sweep (with bfloat16 products
//               in bfloat16); 3 products
//   strips      one direction, larger: strips of rows that fit are finished one by one, since a row's S_i needs only
//               its own strip; 3 products at any size
//   recompute   both directions, larger: every S must be known before the first weight is, so what does not fit in
//               kHeldBytes is formed again; 3 to 4 products
//   triangle    both sides as candidates (NT-Xent): z z^T is symmetric, so each unordered pair is visited once
//               (common/cpu/triangle_walk.h): half of the scores' product, and the two others at half each
//   shifted     scores too large for an exponential without a shift: pairwise_lse's two passes
//
// Numerics: exp(s) is taken under no shift, which saves the pass for the maximum and makes e serve rows and columns. It
// neither overflows nor loses a sum if |s| <= kSafe, which |scale| max|p| max|q| bounds; up to kTry it is tried, and
// the sums tell: all in [exp(-kSafe), exp(kHighest)] means that every term that matters was a normal number. Otherwise
// the problem goes the shifted way. Positives and everything of size n are double. The temperature's gradient is sum_i
// p_i.dp_i / scale: no pass over the pairs.
//
// Threads: the Latin walk, or the tournament of the triangle walk: one writer a row at any time, one barrier a step, a
// fixed order of summation, so results repeat bit for bit for a given number of threads.
//
// Tried and left out: see docs/performance.md.
#include "ops/info_nce/cpu.h"

#include "ops/info_nce/cpu_sweep.h"

namespace mi {
namespace MI_SIMD_LEVEL {

void info_nce(DType dtype, const InfoNce& args, const CpuRuntime& runtime) {
  dtype == DType::f64 ? Sweep<double, BlasProducts<double>>(args, runtime).run()
                      : Sweep<float, BlasProducts<float>>(args, runtime).run();
}

}  // namespace MI_SIMD_LEVEL
}  // namespace mi
