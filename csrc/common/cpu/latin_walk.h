// Threads over the tiles of a matrix of pairs, so that every row and every column has one writer at a time.
#pragma once

#include "common/cpu/arrays.h"
#include "common/cpu/runtime.h"

namespace mi {
namespace MI_SIMD_LEVEL {

template <class F>
void parallel(const CpuRuntime& runtime, int64_t tasks, const F& body) {
  if (tasks == 1) return body(0);
  runtime.parallel(
      tasks, [](void* context, int64_t task) { (*static_cast<const F*>(context))(task); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

constexpr int64_t kRowsAtOnce = 32;  // rows a thread should have before it is worth waking

// Calls body(part, rows) for parts of n rows, in parallel; at most runtime.threads parts.
template <class F>
void over_rows(const CpuRuntime& runtime, int64_t n, const F& body) {
  const int64_t parts = max_of(1, min_of(runtime.threads, n / kRowsAtOnce));
  parallel(runtime, parts, [&](int64_t part) { body(part, chunk(n, parts, part)); });
}

constexpr int64_t kTileRows = 256;
constexpr int64_t kTileCols = 992;  // not 1024: rows 4 KiB apart would share cache sets
constexpr int64_t kMinChunk = 64;   // rows or columns under which another thread does not pay

// Rows and columns are each cut into T chunks, one for each thread, and walked as a Latin square: at step s thread t
// owns row chunk t and column chunk (t + s) mod T. So each row statistic or gradient and each column one has a single
// writer at any time: no atomics, no per-thread copies, and a fixed order of summation, so results repeat bit for bit
// for a given thread count. T steps, one barrier each. When nothing is written by columns the columns are not cut, and
// there is one step.
//
// Calls body(thread, rows, cols, first_cols, first_rows) for every tile, in that order.
// first_cols: the first tile of its row block that the walk meets; first_rows: the first of its column tile. Exactly
// one tile of each row block and of each column tile has its flag, since no chunk is empty: outputs are set there, and
// added to elsewhere. by_columns: some output is written by columns.
struct Walk {
  int64_t n, m, chunks, tile_rows, tile_cols;
  bool by_columns;

  Walk(int64_t rows, int64_t cols, bool by_columns_, const CpuRuntime& runtime)
      : n(rows), m(cols), by_columns(by_columns_) {
    chunks = min_of(runtime.threads, ceil_div(n, kMinChunk));
    if (by_columns) chunks = min_of(chunks, ceil_div(m, kMinChunk));
    chunks = max_of(chunks, 1);
    tile_rows = min_of(kTileRows, aligned(ceil_div(n, chunks)));
    const int64_t part = by_columns ? ceil_div(m, chunks) : m;
    tile_cols = aligned(ceil_div(part, ceil_div(part, kTileCols)));
  }

  template <class F>
  void cell(int64_t thread, int64_t step, const F& body) const {
    const Range rows = chunk(n, chunks, thread);
    const Range cols = by_columns ? chunk(m, chunks, (thread + step) % chunks) : Range{0, m};
    for (int64_t i = rows.begin; i < rows.end; i += tile_rows)
      for (int64_t j = cols.begin; j < cols.end; j += tile_cols)
        body(thread, Range{i, min_of(i + tile_rows, rows.end)}, Range{j, min_of(j + tile_cols, cols.end)},
             step == 0 && j == cols.begin, step == 0 && i == rows.begin);
  }

  template <class F>
  void run(const CpuRuntime& runtime, const F& body) const {
    const int64_t steps = by_columns ? chunks : 1;
    for (int64_t step = 0; step < steps; ++step)
      parallel(runtime, chunks, [&](int64_t thread) { cell(thread, step, body); });
  }
};

}  // namespace MI_SIMD_LEVEL
}  // namespace mi
