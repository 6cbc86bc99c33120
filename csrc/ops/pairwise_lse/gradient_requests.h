// What the gradient passes of a backward call are: which side each is for, and what it is to give.
#pragma once

#include "ops/pairwise_lse/kernel.h"

namespace mi {

struct PassRequest {
  bool as_row, as_col;  // the roles that the pass's points take
  void* points;
  void* bias;
  void* scale;
};

struct PassRequests {
  PassRequest items[2];
  int count = 0;

  explicit PassRequests(const PairwiseLseBackward& args) {
    const PairwiseScores& pairs = args.pairs;
    if (pairs.self() && args.dx != nullptr) {
      add({true, true, args.dx, args.dbias, args.dscale});
      return;
    }
    // The bias belongs to the columns. The scale's gradient is taken along by whichever pass runs anyway.
    const bool col_pass = args.dy != nullptr || args.dbias != nullptr || (args.dx == nullptr && args.dscale != nullptr);
    if (args.dx != nullptr) add({true, false, args.dx, nullptr, col_pass ? nullptr : args.dscale});
    if (col_pass) add({false, true, args.dy, args.dbias, args.dscale});
  }

 private:
  void add(const PassRequest& request) { items[count++] = request; }
};

}  // namespace mi
