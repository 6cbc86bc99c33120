// The scores of a pair of points, one coordinate at a time, and their gradients.
#pragma once

#include "common/cuda/numeric.cuh"
#include "ops/pairwise_lse/kernel.h"

namespace mi::cuda {

// Adds the part of score(a, b) that one coordinate contributes. The squared distance is summed from differences: the
// expansion |a|^2 - 2 a.b + |b|^2 would cancel for near points, and leave noise where the distance is 0.
template <Score kScore, typename A>
__device__ __forceinline__ A score_step(A a, A b, A sum) {
  if constexpr (kScore == Score::dot) {
    return fma(a, b, sum);
  } else {
    const A diff = a - b;
    return fma(-diff, diff, sum);
  }
}

// Adds weight * (d score / d own) / score_gradient_factor, for one coordinate.
template <Score kScore, typename A>
__device__ __forceinline__ A score_gradient_step(A weight, A other, A own, A sum) {
  if constexpr (kScore == Score::dot) {
    return fma(weight, other, sum);
  } else {
    return fma(weight, other - own, sum);
  }
}

template <Score kScore>
constexpr int score_gradient_factor() {
  return kScore == Score::dot ? 1 : 2;
}

}  // namespace mi::cuda
