// Pairwise log-sum-exp and its gradients on CUDA: dot products go to the tensor cores (cuda_tensor.cuh) where those
// know the type; all else is done here, on CUDA cores. kernel.h states the contract.
//
// Maths. With q_ij = score(x_i, y_j) and s_ij = scale q_ij + bias_j, the forward pass needs sum exp(s_ij) along rows
// and, in the same sweep, along columns. The backward pass forms
//     G_ij = grad_row_i exp(s_ij - row_lse_i) + grad_col_j exp(s_ij - col_lse_j)
// and then dx_i = scale sum_j G_ij dq_ij/dx_i, dbias_j = sum_i G_ij, dscale = sum_ij G_ij q_ij. Call the point whose
// gradient a pass computes `own` and its partners `other`. The x pass takes G_{own,other}, the y pass G_{other,own};
// when the points are paired with themselves q is symmetric, and one pass takes the sum of both. For the scores that
// are profiles (profiles.h) q is -|x - y|^2, s_ij = phi(q_ij) + bias_j, and G pull takes the place of G in dx and
// dscale.
//
// Tiling. A block of 256 threads works on 128 x 64 pairs (64 x 64 in fp64), 8 x 4 (4 x 4) a thread in registers, with
// chunks of 16 (8) coordinates in shared memory; tile.cuh has the details.
//   Finished scores go through shared memory once more, so that a thread walks along one row (or column) with a single
//   running state.
//   Forward: the tiles are cut into `strips` of rows times `splits` of columns, one block each. A thread keeps the
//   state of its part of a row in registers until the split ends, and that of its part of a column in workspace which
//   no other thread touches. A second kernel merges the states of a row over splits, of a column over strips, in order.
//   Backward: one block owns a row tile of `own` and sweeps a split of `other`. Per tile it recomputes q, turns it into
//   G in shared memory, and adds G @ other, 64 coordinates at a time, to sums in workspace that only it touches. A
//   second kernel adds up the splits, in order, and rounds to the element type.
//
// Memory. Forward: 64 states a point (128 in fp64 rows; more where there are few points). Backward: one row of sums a
// point plus at most 264 tiles of them. So O((n + m) d), and nothing of size n m. Indices that can pass 2^31 are
// 64-bit.
//
// Numerics. Sums are always relative to a running maximum (online_lse.cuh). Excluded pairs enter the forward pass as
// -inf and the backward pass as weight 0, and so does all that belongs to an lse of -inf. s is rounded the same way in
// both passes. Half types are widened on load and accumulate in fp32; scale is read on the device. Partial sums of one
// tile are added to the running ones, so that rounding errors grow with the number of tiles, not of points; dscale,
// where terms of both signs cancel, is carried in fp64 from tile to tile. No atomics: the bits depend on the shapes
// alone.
//
// Tried and rejected: gradient sums in registers for a slice of d per block recomputes q for every slice (d = 768 would
// cost 12 times the scores); column states per row tile, the simplest one-pass form, takes O(n m / 128) memory; both
// gradients from one recompute saves a fifth of the arithmetic but needs the sums of both sides for every block, about
// 16 times the memory at equal parallelism; exponentials on the register tile, without the second trip through shared
// memory, spilled registers and took three times as long to compile; a squared distance by expansion cancels
// (score.cuh).
#include "ops/pairwise_lse/cuda.h"

#include <algorithm>

#include "common/cuda/launch.cuh"
#include "ops/pairwise_lse/cuda_backward.cuh"
#include "ops/pairwise_lse/cuda_forward.cuh"
#include "ops/pairwise_lse/cuda_host.cuh"
#include "ops/pairwise_lse/cuda_parts.cuh"
#include "ops/pairwise_lse/cuda_tensor.h"
#include "ops/pairwise_lse/gradient_requests.h"

namespace mi {
namespace {

using namespace mi::cuda;

// Calls f(TypeTag<T>, TypeTag<score>) for the element type and score at hand, of those computed here.
template <typename F>
auto dispatch(DType dtype, Score score, const F& f) {
  if (score == Score::dot) {
    return dtype == DType::f64 ? f(TypeTag<double>{}, TypeTag<Dot>{}) : f(TypeTag<float>{}, TypeTag<Dot>{});
  }
  return with_element_type(dtype, [&](auto type) {
    return score == Score::sqeuclidean ? f(type, TypeTag<SqEuclidean>{}) : f(type, TypeTag<Profile>{});
  });
}

template <typename T>
LseGrid grid_of(const PairwiseScores& pairs) {
  return lse_grid(ceil_div(pairs.n, Tile<Acc<T>>::kRows), ceil_div(pairs.m, Tile<Acc<T>>::kCols), 16, 32);
}

template <typename T>
LsePass<T> lse_pass(const PairwiseLseForward& args, const LseGrid& grid, Workspace& workspace) {
  using A = Acc<T>;
  const PairwiseScores& pairs = args.pairs;
  LsePass<T> p{};
  p.x = static_cast<const T*>(pairs.x);
  p.y = static_cast<const T*>(pairs.columns());
  p.scale = static_cast<const A*>(pairs.scale);
  p.bias = static_cast<const A*>(pairs.bias);
  p.row_bias = static_cast<const A*>(args.row_bias);
  p.row_groups = pairs.row_groups;
  p.col_groups = pairs.col_groups;
  p.n = pairs.n;
  p.m = pairs.m;
  p.d = pairs.d;
  p.score = pairs.score;
  p.exclude_diagonal = pairs.exclude_diagonal;
  p.row_parts = workspace.take<LseState<A>>(grid.splits * Tile<A>::kRowParts * pairs.n);
  if (args.col_lse != nullptr) {
    p.col_parts = workspace.take<LseState<A>>(grid.strips * Tile<A>::kColParts * pairs.m);
  }
  return p;
}

template <typename T, typename ScoreFn>
cudaError_t forward(const PairwiseLseForward& args, void* memory, cudaStream_t stream) {
  using A = Acc<T>;
  Workspace workspace(memory);
  const LseGrid grid = grid_of<T>(args.pairs);
  const LsePass<T> p = lse_pass<T>(args, grid, workspace);
  cudaError_t error =
      launch(lse_tiles_kernel<T, ScoreFn>, dim3(static_cast<unsigned>(grid.strips), static_cast<unsigned>(grid.splits)),
             dim3(kThreads), 0, stream, p);
  if (error != cudaSuccess) return error;
  Jobs<MergeJob<A>> jobs;
  jobs.add(
      {{p.row_parts, nullptr}, {grid.splits * Tile<A>::kRowParts, 0}, p.n, static_cast<A*>(args.row_lse), nullptr});
  if (p.col_parts != nullptr) {
    jobs.add(
        {{p.col_parts, nullptr}, {grid.strips * Tile<A>::kColParts, 0}, p.m, static_cast<A*>(args.col_lse), nullptr});
  }
  return merge_states(jobs, stream);
}

struct GradGrid {
  int64_t tiles, splits;
};

template <typename T>
GradPass<T> grad_pass(const PairwiseLseBackward& args, const PassRequest& request, GradGrid& grid,
                      Workspace& workspace) {
  using A = Acc<T>;
  constexpr int64_t kBlocks =
      264;  // about two for each SM of a large GPU; a constant, so that it cannot change the bits
  const PairwiseScores& pairs = args.pairs;
  const auto* x = static_cast<const T*>(pairs.x);
  const auto* y = static_cast<const T*>(pairs.columns());
  const auto* bias = static_cast<const A*>(pairs.bias);
  const auto* grad_row = static_cast<const A*>(args.grad_row);
  const auto* grad_col = static_cast<const A*>(args.grad_col);
  const auto* row_lse = static_cast<const A*>(args.row_lse);
  const auto* col_lse = static_cast<const A*>(args.col_lse);

  GradPass<T> p{};
  p.own = request.as_row ? x : y;
  p.other = request.as_row ? y : x;
  p.scale = static_cast<const A*>(pairs.scale);
  p.own_groups = request.as_row ? pairs.row_groups : pairs.col_groups;
  p.other_groups = request.as_row ? pairs.col_groups : pairs.row_groups;
  p.n_own = request.as_row ? pairs.n : pairs.m;
  p.n_other = request.as_row ? pairs.m : pairs.n;
  p.d = pairs.d;
  p.score = pairs.score;
  p.exclude_diagonal = pairs.exclude_diagonal;
  p.as_row = request.as_row;
  p.as_col = request.as_col;
  p.row = Role<A>{grad_row, row_lse, grad_col, col_lse, nullptr, bias};
  p.col = Role<A>{grad_col, col_lse, grad_row, row_lse, bias, nullptr};

  grid.tiles = ceil_div(p.n_own, Tile<A>::kRows);
  grid.splits = std::min(ceil_div(kBlocks, grid.tiles), ceil_div(p.n_other, Tile<A>::kCols));
  if (request.points != nullptr) p.point_parts = workspace.take<A>(grid.splits * p.n_own * p.d);
  if (request.bias != nullptr) p.bias_parts = workspace.take<A>(grid.splits * Tile<A>::kRowParts * p.n_own);
  if (request.scale != nullptr) p.scale_parts = workspace.take<double>(grid.tiles * grid.splits);
  return p;
}

template <typename T, typename ScoreFn>
cudaError_t backward(const PairwiseLseBackward& args, void* memory, cudaStream_t stream) {
  using A = Acc<T>;
  const PassRequests requests(args);
  cudaError_t error = cudaSuccess;
  for (int i = 0; i < requests.count && error == cudaSuccess; ++i) {
    const PassRequest& request = requests.items[i];
    Workspace workspace(memory);  // the passes follow one another on the stream, and share it
    GradGrid grid{};
    const GradPass<T> p = grad_pass<T>(args, request, grid, workspace);
    error =
        launch(gradient_kernel<T, ScoreFn>, dim3(static_cast<unsigned>(grid.tiles), static_cast<unsigned>(grid.splits)),
               dim3(kThreads), 0, stream, p);
    if (error == cudaSuccess && request.points != nullptr) {
      Jobs<SumJob<T>> points;
      points.add({p.point_parts, grid.splits, p.n_own * p.d, p.scale, ScoreFn::kGradientFactor,
                  static_cast<T*>(request.points)});
      error = sum_parts(points, stream);
    }
    if (error == cudaSuccess && request.bias != nullptr) {
      Jobs<SumJob<A>> biases;
      biases.add({p.bias_parts, grid.splits * Tile<A>::kRowParts, p.n_own, nullptr, 1, static_cast<A*>(request.bias)});
      error = sum_parts(biases, stream);
    }
    if (error == cudaSuccess && request.scale != nullptr) {
      error = launch(sum_scale_kernel<A>, dim3(1), dim3(kThreads), 0, stream, static_cast<const double*>(p.scale_parts),
                     grid.tiles * grid.splits, profile_degree(args.pairs.score), static_cast<A*>(request.scale));
    }
  }
  return error;
}

}  // namespace

size_t pairwise_lse_workspace_bytes(DType dtype, const PairwiseLseForward& args) {
  if (tensor::takes(dtype, args.pairs)) {
    return tensor::with_kernels(dtype, [&](auto kernels) { return kernels.workspace_bytes(args); });
  }
  return dispatch(dtype, args.pairs.score, [&](auto type, auto) {
    using T = typename decltype(type)::type;
    Workspace workspace(nullptr);
    lse_pass<T>(args, grid_of<T>(args.pairs), workspace);
    return std::max<size_t>(workspace.used(), 16);
  });
}

size_t pairwise_lse_workspace_bytes(DType dtype, const PairwiseLseBackward& args) {
  if (tensor::takes(dtype, args.pairs)) {
    return tensor::with_kernels(dtype, [&](auto kernels) { return kernels.workspace_bytes(args); });
  }
  return dispatch(dtype, args.pairs.score, [&](auto type, auto) {
    using T = typename decltype(type)::type;
    const PassRequests requests(args);
    size_t bytes = 16;
    for (int i = 0; i < requests.count; ++i) {
      Workspace workspace(nullptr);
      GradGrid grid{};
      grad_pass<T>(args, requests.items[i], grid, workspace);
      bytes = std::max(bytes, workspace.used());
    }
    return bytes;
  });
}

cudaError_t pairwise_lse_forward(DType dtype, const PairwiseLseForward& args, void* workspace, cudaStream_t stream) {
  if (!valid(args.pairs) || args.row_lse == nullptr || workspace == nullptr) return cudaErrorInvalidValue;
  if (tensor::takes(dtype, args.pairs)) {
    return tensor::with_kernels(dtype, [&](auto kernels) { return kernels.forward(args, workspace, stream); });
  }
  return dispatch(dtype, args.pairs.score, [&](auto type, auto score) {
    return forward<typename decltype(type)::type, typename decltype(score)::type>(args, workspace, stream);
  });
}

cudaError_t pairwise_lse_backward(DType dtype, const PairwiseLseBackward& args, void* workspace, cudaStream_t stream) {
  const bool rows_known = args.grad_row == nullptr || args.row_lse != nullptr;
  const bool cols_known = args.grad_col == nullptr || args.col_lse != nullptr;
  if (!valid(args.pairs) || !rows_known || !cols_known || workspace == nullptr) return cudaErrorInvalidValue;
  if (tensor::takes(dtype, args.pairs)) {
    return tensor::with_kernels(dtype, [&](auto kernels) { return kernels.backward(args, workspace, stream); });
  }
  return dispatch(dtype, args.pairs.score, [&](auto type, auto score) {
    return backward<typename decltype(type)::type, typename decltype(score)::type>(args, workspace, stream);
  });
}

}  // namespace mi
