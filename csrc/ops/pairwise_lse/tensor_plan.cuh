// How the sweeps on tensor cores are cut into blocks, and where their parts lie: what a launch needs, without
// launching. The shapes alone decide, not the device: the same bits on every machine of a kind.
#pragma once

#include <algorithm>

#include "ops/pairwise_lse/cuda_host.cuh"
#include "ops/pairwise_lse/cuda_parts.cuh"
#include "ops/pairwise_lse/gradient_requests.h"
#include "ops/pairwise_lse/tensor_backward.cuh"
#include "ops/pairwise_lse/tensor_forward.cuh"

namespace mi::tensor {

using namespace mi::cuda;

template <typename T>
int64_t units_of(int64_t d) {
  return ceil_div(d * static_cast<int64_t>(sizeof(T)), sizeof(Unit));
}

// Points as the kernels read them, with what is known of them.
struct Operands {
  MmaPoints x, y;  // the same in self mode
  const PairBounds* bounds;
  Groups row_groups, col_groups;
};

struct LsePlan {
  TensorLsePass pass{};
  LseGrid grid;
  MergeJob<float> rows{}, cols{};  // what is left to be merged; cols.out is null where columns are not wanted

  LsePlan(const Operands& operands, const PairwiseLseForward& args, Workspace& workspace) {
    const PairwiseScores& pairs = args.pairs;
    // Together as many as a large GPU holds at a time, two to an SM.
    grid = lse_grid(ceil_div(pairs.n, kLseRows), ceil_div(pairs.m, kLseCols), 16, 16);
    pass.x = operands.x;
    pass.y = operands.y;
    pass.scale = static_cast<const float*>(pairs.scale);
    pass.bias = static_cast<const float*>(pairs.bias);
    pass.row_bias = static_cast<const float*>(args.row_bias);
    pass.row_groups = operands.row_groups;
    pass.col_groups = operands.col_groups;
    pass.bounds = operands.bounds;
    pass.exclude_diagonal = pairs.exclude_diagonal;
    pass.allow_tf32 = pairs.allow_tf32;
    pass.triangle = pairs.self() && pairs.bias == nullptr && args.row_bias == nullptr;
    pass.row_parts = workspace.take<LseState<float>>(grid.splits * kColWarps * pairs.n);
    if (pass.triangle || args.col_lse != nullptr) {
      pass.col_parts = workspace.take<LseState<float>>(grid.strips * pairs.m);
    }

    auto* const row_lse = static_cast<float*>(args.row_lse);
    auto* const col_lse = static_cast<float*>(args.col_lse);
    const int64_t row_count = grid.splits * kColWarps;
    if (pass.triangle) {
      rows = {{pass.row_parts, pass.col_parts}, {row_count, grid.strips}, pairs.n, row_lse, col_lse};
    } else {
      rows = {{pass.row_parts, nullptr}, {row_count, 0}, pairs.n, row_lse, nullptr};
      cols = {{pass.col_parts, nullptr}, {grid.strips, 0}, pairs.m, col_lse, nullptr};
    }
  }
};

struct GradientPlan {
  PassRequests requests;
  TensorGradPasses passes{};
  int64_t tiles = 0;

  // `slices`: of the coordinates, see Kernels.
  GradientPlan(const Operands& operands, const PairwiseLseBackward& args, int64_t slices, Workspace& workspace)
      : requests(args) {
    // About two for each SM of a large GPU; a constant, so that it cannot change the bits.
    constexpr int64_t kBlocks = 264;
    const PairwiseScores& pairs = args.pairs;
    TensorSide x{}, y{};
    x.points = operands.x;
    x.groups = operands.row_groups;
    x.row_grad = static_cast<const float*>(args.grad_row);
    x.row_lse = static_cast<const float*>(args.row_lse);
    y.points = operands.y;
    y.groups = operands.col_groups;
    y.col_grad = static_cast<const float*>(args.grad_col);
    y.col_lse = static_cast<const float*>(args.col_lse);
    y.bias = static_cast<const float*>(pairs.bias);
    if (pairs.self()) {
      x.col_grad = y.col_grad;
      x.col_lse = y.col_lse;
      x.bias = y.bias;
      y = x;
    }

    passes.scale = static_cast<const float*>(pairs.scale);
    passes.bounds = operands.bounds;
    passes.d = pairs.d;
    passes.slices = static_cast<int>(slices);
    passes.exclude_diagonal = pairs.exclude_diagonal;
    passes.allow_tf32 = pairs.allow_tf32;
    int64_t blocks = 0, most = kBlocks;
    for (int i = 0; i < requests.count; ++i) {
      const bool of_rows = requests.items[i].as_row;
      const int64_t own = of_rows ? pairs.n : pairs.m, other = of_rows ? pairs.m : pairs.n;
      tiles = std::max(tiles, ceil_div(own, kGradRows));
      blocks += ceil_div(own, kGradRows) * slices;
      most = std::min(most, ceil_div(other, kGradCols));
    }
    passes.splits = static_cast<int>(std::min(ceil_div(kBlocks, std::max<int64_t>(blocks, 1)), most));
    for (int i = 0; i < requests.count; ++i) {
      const PassRequest& request = requests.items[i];
      TensorGradPass& pass = passes.of[i];
      pass.own = request.as_row ? x : y;
      pass.other = request.as_row ? y : x;
      pass.as_row = request.as_row;
      pass.as_col = request.as_col;
      const int64_t own = pass.own.points.count;
      if (request.points != nullptr) pass.point_parts = workspace.take<float>(passes.splits * own * pairs.d);
      if (request.bias != nullptr) pass.bias_parts = workspace.take<float>(passes.splits * kColWarps * own);
      if (request.scale != nullptr) pass.scale_parts = workspace.take<double>(scale_part_count(i));
    }
  }

  int64_t scale_part_count(int pass) const {
    return passes.splits * ceil_div(passes.of[pass].own.points.count, kGradRows);
  }
};

}  // namespace mi::tensor
