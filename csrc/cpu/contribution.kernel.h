// SPDX-License-Identifier: Apache-2.0
// stylefast::contribution where the label grid has another size than the layer. The layer is pooled onto the grid with
// the adjoint of the resize, then summed by label, so the number of clusters does not multiply its traffic:
// rows that lie between the same two rows of cells are added up in the lanes of positions, and only the few sums are
// transposed to lanes of channels, pooled along the row and added to their labels.
#include "moments.h"

namespace stylefast {
namespace STYLEFAST_ISA {

template <typename S, typename T>
class Pool {
  static constexpr int L = kLanes<T>;

 public:
  explicit Pool(const PoolTask<S>& task)
      : task_(task),
        width_(round_up(task.a.w, L)),
        sums_(2 * 2 * L * width_),
        block_(L * L),
        row_(width_),
        cells_(2 * task.x.cells * L) {}

  // Adds channels [c, c + kLanes) of image n.
  void add(int64_t n, int64_t c, const Moments<T>& to) {
    const Activations<S>& a = task_.a;
    const int64_t channels = std::min<int64_t>(L, a.c - c);
    std::fill(sums_ + 0, sums_ + 2 * 2 * L * width_, T(0));
    for (int64_t i = 0; task_.standardize && i < channels; ++i) to.shift[i] = sample_mean(plane(n, c + i));
    const int32_t* labels = task_.labels + n * task_.y.cells * task_.x.cells;
    int64_t done = 0;
    for (int64_t y = 0; y < a.h; ++y) {
      const int32_t low = task_.y.low[y], high = task_.y.high[y];
      for (; done < low; ++done) finish_row(done, labels, to);
      for (int64_t i = 0; i < channels; ++i) {
        add_row(plane(n, c + i) + y * a.stride_h, to.shift[i], low == high ? T(0) : task_.y.weight[y], sums(low, 0, i),
                sums(high, 0, i));
      }
    }
    for (; done < task_.y.cells; ++done) finish_row(done, labels, to);
  }

 private:
  const S* plane(int64_t n, int64_t c) const { return task_.a.data + n * task_.a.stride_n + c * task_.a.stride_c; }

  // Sums of (a - shift) (field 0) and of its square (field 1) over the rows between two rows of cells: two rows are
  // open.
  T* sums(int64_t cell_row, int field, int64_t lane) {
    return sums_ + (((cell_row & 1) * 2 + field) * L + lane) * width_;
  }

  // The mean of 64 positions spread over the plane; exactly its value if all are equal.
  T sample_mean(const S* plane) const {
    const int64_t size = task_.a.plane(), samples = std::min<int64_t>(size, 64);
    const T first = load_one(plane);
    T total = 0;
    for (int64_t i = 0; i < samples; ++i) {
      const int64_t p = size * i / samples;
      total += load_one(plane + (p / task_.a.w) * task_.a.stride_h + (p % task_.a.w) * task_.a.stride_w) - first;
    }
    return first + total / static_cast<T>(samples);
  }

  void add_row(const S* from, T shift, T weight, T* low, T* high) {
    const int64_t w = task_.a.w;
    int64_t x = 0;
    if (task_.a.stride_w == 1) {
      for (; x + L <= w; x += L) add_vector(load(from + x) - shift, weight, low + x, high + x);
    } else {
      for (; x + L <= w; x += L) {
        T lanes[L];
        for (int i = 0; i < L; ++i) lanes[i] = load_one(from + (x + i) * task_.a.stride_w);
        add_vector(load(lanes) - shift, weight, low + x, high + x);
      }
    }
    if (x < w) {
      T lanes[L];
      std::fill(lanes, lanes + L, shift);
      for (int i = 0; x + i < w; ++i) lanes[i] = load_one(from + (x + i) * task_.a.stride_w);
      add_vector(load(lanes) - shift, weight, low + x, high + x);
    }
  }

  STYLEFAST_INLINE void add_vector(Vec<T> d, T weight, T* low, T* high) {
    const int64_t square = L * width_;
    store(low, load(low) + (1 - weight) * d);
    store(low + square, load(low + square) + (1 - weight) * (d * d));
    if (weight != 0) {
      store(high, load(high) + weight * d);
      store(high + square, load(high + square) + weight * (d * d));
    }
  }

  // A row of cells is complete: pools its sums along x, adds every cell to its label, and clears them for a later row.
  void finish_row(int64_t y, const int32_t* labels, const Moments<T>& to) {
    for (int field = 0; field < 2; ++field) pool_row(sums(y, field, 0), cells_ + field * task_.x.cells * L);
    for (int64_t x = 0; x < task_.x.cells; ++x) {
      const int32_t label = labels[y * task_.x.cells + x];
      const int64_t k = label >= 0 && label < task_.clusters ? label : task_.clusters;
      to.n[k] += task_.y.area[y] * task_.x.area[x];
      store(to.l + k * L, load(to.l + k * L) + load(cells_ + x * L));
      store(to.q + k * L, load(to.q + k * L) + load(cells_ + (task_.x.cells + x) * L));
    }
    std::fill(sums(y, 0, 0), sums(y, 0, 0) + 2 * L * width_, T(0));
  }

  void pool_row(const T* sums, T* cells) {
    Vec<T> here{}, next{};  // of the current cell and of the one behind it
    int64_t cell = 0;
    const auto advance = [&] {
      store(cells + cell++ * L, here);
      here = std::exchange(next, Vec<T>{});
    };
    for (int64_t x = 0; x < task_.a.w; ++x) {
      if (x % L == 0) transpose_block(sums + x);
      while (cell < task_.x.low[x]) advance();
      const Vec<T> sum = load(block_ + (x % L) * L);
      const T weight = task_.x.high[x] == cell ? T(0) : task_.x.weight[x];
      here += (1 - weight) * sum;
      next += weight * sum;
    }
    while (cell < task_.x.cells) advance();
  }

  // block[position][lane] = sums[lane][position]
  void transpose_block(const T* sums) {
    Vec<T> block[L];
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) block[i] = load(sums + i * width_);
    transpose<T>(block);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) store(block_ + i * L, block[i]);
  }

  const PoolTask<S>& task_;
  int64_t width_;  // W rounded up to whole vectors
  Buffer<T> sums_, block_, row_, cells_;
};

template <typename S, typename T = typename Compute<S>::type>
void pool_kernel(const PoolTask<S>& task, int64_t part, int64_t parts) {
  constexpr int L = kLanes<T>;
  const int64_t c = task.a.c, row = padded<T>(c), blocks = (c + L - 1) / L, units = blocks * task.a.n;
  double* sums = task.to.sums == nullptr ? nullptr : task.to.sums + part * task.clusters * row;
  if (sums != nullptr) std::fill(sums, sums + task.clusters * row, 0.0);
  Pool<S, T> pool(task);
  Moments<T> moments(task.clusters, L);
  for (int64_t u = share(units, part, parts); u < share(units, part + 1, parts); ++u) {
    const int64_t n = u / blocks, first = u % blocks * L;
    moments.clear();
    pool.add(n, first, moments);
    T* image = task.to.images == nullptr ? nullptr : task.to.images + n * task.clusters * c + first;
    fold<T>(moments, task.standardize, static_cast<T>(task.a.plane()), std::min<int64_t>(L, c - first),
            sums == nullptr ? nullptr : sums + first, row, image, c);
  }
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
