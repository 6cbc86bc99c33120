// The tensor-core kernels of pairwise log-sum-exp for float.
#include "ops/pairwise_lse/cuda_tensor.cuh"

template struct mi::tensor::Kernels<float>;
