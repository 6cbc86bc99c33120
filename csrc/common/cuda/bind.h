// How the CUDA bindings start a kernel.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/device.h>

#include <cstddef>

#include "common/bind.h"

namespace mi::cuda {

// Queues the kernel on torch's stream of the device of `like`, with workspace from torch's allocator: it may be handed
// out again while the kernel still runs, because what uses it next is queued on the same stream.
template <class Args>
void launch(const char* operation, const Tensor& like, size_t workspace_bytes,
            cudaError_t (*kernel)(DType, const Args&, void*, cudaStream_t), DType dtype, const Args& args) {
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(like.get_device_index(), &stream));
  const Tensor workspace = torch::stable::new_empty(like, {static_cast<int64_t>(workspace_bytes)}, ScalarType::Byte);
  const cudaError_t error = kernel(dtype, args, workspace.mutable_data_ptr(), static_cast<cudaStream_t>(stream));
  STD_TORCH_CHECK(error == cudaSuccess, operation, ": ", cudaGetErrorString(error));
}

}  // namespace mi::cuda
