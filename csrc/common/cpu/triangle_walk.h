// Threads over the unordered pairs of one set of points, so that every point has one writer at a time.
#pragma once

#include "common/cpu/latin_walk.h"

namespace mi {
namespace MI_SIMD_LEVEL {

// The points are cut into 2 T chunks. First each thread visits the pairs inside two chunks; then the chunks meet each
// other in the rounds of a tournament (the circle method): in each round every chunk is in exactly one match, so the T
// matches of a round write to different points. 2 T - 1 rounds, one barrier each, equal work, a fixed order.
//
// Calls body(rows, cols, diagonal) for every tile: rows before cols, or (diagonal) rows and cols the same range, of
// which both orders of each pair are meant.
struct TriangleWalk {
  int64_t n, chunks, tile_rows, tile_cols;

  TriangleWalk(int64_t points, const CpuRuntime& runtime) : n(points) {
    chunks = 2 * max_of(1, min_of(runtime.threads, n / (2 * kMinChunk)));
    tile_rows = min_of(kTileRows, aligned(ceil_div(n, chunks)));
    const int64_t part = ceil_div(n, chunks);
    tile_cols = aligned(ceil_div(part, ceil_div(part, kTileCols)));
  }

  template <class F>
  void run(const CpuRuntime& runtime, const F& body) const {
    const int64_t matches = chunks / 2, rounds = chunks - 1;
    parallel(runtime, matches, [&](int64_t thread) {
      inside(chunk(n, chunks, 2 * thread), body);
      inside(chunk(n, chunks, 2 * thread + 1), body);
    });
    for (int64_t round = 0; round < rounds; ++round)
      parallel(runtime, matches, [&](int64_t match) {
        const int64_t a = match == 0 ? rounds : (round + match) % rounds, b = (round - match + rounds) % rounds;
        across(chunk(n, chunks, min_of(a, b)), chunk(n, chunks, max_of(a, b)), body);
      });
  }

 private:
  template <class F>
  void inside(Range points, const F& body) const {
    for (int64_t i = points.begin; i < points.end; i += tile_rows) {
      const Range rows{i, min_of(i + tile_rows, points.end)};
      body(rows, rows, true);
      across_row(rows, Range{rows.end, points.end}, body);
    }
  }

  template <class F>
  void across(Range above, Range below, const F& body) const {
    for (int64_t i = above.begin; i < above.end; i += tile_rows)
      across_row(Range{i, min_of(i + tile_rows, above.end)}, below, body);
  }

  template <class F>
  void across_row(Range rows, Range others, const F& body) const {
    for (int64_t j = others.begin; j < others.end; j += tile_cols)
      body(rows, Range{j, min_of(j + tile_cols, others.end)}, false);
  }
};

}  // namespace MI_SIMD_LEVEL
}  // namespace mi
