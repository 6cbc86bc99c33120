// One alternating Sinkhorn iteration on CUDA. kernel.h states the contract.
//
// Two sweeps of pairwise_lse, rows and then columns, with the step of the potentials between them: four launches in a
// row that depend on shapes alone, so nothing waits for the host and a graph can hold them. Points of weight 0 have the
// bias -inf. Tiling, memory and numerics are those of ops/pairwise_lse/cuda.cu.
//
// One sweep, as on the CPU, would have to keep the exponentials of whole rows until their sums are known: a block of
// 128 rows takes 2 MiB at 4,096 columns, nine times the shared memory of an SM.
#include "ops/sinkhorn_iteration/cuda.h"

#include <algorithm>
#include <iterator>

#include "common/cuda/launch.cuh"
#include "ops/pairwise_lse/cuda.h"
#include "ops/pairwise_lse/cuda_host.cuh"

namespace mi {
namespace {

using namespace mi::cuda;

template <typename A>
__device__ __forceinline__ A weighted(A weight, A potential) {
  return weight > A(0) ? log(weight) + potential : -infinity<A>();
}

template <typename A>
__global__ void __launch_bounds__(kThreads) bias_kernel(const A* weights, const A* potential, int64_t n, A* bias) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) bias[i] = weighted(weights[i], potential[i]);
}

template <typename A>
struct Step {
  const A* weights;
  const A* phi;
  const A* row_lse;
  const A* damping;
  A relaxation;
  int64_t n;
  A* new_phi;
  A* bias;
};

template <typename A>
__global__ void __launch_bounds__(kThreads) step_kernel(Step<A> p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.n) return;
  const A kept = p.relaxation == A(1) ? A(0) : (A(1) - p.relaxation) * p.phi[i];  // a potential may be infinite
  const A phi = kept - p.relaxation * *p.damping * p.row_lse[i];
  p.new_phi[i] = phi;
  p.bias[i] = weighted(p.weights[i], phi);
}

// The bias of one side at a time, and the workspace of the sweep that runs.
struct Memory {
  void* bias;
  char* sweep;
  size_t used;

  Memory(DType dtype, const SinkhornIteration& args, void* base) {
    Workspace workspace(base);
    bias = workspace.take<double>(std::max(args.pairs.n, args.pairs.m));
    const size_t bytes = std::max(pairwise_lse_workspace_bytes(dtype, rows(args, nullptr)),
                                  pairwise_lse_workspace_bytes(dtype, columns(args, nullptr)));
    sweep = workspace.take<char>(static_cast<int64_t>(bytes));
    used = workspace.used();
  }

  static PairwiseLseForward rows(const SinkhornIteration& args, const void* bias) {
    PairwiseLseForward forward;
    forward.pairs = args.pairs;
    forward.pairs.bias = bias;
    forward.row_lse = args.row_lse;
    return forward;
  }

  static PairwiseLseForward columns(const SinkhornIteration& args, const void* bias) {
    PairwiseLseForward forward;
    forward.pairs = args.pairs.exchanged(bias);
    forward.row_lse = args.col_lse;
    return forward;
  }
};

template <typename A>
cudaError_t iterate(DType dtype, const SinkhornIteration& args, const Memory& memory, cudaStream_t stream) {
  const auto* phi = static_cast<const A*>(args.phi);
  A* bias = static_cast<A*>(memory.bias);
  cudaError_t error = launch(bias_kernel<A>, dim3(blocks_for(args.pairs.m)), dim3(kThreads), 0, stream,
                             static_cast<const A*>(args.b), static_cast<const A*>(args.psi), args.pairs.m, bias);
  if (error == cudaSuccess) error = pairwise_lse_forward(dtype, Memory::rows(args, bias), memory.sweep, stream);
  if (error != cudaSuccess) return error;
  const Step<A> step{static_cast<const A*>(args.a),       phi,
                     static_cast<const A*>(args.row_lse), static_cast<const A*>(args.damping),
                     static_cast<A>(args.relaxation),     args.pairs.n,
                     static_cast<A*>(args.new_phi),       bias};
  error = launch(step_kernel<A>, dim3(blocks_for(args.pairs.n)), dim3(kThreads), 0, stream, step);
  return error != cudaSuccess ? error : pairwise_lse_forward(dtype, Memory::columns(args, bias), memory.sweep, stream);
}

}  // namespace

size_t sinkhorn_iteration_workspace_bytes(DType dtype, const SinkhornIteration& args) {
  return Memory(dtype, args, nullptr).used;
}

cudaError_t sinkhorn_iteration(DType dtype, const SinkhornIteration& args, void* workspace, cudaStream_t stream) {
  const bool known = args.pairs.score == Score::dot || args.pairs.score == Score::sqeuclidean;
  const void* given[] = {args.a, args.b, args.phi, args.psi, args.damping, args.row_lse, args.new_phi, args.col_lse};
  if (!valid(args.pairs) || !known || args.pairs.self() || workspace == nullptr ||
      std::find(std::begin(given), std::end(given), nullptr) != std::end(given))
    return cudaErrorInvalidValue;
  const Memory memory(dtype, args, workspace);
  return dtype == DType::f64 ? iterate<double>(dtype, args, memory, stream)
                             : iterate<float>(dtype, args, memory, stream);
}

}  // namespace mi
