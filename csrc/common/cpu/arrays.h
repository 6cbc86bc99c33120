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

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

MI_INLINE Range chunk(int64_t size, int64_t chunks, int64_t index) {
  const int64_t width = ceil_div(size, chunks);
  return {min_of(size, index * width), min_of(size, (index + 1) * width)};
}

}  // namespace MI_SIMD_LEVEL
}  // namespace mi
