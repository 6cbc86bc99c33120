// The operators of sinkhorn_batch between torch and a device's kernels, which Launch{}(problems, args) starts. Argument
// errors that a user can make are reported by the Python function; the checks here keep a direct call of the operators
// from reading out of bounds.
#pragma once

#include <optional>
#include <tuple>

#include "common/bind.h"
#include "ops/sinkhorn_batch/kernel.h"

namespace mi {

// The inputs, contiguous, and what the kernels need to know of them.
struct Problems {
  Tensor scores;
  std::optional<Tensor> log_a, log_b;
  DType dtype;
  ScalarType wide;
  SinkhornProblems args;

  Problems(const Tensor& scores_, const std::optional<Tensor>& log_a_, const std::optional<Tensor>& log_b_,
           double epsilon, int64_t n_iter, bool rows_first)
      : scores(torch::stable::contiguous(scores_)),
        dtype(element_type(scores, "sinkhorn_batch")),
        wide(accumulation_type(dtype)) {
    STD_TORCH_CHECK(scores.dim() == 3 && scores.numel() > 0, "sinkhorn_batch: scores must be non-empty, [B, n, m]");
    STD_TORCH_CHECK(n_iter >= 1, "sinkhorn_batch: n_iter must be at least 1");
    args.scores = scores.const_data_ptr();
    args.batch = scores.size(0);
    args.n = scores.size(1);
    args.m = scores.size(2);
    args.epsilon = epsilon;
    args.n_iter = n_iter;
    args.rows_first = rows_first;
    STD_TORCH_CHECK(log_a_.has_value() == log_b_.has_value(), "sinkhorn_batch: want both weights or neither");
    if (!log_a_.has_value()) return;
    log_a = given(*log_a_, "log_a", args.batch * args.n);
    log_b = given(*log_b_, "log_b", args.batch * args.m);
    args.log_a = log_a->const_data_ptr();
    args.log_b = log_b->const_data_ptr();
  }

  Tensor given(const Tensor& tensor, const char* name, int64_t size) const {
    return beside(scores, tensor, wide, size, "sinkhorn_batch", name);
  }

  Tensor made(bool wanted, torch::headeronly::IntHeaderOnlyArrayRef shape) const {
    if (wanted) return torch::stable::new_empty(scores, shape, wide);
    return torch::stable::new_empty(scores, {0}, wide);
  }
};

template <class Launch>
std::tuple<Tensor, Tensor, Tensor> sinkhorn_batch_bound(Tensor scores, std::optional<Tensor> log_a,
                                                        std::optional<Tensor> log_b, double epsilon, int64_t n_iter,
                                                        bool rows_first, bool potentials) {
  const Problems problems(scores, log_a, log_b, epsilon, n_iter, rows_first);
  const int64_t batch = problems.args.batch, n = problems.args.n, m = problems.args.m;
  Tensor plan = problems.made(true, {batch, n, m});
  Tensor phi = problems.made(potentials, {batch, n}), psi = problems.made(potentials, {batch, m});
  SinkhornBatchForward args;
  args.problems = problems.args;
  args.plan = plan.mutable_data_ptr();
  args.phi = potentials ? phi.mutable_data_ptr() : nullptr;
  args.psi = potentials ? psi.mutable_data_ptr() : nullptr;
  Launch{}(problems, args);
  return {plan, phi, psi};
}

template <class Launch>
std::tuple<Tensor, Tensor, Tensor> sinkhorn_batch_backward_bound(Tensor grad_plan, std::optional<Tensor> grad_phi,
                                                                 std::optional<Tensor> grad_psi, Tensor scores,
                                                                 std::optional<Tensor> log_a,
                                                                 std::optional<Tensor> log_b, double epsilon,
                                                                 int64_t n_iter, bool rows_first) {
  const Problems problems(scores, log_a, log_b, epsilon, n_iter, rows_first);
  const int64_t batch = problems.args.batch, n = problems.args.n, m = problems.args.m;
  const bool weights = problems.log_a.has_value();
  STD_TORCH_CHECK(grad_phi.has_value() == grad_psi.has_value(),
                  "sinkhorn_batch: want both potentials' gradients or none");
  const Tensor plan = problems.given(grad_plan, "grad_plan", batch * n * m);
  std::optional<Tensor> phi, psi;
  Tensor dscores = problems.made(true, {batch, n, m});
  Tensor dlog_a = problems.made(weights, {batch, n}), dlog_b = problems.made(weights, {batch, m});
  SinkhornBatchBackward args;
  args.problems = problems.args;
  args.grad_plan = plan.const_data_ptr();
  if (grad_phi.has_value()) {
    args.grad_phi = phi.emplace(problems.given(*grad_phi, "grad_phi", batch * n)).const_data_ptr();
    args.grad_psi = psi.emplace(problems.given(*grad_psi, "grad_psi", batch * m)).const_data_ptr();
  }
  args.dscores = dscores.mutable_data_ptr();
  args.dlog_a = weights ? dlog_a.mutable_data_ptr() : nullptr;
  args.dlog_b = weights ? dlog_b.mutable_data_ptr() : nullptr;
  Launch{}(problems, args);
  const Tensor returned =
      problems.wide == scores.scalar_type() ? dscores : torch::stable::to(dscores, scores.scalar_type());
  return {returned, dlog_a, dlog_b};
}

}  // namespace mi
