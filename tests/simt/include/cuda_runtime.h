// CUDA C++ as plain C++: qualifiers, launches, and the device functions that the kernels use.
#pragma once

#include <math.h>

#include <cstring>
#include <tuple>

#include "cuda_runtime_api.h"
#include "simt/engine.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
// One block runs at a time, so its shared memory may be storage of the program.
#define __shared__ static

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

// Any kernel may have all that the device lets a block have.
template <typename... Params>
cudaError_t cudaFuncSetAttribute(void (*)(Params...), cudaFuncAttribute, int bytes) {
  return bytes >= 0 && bytes <= simt::shared_limit ? cudaSuccess : cudaErrorInvalidValue;
}

template <typename... Params, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), const Args&... args) {
  ++simt::launches;
  const std::tuple<Params...> params(args...);
  const bool ok =
      simt::run_grid(config->gridDim, config->blockDim, config->dynamicSmemBytes, [&] { std::apply(kernel, params); });
  return ok ? cudaSuccess : cudaErrorLaunchFailure;
}

// What CUDA has beside math.h. A template, as some math.h has it for double.
template <typename T>
T sinpi(T x) {
  return static_cast<T>(sin(3.14159265358979323846 * static_cast<double>(x)));
}

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simt::block_barrier({file, line});
}

inline void __syncwarp(unsigned mask = 0xffffffffu, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simt::warp_operation("__syncwarp", mask, simt::engine.current % simt::kWarp, 0, {file, line});
}

namespace simt {

template <typename T>
T shuffle(const char* op, unsigned mask, T value, int source_lane, Site site) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = warp_operation(op, mask, source_lane, bits, site);
  memcpy(&value, &bits, sizeof(T));
  return value;
}

// The lanes [start, start + width) that a shuffle of this width stays in.
inline int segment(int lane, int width) { return lane - lane % width; }

}  // namespace simt

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, const char* file = __builtin_FILE(),
              int line = __builtin_LINE()) {
  const int lane = simt::engine.current % simt::kWarp;
  return simt::shuffle("__shfl_sync", mask, value, simt::segment(lane, width) + source % width, {file, line});
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, const char* file = __builtin_FILE(),
                   int line = __builtin_LINE()) {
  const int lane = simt::engine.current % simt::kWarp, source = lane + static_cast<int>(delta);
  const bool inside = source < simt::segment(lane, width) + width;
  return simt::shuffle("__shfl_down_sync", mask, value, inside ? source : lane, {file, line});
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  const int lane = simt::engine.current % simt::kWarp, source = lane ^ lanes;
  const bool inside = source < simt::segment(lane, width) + width;
  return simt::shuffle("__shfl_xor_sync", mask, value, inside ? source : lane, {file, line});
}

// Fibers do not interrupt each other: a plain update is atomic.
template <typename T>
T atomicAdd(T* address, T value) {
  const T old = *address;
  *address = old + value;
  return old;
}

template <typename T>
T atomicMax(T* address, T value) {
  const T old = *address;
  if (value > old) *address = value;
  return old;
}

inline float __uint_as_float(unsigned bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}
