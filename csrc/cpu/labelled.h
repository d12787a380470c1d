// SPDX-License-Identifier: Apache-2.0
// Moments of activations whose labels have the size of the layer.
//
// The positions of an image are sorted by label once, tile by tile. Then every block of channels is packed and summed
// tile by tile. A block is one vector wide if channels lie in planes, so memory is read in order, and the moments of
// all clusters stay in the first-level cache. Half of the next block is prefetched while a block is packed and half
// while it is summed, so that memory is busy during both.
#include "moments.h"

namespace stylefast {
namespace STYLEFAST_ISA {

template <typename T>
class LabelledSum {
  static constexpr int L = kLanes<T>;

 public:
  LabelledSum(const LabelledTask<T>& task, int64_t width)
      : task_(task),
        pixels_(task.a.channels_last() ? tile_pixels<T>(width, task.a.plane())
                                       : std::min<int64_t>(1024, round_up(task.a.plane(), L))),
        tile_(width, pixels_),
        label_(pixels_),
        counts_(task.clusters + 1) {
    for (int64_t p = 0; p < task.a.plane(); p += pixels_) runs_.emplace_back(pixels_, task.clusters + 1);
  }

  // Adds channels [c, c + channels) of image n.
  void add(int64_t n, int64_t c, int64_t channels, const Moments<T>& moments) {
    if (n != std::exchange(sorted_image_, n)) sort(n);
    const Source& a = task_.a;
    const bool joined = a.stride_w == 1 && a.rows_join() && a.stride_c == a.plane();  // planes follow each other
    const int64_t begin = c / L, end = (c + channels + L - 1) / L;
    std::copy(counts_ + 0, counts_ + task_.clusters + 1, moments.counts + 0);
    for (int64_t t = 0; t < static_cast<int64_t>(runs_.size()); ++t) {
      const int64_t offset = t * pixels_, count = std::min(pixels_, a.plane() - offset);
      pack<T>(a, n * a.plane() + offset, count, begin, end, tile_.data, tile_.stride, nullptr, joined ? L / 2 : L);
      for (int64_t s = 0; s < end - begin; ++s) {
        const T* slab = tile_.slab(s);
        if (task_.standardize && t == 0) store(moments.shift + s * L, sample_mean(slab, count));
        const int64_t step = a.element_size() * (L / 2);
        const Ahead ahead = joined ? Ahead{a.address(n * a.plane(), c + L + L / 2) + offset * step, step}
                                   : Ahead{reinterpret_cast<const char*>(slab), 0};
        add_slab<T>(slab, s, runs_[t], moments, ahead);
      }
    }
  }

 private:
  // Sorts the positions of image n by label, and counts them. A label outside [0, K) counts as K.
  void sort(int64_t n) {
    const int32_t clusters = static_cast<int32_t>(task_.clusters);
    const int32_t* from = task_.labels + n * task_.a.plane();
    std::fill(counts_ + 0, counts_ + clusters + 1, T(0));
    for (int64_t p = 0; p < task_.a.plane(); p += pixels_) {
      const int64_t count = std::min(pixels_, task_.a.plane() - p);
      for (int64_t i = 0; i < count; ++i)
        label_[i] = from[p + i] >= 0 && from[p + i] < clusters ? from[p + i] : clusters;
      Runs& runs = runs_[p / pixels_];
      runs.sort(label_, count);
      int32_t start = 0;
      for (const Run& run : runs) counts_[run.label] += static_cast<T>(run.end - std::exchange(start, run.end));
    }
  }

  const LabelledTask<T>& task_;
  int64_t pixels_;
  Tile<T> tile_;
  Buffer<int32_t> label_;
  Buffer<T> counts_;        // [K + 1], positions per label of the image
  std::vector<Runs> runs_;  // of every tile of an image
  int64_t sorted_image_ = -1;
};

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
