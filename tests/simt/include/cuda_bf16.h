// bfloat16 as storage: the upper half of a float.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 b) {
  const uint32_t wide = static_cast<uint32_t>(b.bits) << 16;
  float f;
  memcpy(&f, &wide, sizeof(f));
  return f;
}

// Rounds to nearest, ties to even.
inline __nv_bfloat16 __float2bfloat16(float f) {
  if (std::isnan(f)) return {0x7fff};
  uint32_t wide;
  memcpy(&wide, &f, sizeof(f));
  return {static_cast<uint16_t>((wide + 0x7fff + (wide >> 16 & 1)) >> 16)};
}
