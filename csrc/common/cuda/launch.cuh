// The one way kernels are launched.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace mi::cuda {

constexpr size_t kSharedWithoutAsking = 48 * 1024;

// Queues `kernel` on the stream and returns the launch's own error; the kernel itself runs later. A function rather
// than the <<<>>> syntax, so that the same source is plain C++ to a host compiler.
template <typename... Params, typename... Args>
cudaError_t launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                   const Args&... args) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  if (shared_bytes > kSharedWithoutAsking) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  return cudaLaunchKernelEx(&config, kernel, args...);
}

}  // namespace mi::cuda
