// SPDX-License-Identifier: Apache-2.0
// Sums by label without a scatter. A counting sort orders the positions of a tile by label. Then the rows of each run
// of equal labels are added in registers, and the sum of the run is written once.
#include "score.h"

namespace stylefast {
namespace STYLEFAST_ISA {

struct Run {
  int32_t label;
  int32_t end;  // exclusive end in `order`; the next run begins there
};

class Runs {
 public:
  Runs(int64_t pixels, int64_t clusters) : order(pixels), runs_(pixels), count_(clusters) {
    std::fill(count_ + 0, count_ + clusters, 0);
  }

  // Sorts positions [0, count) by label and leaves out those with a negative label. Runs are in the order in which
  // their labels first occur.
  void sort(const int32_t* label, int64_t count) {
    size_ = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (label[i] >= 0 && count_[label[i]]++ == 0) runs_[size_++].label = label[i];
    }
    int32_t begin = 0;
    for (Run& run : *this) {  // from here, count_ is the index in `order` of the label's next position
      const int32_t width = count_[run.label];
      count_[run.label] = begin;
      begin += width;
    }
    for (int64_t i = 0; i < count; ++i) {
      if (label[i] >= 0) order[count_[label[i]]++] = static_cast<int32_t>(i);
    }
    for (Run& run : *this) {
      run.end = count_[run.label];
      count_[run.label] = 0;  // for the next tile
    }
  }

  Run* begin() const { return runs_; }
  Run* end() const { return runs_ + size_; }

  Buffer<int32_t> order;  // positions, sorted by label

 private:
  Buffer<Run> runs_;
  int64_t size_ = 0;
  Buffer<int32_t> count_;  // [K]
};

// sums[s, label, lane] += weight[i] * slab[s, i, lane] over the positions i of every run, in four interleaved sums per
// slab. Strides lead from one slab to the next. Several slabs share the loads of positions and weights.
template <typename T, int kSlabs>
void add_runs(const T* slab, int64_t slab_stride, const T* weight, const Runs& runs, T* sums, int64_t sums_stride) {
  constexpr int L = kLanes<T>;
  const int32_t* position = runs.order;
  for (const Run& run : runs) {
    const int32_t* end = runs.order + run.end;
    Vec<T> sum[4][kSlabs] = {};
    const auto add = [&](Vec<T>(&to)[kSlabs], int32_t i) {
      for (int s = 0; s < kSlabs; ++s) to[s] += load(slab + s * slab_stride + i * L) * weight[i];
    };
    for (; position + 4 <= end; position += 4) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) add(sum[j], position[j]);
    }
    for (; position < end; ++position) add(sum[0], *position);
    for (int s = 0; s < kSlabs; ++s) {
      T* to = sums + s * sums_stride + run.label * L;
      store(to, load(to) + ((sum[0][s] + sum[1][s]) + (sum[2][s] + sum[3][s])));
    }
  }
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
