// SPDX-License-Identifier: Apache-2.0
// Sums of unit vectors by cluster without rounding errors, so that they do not depend on the order in which positions
// come and go: unit vectors are rounded to multiples of 2^-q that a double can sum exactly.
#include "runs.h"

namespace stylefast {
namespace STYLEFAST_ISA {

// sums[label, lane] += units[i, lane] over the positions i of every run.
template <typename T>
void add_units(const T* units, const Runs& runs, double* sums) {
  constexpr int L = kLanes<T>, D = kLanes<double>, kParts = L / D;
  using Narrow = typename VecOf<T, D * sizeof(T)>::type;
  const int32_t* position = runs.order;
  for (const Run& run : runs) {
    double* to = sums + run.label * L;
    Vec<double> sum[kParts];
    for (int j = 0; j < kParts; ++j) sum[j] = load(to + j * D);
    for (const int32_t* end = runs.order + run.end; position < end; ++position) {
      for (int j = 0; j < kParts; ++j) {
        Narrow x;
        std::memcpy(&x, units + *position * L + j * D, sizeof x);
        sum[j] += __builtin_convertvector(x, Vec<double>);
      }
    }
    for (int j = 0; j < kParts; ++j) store(to + j * D, sum[j]);
  }
}

// Sums and counts of the clusters of all restarts over the positions of a part. Without a previous step, tiles are
// added: sort() for every restart, then add(), and finish() after the last tile. With one, positions move.
template <typename T>
class ExactSums {
 public:
  ExactSums(const PrunedTask<T>& task, int64_t part, int64_t pixels)
      : restarts_(task.labels == nullptr ? task.restarts : 0),
        clusters_(task.clusters),
        slabs_((task.points.a.c + kLanes<T> - 1) / kLanes<T>),
        width_(padded<T>(task.points.a.c)),
        grid_(task.grid),
        sums_(task.sums + part * task.restarts * clusters_ * width_),
        counts_(task.counts + part * task.restarts * clusters_),
        sorted_(pixels),
        by_slab_(slabs_ * restarts_ * clusters_ * kLanes<T>) {
    for (int64_t b = 0; b < restarts_; ++b) runs_.emplace_back(pixels, clusters_);
    std::fill(by_slab_ + 0, by_slab_ + slabs_ * restarts_ * clusters_ * kLanes<T>, 0.0);
    std::fill(sums_, sums_ + task.restarts * clusters_ * width_, 0.0);
    std::fill(counts_, counts_ + task.restarts * clusters_, 0);
  }

  // Counts the labels of a tile in restart b, and sorts its positions for add(). Positions of weight 0 do not count.
  void sort(int64_t b, const int32_t* label, const T* weight, int64_t count) {
    for (int64_t i = 0; i < count; ++i) sorted_[i] = weight[i] == 0 ? -1 : label[i];
    runs_[b].sort(sorted_, count);
    int32_t start = 0;
    for (const Run& run : runs_[b]) counts_[b * clusters_ + run.label] += run.end - std::exchange(start, run.end);
  }

  // Adds all sorted positions of a tile in all restarts. Overwrites the tile with the rounded unit vectors.
  void add(const Tile<T>& tile, const T* weight, int64_t count) {
    constexpr int L = kLanes<T>;
    for (int64_t s = 0; s < slabs_; ++s) {
      T* slab = tile.slab(s);
      for (int64_t i = 0; i < count; ++i) store(slab + i * L, unit(slab + i * L, weight[i]));
      for (int64_t b = 0; b < restarts_; ++b) {
        add_units<T>(slab, runs_[b], by_slab_ + (s * restarts_ + b) * clusters_ * L);
      }
    }
  }

  // Writes the sums over all tiles.
  void finish() {
    constexpr int L = kLanes<T>;
    const int64_t rows = restarts_ * clusters_;
    for (int64_t s = 0; s < slabs_; ++s) {
      for (int64_t r = 0; r < rows; ++r) {
        const double* from = by_slab_ + (s * rows + r) * L;
        std::copy(from, from + L, sums_ + r * width_ + s * L);
      }
    }
  }

  // Moves position i of a tile from one cluster of restart b to another.
  void move(const Tile<T>& tile, int64_t i, T weight, int64_t b, int64_t from, int64_t to) {
    constexpr int L = kLanes<T>;
    const int64_t less = b * clusters_ + from, more = b * clusters_ + to;
    for (int64_t s = 0; s < slabs_; ++s) {
      const Vec<T> x = unit(tile.slab(s) + i * L, weight);
      add_to<T>(sums_ + more * width_ + s * L, x);
      add_to<T>(sums_ + less * width_ + s * L, -x);
    }
    ++counts_[more];
    --counts_[less];
  }

 private:
  // Adding and subtracting grid rounds to multiples of its unit in the last place.
  Vec<T> unit(const T* x, T weight) const { return (load(x) * weight + grid_) - grid_; }

  const int64_t restarts_;  // of which tiles are added: none if positions move
  const int64_t clusters_, slabs_, width_;
  const T grid_;
  double* const sums_;     // [B, K, width]
  int64_t* const counts_;  // [B, K]
  const Buffer<int32_t> sorted_;
  const Buffer<double> by_slab_;  // [slabs, restarts, K, kLanes]
  std::vector<Runs> runs_;        // of the restarts
};

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
