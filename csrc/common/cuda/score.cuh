// The scores of a pair of points, one coordinate at a time, and their gradients.
//
//   step           adds what one coordinate contributes to score(a, b)
//   gradient_step  adds weight * (d score / d own) / kGradientFactor, for one coordinate
//   kNeedsOwn      whether that gradient depends on `own`
#pragma once

#include "common/cuda/numeric.cuh"

namespace mi::cuda {

struct Dot {
  static constexpr int kGradientFactor = 1;
  static constexpr bool kNeedsOwn = false;

  template <typename A>
  static __device__ __forceinline__ A step(A a, A b, A sum) {
    return fma(a, b, sum);
  }
  template <typename A>
  static __device__ __forceinline__ A gradient_step(A weight, A other, A /*own*/, A sum) {
    return fma(weight, other, sum);
  }
};

// -|a - b|^2, summed from differences: the expansion |a|^2 - 2 a.b + |b|^2 would cancel for near points, and leave
// noise where the distance is 0.
struct SqEuclidean {
  static constexpr int kGradientFactor = 2;
  static constexpr bool kNeedsOwn = true;

  template <typename A>
  static __device__ __forceinline__ A step(A a, A b, A sum) {
    const A diff = a - b;
    return fma(-diff, diff, sum);
  }
  template <typename A>
  static __device__ __forceinline__ A gradient_step(A weight, A other, A own, A sum) {
    return fma(weight, other - own, sum);
  }
};

}  // namespace mi::cuda
