// The operators of sinkhorn_knopp between torch and a device's kernels, which Launch{}(samples, args) starts. Argument
// errors that a user can make are reported by the Python function; the checks here keep a direct call of the operators
// from reading out of bounds.
#pragma once

#include <optional>
#include <tuple>

#include "common/bind.h"
#include "ops/sinkhorn_knopp/kernel.h"

namespace mi {

// The inputs, contiguous, and what the kernels need to know of them.
struct Samples {
  Tensor scores;
  std::optional<Tensor> mask;
  DType dtype;
  ScalarType wide;
  SampleScores args;

  Samples(const Tensor& scores_, const std::optional<Tensor>& mask_, double epsilon)
      : scores(torch::stable::contiguous(scores_)),
        dtype(element_type(scores, "sinkhorn_knopp")),
        wide(accumulation_type(dtype)) {
    STD_TORCH_CHECK(scores.dim() == 2 && scores.size(1) > 0, "sinkhorn_knopp: scores must be a matrix with columns");
    args.scores = scores.const_data_ptr();
    args.rows = scores.size(0);
    args.cols = scores.size(1);
    args.epsilon = epsilon;
    if (mask_.has_value()) {
      mask = vector(*mask_, "mask", ScalarType::Bool, args.rows);
      args.mask = static_cast<const uint8_t*>(mask->const_data_ptr());
    }
  }

  Tensor vector(const Tensor& tensor, const char* name, ScalarType type, int64_t size) const {
    return beside(scores, tensor, type, size, "sinkhorn_knopp", name);
  }

  Tensor made(torch::headeronly::IntHeaderOnlyArrayRef shape, ScalarType dtype) const {
    return torch::stable::new_empty(scores, shape, dtype);
  }
};

template <class Launch>
std::tuple<Tensor, Tensor> sinkhorn_columns_bound(Tensor scores, std::optional<Tensor> mask, double epsilon) {
  const Samples samples(scores, mask, epsilon);
  Tensor shift = samples.made({samples.args.cols}, samples.wide);
  Tensor total = samples.made({samples.args.cols}, ScalarType::Double);
  SinkhornColumns args;
  args.samples = samples.args;
  args.shift = shift.mutable_data_ptr();
  args.total = static_cast<double*>(total.mutable_data_ptr());
  Launch{}(samples, args);
  return {shift, total};
}

template <class Launch>
Tensor sinkhorn_sweep_bound(Tensor scores, std::optional<Tensor> mask, Tensor shift, Tensor log_weight,
                            double epsilon) {
  const Samples samples(scores, mask, epsilon);
  const Tensor shifts = samples.vector(shift, "shift", samples.wide, samples.args.cols);
  const Tensor weights = samples.vector(log_weight, "log_weight", ScalarType::Double, samples.args.cols);
  Tensor total = samples.made({samples.args.cols}, ScalarType::Double);
  SinkhornSweep args;
  args.samples = samples.args;
  args.shift = shifts.const_data_ptr();
  args.log_weight = static_cast<const double*>(weights.const_data_ptr());
  args.total = static_cast<double*>(total.mutable_data_ptr());
  Launch{}(samples, args);
  return total;
}

template <class Launch>
std::tuple<Tensor, Tensor> sinkhorn_codes_bound(Tensor scores, std::optional<Tensor> mask, Tensor shift,
                                                Tensor log_weight, double epsilon, bool hard) {
  const Samples samples(scores, mask, epsilon);
  const Tensor shifts = samples.vector(shift, "shift", samples.wide, samples.args.cols);
  const Tensor weights = samples.vector(log_weight, "log_weight", ScalarType::Double, samples.args.cols);
  Tensor result = samples.made({samples.args.rows, samples.args.cols}, samples.wide);
  Tensor bad_rows = samples.made({}, ScalarType::Long);
  SinkhornCodes args;
  args.samples = samples.args;
  args.shift = shifts.const_data_ptr();
  args.log_weight = static_cast<const double*>(weights.const_data_ptr());
  args.hard = hard;
  args.codes = result.mutable_data_ptr();
  args.bad_rows = static_cast<int64_t*>(bad_rows.mutable_data_ptr());
  Launch{}(samples, args);
  return {result, bad_rows};
}

}  // namespace mi
