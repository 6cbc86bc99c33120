// Scratch arrays and index ranges of the CPU kernels. No standard-library templates: see simd.h.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

#include "common/cpu/simd.h"

namespace mi {
namespace MI_SIMD_LEVEL {

MI_INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
MI_INLINE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
MI_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T>
constexpr T infinity() {
  return static_cast<T>(__builtin_inf());
}

// sum_k a_k b_k in double.
template <class T>
MI_INLINE double dot(const T* a, const T* b, int64_t d) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t k = 0; k < d; ++k) sum += static_cast<double>(a[k]) * static_cast<double>(b[k]);
  return sum;
}

// Uninitialised array, aligned for the widest vectors.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size) {
    if (size > 0 && posix_memalign(reinterpret_cast<void**>(&data_), 64, static_cast<size_t>(size) * sizeof(T)) != 0) {
      throw std::bad_alloc();
    }
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { free(data_); }
  T* get() { return data_; }
  const T* get() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }

  Buffer& fill(int64_t size, T value) {
    for (int64_t i = 0; i < size; ++i) data_[i] = value;
    return *this;
  }

 private:
  T* data_ = nullptr;
};

// Uninitialised scratch of the calling thread for one tile. Up to kKept bytes of it stay with the thread for its next
// tile and its next call: fresh pages from the system for every call cost as much as the arithmetic of a small problem.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t size) : own_(fits(size) ? 0 : size), data_(fits(size) ? kept(size) : own_.get()) {}
  T* get() const { return data_; }

 private:
  static constexpr int64_t kKept = 4 << 20;

  static bool fits(int64_t size) { return size * static_cast<int64_t>(sizeof(T)) <= kKept; }

  static T* kept(int64_t size) {
    struct Memory {
      void* data = nullptr;
      int64_t bytes = 0;
      ~Memory() { free(data); }
    };
    static thread_local Memory memory;
    const int64_t bytes = size * static_cast<int64_t>(sizeof(T));
    if (memory.bytes < bytes) {
      free(memory.data);
      memory.data = nullptr;
      memory.bytes = 0;
      if (posix_memalign(&memory.data, 64, static_cast<size_t>(bytes)) != 0) throw std::bad_alloc();
      memory.bytes = bytes;
    }
    return static_cast<T*>(memory.data);
  }

  Buffer<T> own_;
  T* data_;
};

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

constexpr int64_t kAlign = 32;  // parts begin at multiples of this: whole vectors, whole AMX tiles

MI_INLINE int64_t aligned(int64_t size) { return (size + kAlign - 1) / kAlign * kAlign; }

// Part `index` of `chunks` parts of nearly equal size; none is empty as long as chunks <= size / kAlign, rounded up.
MI_INLINE Range chunk(int64_t size, int64_t chunks, int64_t index) {
  const int64_t units = ceil_div(size, kAlign);
  return {min_of(size, units * index / chunks * kAlign), min_of(size, units * (index + 1) / chunks * kAlign)};
}

}  // namespace MI_SIMD_LEVEL
}  // namespace mi
