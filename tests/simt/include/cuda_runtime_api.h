// The part of the CUDA runtime that host code of the kernels uses, on the CPU. Streams are in order and already done.
#pragma once

#include <cstddef>

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorLaunchFailure = 719 };

struct CUstream_st;
using cudaStream_t = CUstream_st*;

enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };

namespace simt {
// What the device says of its shared memory; tests set it to that of smaller devices.
inline int shared_limit = 227 * 1024;
inline int launches = 0;  // so far
}  // namespace simt

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = simt::shared_limit;
  return cudaSuccess;
}
