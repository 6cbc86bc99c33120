// What the blocks of the pairwise kernels leave to be put together, in their order: states of log-sum-exps, and sums of
// gradients. Up to two results a launch.
#pragma once

#include <algorithm>

#include "common/cuda/launch.cuh"
#include "common/cuda/online_lse.cuh"
#include "ops/pairwise_lse/cuda_host.cuh"

namespace mi::cuda {

template <typename Job>
struct Jobs {
  Job of[2] = {};
  int count = 0;

  void add(const Job& job) { of[count++] = job; }
  int64_t largest() const { return std::max(of[0].size, of[1].size); }
  dim3 grid() const { return dim3(blocks_for(largest()), static_cast<unsigned>(count)); }
};

// out[i] = log-sum-exp of the states that each of the parts has of i.
template <typename A>
struct MergeJob {
  const LseState<A>* parts[2];  // [counts[k], size]; the second may be null, with count 0
  int64_t counts[2];
  int64_t size;
  A* out;
  A* copy;  // or null
};

// Grid: (points, jobs).
template <typename A>
__global__ void __launch_bounds__(kThreads) merge_states_kernel(const __grid_constant__ Jobs<MergeJob<A>> jobs) {
  const MergeJob<A>& job = jobs.of[blockIdx.y];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= job.size) return;
  LseState<A> state = job.parts[0][i];
  for (int64_t part = 1; part < job.counts[0]; ++part) state = lse_merge(state, job.parts[0][part * job.size + i]);
  for (int64_t part = 0; part < job.counts[1]; ++part) state = lse_merge(state, job.parts[1][part * job.size + i]);
  const A lse = lse_value(state);
  job.out[i] = lse;
  if (job.copy != nullptr) job.copy[i] = lse;
}

template <typename A>
cudaError_t merge_states(const Jobs<MergeJob<A>>& jobs, cudaStream_t stream) {
  return launch(merge_states_kernel<A>, jobs.grid(), dim3(kThreads), 0, stream, jobs);
}

// out[i] = factor * scale * sum_part parts[part][i]; a null scale counts as 1.
template <typename T>
struct SumJob {
  const Acc<T>* parts;  // [count, size]
  int64_t count, size;
  const Acc<T>* scale;
  int factor;
  T* out;
};

// Grid: (elements, jobs).
template <typename T>
__global__ void __launch_bounds__(kThreads) sum_parts_kernel(const __grid_constant__ Jobs<SumJob<T>> jobs) {
  const SumJob<T>& job = jobs.of[blockIdx.y];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= job.size) return;
  Acc<T> sum = job.parts[i];
  for (int64_t part = 1; part < job.count; ++part) sum += job.parts[part * job.size + i];
  job.out[i] = narrow<T>((job.scale != nullptr ? *job.scale * job.factor : Acc<T>(job.factor)) * sum);
}

template <typename T>
cudaError_t sum_parts(const Jobs<SumJob<T>>& jobs, cudaStream_t stream) {
  return jobs.count == 0 ? cudaSuccess : launch(sum_parts_kernel<T>, jobs.grid(), dim3(kThreads), 0, stream, jobs);
}

}  // namespace mi::cuda
