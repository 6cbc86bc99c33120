// The part of the CUDA runtime that host code of the kernels uses, on the CPU. Streams are in order and already done.
#pragma once

#include <cstddef>

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorLaunchFailure = 719 };

struct CUstream_st;
using cudaStream_t = CUstream_st*;
