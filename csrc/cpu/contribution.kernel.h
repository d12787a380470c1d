// SPDX-License-Identifier: Apache-2.0
// Kernels of contribution. A unit of work is a block of channels of one image, so that any number of threads shares an
// image. Labels of the layer's own size are summed by labelled.h.
//
// If the sizes differ, then instead of resizing the labels of every cluster to the layer, the kernel pools the layer
// onto the label grid with the adjoint of the resize, and then sums the cells of the grid by label. Therefore the
// memory traffic does not grow with the number of clusters. The rows of the plane are pooled in order, so that at most
// two rows of cells are unfinished at any time.
#include "labelled.h"
#include "pool.h"

namespace stylefast {
namespace STYLEFAST_ISA {

// Adds row y of the pooled cells to the moments of their labels. The array `cells` [2, cells, width] holds the sums of
// (a - shift) and of its square.
template <typename S, typename T>
void add_cells(const PoolTask<S>& task, int64_t n, int64_t y, const T* cells, const Moments<T>& moments) {
  constexpr int L = kLanes<T>;
  const int32_t* labels = task.labels + (n * task.y.cells + y) * task.x.cells;
  for (int64_t x = 0; x < task.x.cells; ++x) {
    const T area = task.y.area[y] * task.x.area[x];
    if (area == 0) continue;  // its sums may be 0 * NaN
    const int64_t k = labels[x] >= 0 && labels[x] < task.clusters ? labels[x] : task.clusters;
    moments.counts[k] += area;
    for (int64_t c = 0; c < moments.width; c += L) {
      T* sum = moments.sums + c * (moments.clusters + 1) + k * L;
      T* square = moments.squares + c * (moments.clusters + 1) + k * L;
      store(sum, load(sum) + load(cells + x * moments.width + c));
      store(square, load(square) + load(cells + (task.x.cells + x) * moments.width + c));
    }
  }
}

// Sums of a pool by label.
template <typename S, typename T, typename Pool>
class PooledSum {
 public:
  PooledSum(const PoolTask<S>& task, int64_t width) : task_(task), pool_(task, width) {}

  // Adds channels [c, c + channels) of image n.
  void add(int64_t n, int64_t c, int64_t channels, const Moments<T>& moments) {
    pool_.add(n, c, channels, moments.shift,
              [&](int64_t y, const T* cells) { add_cells<S, T>(task_, n, y, cells, moments); });
  }

 private:
  const PoolTask<S>& task_;
  Pool pool_;
};

// Runs a part. A unit of work is a block of `width` channels of one image; `width` is a multiple of the vector length.
template <typename Task, typename T, typename Sum>
void sum_units(const Task& task, int64_t width, int64_t part, int64_t parts, Sum&& sum) {
  const int64_t c = task.a.c, stride = task.output.stride, blocks = (c + width - 1) / width, units = blocks * task.a.n;
  double* sums = task.output.sums == nullptr ? nullptr : task.output.sums + part * task.clusters * stride;
  if (sums != nullptr) std::fill(sums, sums + task.clusters * stride, 0.0);
  Moments<T> moments(task.clusters, width);
  for (int64_t u = part_begin(units, part, parts); u < part_begin(units, part + 1, parts); ++u) {
    const int64_t n = u / blocks, first = u % blocks * width, channels = std::min(width, c - first);
    clear<T>(moments);
    sum.add(n, first, channels, moments);
    T* image = task.output.images == nullptr ? nullptr : task.output.images + n * task.clusters * c + first;
    fold<T>(moments, task.standardize, static_cast<T>(task.a.plane()), channels,
            sums == nullptr ? nullptr : sums + first, stride, image, c);
  }
}

// Channels per unit. Planes: one vector. channels_last: the widest blocks, of at most 512 channels, that still give
// every part some work.
template <typename T, typename A>
int64_t unit_width(const A& a, int64_t parts) {
  constexpr int64_t L = kLanes<T>;
  if (!a.channels_last()) return L;
  const int64_t splits = a.n == 0 ? 1 : (parts + a.n - 1) / a.n;
  return std::min<int64_t>(round_up((a.c + splits - 1) / splits, L), 512);
}

template <typename S, typename T = typename Compute<S>::type>
void pool_kernel(const PoolTask<S>& task, int64_t part, int64_t parts) {
  const int64_t width = unit_width<T>(task.a, parts);
  const auto sum = [&](auto&& pooled) { sum_units<PoolTask<S>, T>(task, width, part, parts, pooled); };
  if (task.a.channels_last()) return sum(PooledSum<S, T, PixelPool<S, T>>(task, width));
  sum(PooledSum<S, T, PlanePool<S, T>>(task, width));
}

template <typename T>
void labelled_kernel(const LabelledTask<T>& task, int64_t part, int64_t parts) {
  const int64_t width = unit_width<T>(task.a, parts);
  sum_units<LabelledTask<T>, T>(task, width, part, parts, LabelledSum<T>(task, width));
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
