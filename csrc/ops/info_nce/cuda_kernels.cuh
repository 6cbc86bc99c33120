// The kernels of InfoNCE around the sweeps of pairwise_lse; cuda.cu says how they work together.
#pragma once

#include "common/cuda/numeric.cuh"
#include "common/cuda/online_lse.cuh"
#include "common/cuda/reduce.cuh"
#include "ops/pairwise_lse/cuda_parts.cuh"
#include "ops/pairwise_lse/tensor_operands.cuh"

namespace mi::cuda {

// The norm that shorter points are taken to have, as torch.nn.functional.normalize does.
template <typename A>
constexpr A kSmallestNorm = A(1e-12);

// Sums v over a warp; all lanes get the sum.
template <typename A>
__device__ __forceinline__ A warp_total(A v) {
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(kFullWarp, v, offset);
  return v;
}

// ---- before the sweeps

template <typename T>
struct PreparePass {
  using A = Acc<T>;
  const T* points[2];  // x, y: [n, d]
  T* prepared[2];      // [n, pitch], zeros from d on; null: the points serve as they are
  int64_t n, d, pitch;
  bool normalize;
  bool joint;             // both sides are one: they have bounds and groups in common
  A* products;            // [n]: of the two points of a pair, as prepared
  const int64_t* groups;  // [n] or null: every pair is one of its own
  int64_t* joint_groups;  // [2 n] or null
  GroupRange* ranges;     // of groups, or of joint_groups; or null
  PairBounds* bounds;     // [kBoundBlocks]
  A* scale;               // [1], to be written, or null
  A scale_value;
};

// Grid: kBoundBlocks. A warp takes a pair at a time.
template <typename T>
__global__ void __launch_bounds__(kThreads) prepare_kernel(const __grid_constant__ PreparePass<T> p) {
  using A = Acc<T>;
  constexpr int kWarps = kThreads / kWarpSize;
  __shared__ BoundsScratch scratch;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;

  const auto group_of = [&](int64_t i) {
    const int64_t pair = i < p.n ? i : i - p.n;
    return p.groups != nullptr ? p.groups[pair] : pair;
  };
  const int64_t group_count = p.joint ? 2 * p.n : p.n;
  if (p.ranges != nullptr) find_ranges(group_count, group_of, p.ranges);
  if (p.joint_groups != nullptr) {
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < group_count;
         i += kBoundBlocks * kThreads) {
      p.joint_groups[i] = group_of(i);
    }
  }

  float largest[2] = {0.0f, 0.0f};
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + warp; i < p.n; i += kBoundBlocks * kWarps) {
    const T* const x = p.points[0] + i * p.d;
    const T* const y = p.points[1] + i * p.d;
    A from_x = A(1), from_y = A(1);
    if (p.normalize) {
      A square_x = A(0), square_y = A(0);
      for (int64_t k = lane; k < p.d; k += kWarpSize) {
        const A a = widen(x[k]), b = widen(y[k]);
        square_x = fma(a, a, square_x);
        square_y = fma(b, b, square_y);
      }
      from_x = A(1) / fmax(sqrt(warp_total(square_x)), kSmallestNorm<A>);
      from_y = A(1) / fmax(sqrt(warp_total(square_y)), kSmallestNorm<A>);
    }
    A square_x = A(0), square_y = A(0), product = A(0);
    for (int64_t k = lane; k < p.pitch; k += kWarpSize) {
      const bool exists = k < p.d;
      const T a = exists ? narrow<T>(widen(x[k]) * from_x) : narrow<T>(A(0));
      const T b = exists ? narrow<T>(widen(y[k]) * from_y) : narrow<T>(A(0));
      if (p.prepared[0] != nullptr) {
        p.prepared[0][i * p.pitch + k] = a;
        p.prepared[1][i * p.pitch + k] = b;
      }
      square_x = fma(widen(a), widen(a), square_x);
      square_y = fma(widen(b), widen(b), square_y);
      product = fma(widen(a), widen(b), product);
    }
    product = warp_total(product);
    if (lane == 0) p.products[i] = product;
    largest[0] = fmaxf(largest[0], static_cast<float>(warp_total(square_x)));
    largest[1] = fmaxf(largest[1], static_cast<float>(warp_total(square_y)));
  }
  PairBounds bounds{};
  bounds.x = p.joint ? fmaxf(largest[0], largest[1]) : largest[0];
  bounds.y = p.joint ? bounds.x : largest[1];
  bounds = block_bounds(bounds, scratch);
  if (threadIdx.x != 0) return;
  p.bounds[blockIdx.x] = bounds;
  if (blockIdx.x == 0 && p.scale != nullptr) *p.scale = p.scale_value;
}

// ---- between the sweeps

// Anchor i of a side has the log-sum-exp `first[side] + i` of its merge: in one of both sides' points together, the
// anchors of y follow those of x. A merge without parts is done already.
template <typename A>
struct AnchorsPass {
  MergeJob<A> negatives[2];
  int64_t first[2];
  int sides;
  int64_t n;
  const A* products;  // [n]
  const A* scale;
  const A* weights;  // [n] or null
  A factor;
  bool decoupled;
  A* slopes;                // [2, n]: of the loss by each log-sum-exp; or null
  const PairBounds* known;  // [kBoundBlocks]
  PairBounds* bounds;       // [kBoundBlocks]: the same, and what the slopes have
  double* losses;           // [kBoundBlocks]: parts of the loss, before the factor
  double* products_slopes;  // [kBoundBlocks]: parts of the sum of products times slopes
};

constexpr int kAnchorLanes = 8;  // that merge the states of one anchor

// log(1 + e^gap), and its derivative, without overflow.
template <typename A>
__device__ __forceinline__ A softplus(A gap) {
  return (gap > A(0) ? gap : A(0)) + log1p(exp(-fabs(gap)));
}
template <typename A>
__device__ __forceinline__ A sigmoid(A gap) {
  const A e = exp(-fabs(gap));
  return (gap < A(0) ? e : A(1)) / (A(1) + e);
}

template <typename A>
__device__ __forceinline__ A merged(const MergeJob<A>& job, int64_t i, int part_lane) {
  if (job.parts[0] == nullptr) return job.out[i];
  LseState<A> state = lse_empty<A>();
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    for (int64_t part = part_lane; part < job.counts[k]; part += kAnchorLanes) {
      state = lse_merge(state, job.parts[k][part * job.size + i]);
    }
  }
#pragma unroll
  for (int lanes = kWarpSize / 2; lanes >= kWarpSize / kAnchorLanes; lanes /= 2) {
    const LseState<A> other = {__shfl_xor_sync(kFullWarp, state.max, lanes),
                               __shfl_xor_sync(kFullWarp, state.sum, lanes)};
    state = lse_merge(state, other);
  }
  return lse_value(state);
}

// Grid: kBoundBlocks. Neighbouring lanes have neighbouring anchors, so that what they read is in one sector. Asked for
// three blocks an SM, the compiler takes the registers it needs; left alone it spills some of double's.
template <typename A>
__global__ void __launch_bounds__(kThreads, 3) anchors_kernel(const __grid_constant__ AnchorsPass<A> p) {
  constexpr int kWarps = kThreads / kWarpSize, kAnchors = kWarpSize / kAnchorLanes;
  __shared__ BoundsScratch scratch;
  __shared__ SharedTile<double, 1, kWarps> loss_scratch, slope_scratch;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int part_lane = lane / kAnchors;
  const A scale = *p.scale;
  double losses = 0, products_slopes = 0;
  float steepest = 0.0f;
  for (int64_t base = (static_cast<int64_t>(blockIdx.x) * kWarps + warp) * kAnchors; base < p.n;
       base += kBoundBlocks * kWarps * kAnchors) {
    const bool exists = base + lane % kAnchors < p.n;
    const int64_t i = exists ? base + lane % kAnchors : p.n - 1;  // all lanes take part in the merge
    const A product = p.products[i], weight = p.weights != nullptr ? p.weights[i] : A(1);
#pragma unroll 1
    for (int side = 0; side < p.sides; ++side) {
      const A lse = merged(p.negatives[side], p.first[side] + i, part_lane);
      const A gap = lse - scale * product;
      if (part_lane != 0 || !exists) continue;
      losses += static_cast<double>(weight * (p.decoupled ? gap : softplus(gap)));
      if (p.slopes == nullptr) continue;
      const A slope = p.factor * (weight * (p.decoupled ? A(1) : sigmoid(gap)));
      if (p.negatives[side].parts[0] != nullptr) p.negatives[side].out[p.first[side] + i] = lse;
      p.slopes[side * p.n + i] = slope;
      products_slopes += static_cast<double>(product) * static_cast<double>(slope);
      steepest = fmaxf(steepest, static_cast<float>(fabs(slope)));
    }
  }
  losses = block_sum<kThreads>(losses, loss_scratch);
  products_slopes = block_sum<kThreads>(products_slopes, slope_scratch);
  PairBounds bounds{};
  bounds.gradient = warp_max(steepest);
  bounds = block_bounds(bounds, scratch);
  if (threadIdx.x != 0) return;
  p.losses[blockIdx.x] = losses;
  p.products_slopes[blockIdx.x] = products_slopes;
  p.bounds[blockIdx.x] = p.known[blockIdx.x];
  p.bounds[blockIdx.x].gradient = bounds.gradient;
}

// ---- after the sweeps

// The gradient of one side from the sums over its negatives, which are [count, size] numbers in parts of the splits.
template <typename T>
struct FinishSide {
  using A = Acc<T>;
  const T* points;    // [n, d], as they came
  const T* partners;  // [n, pitch], prepared
  A* parts;           // of this side's first point; the first part is overwritten
  int64_t count, size;
  T* out;  // [n, d], or null: not wanted
};

template <typename T>
struct FinishPass {
  using A = Acc<T>;
  FinishSide<T> sides[2];
  int64_t n, d, pitch;
  bool normalize;
  bool scaled;  // whether the parts are multiplied with the scale already
  const A* scale;
  const A* slopes;  // [2, n]
  int slope_sides;
  const double* losses;           // [kBoundBlocks]
  const double* products_slopes;  // [kBoundBlocks]
  double factor;
  A* loss;
  const double* scale_parts;  // [scale_count], or null
  int64_t scale_count;
  const A* scale_sum;  // in place of scale_parts, or null
  A* dscale;           // or null
};

// Grid: 1 for the scalars, and so many for the points of each side. A warp takes a point at a time.
template <typename T>
__global__ void __launch_bounds__(kThreads) finish_kernel(const __grid_constant__ FinishPass<T> p) {
  using A = Acc<T>;
  constexpr int kWarps = kThreads / kWarpSize;
  __shared__ SharedTile<double, 1, kWarps> loss_scratch, slope_scratch, scale_scratch;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpSize, warp = thread / kWarpSize;
  if (blockIdx.x == 0) {
    const bool has_part = thread < kBoundBlocks;
    const double loss = block_sum<kThreads>(has_part ? p.losses[thread] : 0.0, loss_scratch);
    if (thread == 0) *p.loss = static_cast<A>(p.factor * loss);
    if (p.dscale == nullptr) return;
    const double from_positives = block_sum<kThreads>(has_part ? p.products_slopes[thread] : 0.0, slope_scratch);
    double from_negatives = 0;
    if (p.scale_parts != nullptr) {
      for (int64_t i = thread; i < p.scale_count; i += kThreads) from_negatives += p.scale_parts[i];
    }
    from_negatives = block_sum<kThreads>(from_negatives, scale_scratch);
    if (thread != 0) return;
    if (p.scale_sum != nullptr) from_negatives = static_cast<double>(*p.scale_sum);
    *p.dscale = static_cast<A>(from_negatives - from_positives);
    return;
  }

  const A scale = *p.scale, scale_of_parts = p.scaled ? A(1) : scale;
  const int64_t stride = static_cast<int64_t>(gridDim.x - 1) * kWarps;
  for (int64_t row = static_cast<int64_t>(blockIdx.x - 1) * kWarps + warp; row < 2 * p.n; row += stride) {
    const int side = row < p.n ? 0 : 1;
    const FinishSide<T>& own = p.sides[side];
    if (own.out == nullptr) continue;
    const int64_t i = side == 0 ? row : row - p.n;
    A* const sums = own.parts + i * p.d;
    const T* const points = own.points + i * p.d;
    const T* const partner = own.partners + i * p.pitch;
    T* const out = own.out + i * p.d;
    A slope = p.slopes[i];
    if (p.slope_sides == 2) slope += p.slopes[p.n + i];
    const A of_partner = scale * slope;

    A square = A(0), radial = A(0);
    for (int64_t k = lane; k < p.d; k += kWarpSize) {
      A sum = sums[k];
      for (int64_t part = 1; part < own.count; ++part) sum += sums[part * own.size + k];
      const A gradient = scale_of_parts * sum - of_partner * widen(partner[k]);
      if (!p.normalize) {
        out[k] = narrow<T>(gradient);
        continue;
      }
      sums[k] = gradient;  // for this lane's second look
      const A v = widen(points[k]);
      square = fma(v, v, square);
      radial = fma(gradient, v, radial);
    }
    if (!p.normalize) continue;
    const A norm = sqrt(warp_total(square)), from_norm = A(1) / fmax(norm, kSmallestNorm<A>);
    radial = warp_total(radial);
    const A along = norm > kSmallestNorm<A> ? radial * from_norm * from_norm : A(0);
    for (int64_t k = lane; k < p.d; k += kWarpSize) {
      out[k] = narrow<T>((sums[k] - along * widen(points[k])) * from_norm);
    }
  }
}

}  // namespace mi::cuda
