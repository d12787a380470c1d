// SPDX-License-Identifier: Apache-2.0
// Pools: the adjoint of the resize from a grid of cells to a layer. A pool sums (a - shift) and its square over the
// positions of the layer, with the weights of the resize. The shift is near the mean of the channel, so that no digits
// are lost where |mean| >> std.
#include "simd.h"

namespace stylefast {
namespace STYLEFAST_ISA {

// Distance of sampled positions along an axis, so that 8 to 15 positions are sampled, or all if there are fewer.
constexpr int64_t sample_step(int64_t size) { return size < 8 ? 1 : size / 8; }

// Pools channels_last activations; lanes hold channels. Each position is added to the two neighbouring cells along x.
// Each pooled row is then added to the two neighbouring rows of cells.
template <typename S, typename T>
class PixelPool {
  static constexpr int L = kLanes<T>;

 public:
  PixelPool(const Pooling<S>& task, int64_t width)
      : task_(task), width_(width), size_(2 * task.x.cells * width), cells_(size_), cell_rows_(2 * size_) {}

  // Pools channels [c, c + channels) of image n, writes the shifts [width] of their values, and calls
  // finish(y, cells) for every row of cells.
  template <typename Finish>
  void add(int64_t n, int64_t c, int64_t channels, T* shift, const Finish& finish) {
    const S* from = task_.a.data + n * task_.a.stride_n + c;
    if (task_.standardize) sample_mean(from, channels, shift);
    std::fill(cell_rows_ + 0, cell_rows_ + 2 * size_, T(0));
    int64_t finished = 0;  // number of finished rows of cells
    for (int64_t y = 0; y < task_.a.h; ++y) {
      const int32_t low = task_.y.low[y], high = task_.y.high[y];
      const T weight = task_.y.weight[y];
      for (; finished < low; ++finished) finish_row(finished, finish);
      pool_row(from + y * task_.a.stride_h, channels, shift);
      add_row(1 - weight, cell_row(low));
      if (weight != 0) add_row(weight, cell_row(high));
    }
    for (; finished < task_.y.cells; ++finished) finish_row(finished, finish);
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

  template <typename Finish>
  void finish_row(int64_t y, const Finish& finish) const {
    finish(y, cell_row(y));
    std::fill(cell_row(y), cell_row(y) + size_, T(0));
  }

  const Pooling<S>& task_;
  int64_t width_, size_;         // channels; elements of a row of cells
  Buffer<T> cells_, cell_rows_;  // [2, cells, width_]; two rows of cells
};

// Pools activations whose channels lie in planes; lanes hold positions. The rows of the layer that lie between the same
// two rows of cells are summed first. Only these sums are transposed, so that lanes hold channels, and pooled along x.
template <typename S, typename T>
class PlanePool {
  static constexpr int L = kLanes<T>;

 public:
  PlanePool(const Pooling<S>& task, int64_t)
      : task_(task),
        width_(round_up(task.a.w, L) + L),
        sums_(3 * 2 * L * width_),
        block_(L * L),
        cells_(2 * task.x.cells * L) {}

  // Does what PixelPool::add() does, for at most kLanes channels.
  template <typename Finish>
  void add(int64_t n, int64_t c, int64_t channels, T* shift, const Finish& finish) {
    const Activations<S>& a = task_.a;
    std::fill(sums_ + 0, sums_ + 3 * 2 * L * width_, T(0));
    for (int64_t i = 0; task_.standardize && i < channels; ++i) shift[i] = sample_mean(plane(n, c + i));
    int64_t finished = 0;                         // number of finished rows of cells
    for (int64_t y = 0, end; y < a.h; y = end) {  // rows [y, end) lie between the same two rows of cells
      const int32_t low = task_.y.low[y], high = task_.y.high[y];
      for (end = y + 1; end < a.h && task_.y.low[end] == low && task_.y.high[end] == high;) ++end;
      for (; finished < low; ++finished) finish_row(finished, finish);
      for (int64_t i = 0; i < channels; ++i) {
        const int64_t next = i + 1 < channels ? a.stride_c : (end - y) * a.stride_h - i * a.stride_c;
        add_rows(plane(n, c + i), next, y, end, shift[i], sums(low & 1, 0, i), sums(low == high ? 2 : high & 1, 0, i));
      }
    }
    for (; finished < task_.y.cells; ++finished) finish_row(finished, finish);
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

  // Pools the sums of a finished row of cells along x, finishes the cells, and clears the sums for a later row.
  template <typename Finish>
  void finish_row(int64_t y, const Finish& finish) {
    for (int field = 0; field < 2; ++field) pool_row(sums(y & 1, field, 0), cells_ + field * task_.x.cells * L);
    finish(y, cells_);
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

  const Pooling<S>& task_;
  int64_t width_;                   // W in whole vectors, and one more: powers of two would share cache sets
  Buffer<T> sums_, block_, cells_;  // [3, 2, kLanes, width_]; [kLanes, kLanes]; [2, cells, kLanes]
};

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
