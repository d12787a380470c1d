// SPDX-License-Identifier: Apache-2.0
// Sums of squares about the mean, weighted by memberships, of blocks of channels that stay in the cache.
#include "soft_product.h"
#include "tile.h"

namespace stylefast {
namespace STYLEFAST_ISA {

inline constexpr int64_t kUnitBytes = 512 << 10;  // half of a 1 MB second-level cache

// Whether a block of `width` channels stays in the second-level cache.
template <typename T, typename A>
constexpr bool stays_in_cache(const A& a, int64_t width) {
  return a.plane() * width * static_cast<int64_t>(sizeof(T)) <= kUnitBytes;
}

// Sums of (x - shift) over the positions of a slab.
template <typename T>
STYLEFAST_INLINE Vec<T> sum_about(Vec<T> shift, const T* slab, int64_t count) {
  Vec<T> total[4] = {};  // one sum would wait for every addition
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    for (int j = 0; j < 4; ++j) total[j] += load(slab + (i + j) * kLanes<T>) - shift;
  }
  for (; i < count; ++i) total[0] += load(slab + i * kLanes<T>) - shift;
  return (total[0] + total[1]) + (total[2] + total[3]);
}

// Sums of an image whose blocks of channels stay in the cache, or whose memberships are resized to the layer.
//
// A block is packed tile by tile, and the means are summed while a tile is in the first-level cache. Then its squares
// are multiplied by the memberships. If these have fewer cells than the layer has positions, the squares are pooled
// onto the cells first; a tile then consists of whole rows.
template <typename T>
class SoftSum {
  static constexpr int L = kLanes<T>;

 public:
  SoftSum(const SoftTask<T>& task, int64_t width)
      : task_(task),
        pools_(task.y != nullptr && task.y->cells * task.x->cells < task.a.plane()),
        stays_(stays_in_cache<T>(task.a, width)),
        pixels_(pools_ ? std::max<int64_t>(1, kTile / task.a.w) * task.a.w : kTile),
        stride_(pixels_ + 64 / STYLEFAST_BYTES),
        slabs_(width / L),
        product_(task.clusters, pools_ ? task.y->cells * task.x->cells : task.a.plane()),
        tiles_((stays_ ? (task.a.plane() + pixels_ - 1) / pixels_ : 1) * slabs_ * stride_ * L),
        resized_(task.a.plane()),
        shift_(width),
        offset_(width),
        squares_(pools_ ? pixels_ * kColumns<T> : 0),
        cells_(pools_ ? task.y->cells * task.x->cells * kColumns<T> : 0),
        row_(pools_ ? task.x->cells * kColumns<T> : 0) {}

  int64_t rows() const { return product_.rows(); }

  // Adds channels [c, c + channels) of image n to sums [rows, stride], and writes their variances.
  void add(int64_t n, int64_t c, int64_t channels, double* sums, int64_t stride, T* variance) {
    if (n != std::exchange(packed_image_, n)) pack_memberships(n);
    const Source& a = task_.a;
    const Block block{n, c / L, (channels + L - 1) / L};
    const bool joined = a.stride_w == 1 && a.rows_join() && a.stride_c == a.plane();  // planes follow each other
    prepare(block, joined ? 0 : L);
    for (int64_t s = 0; s < block.slabs; s += kVectors) {
      const int64_t vectors = std::min<int64_t>(kVectors, block.slabs - s);
      Vec<T> square[kVectors] = {};
      const auto fill = [&](int64_t first, int64_t count, T* to) {
        fill_squares(block, first, count, s, vectors, square, to);
      };
      const auto copy = [&](int64_t first, int64_t count, T* to) {
        std::copy_n(cells_ + first * kColumns<T>, count * kColumns<T>, to);
      };
      Next next{a.address(n * a.plane(), c + s * L + kColumns<T>), joined ? kColumns<T> * a.element_size() / 64 : 0};
      if (pools_) pool(vectors, fill, next);
      const int64_t used = std::min(channels - s * L, kColumns<T>);
      if (pools_) {
        product_.add(used, copy, {nullptr, 0}, sums + s * L, stride);
      } else {
        product_.add(used, fill, next, sums + s * L, stride);
      }
      for (int64_t j = 0; j < vectors; ++j) store(variance + (s + j) * L, square[j] / static_cast<T>(a.plane()));
    }
  }

 private:
  // Slabs [begin, begin + slabs) of image n.
  struct Block {
    int64_t n, begin, slabs;
  };

  // Packs `count` positions from `first` on, the beginning of a tile.
  T* pack_tile(const Block& block, int64_t first, int64_t count, int64_t ahead) const {
    T* to = tiles_ + (stays_ ? first / pixels_ : 0) * slabs_ * stride_ * L;
    pack<T>(task_.a, block.n * task_.a.plane() + first, count, block.begin, block.begin + block.slabs, to, stride_,
            nullptr, ahead);
    return to;
  }

  // Packs the block if it stays in the cache. Computes the means as sums of a shift and a small offset, so that no
  // digits are lost where |mean| >> std.
  void prepare(const Block& block, int64_t ahead) {
    std::fill(shift_ + 0, shift_ + block.slabs * L, T(0));
    std::fill(offset_ + 0, offset_ + block.slabs * L, T(0));
    if (!stays_ && !task_.standardize) return;
    const int64_t plane = task_.a.plane();
    for (int64_t p = 0; p < plane; p += pixels_) {
      const int64_t count = std::min(pixels_, plane - p);
      const T* slab = pack_tile(block, p, count, ahead);
      for (int64_t s = 0; task_.standardize && s < block.slabs; ++s, slab += stride_ * L) {
        if (p == 0) store(shift_ + s * L, slab_mean(slab, std::min<int64_t>(count, L)));
        store(offset_ + s * L, load(offset_ + s * L) + sum_about<T>(load(shift_ + s * L), slab, count));
      }
    }
    for (int64_t i = 0; i < block.slabs * L; ++i) offset_[i] /= static_cast<T>(plane);
  }

  // Writes the squares of a tile, rows of kColumns elements, and adds them to `total`.
  void fill_squares(const Block& block, int64_t first, int64_t count, int64_t s, int64_t vectors, Vec<T>* total,
                    T* to) const {
    const T* slab = stays_ ? tiles_ + first / pixels_ * slabs_ * stride_ * L : pack_tile(block, first, count, 0);
    slab += s * stride_ * L;
    for (int64_t j = 0; j < vectors; ++j, slab += stride_ * L) {
      const Vec<T> shift = load(shift_ + (s + j) * L), offset = load(offset_ + (s + j) * L);
      Vec<T> sum[2] = {};  // one sum would wait for every addition
      const auto square = [&](int64_t i) {
        const Vec<T> d = (load(slab + i * L) - shift) - offset;
        store(to + i * kColumns<T> + j * L, d * d);
        return d * d;
      };
      int64_t i = 0;
      for (; i + 2 <= count; i += 2) {
        sum[0] += square(i);
        sum[1] += square(i + 1);
      }
      if (i < count) sum[0] += square(i);
      total[j] += sum[0] + sum[1];
    }
  }

  // Pools the squares of the layer onto the cells.
  template <typename Fill>
  void pool(int64_t vectors, const Fill& fill, Next& next) {
    const int64_t w = task_.a.w, row = task_.x->cells * kColumns<T>;
    std::fill(cells_ + 0, cells_ + task_.y->cells * row, T(0));
    for (int64_t first = 0; first < task_.a.plane(); first += pixels_) {
      const int64_t count = std::min(pixels_, task_.a.plane() - first);
      fill(first, count, squares_ + 0);
      for (int64_t p = 0; p < count; p += w) {
        const int64_t y = (first + p) / w;
        for (int64_t j = 0; j < vectors; ++j) pool_row(squares_ + p * kColumns<T> + j * L, row_ + j * L);
        for (int64_t i = 0; i < w * next.lines; ++i, next.from += 64) __builtin_prefetch(next.from, 0, 2);
        add_row(1 - task_.y->weight[y], cells_ + task_.y->low[y] * row);
        if (task_.y->weight[y] != 0) add_row(task_.y->weight[y], cells_ + task_.y->high[y] * row);
      }
    }
  }

  // Pools a vector of channels along x.
  void pool_row(const T* squares, T* cells) const {
    const Axis<T>& x = *task_.x;
    Vec<T> low{}, high{};  // sums of the current cell and of the next one
    int64_t cell = 0;
    const auto advance = [&] {
      store(cells + cell++ * kColumns<T>, low);
      low = std::exchange(high, Vec<T>{});
    };
    for (int64_t i = 0; i < task_.a.w; ++i) {
      while (cell < x.low[i]) advance();
      const Vec<T> square = load(squares + i * kColumns<T>);
      low += (1 - x.weight[i]) * square;
      high += x.weight[i] * square;
    }
    while (cell < x.cells) advance();
  }

  void add_row(T weight, T* to) const {
    for (int64_t i = 0; i < task_.x->cells * kColumns<T>; i += L) store(to + i, load(to + i) + weight * load(row_ + i));
  }

  void pack_memberships(int64_t n) {
    const int64_t cells = task_.y == nullptr ? task_.a.plane() : task_.y->cells * task_.x->cells;
    for (int64_t k = 0; k < task_.clusters; ++k) {
      const T* from = task_.memberships + (n * task_.clusters + k) * cells;
      product_.pack(k, task_.y == nullptr || pools_ ? from : resize(from));
    }
  }

  const T* resize(const T* cells) const {
    const Axis<T>&y = *task_.y, &x = *task_.x;
    for (int64_t i = 0; i < task_.a.h; ++i) {
      const T *low = cells + y.low[i] * x.cells, *high = cells + y.high[i] * x.cells;
      T* to = resized_ + i * task_.a.w;
      for (int64_t j = 0; j < task_.a.w; ++j) {
        const T left = low[x.low[j]] + y.weight[i] * (high[x.low[j]] - low[x.low[j]]);
        const T right = low[x.high[j]] + y.weight[i] * (high[x.high[j]] - low[x.high[j]]);
        to[j] = left + x.weight[j] * (right - left);
      }
    }
    return resized_;
  }

  const SoftTask<T>& task_;
  bool pools_, stays_;               // whether a block of channels stays in the cache; otherwise, it is packed twice
  int64_t pixels_, stride_, slabs_;  // positions per tile; positions from one slab of a tile to the next; its slabs
  SoftProduct<T> product_;
  Buffer<T> tiles_;                  // [tiles, slabs, stride, kLanes]
  Buffer<T> resized_;                // [H, W]
  Buffer<T> shift_, offset_;         // [width]; their sums are the means
  Buffer<T> squares_, cells_, row_;  // [pixels, kColumns]; [cells of the grid, kColumns]; one row of it
  int64_t packed_image_ = -1;
};

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
