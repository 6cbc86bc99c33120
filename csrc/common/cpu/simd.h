// Vectorised exp for the CPU kernels, and the namespace that keeps one SIMD level's code apart from another's.
//
// Kernel sources are compiled once for each SIMD level with other compiler flags. Everything they define lives in
// mi::MI_SIMD_LEVEL and they use no standard-library templates, so the linker can never pick an AVX-512 copy of a
// shared inline function for a machine without AVX-512. Loops are plain C++ that the compiler vectorises; the helper
// below has to inline into them (a function with other target attributes would not, and costs a factor of ten).
#pragma once

#include <cstdint>
#include <cstring>

#ifndef MI_SIMD_LEVEL
#error "compile with -DMI_SIMD_LEVEL=baseline, avx2 or avx512"
#endif

#define MI_INLINE inline __attribute__((always_inline))

namespace mi {
namespace MI_SIMD_LEVEL {

template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  using Int = int32_t;
  static constexpr float log2e = 1.44269504088896341f;
  // ln 2 in two parts; the first has enough trailing zeros that n * ln2_hi is exact for every n that occurs.
  static constexpr float ln2_hi = 0.693359375f, ln2_lo = -2.12194440054690583e-4f;
  static constexpr float round_magic = 12582912.0f;  // 1.5 * 2^23: adding it leaves round(n) in the low bits
  static constexpr float lowest = -87.336544f, highest = 88.37626f;
  static constexpr int mantissa_bits = 23;
};

template <>
struct ExpConstants<double> {
  using Int = int64_t;
  static constexpr double log2e = 1.4426950408889634074;
  static constexpr double ln2_hi = 0.693147180369123816490, ln2_lo = 1.90821492927058770002e-10;
  static constexpr double round_magic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double lowest = -708.39641853226410622, highest = 709.0;
  static constexpr int mantissa_bits = 52;
};

MI_INLINE float exp_polynomial(float r) {  // Taylor to r^7: below 6e-9 relative for |r| <= ln(2)/2
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  return p * r + 1.0f;
}

MI_INLINE double exp_polynomial(double r) {  // Taylor to r^13: below 5e-18 relative
  double p = 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r + 1.0;
  return p * r + 1.0;
}

// exp(x): -inf and everything under the smallest normal number give 0, NaN stays NaN, large x saturates.
template <class T>
MI_INLINE T vexp(T x) {
  using C = ExpConstants<T>;
  using Int = typename C::Int;
  const T clamped = x > C::highest ? C::highest : x;
  const T shifted = clamped * C::log2e + C::round_magic;
  const T n = shifted - C::round_magic;
  const T r = (clamped - n * C::ln2_hi) - n * C::ln2_lo;
  const T p = exp_polynomial(r);
  Int bits, exponent;
  __builtin_memcpy(&bits, &p, sizeof(T));
  __builtin_memcpy(&exponent, &shifted, sizeof(T));
  bits = static_cast<Int>(static_cast<uint64_t>(bits) + (static_cast<uint64_t>(exponent) << C::mantissa_bits));
  T result;
  __builtin_memcpy(&result, &bits, sizeof(T));
  return x < C::lowest ? T(0) : (x == x ? result : x);
}

// exp(x) with less care than vexp: 0 where the result would be under the smallest normal number, saturation at the top,
// and a NaN that need not stay one: for callers that have ruled NaN out.
MI_INLINE float quick_exp(float x) {
  using C = ExpConstants<float>;
  const float clamped = x > C::highest ? C::highest : x;
  const float shifted = clamped * C::log2e + C::round_magic;
  const float n = shifted - C::round_magic;
  const float r = (clamped - n * C::ln2_hi) - n * C::ln2_lo;
  float p = 1.383684601e-03f;  // minimax on [-ln(2)/2, ln(2)/2]: 1.9e-9 relative
  p = p * r + 8.374815805e-03f;
  p = p * r + 4.166822557e-02f;
  p = p * r + 1.666642017e-01f;
  p = p * r + 4.999999208e-01f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  int32_t bits, exponent;
  __builtin_memcpy(&bits, &p, sizeof(float));
  __builtin_memcpy(&exponent, &shifted, sizeof(float));
  bits = static_cast<int32_t>(static_cast<uint32_t>(bits) + (static_cast<uint32_t>(exponent) << C::mantissa_bits));
  float result;
  __builtin_memcpy(&result, &bits, sizeof(float));
  return x < C::lowest ? 0.0f : result;
}

MI_INLINE double quick_exp(double x) { return vexp(x); }

}  // namespace MI_SIMD_LEVEL
}  // namespace mi
