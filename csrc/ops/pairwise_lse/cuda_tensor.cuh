// Pairwise log-sum-exp of dot products, and its gradients, on tensor cores. kernel.h states the contract. The files
// cuda_tensor_*.cu instantiate this one for an element type each.
//
// Maths. Forward: s_ij = scale x_i.y_j + bias_j, then sums of exponentials along rows and, in the same sweep, along
// columns. Backward: G_ij of kernel.h is formed from scores computed again, rounded to the element type (float: to two
// TF32 numbers, or one), and multiplied with the other side's points, so that a side's gradient is two products: the
// scheme of flash attention with the keys for values. dscale and dbias take G before it is rounded.
//
// One exponential a pair. If |scale| max|x| max|y| + max|bias| <= 40, which a first kernel finds out, no exponential
// can overflow or lose what a float holds, so the sums take e^s without a shift, rows and columns share it, and the
// weight of a pair is one exponential times a sum of two factors. Points on a sphere at a temperature of 1/40 or more
// are such. Otherwise rows and columns keep their own running maxima, at an exponential for each. Exponentials, not
// products, are the dearer half of a tile of 128 coordinates: an SM of compute capability 9.0 starts 16 a clock, and
// multiplies a pair of 128 coordinates in a tenth of a clock or less.
//
// Tiling. mma_tile.cuh has the warps and chunks. Forward: 256 threads, 128 rows, 64 columns at a time, 32 x 32 results
// a warp. Chunks of the columns pass through a ring of four in shared memory, three ahead of the products; the row tile
// stays there whole up to 512 bytes a point, beyond that its chunks pass too. Blocks are strips x splits and take every
// so many'th tile, so that in a triangle (points paired with themselves, no bias) all have their share; a tile above
// the diagonal gives sums for its rows and, as columns, for their partners. Backward: 128 threads, 64 points and 64
// partners at a time, 32 x 32 weights a warp through shared memory into the second product; up to 512 bytes a point
// (256 coordinates of half types, 128 floats) both products read the partners from the same place, beyond that the
// gradient is cut into slices of 512 bytes, a block each, which form the scores anew. Two blocks or more fit on an SM,
// so that one multiplies while another takes exponentials. Which pairs are left out is looked at pair by pair only in
// tiles that can have some: at the ragged edge, on the diagonal, and where the groups of both sides meet.
//
// Launches. Forward 3: bounds, tiles, merging. Backward 3: bounds, both sides' tiles, sums; one more each for dbias and
// dscale; and one a side to align rows that are no multiple of 16 bytes. Nothing waits for the host, and grids depend
// on shapes alone, so that a graph can hold them.
//
// Memory. Forward 48 states a point, backward one row of sums a point and pass, plus at most 264 tiles of them: O((n +
// m) d). Shared memory: LseShared and GradShared, 99 KiB or less in one of their forms.
//
// Numerics. Half types are exact in the products and accumulate in fp32; their gradients leave the tensor cores, which
// truncate when they add, every 16,384 partners. float is three TF32 products, or one where that is allowed, with sums
// renewed every eight coordinates. Weights in half are scaled by a power of two, as 1 / N^2 is below its range. No
// atomics; the order of sums depends on shapes alone. Infinite coordinates turn off the corrections of TF32, which
// would make NaN of them.
//
// Tried and rejected: gradients of both sides from one recomputation of the scores saves a fifth of the operations, but
// has to add up one side's sums across blocks, which without atomics is a copy of them for each; squared distances by
// |x|^2 - 2 x.y + |y|^2 cancel for near points where those of cuda.cu, from differences, have all their digits.
#pragma once

#include "common/cuda/launch.cuh"
#include "ops/pairwise_lse/cuda_host.cuh"
#include "ops/pairwise_lse/cuda_tensor.h"
#include "ops/pairwise_lse/tensor_plan.cuh"

namespace mi::tensor {

using namespace mi::cuda;

constexpr int kStaticShared = 7 * 1024;  // of these kernels, at most

inline int shared_limit() {
  int device = 0, bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess)
    return 0;
  return bytes;
}

template <typename T>
int64_t chunks_of(int64_t d) {
  return ceil_div(units_of<T>(d), kUnits);
}

// Calls f with the form of the kernel, as integral constants, that suits so many chunks and so much shared memory.
template <int kValue>
using Constant = std::integral_constant<int, kValue>;

template <typename T, typename F>
auto with_lse_form(int64_t chunks, int limit, const F& f) {
  if (chunks <= 2 && LseShared<T, 2>::kBytes + kStaticShared <= limit) return f(Constant<2>{});
  if (chunks <= 4 && LseShared<T, 4>::kBytes + kStaticShared <= limit) return f(Constant<4>{});
  return f(Constant<0>{});
}

template <typename T, typename F>
auto with_grad_form(int64_t chunks, int limit, const F& f) {
  if (chunks <= 2) return f(std::true_type{}, Constant<2>{});
  if (chunks <= 4 && GradShared<T, true, 4>::kBytes + kStaticShared <= limit) return f(std::true_type{}, Constant<4>{});
  return f(std::false_type{}, Constant<4>{});
}

// ---- the sweeps

template <typename T>
cudaError_t Kernels<T>::sweep(const LsePlan& plan, cudaStream_t stream) {
  return with_lse_form<T>(ceil_div(plan.pass.x.width, kUnits), shared_limit(), [&](auto chunks) {
    constexpr int kChunks = decltype(chunks)::value;
    return launch(tensor_lse_kernel<T, kChunks>,
                  dim3(static_cast<unsigned>(plan.grid.strips), static_cast<unsigned>(plan.grid.splits)),
                  dim3(kThreads), LseShared<T, kChunks>::kBytes, stream, plan.pass);
  });
}

template <typename T>
int64_t Kernels<T>::slices(int64_t d) {
  return with_grad_form<T>(chunks_of<T>(d), shared_limit(), [&](auto resident, auto chunks) {
    return resident ? int64_t{1} : ceil_div(chunks_of<T>(d), decltype(chunks)::value);
  });
}

template <typename T>
cudaError_t Kernels<T>::sweep(const GradientPlan& plan, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(plan.tiles), static_cast<unsigned>(plan.passes.splits * plan.passes.slices),
                  static_cast<unsigned>(plan.requests.count));
  return with_grad_form<T>(chunks_of<T>(plan.passes.d), shared_limit(), [&](auto resident, auto chunks) {
    constexpr bool kResident = decltype(resident)::value;
    constexpr int kChunks = decltype(chunks)::value;
    return launch(tensor_gradient_kernel<T, kResident, kChunks>, grid, dim3(kGradThreads),
                  GradShared<T, kResident, kChunks>::kBytes, stream, plan.passes);
  });
}

// ---- operands

// Rows as the kernels read them: where they are, or a copy with rows of whole units.
template <typename T>
struct AlignedPoints {
  MmaPoints points;
  const T* source;
  T* copy = nullptr;

  bool copied = false;

  AlignedPoints(const void* data, int64_t count, int64_t d, Workspace& workspace)
      : points{static_cast<const Unit*>(data), count, units_of<T>(d)}, source(static_cast<const T*>(data)) {
    if (d * sizeof(T) % sizeof(Unit) == 0 && reinterpret_cast<uintptr_t>(data) % sizeof(Unit) == 0) return;
    copy = reinterpret_cast<T*>(workspace.take<Unit>(count * points.width));
    points.units = reinterpret_cast<const Unit*>(copy);
    copied = true;
  }

  cudaError_t align(int64_t d, cudaStream_t stream) const {
    if (!copied) return cudaSuccess;
    const int64_t pitch = points.width * static_cast<int64_t>(sizeof(Unit) / sizeof(T));
    return launch(align_kernel<T>, dim3(blocks_for(points.count * pitch)), dim3(kThreads), 0, stream, source,
                  points.count, d, pitch, copy);
  }
};

// What aligns both sides and finds the bounds.
template <typename T>
struct Preparation {
  AlignedPoints<T> x, y;
  BoundsPass bounds{};
  Groups row_groups{}, col_groups{};

  Preparation(const PairwiseScores& pairs, Workspace& workspace)
      : x(pairs.x, pairs.n, pairs.d, workspace),
        y(pairs.self() ? x : AlignedPoints<T>(pairs.y, pairs.m, pairs.d, workspace)) {
    bounds.x = pairs.x;
    bounds.y = pairs.y;
    bounds.n = pairs.n;
    bounds.m = pairs.m;
    bounds.d = pairs.d;
    bounds.bias[0] = static_cast<const float*>(pairs.bias);
    bounds.parts = workspace.take<PairBounds>(kBoundBlocks);
    if (pairs.row_groups == nullptr) return;
    bounds.groups[0] = pairs.row_groups;
    bounds.ranges[0] = workspace.take<GroupRange>(ceil_div(pairs.n, kRangePoints));
    row_groups = col_groups = {pairs.row_groups, bounds.ranges[0]};
    if (pairs.self()) return;
    bounds.groups[1] = pairs.col_groups;
    bounds.ranges[1] = workspace.take<GroupRange>(ceil_div(pairs.m, kRangePoints));
    col_groups = {pairs.col_groups, bounds.ranges[1]};
  }

  Operands operands() const { return {x.points, y.points, bounds.parts, row_groups, col_groups}; }

  cudaError_t run(cudaStream_t stream) const {
    cudaError_t error = x.align(bounds.d, stream);
    if (error == cudaSuccess && bounds.y != nullptr) error = y.align(bounds.d, stream);
    if (error != cudaSuccess) return error;
    return launch(bounds_kernel<T>, dim3(kBoundBlocks), dim3(kThreads), 0, stream, bounds);
  }
};

// ---- forward

template <typename T>
struct Forward {
  Preparation<T> preparation;
  LsePlan plan;

  Forward(const PairwiseLseForward& args, Workspace& workspace)
      : preparation(args.pairs, workspace), plan(preparation.operands(), args, workspace) {
    preparation.bounds.bias[1] = static_cast<const float*>(args.row_bias);
  }
};

template <typename T>
size_t Kernels<T>::workspace_bytes(const PairwiseLseForward& args) {
  Workspace workspace(nullptr);
  Forward<T>(args, workspace);
  return workspace.used();
}

template <typename T>
cudaError_t Kernels<T>::forward(const PairwiseLseForward& args, void* memory, cudaStream_t stream) {
  Workspace workspace(memory);
  const Forward<T> call(args, workspace);
  cudaError_t error = call.preparation.run(stream);
  if (error == cudaSuccess) error = sweep(call.plan, stream);
  if (error != cudaSuccess) return error;
  Jobs<MergeJob<float>> jobs;
  jobs.add(call.plan.rows);
  if (call.plan.cols.out != nullptr) jobs.add(call.plan.cols);
  return merge_states(jobs, stream);
}

// ---- backward

template <typename T>
struct Backward {
  Preparation<T> preparation;
  GradientPlan plan;

  Backward(const PairwiseLseBackward& args, Workspace& workspace)
      : preparation(args.pairs, workspace),
        plan(preparation.operands(), args, Kernels<T>::slices(args.pairs.d), workspace) {
    preparation.bounds.gradients[0] = static_cast<const float*>(args.grad_row);
    preparation.bounds.gradients[1] = static_cast<const float*>(args.grad_col);
  }

  cudaError_t finish(int64_t d, cudaStream_t stream) const {
    const PassRequests& requests = plan.requests;
    const TensorGradPasses& passes = plan.passes;
    Jobs<SumJob<T>> points;
    for (int i = 0; i < requests.count; ++i) {
      if (requests.items[i].points == nullptr) continue;
      points.add({passes.of[i].point_parts, passes.splits, passes.of[i].own.points.count * d, passes.scale, 1,
                  static_cast<T*>(requests.items[i].points)});
    }
    cudaError_t error = sum_parts(points, stream);
    for (int i = 0; i < requests.count && error == cudaSuccess; ++i) {
      const PassRequest& request = requests.items[i];
      const TensorGradPass& pass = passes.of[i];
      if (request.bias != nullptr) {
        Jobs<SumJob<float>> biases;
        biases.add({pass.bias_parts, passes.splits * kColWarps, pass.own.points.count, nullptr, 1,
                    static_cast<float*>(request.bias)});
        error = sum_parts(biases, stream);
      }
      if (error == cudaSuccess && request.scale != nullptr) {
        error = launch(sum_scale_kernel<float>, dim3(1), dim3(kThreads), 0, stream, pass.scale_parts,
                       plan.scale_part_count(i), 1, static_cast<float*>(request.scale));
      }
    }
    return error;
  }
};

template <typename T>
size_t Kernels<T>::workspace_bytes(const PairwiseLseBackward& args) {
  Workspace workspace(nullptr);
  Backward<T>(args, workspace);
  return workspace.used();
}

template <typename T>
cudaError_t Kernels<T>::backward(const PairwiseLseBackward& args, void* memory, cudaStream_t stream) {
  Workspace workspace(memory);
  const Backward<T> call(args, workspace);
  if (call.plan.requests.count == 0) return cudaSuccess;
  cudaError_t error = call.preparation.run(stream);
  if (error == cudaSuccess) error = sweep(call.plan, stream);
  return error != cudaSuccess ? error : call.finish(args.pairs.d, stream);
}

}  // namespace mi::tensor
