// The CUDA kernels of pairwise_lse, and of the operators that run its sweep, as a CPU library with C functions.
#include "ops/info_nce/cuda.cu"
#include "ops/pairwise_lse/cuda.cu"
#include "ops/pairwise_lse/cuda_tensor_bf16.cu"
#include "ops/pairwise_lse/cuda_tensor_f16.cu"
#include "ops/pairwise_lse/cuda_tensor_f32.cu"
#include "ops/pairwise_lse_moments/cuda.cu"
#include "ops/plan_marginals/cuda.cu"
#include "ops/sinkhorn_iteration/cuda.cu"

extern "C" {

size_t forward_workspace(int dtype, const mi::PairwiseLseForward* args) {
  return mi::pairwise_lse_workspace_bytes(static_cast<mi::DType>(dtype), *args);
}

size_t backward_workspace(int dtype, const mi::PairwiseLseBackward* args) {
  return mi::pairwise_lse_workspace_bytes(static_cast<mi::DType>(dtype), *args);
}

int forward(int dtype, const mi::PairwiseLseForward* args, void* workspace) {
  return mi::pairwise_lse_forward(static_cast<mi::DType>(dtype), *args, workspace, nullptr);
}

int backward(int dtype, const mi::PairwiseLseBackward* args, void* workspace) {
  return mi::pairwise_lse_backward(static_cast<mi::DType>(dtype), *args, workspace, nullptr);
}

size_t moments_workspace(int dtype, const mi::PairwiseLseMoments* args) {
  return mi::pairwise_lse_moments_workspace_bytes(static_cast<mi::DType>(dtype), *args);
}

int moments(int dtype, const mi::PairwiseLseMoments* args, void* workspace) {
  return mi::pairwise_lse_moments(static_cast<mi::DType>(dtype), *args, workspace, nullptr);
}

size_t marginals_workspace(int dtype, const mi::PlanMarginals* args) {
  return mi::plan_marginals_workspace_bytes(static_cast<mi::DType>(dtype), *args);
}

int marginals(int dtype, const mi::PlanMarginals* args, void* workspace) {
  return mi::plan_marginals(static_cast<mi::DType>(dtype), *args, workspace, nullptr);
}

size_t iteration_workspace(int dtype, const mi::SinkhornIteration* args) {
  return mi::sinkhorn_iteration_workspace_bytes(static_cast<mi::DType>(dtype), *args);
}

int iteration(int dtype, const mi::SinkhornIteration* args, void* workspace) {
  return mi::sinkhorn_iteration(static_cast<mi::DType>(dtype), *args, workspace, nullptr);
}

size_t info_nce_workspace(int dtype, const mi::InfoNce* args) {
  return mi::info_nce_workspace_bytes(static_cast<mi::DType>(dtype), *args);
}

int info_nce(int dtype, const mi::InfoNce* args, void* workspace) {
  return mi::info_nce(static_cast<mi::DType>(dtype), *args, workspace, nullptr);
}

void set_shared_limit(int bytes) { simt::shared_limit = bytes; }

int launches() { return simt::launches; }

const char* last_error() { return simt::last_error().c_str(); }

void set_schedule(int reversed) { simt::set_schedule(reversed != 0); }

}  // extern "C"
