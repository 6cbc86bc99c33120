// First and last layer of a network over all pairs, on the CPU. Compiled once for each SIMD level.
//
// Maths: kernel.h. Each kernel is one visit of the pairs, with what autograd would do in three to five: sum, ReLU and
// rounding of the first layer; ReLU and product with the weights of the last, whose backward forms the gradient of the
// layer and both of its sums over pairs; mask and both sums of the first layer's backward.
//
// Memory: nothing beside the results but two rows of partial sums, which stay in the first-level cache with the row at
// hand. The caller gives as many pairs as its second-level cache holds.
//
// Numerics: sums over pairs are taken over kRows at a time and these added up, so that rounding grows with their number
// alone. Values are rounded to bfloat16, to nearest even, after the sums have taken them.
//
// Threads: none. The estimators of a staircase have a thread each.
#include "ops/pair_layers/cpu.h"

#include "common/cpu/arrays.h"
#include "common/cpu/half.h"

namespace mi {
namespace MI_SIMD_LEVEL {

constexpr int64_t kRows = 64;

template <class Stored>
struct SumType {
  using Type = Stored;
};
template <>
struct SumType<BFloat16> {
  using Type = float;
};

MI_INLINE void store(double value, double* to) { *to = value; }
MI_INLINE void store(float value, float* to) { *to = value; }
MI_INLINE void store(float value, BFloat16* to) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(float));
  const uint32_t nearest = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  to->bits = static_cast<uint16_t>(value == value ? nearest : 0x7fc0u);
}

template <class T>
MI_INLINE T relu(T value) {
  return value < T(0) ? T(0) : value;  // of NaN: NaN
}

template <class Stored>
void pair_relu_of(const PairRelu& args) {
  using T = typename SumType<Stored>::Type;
  const T* const a = static_cast<const T*>(args.a);
  const T* const b = static_cast<const T*>(args.b);
  Stored* out = static_cast<Stored*>(args.out);
  const int64_t h = args.h;
  for (int64_t i = 0; i < args.n; ++i) {
    const T* const row = a + i * h;
    for (int64_t j = 0; j < args.m; ++j, out += h) {
      const T* const col = b + j * h;
#pragma omp simd
      for (int64_t k = 0; k < h; ++k) store(relu(row[k] + col[k]), out + k);
    }
  }
}

template <class Stored>
void pair_relu_backward_of(const PairReluBackward& args) {
  using T = typename SumType<Stored>::Type;
  const Stored *grad = static_cast<const Stored*>(args.grad), *out = static_cast<const Stored*>(args.out);
  T *const da = static_cast<T*>(args.da), *const db = static_cast<T*>(args.db);
  const int64_t h = args.h;
  Buffer<T> partial(h);
  T* const part = partial.get();
  for (int64_t k = 0; k < args.n * h; ++k) da[k] = T(0);
  for (int64_t k = 0; k < args.m * h; ++k) db[k] = T(0);
  for (int64_t i = 0; i < args.n; ++i) {
    T* const row = da + i * h;
    for (int64_t start = 0; start < args.m; start += kRows) {
      const int64_t end = min_of(start + kRows, args.m);
      partial.fill(h, T(0));
      for (int64_t j = start; j < end; ++j, grad += h, out += h) {
        T* const col = db + j * h;
#pragma omp simd
        for (int64_t k = 0; k < h; ++k) {
          const T e = widen<T>(out[k]) <= T(0) ? T(0) : widen<T>(grad[k]);
          part[k] += e;
          col[k] += e;
        }
      }
      for (int64_t k = 0; k < h; ++k) row[k] += part[k];
    }
  }
}

template <class Stored>
void relu_dot_of(const ReluDot& args) {
  using T = typename SumType<Stored>::Type;
  const Stored* z = static_cast<const Stored*>(args.z);
  const T* const weight = static_cast<const T*>(args.weight);
  T* const out = static_cast<T*>(args.out);
  const int64_t h = args.h;
  for (int64_t p = 0; p < args.rows; ++p, z += h) {
    T sum = T(0);
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < h; ++k) sum += weight[k] * relu(widen<T>(z[k]));
    out[p] = sum;
  }
}

template <class Stored>
void relu_dot_backward_of(const ReluDotBackward& args) {
  using T = typename SumType<Stored>::Type;
  const T *const grad = static_cast<const T*>(args.grad), *const weight = static_cast<const T*>(args.weight);
  const Stored* z = static_cast<const Stored*>(args.z);
  Stored* dz = static_cast<Stored*>(args.dz);
  T *const dweight = static_cast<T*>(args.dweight), *const sums = static_cast<T*>(args.sums);
  const int64_t h = args.h;
  Buffer<T> partial(2 * h);
  T *const first = partial.get(), *const second = partial.get() + h;
  for (int64_t k = 0; k < h; ++k) dweight[k] = sums[k] = T(0);
  for (int64_t start = 0; start < args.rows; start += kRows) {
    const int64_t end = min_of(start + kRows, args.rows);
    partial.fill(2 * h, T(0));
    for (int64_t p = start; p < end; ++p, z += h, dz += h) {
      const T g = grad[p];
#pragma omp simd
      for (int64_t k = 0; k < h; ++k) {
        const T value = widen<T>(z[k]);
        const T passed = value <= T(0) ? T(0) : g;
        first[k] += passed * relu(value);
        second[k] += passed;
        store(passed * weight[k], dz + k);
      }
    }
    for (int64_t k = 0; k < h; ++k) {
      dweight[k] += first[k];
      sums[k] += second[k];
    }
  }
  for (int64_t k = 0; k < h; ++k) sums[k] *= weight[k];
}

#define MI_DISPATCH(kernel) \
  dtype == DType::f64 ? kernel<double>(args) : dtype == DType::f32 ? kernel<float>(args) : kernel<BFloat16>(args)

void pair_relu(DType dtype, const PairRelu& args) { MI_DISPATCH(pair_relu_of); }
void pair_relu_backward(DType dtype, const PairReluBackward& args) { MI_DISPATCH(pair_relu_backward_of); }
void relu_dot(DType dtype, const ReluDot& args) { MI_DISPATCH(relu_dot_of); }
void relu_dot_backward(DType dtype, const ReluDotBackward& args) { MI_DISPATCH(relu_dot_backward_of); }

#undef MI_DISPATCH

}  // namespace MI_SIMD_LEVEL
}  // namespace mi
