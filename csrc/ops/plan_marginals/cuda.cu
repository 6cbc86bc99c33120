// Row and column log-sums of a transport plan on CUDA. kernel.h states the contract.
//
// The sweep is that of pairwise_lse, with rows and columns from one product a pair, and the potential of the rows in
// the columns' sums. That of its own row adds to a row's log-sum in a kernel of one line. Tiling, memory and numerics
// are those of ops/pairwise_lse/cuda.cu.
#include "ops/plan_marginals/cuda.h"

#include "common/cuda/launch.cuh"
#include "ops/pairwise_lse/cuda.h"
#include "ops/pairwise_lse/cuda_host.cuh"

namespace mi {
namespace {

using namespace mi::cuda;

template <typename A>
__global__ void __launch_bounds__(kThreads) add_potential_kernel(const A* log_u, int64_t n, A* row_lse) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) row_lse[i] += log_u[i];
}

PairwiseLseForward sweep(const PlanMarginals& args) {
  PairwiseLseForward forward;
  forward.pairs = args.pairs;
  forward.row_lse = args.row_lse;
  forward.col_lse = args.col_lse;
  forward.row_bias = args.log_u;
  return forward;
}

}  // namespace

size_t plan_marginals_workspace_bytes(DType dtype, const PlanMarginals& args) {
  return pairwise_lse_workspace_bytes(dtype, sweep(args));
}

cudaError_t plan_marginals(DType dtype, const PlanMarginals& args, void* workspace, cudaStream_t stream) {
  const bool known = args.pairs.score == Score::dot || args.pairs.score == Score::sqeuclidean;
  if (!known || args.pairs.self() || args.pairs.bias == nullptr || args.log_u == nullptr || args.col_lse == nullptr)
    return cudaErrorInvalidValue;
  const cudaError_t error = pairwise_lse_forward(dtype, sweep(args), workspace, stream);
  if (error != cudaSuccess) return error;
  return with_element_type(dtype, [&](auto type) {
    using A = Acc<typename decltype(type)::type>;
    return launch(add_potential_kernel<A>, dim3(blocks_for(args.pairs.n)), dim3(kThreads), 0, stream,
                  static_cast<const A*>(args.log_u), args.pairs.n, static_cast<A*>(args.row_lse));
  });
}

}  // namespace mi
