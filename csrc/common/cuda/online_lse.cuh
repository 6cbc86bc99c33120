// log-sum-exp as a running state that is cheap to extend and to merge.
//
// The state stands for sum * exp(shift(max)). The shift is the maximum itself where that is finite. Where it is
// infinite the shift is 0: an empty state (max = -inf, sum = 0) then never forms -inf - -inf, +inf stays +inf, and a
// NaN reaches the sum and stays there although max() drops it.
#pragma once

#include "common/cuda/numeric.cuh"

namespace mi::cuda {

template <typename A>
struct LseState {
  A max;
  A sum;
};

template <typename A>
__device__ __forceinline__ LseState<A> lse_empty() {
  return {-infinity<A>(), A(0)};
}

template <typename A>
__device__ __forceinline__ A lse_shift(A max) {
  return isinf(max) ? A(0) : max;
}

// The exponential of the sums. Another type with this function can take its place.
struct Exp {
  template <typename A>
  static __device__ __forceinline__ A of(A v) {
    return exp(v);
  }
};

// What the sum of a state with maximum `from` is worth under the maximum `to` >= `from`. Equal maxima are told apart
// first: two empty states would otherwise need exp(-inf - -inf).
template <typename E = Exp, typename A>
__device__ __forceinline__ A lse_rescale(A from, A to) {
  return from == to ? A(1) : E::of(from - lse_shift(to));
}

// Adds kCount terms; the maximum moves once for all of them.
template <typename E = Exp, int kCount, typename A>
__device__ __forceinline__ void lse_push(LseState<A>& state, const A (&s)[kCount]) {
  A max = state.max;
#pragma unroll
  for (int i = 0; i < kCount; ++i) max = fmax(max, s[i]);
  const A shift = lse_shift(max);
  A sum = A(0);
#pragma unroll
  for (int i = 0; i < kCount; ++i) sum += E::of(s[i] - shift);
  state.sum = fma(state.sum, lse_rescale<E>(state.max, max), sum);
  state.max = max;
}

template <typename E = Exp, typename A>
__device__ __forceinline__ LseState<A> lse_merge(const LseState<A>& a, const LseState<A>& b) {
  const A max = fmax(a.max, b.max);
  return {max, fma(a.sum, lse_rescale<E>(a.max, max), b.sum * lse_rescale<E>(b.max, max))};
}

template <typename A>
__device__ __forceinline__ A lse_value(const LseState<A>& state) {
  return lse_shift(state.max) + log(state.sum);
}

}  // namespace mi::cuda
