// The instructions of common/cuda/tensor_core.cuh on the CPU.
//
// Products and fragment loads are operations of a whole warp: each lane says where its registers, or its row, are, and
// reads those of the others once all have arrived. A product is summed exactly and then truncated to float, as tensor
// cores do but for a few guard bits. An asynchronous copy takes place when its thread waits for it: a kernel that reads
// too early reads poison.
#pragma once

#include <cmath>
#include <vector>

namespace simt {

// To float, towards zero.
inline float truncated(double value) {
  const float nearest = static_cast<float>(value);
  return std::fabs(nearest) > std::fabs(value) && std::isfinite(value) ? std::nextafterf(nearest, 0.0f) : nearest;
}

inline int lane() { return engine.current % kWarp; }

struct Copy {
  void* to;
  const void* from;  // null: zeros
};
// By thread: the groups of copies that are under way, the last of them still open.
inline std::vector<std::vector<Copy>> copies[kMaxThreads];
inline uint64_t copies_of_block[kMaxThreads];

inline std::vector<std::vector<Copy>>& copies_of_thread() {
  const int thread = engine.current;
  if (copies_of_block[thread] != engine.block_serial) {
    copies[thread].assign(1, {});
    copies_of_block[thread] = engine.block_serial;
  }
  return copies[thread];
}

}  // namespace simt

namespace mi::cuda {

struct SharedUnit {
  Unit* unit;
};

template <typename Tile>
SharedUnit unit_at(Tile& tile, int row, int unit, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return {&tile(row, unit, file, line)};
}

inline uint32_t half_of(const Unit& row, int element) { return row.words[element / 2] >> (element % 2 * 16) & 0xffff; }

inline void load_matrices(uint32_t (&words)[4], SharedUnit row, const char* file = __builtin_FILE(),
                          int line = __builtin_LINE()) {
  const uint64_t* rows = simt::warp_gather("ldmatrix", reinterpret_cast<uint64_t>(row.unit), {file, line});
  const int g = simt::lane() / 4, t = simt::lane() % 4;
  for (int m = 0; m < 4; ++m) words[m] = reinterpret_cast<const Unit*>(rows[m * 8 + g])->words[t];
}

inline void load_matrices_transposed(uint32_t (&words)[4], SharedUnit row, const char* file = __builtin_FILE(),
                                     int line = __builtin_LINE()) {
  const uint64_t* rows = simt::warp_gather("ldmatrix.trans", reinterpret_cast<uint64_t>(row.unit), {file, line});
  const int g = simt::lane() / 4, t = simt::lane() % 4;
  for (int m = 0; m < 4; ++m) {
    const auto element = [&](int k) { return half_of(*reinterpret_cast<const Unit*>(rows[m * 8 + k]), g); };
    words[m] = element(2 * t) | element(2 * t + 1) << 16;
  }
}

// The elements of a word, widened.
inline void elements(__nv_bfloat16, uint32_t word, float* out) {
  out[0] = __bfloat162float({static_cast<uint16_t>(word & 0xffff)});
  out[1] = __bfloat162float({static_cast<uint16_t>(word >> 16)});
}
inline void elements(__half, uint32_t word, float* out) {
  out[0] = __half2float({static_cast<uint16_t>(word & 0xffff)});
  out[1] = __half2float({static_cast<uint16_t>(word >> 16)});
}
// A tensor core does not look at the low 13 bits.
inline void elements(float, uint32_t word, float* out) { out[0] = __uint_as_float(word & 0xffffe000u); }

struct Fragments {
  const uint32_t* a;
  const uint32_t* b;
};

template <typename T>
void mma(T type, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char* file = __builtin_FILE(),
         int line = __builtin_LINE()) {
  constexpr int kPerWord = 4 / sizeof(T), kDepth = 32 / sizeof(T);
  const Fragments own{a, b};
  const uint64_t* lanes = simt::warp_gather("mma", reinterpret_cast<uint64_t>(&own), {file, line});
  const int g = simt::lane() / 4, t = simt::lane() % 4;
  float rows[2][kDepth], cols[2][kDepth];
  for (int word = 0; word < 8; ++word) {
    const int half = word / 4;
    for (int i = 0; i < 2; ++i) {
      const auto& of_row = *reinterpret_cast<const Fragments*>(lanes[g * 4 + word % 4]);
      elements(type, of_row.a[half * 2 + i], rows[i] + word * kPerWord);
      const auto& of_col = *reinterpret_cast<const Fragments*>(lanes[(2 * t + i) * 4 + word % 4]);
      elements(type, of_col.b[half], cols[i] + word * kPerWord);
    }
  }
  for (int i = 0; i < 4; ++i) {
    double sum = c[i];
    for (int k = 0; k < kDepth; ++k) sum += static_cast<double>(rows[i / 2][k]) * cols[i % 2][k];
    c[i] = simt::truncated(sum);
  }
  // The others may still read this lane's registers.
  simt::warp_gather("mma", 0, {file, line});
}

inline uint32_t to_tf32(float v) {
  const uint32_t bits = __float_as_uint(v);
  return std::isfinite(v) ? (bits + 0x1000) & 0xffffe000u : bits;
}

inline uint32_t pack(__nv_bfloat16, float low, float high) {
  return __float2bfloat16(low).bits | static_cast<uint32_t>(__float2bfloat16(high).bits) << 16;
}
inline uint32_t pack(__half, float low, float high) {
  return __float2half(low).bits | static_cast<uint32_t>(__float2half(high).bits) << 16;
}

inline float exp2_fast(float v) {
  const float result = exp2f(v);
  return result < 1.17549435e-38f ? 0.0f : result;
}

inline void copy_async(SharedUnit to, const Unit* from, bool exists) {
  if (reinterpret_cast<uint64_t>(from) % 16 != 0) simt::fail("cp.async: the source is not aligned to 16 bytes");
  simt::copies_of_thread().back().push_back({to.unit, exists ? from : nullptr});
}

inline void copy_commit() { simt::copies_of_thread().emplace_back(); }

template <int kLeft>
void copy_wait() {
  auto& groups = simt::copies_of_thread();
  while (groups.size() > kLeft + 1) {
    for (const simt::Copy& copy : groups.front()) {
      if (copy.from != nullptr) {
        memcpy(copy.to, copy.from, sizeof(Unit));
      } else {
        memset(copy.to, 0, sizeof(Unit));
      }
    }
    groups.erase(groups.begin());
  }
}

}  // namespace mi::cuda
