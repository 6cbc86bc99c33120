// Batches of Sinkhorn problems on CUDA. kernel.h states the contract; maths: ops/sinkhorn_batch.py.
//
// A team of threads has one problem: a thread takes lines of the side that is scaled first, then of the other, each
// with a running log-sum-exp of its own, so that nothing is reduced across threads. Teams have 4, 32 or 256 threads, as
// the longer side asks for; a block has 256, and thus up to 64 problems of 4 x 4. Scores are read from cache in each
// iteration; potentials are in workspace that only the team touches, and a barrier of the block stands between the
// sides.
//
// Backward: the iterations once more, their potentials kept; then back through them, where the gradients at the
// potentials need only sums along lines; last the scores' gradient, each entry by itself, from the potentials and
// gradients of all iterations. No atomics: the bits depend on the shapes alone. The log domain throughout.
#include "ops/sinkhorn_batch/cuda.h"

#include <algorithm>

#include "common/cuda/launch.cuh"
#include "common/cuda/numeric.cuh"
#include "common/cuda/online_lse.cuh"

namespace mi {
namespace {

using namespace mi::cuda;

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 65535 * int64_t{16};

// Lines are those of the side that is scaled first (x), columns those of the other (y).
template <typename T>
struct Problems {
  const T* scores;
  const Acc<T>* log_x;  // null: 0 or log_ratio
  const Acc<T>* log_y;
  int64_t batch, size, p, q, step_i, step_j, n_iter;
  Acc<T> inverse, default_x, default_y;

  __device__ __forceinline__ Acc<T> first(int64_t problem, int64_t i) const {
    return log_x == nullptr ? default_x : log_x[problem * p + i];
  }
  __device__ __forceinline__ Acc<T> second(int64_t problem, int64_t j) const {
    return log_y == nullptr ? default_y : log_y[problem * q + j];
  }
  // -inf where the line or the column is no part of the problem, whatever the score.
  __device__ __forceinline__ Acc<T> z(int64_t problem, int64_t i, int64_t j) const {
    const Acc<T> nothing = -infinity<Acc<T>>();
    if (first(problem, i) == nothing || second(problem, j) == nothing) return nothing;
    return widen(scores[problem * size + i * step_i + j * step_j]) * inverse;
  }
};

template <typename T>
struct ForwardPass {
  Problems<T> problems;
  Acc<T>*potentials, *plan, *x, *y;
};

template <typename T>
struct BackwardPass {
  Problems<T> problems;
  const Acc<T>*grad_plan, *grad_x, *grad_y;
  Acc<T>*potentials, *gradients, *dscores, *dlog_x, *dlog_y;
};

template <typename A>
__device__ __forceinline__ A potential(A log_weight, const LseState<A>& state) {
  const A nothing = -infinity<A>();
  return log_weight == nothing || (state.max == nothing && state.sum == A(0)) ? nothing : log_weight - lse_value(state);
}

template <typename A>
__device__ __forceinline__ void push(LseState<A>& state, A value) {
  const A values[1] = {value};
  lse_push(state, values);
}

// One iteration of a team's problem: from `before`, the potentials of columns, to x and y. Every thread of the block
// must call it; `active` tells whether the team has a problem.
template <int kTeam, typename T, typename A = Acc<T>>
__device__ void iterate(const Problems<T>& problems, int64_t problem, bool active, const A* before, A* x, A* y) {
  const int member = static_cast<int>(threadIdx.x) % kTeam;
  for (int64_t i = member; active && i < problems.p; i += kTeam) {
    LseState<A> state = lse_empty<A>();
    for (int64_t j = 0; j < problems.q; ++j) push(state, problems.z(problem, i, j) + before[j]);
    x[i] = potential(problems.first(problem, i), state);
  }
  __syncthreads();
  for (int64_t j = member; active && j < problems.q; j += kTeam) {
    LseState<A> state = lse_empty<A>();
    for (int64_t i = 0; i < problems.p; ++i) push(state, problems.z(problem, i, j) + x[i]);
    y[j] = potential(problems.second(problem, j), state);
  }
  __syncthreads();
}

template <int kTeam, typename T>
__global__ void __launch_bounds__(kThreads, 2) forward_kernel(ForwardPass<T> pass) {
  using A = Acc<T>;
  constexpr int kTeams = kThreads / kTeam;
  const Problems<T>& problems = pass.problems;
  const int member = static_cast<int>(threadIdx.x) % kTeam, team = static_cast<int>(threadIdx.x) / kTeam;
  const int64_t p = problems.p, q = problems.q;
  for (int64_t first = int64_t{blockIdx.x} * kTeams; first < problems.batch; first += int64_t{gridDim.x} * kTeams) {
    const int64_t problem = first + team;
    const bool active = problem < problems.batch;
    A* x = pass.potentials + problem * (p + q);
    A* y = x + p;
    for (int64_t j = member; active && j < q; j += kTeam) y[j] = A(0);
    __syncthreads();
    for (int64_t k = 0; k < problems.n_iter; ++k) iterate<kTeam>(problems, problem, active, y, x, y);
    if (!active) continue;
    for (int64_t entry = member; entry < p * q; entry += kTeam) {
      const int64_t i = entry / q, j = entry % q;
      pass.plan[problem * problems.size + i * problems.step_i + j * problems.step_j] =
          exp(problems.z(problem, i, j) + x[i] + y[j]);
    }
    if (pass.x == nullptr) continue;
    for (int64_t i = member; i < p; i += kTeam) pass.x[problem * p + i] = x[i];
    for (int64_t j = member; j < q; j += kTeam) pass.y[problem * q + j] = y[j];
  }
}

// A weight of -inf has a potential of -inf, and a finite number in its place still gives exp(-inf) = 0.
template <typename A>
__device__ __forceinline__ A finite(A log_weight) {
  return log_weight == -infinity<A>() ? A(0) : log_weight;
}

template <int kTeam, typename T>
__global__ void __launch_bounds__(kThreads, 2) backward_kernel(BackwardPass<T> pass) {
  using A = Acc<T>;
  constexpr int kTeams = kThreads / kTeam;
  const Problems<T>& problems = pass.problems;
  const int member = static_cast<int>(threadIdx.x) % kTeam, team = static_cast<int>(threadIdx.x) / kTeam;
  const int64_t p = problems.p, q = problems.q, last = problems.n_iter;
  for (int64_t begin = int64_t{blockIdx.x} * kTeams; begin < problems.batch; begin += int64_t{gridDim.x} * kTeams) {
    const int64_t problem = begin + team;
    const bool active = problem < problems.batch;
    // x and y after iteration k, and the gradients at them.
    const int64_t origin = problem * (last + 1) * (p + q);
    const auto x = [&](int64_t k) { return pass.potentials + origin + k * (p + q); };
    const auto y = [&](int64_t k) { return x(k) + p; };
    const auto dx = [&](int64_t k) { return pass.gradients + origin + k * (p + q); };
    const auto dy = [&](int64_t k) { return dx(k) + p; };
    const auto grad_of = [&](int64_t i, int64_t j) {
      return pass.grad_plan[problem * problems.size + i * problems.step_i + j * problems.step_j] *
             exp(problems.z(problem, i, j) + x(last)[i] + y(last)[j]);
    };
    for (int64_t j = member; active && j < q; j += kTeam) y(0)[j] = A(0);
    __syncthreads();
    for (int64_t k = 1; k <= last; ++k) iterate<kTeam>(problems, problem, active, y(k - 1), x(k), y(k));
    for (int64_t j = member; active && j < q; j += kTeam) {
      A sum = pass.grad_y == nullptr ? A(0) : pass.grad_y[problem * q + j];
      for (int64_t i = 0; i < p; ++i) sum += grad_of(i, j);
      dy(last)[j] = sum;
    }
    __syncthreads();
    for (int64_t k = last; k > 0; --k) {
      for (int64_t i = member; active && i < p; i += kTeam) {
        A sum = A(0);
        if (k == last) {
          sum = pass.grad_x == nullptr ? A(0) : pass.grad_x[problem * p + i];
          for (int64_t j = 0; j < q; ++j) sum += grad_of(i, j);
        }
        for (int64_t j = 0; j < q; ++j) {
          const A c = exp(problems.z(problem, i, j) + x(k)[i] + y(k)[j] - finite(problems.second(problem, j)));
          sum -= c * dy(k)[j];
        }
        dx(k)[i] = sum;
      }
      __syncthreads();
      for (int64_t j = member; active && j < q; j += kTeam) {
        A sum = A(0);
        for (int64_t i = 0; i < p; ++i) {
          const A r = exp(problems.z(problem, i, j) + x(k)[i] + y(k - 1)[j] - finite(problems.first(problem, i)));
          sum -= r * dx(k)[i];
        }
        dy(k - 1)[j] = sum;
      }
      __syncthreads();
    }
    if (!active) continue;
    for (int64_t entry = member; entry < p * q; entry += kTeam) {
      const int64_t i = entry / q, j = entry % q;
      const A z = problems.z(problem, i, j);
      const A log_x = finite(problems.first(problem, i)), log_y = finite(problems.second(problem, j));
      A sum = grad_of(i, j);
      for (int64_t k = last; k > 0; --k) {
        sum -= exp(z + x(k)[i] + y(k)[j] - log_y) * dy(k)[j];
        sum -= exp(z + x(k)[i] + y(k - 1)[j] - log_x) * dx(k)[i];
      }
      pass.dscores[problem * problems.size + i * problems.step_i + j * problems.step_j] = sum * problems.inverse;
    }
    if (pass.dlog_x == nullptr) continue;
    for (int64_t i = member; i < p; i += kTeam) {
      A sum = A(0);
      for (int64_t k = last; k > 0; --k) sum += dx(k)[i];
      pass.dlog_x[problem * p + i] = sum;
    }
    for (int64_t j = member; j < q; j += kTeam) {
      A sum = A(0);
      for (int64_t k = last; k > 0; --k) sum += dy(k)[j];
      pass.dlog_y[problem * q + j] = sum;
    }
  }
}

template <typename F>
cudaError_t by_dtype(DType dtype, const F& f) {
  switch (dtype) {
    case DType::f64:
      return f(double{});
    case DType::bf16:
      return f(__nv_bfloat16{});
    case DType::f16:
      return f(__half{});
    default:
      return f(float{});
  }
}

template <typename T>
Problems<T> on_device(const SinkhornProblems& given) {
  using A = Acc<T>;
  const bool rows = given.rows_first;
  const A ratio = static_cast<A>(log(static_cast<double>(given.n) / static_cast<double>(given.m)));
  Problems<T> made{};
  made.scores = static_cast<const T*>(given.scores);
  made.log_x = static_cast<const A*>(rows ? given.log_a : given.log_b);
  made.log_y = static_cast<const A*>(rows ? given.log_b : given.log_a);
  made.batch = given.batch;
  made.size = given.n * given.m;
  made.p = rows ? given.n : given.m;
  made.q = rows ? given.m : given.n;
  made.step_i = rows ? given.m : 1;
  made.step_j = rows ? 1 : given.m;
  made.n_iter = given.n_iter;
  made.inverse = static_cast<A>(1 / given.epsilon);
  made.default_x = rows ? A(0) : ratio;
  made.default_y = rows ? ratio : A(0);
  return made;
}

bool valid(const SinkhornProblems& problems, const void* workspace) {
  return problems.batch >= 1 && problems.n >= 1 && problems.m >= 1 && problems.n_iter >= 1 && workspace != nullptr &&
         (problems.log_a == nullptr) == (problems.log_b == nullptr);
}

size_t accumulation_bytes(DType dtype) { return dtype == DType::f64 ? sizeof(double) : sizeof(float); }

// Launches the kernel whose teams suit the longer side.
template <typename Pass>
cudaError_t launch_teams(void (*four)(Pass), void (*warp)(Pass), void (*block)(Pass), const SinkhornProblems& problems,
                         const Pass& pass, cudaStream_t stream) {
  const int64_t side = std::max(problems.n, problems.m);
  const int64_t team = side <= 4 ? 4 : side <= 64 ? 32 : kThreads, teams = kThreads / team;
  const int64_t blocks = std::min(kMostBlocks, (problems.batch + teams - 1) / teams);
  return launch(side <= 4    ? four
                : side <= 64 ? warp
                             : block,
                dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream, pass);
}

}  // namespace

size_t sinkhorn_batch_forward_workspace(DType dtype, const SinkhornProblems& problems) {
  return static_cast<size_t>(problems.batch * (problems.n + problems.m)) * accumulation_bytes(dtype);
}

size_t sinkhorn_batch_backward_workspace(DType dtype, const SinkhornProblems& problems) {
  return 2 * static_cast<size_t>(problems.n_iter + 1) * sinkhorn_batch_forward_workspace(dtype, problems);
}

cudaError_t sinkhorn_batch_forward(DType dtype, const SinkhornBatchForward& args, void* workspace,
                                   cudaStream_t stream) {
  if (!valid(args.problems, workspace)) return cudaErrorInvalidValue;
  return by_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    using A = Acc<T>;
    const bool rows = args.problems.rows_first;
    const ForwardPass<T> pass{on_device<T>(args.problems), static_cast<A*>(workspace), static_cast<A*>(args.plan),
                              static_cast<A*>(rows ? args.phi : args.psi), static_cast<A*>(rows ? args.psi : args.phi)};
    return launch_teams(forward_kernel<4, T>, forward_kernel<32, T>, forward_kernel<kThreads, T>, args.problems, pass,
                        stream);
  });
}

cudaError_t sinkhorn_batch_backward(DType dtype, const SinkhornBatchBackward& args, void* workspace,
                                    cudaStream_t stream) {
  if (!valid(args.problems, workspace)) return cudaErrorInvalidValue;
  return by_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    using A = Acc<T>;
    const SinkhornProblems& problems = args.problems;
    const bool rows = problems.rows_first;
    BackwardPass<T> pass{};
    pass.problems = on_device<T>(problems);
    pass.grad_plan = static_cast<const A*>(args.grad_plan);
    pass.grad_x = static_cast<const A*>(rows ? args.grad_phi : args.grad_psi);
    pass.grad_y = static_cast<const A*>(rows ? args.grad_psi : args.grad_phi);
    pass.potentials = static_cast<A*>(workspace);
    pass.gradients = pass.potentials + problems.batch * (problems.n_iter + 1) * (problems.n + problems.m);
    pass.dscores = static_cast<A*>(args.dscores);
    pass.dlog_x = static_cast<A*>(rows ? args.dlog_a : args.dlog_b);
    pass.dlog_y = static_cast<A*>(rows ? args.dlog_b : args.dlog_a);
    return launch_teams(backward_kernel<4, T>, backward_kernel<32, T>, backward_kernel<kThreads, T>, problems, pass,
                        stream);
  });
}

}  // namespace mi
