// InfoNCE and NT-Xent of a batch of pairs on CUDA: the loss and its gradients in five launches. kernel.h states the
// contract.
//
// Maths. With the negatives' log-sum-exps n_i, the gap g_i = n_i - s_ii of an anchor gives its loss log(1 + e^g_i) and
// the slope of the whole loss by n_i, factor w_i sigma(g_i). The slopes are the gradients that arrive at the
// log-sum-exps, known before anybody calls backward; the positives take their sum with the other sign:
//     dp_i = sum_j G_ij scale q_j - scale (slope_x,i + slope_y,i) q_i,   G of ops/pairwise_lse/kernel.h
// and the gradient at the points as they came is (dp_i - (dp_i . p_i) p_i) / |x_i|.
//
// Launches. Prepare: points scaled to unit length, rounded to their type, with rows of whole units; the product of each
// pair; the bounds and ranges that the sweeps need. Sweep: states of the log-sum-exps. Anchors: states merged, losses,
// slopes. Sweep: sums of the gradients, of both sides in one launch. Finish: sums put together, positives, the lengths'
// part, rounding; and the scalars. Without gradients the second sweep is left out. The sweeps are those of pairwise_lse
// on tensor cores. Types and sizes that those do not take (double, short floats) go through pairwise_lse itself,
// between the same kernels. Nothing waits for the host, and grids depend on shapes alone: a graph can hold the
// launches.
//
// Memory. A copy of the points, unless they serve as they are; beyond it what pairwise_lse takes, and 6 numbers a pair.
//
// Numerics. Of half types the sweeps and the products of the positives see points rounded to the type, so that the
// positive is one of the scores; the lengths' part of the gradient uses the points as they came. The positive is in no
// log-sum-exp, so that small losses keep their digits: see ops/info_nce.py. Sums over anchors are double. No atomics;
// the order of sums depends on shapes alone.
//
// Tried and rejected: the composition of pairwise_lse and torch's elementwise kernels, which is more than 60 launches.
#include "ops/info_nce/cuda.h"

#include <algorithm>

#include "common/cuda/launch.cuh"
#include "ops/info_nce/cuda_kernels.cuh"
#include "ops/pairwise_lse/cuda.h"
#include "ops/pairwise_lse/cuda_tensor.h"
#include "ops/pairwise_lse/tensor_plan.cuh"

namespace mi {
namespace {

using namespace mi::cuda;

// The points and pairs of a call, their buffers, and the kernels around the sweeps.
template <typename T>
struct InfoNceCall {
  using A = Acc<T>;
  const InfoNce& args;
  PairwiseScores pairs{};
  PreparePass<T> prepare{};
  AnchorsPass<A> anchors{};
  FinishPass<T> finish{};
  PairBounds *bounds, *bounds_and_slopes;
  Groups groups{};
  A* lse;  // [2, n], or [n] with one side
  int sides;
  bool wants_points, wants_gradients;

  // `pitch`: of the prepared points, in elements. `aligned`: whether points must begin at whole units.
  InfoNceCall(const InfoNce& call, int64_t pitch, bool aligned, Workspace& workspace)
      : args(call),
        sides(call.both || call.symmetric ? 2 : 1),
        wants_points(call.dx != nullptr || call.dy != nullptr),
        wants_gradients(wants_points || call.dscale != nullptr) {
    const int64_t n = args.n;
    prepare.points[0] = static_cast<const T*>(args.x);
    prepare.points[1] = static_cast<const T*>(args.y);
    prepare.n = n;
    prepare.d = args.d;
    prepare.pitch = pitch;
    prepare.normalize = args.normalize;
    prepare.joint = args.both;
    if (args.normalize || args.both || pitch != args.d || (aligned && !(is_aligned(args.x) && is_aligned(args.y)))) {
      prepare.prepared[0] = workspace.take<T>(2 * n * pitch);
      prepare.prepared[1] = prepare.prepared[0] + n * pitch;
    }
    prepare.products = workspace.take<A>(n);
    prepare.bounds = bounds = workspace.take<PairBounds>(kBoundBlocks);
    bounds_and_slopes = workspace.take<PairBounds>(kBoundBlocks);
    const int64_t rows = args.both ? 2 * n : n;
    groups.of_points = prepare.groups = args.groups;
    if (args.both) groups.of_points = prepare.joint_groups = workspace.take<int64_t>(rows);
    if (groups.of_points != nullptr) {
      groups.ranges = prepare.ranges = workspace.take<GroupRange>(ceil_div(rows, kRangePoints));
    }

    const A* scale = static_cast<const A*>(args.scale);
    if (scale == nullptr) scale = prepare.scale = workspace.take<A>(1);
    prepare.scale_value = static_cast<A>(args.scale_value);
    const bool copied = prepare.prepared[0] != nullptr;
    const T* const x = copied ? prepare.prepared[0] : prepare.points[0];
    const T* const y = copied ? prepare.prepared[1] : prepare.points[1];
    pairs.x = x;
    pairs.y = args.both ? nullptr : y;
    pairs.scale = scale;
    pairs.row_groups = pairs.col_groups = groups.of_points;
    pairs.n = pairs.m = rows;
    pairs.d = args.d;
    pairs.exclude_diagonal = true;
    pairs.allow_tf32 = args.allow_tf32;

    lse = workspace.take<A>(sides * n);
    anchors.sides = sides;
    anchors.n = n;
    anchors.first[1] = args.both ? n : 0;
    anchors.products = prepare.products;
    anchors.scale = scale;
    anchors.weights = static_cast<const A*>(args.weights);
    anchors.factor = static_cast<A>(args.factor);
    anchors.decoupled = args.decoupled;
    if (wants_gradients) anchors.slopes = workspace.take<A>(sides * n);
    anchors.known = bounds;
    anchors.bounds = bounds_and_slopes;
    anchors.losses = workspace.take<double>(kBoundBlocks);
    anchors.products_slopes = workspace.take<double>(kBoundBlocks);

    finish.n = n;
    finish.d = args.d;
    finish.pitch = pitch;
    finish.normalize = args.normalize;
    finish.scale = scale;
    finish.slopes = anchors.slopes;
    finish.slope_sides = sides;
    finish.losses = anchors.losses;
    finish.products_slopes = anchors.products_slopes;
    finish.factor = args.factor;
    finish.loss = static_cast<A*>(args.loss);
    finish.dscale = static_cast<A*>(args.dscale);
    finish.sides[0] = {prepare.points[0], y, nullptr, 0, 0, static_cast<T*>(args.dx)};
    finish.sides[1] = {prepare.points[1], x, nullptr, 0, 0, static_cast<T*>(args.dy)};
  }

  PairwiseLseForward forward() const {
    PairwiseLseForward call;
    call.pairs = pairs;
    call.row_lse = lse;
    if (!args.both && args.symmetric) call.col_lse = lse + args.n;
    return call;
  }

  // The gradients, into `joint` of both sides' points, or into `dx` and `dy`.
  PairwiseLseBackward backward(void* joint, void* dx, void* dy) const {
    PairwiseLseBackward call;
    call.pairs = pairs;
    call.row_lse = lse;
    call.grad_row = anchors.slopes;
    if (!args.both && args.symmetric) {
      call.col_lse = lse + args.n;
      if (anchors.slopes != nullptr) call.grad_col = anchors.slopes + args.n;
    }
    call.dx = args.both ? joint : dx;
    call.dy = args.both ? nullptr : dy;
    call.dscale = args.dscale;
    return call;
  }

  cudaError_t run_prepare(cudaStream_t stream) const {
    return launch(prepare_kernel<T>, dim3(kBoundBlocks), dim3(kThreads), 0, stream, prepare);
  }

  // The states to merge, of the rows (or all points) and of the columns.
  cudaError_t run_anchors(const MergeJob<A>& rows, const MergeJob<A>& cols, cudaStream_t stream) {
    anchors.negatives[0] = rows;
    anchors.negatives[1] = args.both ? rows : cols;
    return launch(anchors_kernel<A>, dim3(kBoundBlocks), dim3(kThreads), 0, stream, anchors);
  }

  cudaError_t run_finish(cudaStream_t stream) const {
    constexpr int64_t kMostBlocks = 2112;
    const int64_t rows = wants_points ? 2 * args.n : 0;
    const int64_t blocks = 1 + std::min(ceil_div(rows, kThreads / kWarpSize), kMostBlocks);
    return launch(finish_kernel<T>, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream, finish);
  }

 private:
  static bool is_aligned(const void* points) { return reinterpret_cast<uintptr_t>(points) % sizeof(Unit) == 0; }
};

// Any pointer: says that a gradient is wanted, where only that is asked.
inline void* wanted(const void* gradient) { return const_cast<void*>(gradient); }

// ---- on tensor cores

template <typename T>
struct TensorCall {
  InfoNceCall<T> call;
  tensor::LsePlan lse;
  tensor::GradientPlan gradient;

  TensorCall(const InfoNce& args, Workspace& workspace)
      : call(args, tensor::units_of<T>(args.d) * static_cast<int64_t>(sizeof(Unit) / sizeof(T)), true, workspace),
        lse(operands(call.bounds), call.forward(), workspace),
        gradient(operands(call.bounds_and_slopes),
                 call.backward(wanted(args.dx != nullptr ? args.dx : args.dy), args.dx, args.dy),
                 tensor::Kernels<T>::slices(args.d), workspace) {
    for (int i = 0; i < gradient.requests.count; ++i) {
      const TensorGradPass& pass = gradient.passes.of[i];
      const int64_t count = gradient.passes.splits, size = pass.own.points.count * args.d;
      if (args.both && pass.point_parts != nullptr) {
        parts(0, pass.point_parts, count, size);
        parts(1, pass.point_parts + args.n * args.d, count, size);
      } else if (pass.point_parts != nullptr) {
        parts(pass.as_row ? 0 : 1, pass.point_parts, count, size);
      }
      if (pass.scale_parts != nullptr) {
        call.finish.scale_parts = pass.scale_parts;
        call.finish.scale_count = gradient.scale_part_count(i);
      }
    }
  }

  cudaError_t run(cudaStream_t stream) {
    cudaError_t error = call.run_prepare(stream);
    if (error == cudaSuccess) error = tensor::Kernels<T>::sweep(lse, stream);
    if (error == cudaSuccess) error = call.run_anchors(lse.rows, lse.cols, stream);
    if (error == cudaSuccess && gradient.requests.count > 0) error = tensor::Kernels<T>::sweep(gradient, stream);
    return error != cudaSuccess ? error : call.run_finish(stream);
  }

 private:
  tensor::Operands operands(const PairBounds* bounds) const {
    const PairwiseScores& pairs = call.pairs;
    const int64_t width = tensor::units_of<T>(pairs.d);
    const MmaPoints x = {static_cast<const Unit*>(pairs.x), pairs.n, width};
    const MmaPoints y = {static_cast<const Unit*>(pairs.columns()), pairs.m, width};
    return {x, y, bounds, call.groups, call.groups};
  }

  void parts(int side, float* sums, int64_t count, int64_t size) {
    call.finish.sides[side].parts = sums;
    call.finish.sides[side].count = count;
    call.finish.sides[side].size = size;
  }
};

// ---- through pairwise_lse

template <typename T>
struct PlainCall {
  InfoNceCall<T> call;
  DType dtype;
  PairwiseLseForward forward;
  PairwiseLseBackward backward;
  void* memory;

  PlainCall(DType type, const InfoNce& args, Workspace& workspace)
      : call(args, args.d, false, workspace), dtype(type), forward(call.forward()) {
    T* const joint = args.both && call.wants_points ? workspace.take<T>(2 * args.n * args.d) : nullptr;
    backward = call.backward(joint, args.dx, args.dy);
    size_t bytes = pairwise_lse_workspace_bytes(dtype, forward);
    if (call.wants_gradients) bytes = std::max(bytes, pairwise_lse_workspace_bytes(dtype, backward));
    memory = workspace.take<Unit>(ceil_div(static_cast<int64_t>(bytes), sizeof(Unit)));
    FinishPass<T>& finish = call.finish;
    finish.scaled = true;
    finish.sides[0].parts = args.both ? joint : static_cast<T*>(args.dx);
    finish.sides[1].parts = args.both && joint != nullptr ? joint + args.n * args.d : static_cast<T*>(args.dy);
    finish.sides[0].count = finish.sides[1].count = 1;
    finish.scale_sum = finish.dscale;
  }

  cudaError_t run(cudaStream_t stream) {
    cudaError_t error = call.run_prepare(stream);
    if (error == cudaSuccess) error = pairwise_lse_forward(dtype, forward, memory, stream);
    const auto known = [](void* lse) {
      MergeJob<T> job{};
      job.out = static_cast<T*>(lse);
      return job;
    };
    if (error == cudaSuccess) error = call.run_anchors(known(forward.row_lse), known(forward.col_lse), stream);
    if (error == cudaSuccess && call.wants_gradients) error = pairwise_lse_backward(dtype, backward, memory, stream);
    return error != cudaSuccess ? error : call.run_finish(stream);
  }
};

// Calls f(call) with the plan that suits the problem, in so much workspace.
template <typename F>
auto with_call(DType dtype, const InfoNce& args, Workspace& workspace, const F& f) {
  PairwiseScores pairs;
  pairs.d = args.d;
  pairs.allow_tf32 = args.allow_tf32;
  if (tensor::takes(dtype, pairs)) {
    return tensor::with_kernels(
        dtype, [&](auto kernels) { return f(TensorCall<typename decltype(kernels)::Element>(args, workspace)); });
  }
  return dtype == DType::f64 ? f(PlainCall<double>(dtype, args, workspace))
                             : f(PlainCall<float>(dtype, args, workspace));
}

}  // namespace

size_t info_nce_workspace_bytes(DType dtype, const InfoNce& args) {
  // The plans ask each other which buffers there are, so that they have addresses here too, which nobody reads.
  alignas(sizeof(Unit)) char somewhere[sizeof(Unit)];
  Workspace workspace(somewhere);
  with_call(dtype, args, workspace, [](auto) { return 0; });
  return workspace.used();
}

cudaError_t info_nce(DType dtype, const InfoNce& args, void* memory, cudaStream_t stream) {
  if (args.x == nullptr || args.y == nullptr || args.loss == nullptr || memory == nullptr || args.n < 1 || args.d < 1) {
    return cudaErrorInvalidValue;
  }
  Workspace workspace(memory);
  return with_call(dtype, args, workspace, [&](auto call) { return call.run(stream); });
}

}  // namespace mi
