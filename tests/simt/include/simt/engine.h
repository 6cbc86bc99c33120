// Runs CUDA kernels on the CPU, one block after another, to test their logic where there is no GPU.
//
// The threads of a block are fibers on one OS thread. A fiber runs until it reaches a barrier or a warp operation, and
// the scheduler lets the group go on once every member has arrived. That makes a run repeatable, and it makes mistakes
// that a GPU answers with a hang or with garbage visible: whatever can no longer be completed is reported.
//
// Reported, as an error of the launch with a message in last_error():
//   - barriers that not all threads of the block reach, or that they reach at different places in the source;
//   - warp operations with lanes missing, exited, at another operation, or outside their own mask;
//   - indices outside a shared tile, and dynamic shared memory beyond what the launch asked for (shared.h).
// Shared memory is poisoned with NaN at the start of each block, so that reading what was never written shows in the
// result. A missing barrier shows as a difference between the schedules: set_schedule() reverses the order of threads.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// As in CUDA, the running thread's coordinates are variables of the program.
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace simt {

constexpr int kWarp = 32;
constexpr int kMaxThreads = 1024;
constexpr size_t kMaxDynamicShared = 227 * 1024;
constexpr size_t kStackBytes = 128 * 1024;

// A place in the kernels' source.
struct Site {
  const char* file = "";
  int line = 0;
};

enum class State { ready, at_barrier, at_warp_op, done };

struct Fiber {
  ucontext_t start;
  jmp_buf resume;
  std::unique_ptr<char[]> stack;
  bool started = false;
  State state = State::done;
  Site site;
  // The warp operation that it waits in.
  const char* op = "";
  unsigned mask = 0;
  int source_lane = 0;
  uint64_t value = 0;
};

struct Engine {
  // By warp: what its lanes brought to the last operation. Nobody overwrites it before all of them have run again.
  uint64_t gathered[kMaxThreads / kWarp][kWarp] = {};
  std::vector<std::unique_ptr<Fiber>> fibers;
  jmp_buf scheduler;
  std::function<void()> body;
  int current = 0;
  int threads = 0;
  uint64_t block_serial = 0;
  size_t dynamic_bytes = 0;
  bool reversed = false;
  bool failed = false;
  std::string error;
};

inline Engine engine;

inline const std::string& last_error() { return engine.error; }
inline void set_schedule(bool reversed) { engine.reversed = reversed; }

inline std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));
inline std::string text(const char* format, ...) {
  char buffer[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(buffer, sizeof(buffer), format, arguments);
  va_end(arguments);
  return buffer;
}

inline std::string describe(const Site& site) {
  const char* slash = strrchr(site.file, '/');
  return text("%s:%d", slash != nullptr ? slash + 1 : site.file, site.line);
}

inline void record_failure(const std::string& what) {
  engine.failed = true;
  engine.error = what + text(" [block (%u, %u, %u)]", blockIdx.x, blockIdx.y, blockIdx.z);
}

// No locals: what a function holds across setjmp may be lost.
__attribute__((noinline)) inline void to_scheduler(Fiber& fiber) {
  if (_setjmp(fiber.resume) == 0) _longjmp(engine.scheduler, 1);
}

// Ends the launch from inside a kernel. The fiber is abandoned: kernels own nothing that needs a destructor.
[[noreturn]] inline void fail(const std::string& what) {
  record_failure(what + text(" by thread %d", engine.current));
  _longjmp(engine.scheduler, 1);
}

// A fiber is made once and then runs one thread of every block.
inline void fiber_main() {
  for (;;) {
    engine.body();
    Fiber& fiber = *engine.fibers[static_cast<size_t>(engine.current)];
    fiber.state = State::done;
    to_scheduler(fiber);
  }
}

__attribute__((noinline)) inline void resume(Fiber& fiber) {
  if (_setjmp(engine.scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.resume, 1);
  fiber.started = true;
  setcontext(&fiber.start);
}

inline void run_thread(int thread) {
  engine.current = thread;
  const unsigned t = static_cast<unsigned>(thread);
  threadIdx = dim3(t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y));
  resume(*engine.fibers[static_cast<size_t>(thread)]);
}

inline std::unique_ptr<Fiber> make_fiber() {
  auto fiber = std::make_unique<Fiber>();
  fiber->stack = std::make_unique<char[]>(kStackBytes);
  getcontext(&fiber->start);
  fiber->start.uc_stack.ss_sp = fiber->stack.get();
  fiber->start.uc_stack.ss_size = kStackBytes;
  fiber->start.uc_link = nullptr;
  makecontext(&fiber->start, fiber_main, 0);
  return fiber;
}

// ---- what threads wait in

inline void block_barrier(Site site) {
  Fiber& fiber = *engine.fibers[static_cast<size_t>(engine.current)];
  fiber.state = State::at_barrier;
  fiber.site = site;
  to_scheduler(fiber);
}

// Meets the other lanes of `mask` and returns the value that `source_lane` brought.
inline uint64_t warp_operation(const char* op, unsigned mask, int source_lane, uint64_t value, Site site) {
  const int lane = engine.current % kWarp;
  if ((mask >> lane & 1u) == 0)
    fail(text("%s at %s: lane %d is not in its own mask %08x", op, describe(site).c_str(), lane, mask));
  if ((mask >> source_lane & 1u) == 0) {
    fail(text("%s at %s: reads lane %d, which is not in the mask %08x", op, describe(site).c_str(), source_lane, mask));
  }
  Fiber& fiber = *engine.fibers[static_cast<size_t>(engine.current)];
  fiber.state = State::at_warp_op;
  fiber.site = site;
  fiber.op = op;
  fiber.mask = mask;
  fiber.source_lane = source_lane;
  fiber.value = value;
  to_scheduler(fiber);
  return fiber.value;
}

// Meets all lanes of the warp, and returns what each of them brought.
inline const uint64_t* warp_gather(const char* op, uint64_t value, Site site) {
  warp_operation(op, 0xffffffffu, engine.current % kWarp, value, site);
  return engine.gathered[engine.current / kWarp];
}

// ---- the scheduler

inline Fiber& fiber_at(int thread) { return *engine.fibers[static_cast<size_t>(thread)]; }

// Lets go every group of lanes of this warp that is complete. True when there was one.
inline bool release_warp(int first) {
  const int lanes = std::min(kWarp, engine.threads - first);
  bool released = false;
  for (int lane = 0; lane < lanes; ++lane) {
    const Fiber& leader = fiber_at(first + lane);
    if (leader.state != State::at_warp_op) continue;
    bool complete = true;
    for (int other = 0; other < kWarp && complete; ++other) {
      if ((leader.mask >> other & 1u) == 0) continue;
      complete = other < lanes && fiber_at(first + other).state == State::at_warp_op &&
                 fiber_at(first + other).mask == leader.mask && strcmp(fiber_at(first + other).op, leader.op) == 0;
    }
    if (!complete) continue;
    const unsigned mask = leader.mask;
    uint64_t (&values)[kWarp] = engine.gathered[first / kWarp];
    for (int other = 0; other < lanes; ++other) values[other] = fiber_at(first + other).value;
    for (int other = 0; other < lanes; ++other) {
      if ((mask >> other & 1u) == 0) continue;
      fiber_at(first + other).value = values[fiber_at(first + other).source_lane];
      fiber_at(first + other).state = State::ready;
    }
    released = true;
  }
  return released;
}

// Called when no thread can run: opens the block's barrier, or says why that cannot be.
inline void release_block() {
  int done = 0, waiting = -1;
  for (int thread = 0; thread < engine.threads; ++thread) {
    const Fiber& fiber = fiber_at(thread);
    if (fiber.state == State::at_warp_op) {
      record_failure(text("divergent warp: thread %d waits in %s at %s (mask %08x), and not all of its lanes come",
                          thread, fiber.op, describe(fiber.site).c_str(), fiber.mask));
      return;
    }
    if (fiber.state == State::done) ++done;
    if (fiber.state != State::at_barrier) continue;
    if (waiting >= 0 &&
        (fiber.site.line != fiber_at(waiting).site.line || strcmp(fiber.site.file, fiber_at(waiting).site.file) != 0)) {
      record_failure(text("divergent barrier: thread %d waits at %s, thread %d at %s", waiting,
                          describe(fiber_at(waiting).site).c_str(), thread, describe(fiber.site).c_str()));
      return;
    }
    if (waiting < 0) waiting = thread;
  }
  if (done > 0) {
    record_failure(text("divergent barrier: thread %d waits at %s, but %d of %d threads have exited", waiting,
                        describe(fiber_at(waiting).site).c_str(), done, engine.threads));
    return;
  }
  for (int thread = 0; thread < engine.threads; ++thread) fiber_at(thread).state = State::ready;
}

inline void run_block() {
  ++engine.block_serial;
  for (int thread = 0; thread < engine.threads; ++thread) fiber_at(thread).state = State::ready;
  for (;;) {
    bool ran = false, all_done = true;
    for (int i = 0; i < engine.threads; ++i) {
      const int thread = engine.reversed ? engine.threads - 1 - i : i;
      if (fiber_at(thread).state == State::ready) {
        run_thread(thread);
        ran = true;
        if (engine.failed) return;
      }
      all_done = all_done && fiber_at(thread).state == State::done;
    }
    if (all_done) return;
    if (ran) continue;
    bool released = false;
    for (int first = 0; first < engine.threads; first += kWarp) released = release_warp(first) || released;
    if (!released) release_block();
    if (engine.failed) return;
  }
}

// Runs the whole grid. False, and a message in last_error(), when a kernel misbehaves.
inline bool run_grid(dim3 grid, dim3 block, size_t dynamic_bytes, std::function<void()> body) {
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  engine.failed = false;
  engine.error.clear();
  if (threads < 1 || threads > kMaxThreads || grid.x < 1 || grid.x > 0x7fffffffu || grid.y < 1 || grid.y > 0xffff ||
      grid.z < 1 || grid.z > 0xffff || dynamic_bytes > kMaxDynamicShared) {
    engine.error = text("launch configuration out of range: grid (%u, %u, %u), block (%u, %u, %u), %zu bytes shared",
                        grid.x, grid.y, grid.z, block.x, block.y, block.z, dynamic_bytes);
    return false;
  }
  engine.threads = static_cast<int>(threads);
  engine.dynamic_bytes = dynamic_bytes;
  engine.body = std::move(body);
  gridDim = grid;
  blockDim = block;
  while (engine.fibers.size() < threads) engine.fibers.push_back(make_fiber());
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        run_block();
        if (engine.failed) {
          engine.fibers.clear();  // they are stuck in the middle of the kernel
          return false;
        }
      }
    }
  }
  return true;
}

}  // namespace simt
