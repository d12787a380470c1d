// SPDX-License-Identifier: Apache-2.0
// Kernels of contribution. A unit of work is a block of channels of one image, so that any number of threads shares an
// image. Labels of the layer's own size are summed by labelled.h.
//
// If the sizes differ, then instead of resizing the labels of every cluster to the layer, the kernel pools the layer
// onto the label grid with the adjoint of the resize, and then sums the cells of the grid by label. Therefore the
// memory traffic does not grow with the number of clusters. The rows of the plane are pooled in order, so that at most
// two rows of cells are unfinished at any time.
#include "labelled.h"

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

// Distance of sampled positions along an axis, so that 8 to 15 positions are sampled, or all if there are fewer.
constexpr int64_t sample_step(int64_t size) { return size < 8 ? 1 : size / 8; }

// Pools channels_last activations; lanes hold channels. Each position is added to the two neighbouring cells along x.
// Each pooled row is then added to the two neighbouring rows of cells.
template <typename S, typename T>
class PixelPool {
  static constexpr int L = kLanes<T>;

 public:
  PixelPool(const PoolTask<S>& task, int64_t width)
      : task_(task), width_(width), size_(2 * task.x.cells * width), cells_(size_), cell_rows_(2 * size_) {}

  // Adds channels [c, c + channels) of image n.
  void add(int64_t n, int64_t c, int64_t channels, const Moments<T>& moments) {
    const S* from = task_.a.data + n * task_.a.stride_n + c;
    if (task_.standardize) sample_mean(from, channels, moments.shift);
    std::fill(cell_rows_ + 0, cell_rows_ + 2 * size_, T(0));
    int64_t finished = 0;  // number of finished rows of cells
    for (int64_t y = 0; y < task_.a.h; ++y) {
      const int32_t low = task_.y.low[y], high = task_.y.high[y];
      const T weight = task_.y.weight[y];
      for (; finished < low; ++finished) finish_row(n, finished, moments);
      pool_row(from + y * task_.a.stride_h, channels, moments.shift);
      add_row(1 - weight, cell_row(low));
      if (weight != 0) add_row(weight, cell_row(high));
    }
    for (; finished < task_.y.cells; ++finished) finish_row(n, finished, moments);
  }

 private:
  T* cell_row(int64_t y) const { return cell_rows_ + (y & 1) * size_; }  // at most two rows are unfinished

  // Writes the mean of a grid of positions. Exact if all are equal.
  void sample_mean(const S* from, int64_t channels, T* mean) const {
    const int64_t step_y = sample_step(task_.a.h), step_x = sample_step(task_.a.w);
    for (int64_t c = 0; c < channels; c += L) {
      const int64_t width = std::min<int64_t>(L, channels - c);
      const Vec<T> first = gather(from + c, 1, width);
      Vec<T> total{};
      T samples = 0;
      for (int64_t y = 0; y < task_.a.h; y += step_y) {
        for (int64_t x = 0; x < task_.a.w; x += step_x, ++samples) {
          total += gather(from + y * task_.a.stride_h + x * task_.a.stride_w + c, 1, width) - first;
        }
      }
      store(mean + c, first + total / samples);
    }
  }

  void pool_row(const S* from, int64_t channels, const T* shift) {
    std::fill(cells_ + 0, cells_ + size_, T(0));
    for (int64_t x = 0; x < task_.a.w; ++x, from += task_.a.stride_w) {
      const T high_weight = task_.x.weight[x], low_weight = 1 - high_weight;
      T* sum = cells_ + task_.x.low[x] * width_;
      T* square = sum + task_.x.cells * width_;
      const int64_t step = (task_.x.high[x] - task_.x.low[x]) * width_;
      for (int64_t c = 0; c < width_; c += L) {
        const Vec<T> d = gather(from + c, 1, std::min<int64_t>(L, channels - c)) - load(shift + c);
        store(sum + c, load(sum + c) + low_weight * d);
        store(square + c, load(square + c) + low_weight * (d * d));
        if (high_weight != 0) {
          store(sum + step + c, load(sum + step + c) + high_weight * d);
          store(square + step + c, load(square + step + c) + high_weight * (d * d));
        }
      }
    }
  }

  void add_row(T weight, T* to) const {
    for (int64_t i = 0; i < size_; i += L) store(to + i, load(to + i) + weight * load(cells_ + i));
  }

  void finish_row(int64_t n, int64_t y, const Moments<T>& moments) const {
    add_cells<S, T>(task_, n, y, cell_row(y), moments);
    std::fill(cell_row(y), cell_row(y) + size_, T(0));
  }

  const PoolTask<S>& task_;
  int64_t width_, size_;         // channels; elements of a row of cells
  Buffer<T> cells_, cell_rows_;  // [2, cells, width_]; two rows of cells
};

// Pools activations whose channels lie in planes; lanes hold positions. The rows of the layer that lie between the same
// two rows of cells are summed first. Only these sums are transposed, so that lanes hold channels, and pooled along x.
template <typename S, typename T>
class PlanePool {
  static constexpr int L = kLanes<T>;

 public:
  explicit PlanePool(const PoolTask<S>& task)
      : task_(task),
        width_(round_up(task.a.w, L) + L),
        sums_(3 * 2 * L * width_),
        block_(L * L),
        cells_(2 * task.x.cells * L) {}

  // Adds channels [c, c + channels) of image n, at most kLanes.
  void add(int64_t n, int64_t c, int64_t channels, const Moments<T>& moments) {
    const Activations<S>& a = task_.a;
    std::fill(sums_ + 0, sums_ + 3 * 2 * L * width_, T(0));
    for (int64_t i = 0; task_.standardize && i < channels; ++i) moments.shift[i] = sample_mean(plane(n, c + i));
    int64_t finished = 0;                         // number of finished rows of cells
    for (int64_t y = 0, end; y < a.h; y = end) {  // rows [y, end) lie between the same two rows of cells
      const int32_t low = task_.y.low[y], high = task_.y.high[y];
      for (end = y + 1; end < a.h && task_.y.low[end] == low && task_.y.high[end] == high;) ++end;
      for (; finished < low; ++finished) finish_row(n, finished, moments);
      for (int64_t i = 0; i < channels; ++i) {
        const int64_t next = i + 1 < channels ? a.stride_c : (end - y) * a.stride_h - i * a.stride_c;
        add_rows(plane(n, c + i), next, y, end, moments.shift[i], sums(low & 1, 0, i),
                 sums(low == high ? 2 : high & 1, 0, i));
      }
    }
    for (; finished < task_.y.cells; ++finished) finish_row(n, finished, moments);
  }

 private:
  const S* plane(int64_t n, int64_t c) const { return task_.a.data + n * task_.a.stride_n + c * task_.a.stride_c; }

  // Weighted sums of (a - shift) (field 0) or of its square (field 1) over the rows of the layer that contribute to a
  // row of cells, [width_]. At most two rows of cells are unfinished at any time: an even one (0) and an odd one (1).
  // Rows of the layer that lie in one row of cells add zeros to row 2, which nothing reads.
  T* sums(int64_t row, int field, int64_t lane) { return sums_ + ((row * 2 + field) * L + lane) * width_; }

  // Mean of a grid of positions. Exact if all are equal.
  T sample_mean(const S* plane) const {
    const int64_t step_y = sample_step(task_.a.h), step_x = sample_step(task_.a.w);
    const T first = load_one(plane);
    T total = 0, samples = 0;
    for (int64_t y = 0; y < task_.a.h; y += step_y) {
      for (int64_t x = 0; x < task_.a.w; x += step_x, ++samples) {
        total += load_one(plane + y * task_.a.stride_h + x * task_.a.stride_w) - first;
      }
    }
    return first + total / samples;
  }

  // Adds rows [begin, end) of a plane to the sums of the row of cells below and of the one above. A strip of rows
  // shares the loads and stores of the sums. The processor cannot predict the rows that are read next, `next` elements
  // ahead, so they are prefetched.
  void add_rows(const S* plane, int64_t next, int64_t begin, int64_t end, T shift, T* low, T* high) {
    constexpr int64_t kStrip = 4;
    const int64_t w = task_.a.w, whole = task_.a.stride_w == 1 ? w / L * L : 0;
    const int64_t square = L * width_, stride_h = task_.a.stride_h, stride_w = task_.a.stride_w;
    for (int64_t y = begin; y < end; y += kStrip) {
      const S* strip = plane + y * stride_h;
      const T* weight = task_.y.weight + y;
      const int64_t rows = std::min(kStrip, end - y);
      for (int64_t x = 0; x < w; x += L) {
        Vec<T> sum{}, sum2{}, high_sum{}, high_sum2{};
        const S* from = strip + x * stride_w;
        for (int64_t j = 0; j < rows; ++j, from += stride_h) {
          __builtin_prefetch(from + next, 0, 2);
          const Vec<T> a = x < whole ? load(from) : gather(from, stride_w, std::min<int64_t>(L, w - x));
          const Vec<T> d = a - shift;
          sum += d;
          sum2 += d * d;
          high_sum += weight[j] * d;
          high_sum2 += weight[j] * (d * d);
        }
        store(low + x, load(low + x) + (sum - high_sum));
        store(low + square + x, load(low + square + x) + (sum2 - high_sum2));
        store(high + x, load(high + x) + high_sum);
        store(high + square + x, load(high + square + x) + high_sum2);
      }
    }
  }

  // Pools the sums of a finished row of cells along x, adds the cells to the moments of their labels, and clears the
  // sums for a later row.
  void finish_row(int64_t n, int64_t y, const Moments<T>& moments) {
    for (int field = 0; field < 2; ++field) pool_row(sums(y & 1, field, 0), cells_ + field * task_.x.cells * L);
    add_cells<S, T>(task_, n, y, cells_, moments);
    std::fill(sums(y & 1, 0, 0), sums(y & 1, 0, 0) + 2 * L * width_, T(0));
  }

  void pool_row(const T* sums, T* cells) {
    Vec<T> low{}, high{};  // sums of the current cell and of the next one
    int64_t cell = 0;
    const auto advance = [&] {
      store(cells + cell++ * L, low);
      low = std::exchange(high, Vec<T>{});
    };
    for (int64_t x = 0; x < task_.a.w; ++x) {
      if (x % L == 0) transpose_block(sums + x);
      while (cell < task_.x.low[x]) advance();
      const Vec<T> sum = load(block_ + (x % L) * L);
      low += (1 - task_.x.weight[x]) * sum;
      high += task_.x.weight[x] * sum;
    }
    while (cell < task_.x.cells) advance();
  }

  // block[position, channel] = sums[channel, position]
  void transpose_block(const T* sums) {
    Vec<T> block[L];
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) block[i] = load(sums + i * width_);
    transpose<T>(block);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) store(block_ + i * L, block[i]);
  }

  const PoolTask<S>& task_;
  int64_t width_;                   // W in whole vectors, and one more: powers of two would share cache sets
  Buffer<T> sums_, block_, cells_;  // [3, 2, kLanes, width_]; [kLanes, kLanes]; [2, cells, kLanes]
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
  if (task.a.channels_last()) return sum_units<PoolTask<S>, T>(task, width, part, parts, PixelPool<S, T>(task, width));
  sum_units<PoolTask<S>, T>(task, width, part, parts, PlanePool<S, T>(task));
}

template <typename T>
void labelled_kernel(const LabelledTask<T>& task, int64_t part, int64_t parts) {
  const int64_t width = unit_width<T>(task.a, parts);
  sum_units<LabelledTask<T>, T>(task, width, part, parts, LabelledSum<T>(task, width));
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
