// Small kernels that prove the shim: some right, some wrong on purpose. Each function returns the launch's error.
#include "common/cuda/launch.cuh"
#include "common/cuda/numeric.cuh"
#include "common/cuda/reduce.cuh"
#include "common/cuda/shared.cuh"

namespace {

using mi::cuda::kFullWarp;
using mi::cuda::SharedTile;

constexpr int kBlock = 64;

// Right: out[block] = the sum of the block's 64 inputs.
__global__ void sum_kernel(const float* in, float* out) {
  __shared__ SharedTile<float, 1, kBlock / 32> scratch;
  const float sum = mi::cuda::block_sum<kBlock>(in[blockIdx.x * kBlock + threadIdx.x], scratch);
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

// Right: reverses 64 values through static or dynamic shared memory.
__global__ void reverse_kernel(const float* in, float* out, bool dynamic) {
  using Row = SharedTile<float, 1, kBlock>;
  __shared__ Row fixed;
  Row& row = dynamic ? mi::cuda::dynamic_shared<Row>(16) : fixed;
  const int i = static_cast<int>(threadIdx.x);
  row(0, i) = in[i];
  __syncthreads();
  out[i] = row(0, kBlock - 1 - i);
}

// Right: every warp shuffle and the atomics, each with an answer that is easy to say.
__global__ void warp_kernel(int* out) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int* mine = out + threadIdx.x * 4;
  mine[0] = __shfl_sync(kFullWarp, lane, 5);
  mine[1] = __shfl_down_sync(kFullWarp, lane, 3, 16);
  mine[2] = __shfl_xor_sync(kFullWarp, lane, 1);
  if (lane % 2 == 0) mine[3] = __shfl_xor_sync(0x55555555u, lane, 2);  // half of the warp, by mask
  __syncwarp();
  atomicAdd(out + kBlock * 4, 1);
  atomicMax(out + kBlock * 4 + 1, static_cast<int>(threadIdx.x));
}

__global__ void exit_before_barrier_kernel() {
  if (threadIdx.x == 7) return;
  __syncthreads();
}

__global__ void two_barriers_kernel() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void missing_lane_kernel(int* out) {
  if (threadIdx.x != 3) out[threadIdx.x] = __shfl_down_sync(kFullWarp, 1, 1);
}

__global__ void wrong_mask_kernel(int* out) { out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 0); }

__global__ void outside_mask_kernel(int* out) {
  if (threadIdx.x % 32 < 16) out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 20);
}

__global__ void column_out_of_bounds_kernel(float* out) {
  __shared__ SharedTile<float, 2, kBlock - 1, kBlock + 4> tile;  // the padding is no place to write to either
  tile(0, static_cast<int>(threadIdx.x)) = 1;
  *out = tile(0, 0);
}

__global__ void row_out_of_bounds_kernel(float* out) {
  __shared__ SharedTile<float, 2, kBlock> tile;
  *out = tile(-1, static_cast<int>(threadIdx.x));
}

__global__ void beyond_dynamic_kernel(float* out) {
  auto& tile = mi::cuda::dynamic_shared<SharedTile<float, 1, kBlock>>(16);
  *out = tile(0, 0);
}

// Reads what the block never wrote. The second block must not see what the first one left.
__global__ void uninitialised_kernel(float* out) {
  __shared__ SharedTile<float, 1, 2> tile;
  if (threadIdx.x == 0) {
    out[blockIdx.x] = tile(0, static_cast<int>(blockIdx.x));
    tile(0, 1) = 1;
  }
}

// Reads a neighbour's value with no barrier in between.
__global__ void race_kernel(float* out) {
  __shared__ SharedTile<float, 1, kBlock> tile;
  const int i = static_cast<int>(threadIdx.x);
  tile(0, i) = static_cast<float>(i);
  out[i] = tile(0, (i + kBlock - 1) % kBlock);
}

template <typename... Params, typename... Args>
int run(void (*kernel)(Params...), unsigned blocks, size_t shared_bytes, Args... args) {
  return mi::cuda::launch(kernel, dim3(blocks), dim3(kBlock), shared_bytes, nullptr, args...);
}

}  // namespace

extern "C" {

int sum(const float* in, float* out, int blocks) { return run(sum_kernel, static_cast<unsigned>(blocks), 0, in, out); }
int reverse(const float* in, float* out, int dynamic) {
  return run(reverse_kernel, 1, dynamic != 0 ? 16 + kBlock * sizeof(float) : 0, in, out, dynamic != 0);
}
int warp(int* out) { return run(warp_kernel, 1, 0, out); }
int exit_before_barrier(float*) { return run(exit_before_barrier_kernel, 1, 0); }
int two_barriers(float*) { return run(two_barriers_kernel, 1, 0); }
int missing_lane(int* out) { return run(missing_lane_kernel, 1, 0, out); }
int wrong_mask(int* out) { return run(wrong_mask_kernel, 1, 0, out); }
int outside_mask(int* out) { return run(outside_mask_kernel, 1, 0, out); }
int column_out_of_bounds(float* out) { return run(column_out_of_bounds_kernel, 1, 0, out); }
int row_out_of_bounds(float* out) { return run(row_out_of_bounds_kernel, 1, 0, out); }
int beyond_dynamic(float* out) { return run(beyond_dynamic_kernel, 1, 16 + kBlock * sizeof(float) - 4, out); }
int uninitialised(float* out) { return run(uninitialised_kernel, 2, 0, out); }
int race(float* out) { return run(race_kernel, 1, 0, out); }
int too_many_threads(float*) { return mi::cuda::launch(exit_before_barrier_kernel, dim3(1), dim3(2048), 0, nullptr); }

// Conversions of the half types, to be compared with another implementation.
void halves(const float* in, float* half_out, float* bfloat_out, int count) {
  for (int i = 0; i < count; ++i) {
    half_out[i] = __half2float(__float2half(in[i]));
    bfloat_out[i] = __bfloat162float(__float2bfloat16(in[i]));
  }
}

const char* last_error() { return simt::last_error().c_str(); }
void set_schedule(int reversed) { simt::set_schedule(reversed != 0); }

}  // extern "C"
