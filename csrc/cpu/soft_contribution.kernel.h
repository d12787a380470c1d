// SPDX-License-Identifier: Apache-2.0
// Kernels of soft_contribution. A unit of work is a block of channels of one image, so that any number of threads
// shares an image. The sums of its squares, weighted by the memberships, give its rows of M.
//
// Memberships on a grid with fewer cells than the layer has positions are not resized. Instead, the layer is pooled
// onto the grid with the adjoint of the resize, and the products run over the cells.
#include "pool.h"
#include "soft_sum.h"

namespace stylefast {
namespace STYLEFAST_ISA {

// Sums of an image that is too large for the cache, and is pooled onto the grid of the memberships in one pass, by a
// PixelPool or a PlanePool.
template <typename S, typename T, typename Pool>
class SoftPool {
  static constexpr int L = kLanes<T>;

 public:
  SoftPool(const SoftPoolTask<S>& task, int64_t width, int64_t pool_width)
      : task_(task),
        cells_(task.y.cells * task.x.cells),
        width_(width),
        pool_width_(pool_width),
        product_(task.clusters, cells_),
        pool_(task, pool_width),
        shift_(width),
        pooled_(2 * cells_ * width) {}

  int64_t rows() const { return product_.rows(); }

  // Adds channels [c, c + channels) of image n to sums [rows, stride], and writes their variances.
  void add(int64_t n, int64_t c, int64_t channels, double* sums, int64_t stride, T* variance) {
    if (n != std::exchange(packed_image_, n)) {
      for (int64_t k = 0; k < task_.clusters; ++k)
        product_.pack(k, task_.memberships + (n * task_.clusters + k) * cells_);
    }
    std::fill(shift_ + 0, shift_ + width_, T(0));
    for (int64_t i = 0; i < channels; i += pool_width_) {
      pool_.add(n, c + i, std::min(pool_width_, channels - i), shift_ + i,
                [&](int64_t y, const T* cells) { keep_row(y, cells, i); });
    }
    for (int64_t i = 0; i < channels; i += kColumns<T>) {
      add_columns(i, std::min(channels - i, kColumns<T>), sums + i, stride, variance + i);
    }
  }

 private:
  void keep_row(int64_t y, const T* cells, int64_t channel) const {
    for (int field = 0; field < 2; ++field) {
      for (int64_t x = 0; x < task_.x.cells; ++x, cells += pool_width_) {
        T* to = pooled_ + (field * cells_ + y * task_.x.cells + x) * width_ + channel;
        std::memcpy(to, cells, sizeof(T) * pool_width_);
      }
    }
  }

  // Adds the products of channels [i, i + channels) of the block. The energy of a cell follows from its sums about the
  // shift: with d = mean - shift, it is squares - 2 d sums + d^2 area.
  void add_columns(int64_t i, int64_t channels, double* sums, int64_t stride, T* variance) {
    const int64_t vectors = (channels + L - 1) / L, x_cells = task_.x.cells;
    const T positions = static_cast<T>(task_.a.plane());
    Vec<T> d[kVectors] = {}, total[kVectors] = {};
    for (int64_t j = 0; task_.standardize && j < vectors; ++j) {
      for (int64_t cell = 0; cell < cells_; ++cell) d[j] += load(pooled_ + cell * width_ + i + j * L);
      d[j] /= positions;
    }
    const auto fill = [&](int64_t first, int64_t count, T* to) {
      for (int64_t cell = first; cell < first + count; ++cell, to += kColumns<T>) {
        const T area = task_.y.area[cell / x_cells] * task_.x.area[cell % x_cells];
        for (int64_t j = 0; j < vectors; ++j) {
          const T* sum = pooled_ + cell * width_ + i + j * L;
          const Vec<T> energy = load(sum + cells_ * width_) - 2 * d[j] * load(sum) + d[j] * d[j] * area;
          const Vec<T> positive = energy < 0 ? Vec<T>{} : energy;
          total[j] += positive;
          store(to + j * L, positive);
        }
      }
    };
    product_.add(channels, fill, {nullptr, 0}, sums, stride);
    for (int64_t j = 0; j < vectors; ++j) store(variance + j * L, total[j] / positions);
  }

  const SoftPoolTask<S>& task_;
  int64_t cells_, width_, pool_width_;  // channels of a unit, and of a call of the pool
  SoftProduct<T> product_;
  Pool pool_;
  Buffer<T> shift_;   // [width]
  Buffer<T> pooled_;  // [2, cells, width]
  int64_t packed_image_ = -1;
};

// Adds M of a block of channels of image n to the sums of a part, or writes it to the image's own M.
template <typename T>
void fold_soft(const double* sums, int64_t stride, const double* scale, int64_t clusters, int64_t channels,
               double positions, double* total, int64_t total_stride, T* image, int64_t image_stride) {
  for (int64_t k = 0; k < clusters; ++k, sums += stride) {
    for (int64_t c = 0; c < channels; ++c) {
      if (image != nullptr) {
        image[k * image_stride + c] = static_cast<T>(sums[c] * scale[c] / positions);
      } else {
        total[k * total_stride + c] += sums[c] * scale[c];
      }
    }
  }
}

// Runs a part. A unit of work is a block of `width` channels of one image.
template <typename Task, typename T, typename Sum>
void soft_units(const Task& task, int64_t width, int64_t part, int64_t parts, Sum&& sum) {
  const int64_t c = task.a.c, blocks = (c + width - 1) / width, units = blocks * task.a.n;
  const Contributions<T>& output = task.output;
  const int64_t stride = width + kVectorBytes / static_cast<int64_t>(sizeof(double));
  const Buffer<double> sums(sum.rows() * stride), scale(width);
  const Buffer<T> variance(width);
  for (int64_t u = part_begin(units, part, parts); u < part_begin(units, part + 1, parts); ++u) {
    const int64_t n = u / blocks, first = u % blocks * width, channels = std::min(width, c - first);
    std::fill(sums + 0, sums + sum.rows() * stride, 0.0);
    sum.add(n, first, channels, sums, stride, variance);
    for (int64_t i = 0; i < channels; ++i) scale[i] = task.standardize ? 1 / (variance[i] + kVarianceEpsilon) : 1.0;
    double* total = output.sums == nullptr ? nullptr : output.sums + part * task.clusters * output.stride + first;
    T* image = output.images == nullptr ? nullptr : output.images + n * task.clusters * c + first;
    fold_soft<T>(sums, stride, scale, task.clusters, channels, static_cast<double>(task.a.plane()), total,
                 output.stride, image, c);
  }
}

// Channels per unit. Planes: kColumns. channels_last: the widest blocks, of at most `most` channels, that still give
// every part some work.
template <typename T, typename A>
int64_t soft_width(const A& a, int64_t parts, int64_t most) {
  if (!a.channels_last()) return kColumns<T>;
  const int64_t splits = a.n == 0 ? 1 : (parts + a.n - 1) / a.n;
  return std::clamp(std::min(round_up((a.c + splits - 1) / splits, kColumns<T>), most / kColumns<T> * kColumns<T>),
                    kColumns<T>, int64_t(512));
}

// Whether a block of the fewest channels stays in the cache.
template <typename T>
bool stays_in_soft_sum(const Source& a) {
  return stays_in_cache<T>(a, kColumns<T>);
}

template <typename T>
void soft_kernel(const SoftTask<T>& task, int64_t part, int64_t parts) {
  const int64_t fitting = kUnitBytes / (task.a.plane() * static_cast<int64_t>(sizeof(T)));
  const int64_t width = soft_width<T>(task.a, parts, fitting);
  soft_units<SoftTask<T>, T>(task, width, part, parts, SoftSum<T>(task, width));
}

template <typename S, typename T = typename Compute<S>::type>
void soft_pool_kernel(const SoftPoolTask<S>& task, int64_t part, int64_t parts) {
  const int64_t cells = task.y.cells * task.x.cells;
  const int64_t width = soft_width<T>(task.a, parts, kUnitBytes / (2 * cells * static_cast<int64_t>(sizeof(T))));
  const auto run = [&](auto&& sum) { soft_units<SoftPoolTask<S>, T>(task, width, part, parts, sum); };
  if (task.a.channels_last()) return run(SoftPool<S, T, PixelPool<S, T>>(task, width, width));
  run(SoftPool<S, T, PlanePool<S, T>>(task, width, kLanes<T>));
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
