// The tensor-core kernels of pairwise log-sum-exp for __nv_bfloat16.
#include "ops/pairwise_lse/cuda_tensor.cuh"

template struct mi::tensor::Kernels<__nv_bfloat16>;
