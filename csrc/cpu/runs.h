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

// sums[label, lane] += weight[i] * slab[i, lane] over the positions i of every run, in four interleaved sums.
template <typename T>
STYLEFAST_INLINE void add_runs(const T* slab, const T* weight, const Runs& runs, T* sums) {
  constexpr int L = kLanes<T>;
  const int32_t* position = runs.order;
  for (const Run& run : runs) {
    const int32_t* end = runs.order + run.end;
    Vec<T> sum[4] = {};
    for (; position + 4 <= end; position += 4) {
      for (int j = 0; j < 4; ++j) sum[j] += load(slab + position[j] * L) * weight[position[j]];
    }
    for (; position < end; ++position) sum[0] += load(slab + *position * L) * weight[*position];
    T* to = sums + run.label * L;
    store(to, load(to) + ((sum[0] + sum[1]) + (sum[2] + sum[3])));
  }
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
