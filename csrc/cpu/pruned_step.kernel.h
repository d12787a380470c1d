// SPDX-License-Identifier: Apache-2.0
// Kernel of pruned_step: scores only positions whose label can change, and updates sums only by those whose label does.
//
// Every position has a lower bound on the cosine to the centroid of its label, and an upper bound on the cosines to all
// other centroids. After the centroids moved by at most d, the bounds move by d. As long as the lower bound is above
// the upper bound, the label stays. Otherwise the lower bound is replaced by the cosine, and if it is still not above,
// the position is a candidate: candidates are copied to a small tile and scored.
//
// Sums are exact, so that they do not depend on the order in which positions come and go: unit vectors are rounded to
// multiples of 2^-q that a double can sum without rounding.
#include "score.h"

namespace stylefast {
namespace STYLEFAST_ISA {

// Positions per tile. All restarts read the tile in turn, so that half of the usual size is faster. The size is not a
// power of two, so that the channels of a position lie in different sets of the cache.
template <typename T>
inline constexpr int64_t kPrunedTile = 120 / kLanes<T> * kLanes<T>;

inline constexpr int64_t kChunk = 48;  // candidates scored at a time, a multiple of kRows and of kLanes

// Largest rounding error of the comparison of a cosine with a bound. The scores of the label and of another centroid in
// lloyd_step, the former score in the bound, and the score of the label here have errors of at most (C + 136) u |x|,
// where u = epsilon / 2: a sum over a stretch of 128 channels or fewer, the sum of the stretches, and the norm.
template <typename T>
T rounding_margin(int64_t channels) {
  return 2 * static_cast<T>(channels + 136) * std::numeric_limits<T>::epsilon();
}

// Below this squared norm, the errors of underflow can exceed the margin, so there is no bound.
template <typename T>
constexpr T smallest_square() {
  return std::numeric_limits<T>::min() / (std::numeric_limits<T>::epsilon() * std::numeric_limits<T>::epsilon());
}

// Scores of the listed positions of a tile against the centroids of their labels.
template <typename T>
void score_labels(const Tile<T>& tile, const T* rows, int64_t width, const int32_t* label, const int32_t* positions,
                  int64_t count, T* scores) {
  constexpr int L = kLanes<T>, kBlock = 4;
  for (int64_t p = 0; p < count; p += kBlock) {
    const T *x[kBlock], *row[kBlock];
    for (int64_t j = 0; j < kBlock; ++j) {
      const int32_t i = positions[std::min(p + j, count - 1)];
      x[j] = tile.slab(0) + i * L;
      row[j] = rows + label[i] * width;
    }
    Vec<T> sum[kBlock] = {};
    for (int64_t s = 0, offset = 0; s < tile.slabs; ++s, offset += tile.stride * L) {
      for (int j = 0; j < kBlock; ++j) sum[j] += load(x[j] + offset) * load(row[j] + s * L);
    }
    for (int j = 0; j < kBlock; ++j) scores[p + j] = lane_sum<T>(sum[j]);
  }
}

template <typename T>
struct Bounds {
  T* lower;  // at most the cosine to the centroid of the label
  T* upper;  // at least the cosines to all other centroids
};

// The current tile of a part, and the sums and counts of the part.
template <typename T>
class PrunedTile {
 public:
  PrunedTile(const PrunedTask<T>& task, int64_t part, int64_t pixels)
      : task_(task),
        clusters_(task.clusters),
        width_(padded<T>(task.points.a.c)),
        sums_(task.sums + part * task.restarts * clusters_ * width_),
        counts_(task.counts + part * task.restarts * clusters_),
        tile_(task.points.a.c, pixels),
        few_(task.points.a.c, kChunk),
        scores_(scores_size<T>(std::max(pixels, kChunk), task.restarts * clusters_)),
        norm_(pixels),
        weight_(pixels),
        own_(pixels + 4),
        second_(std::max(pixels, kChunk)),
        best_(std::max(pixels, kChunk)),
        label_(pixels),
        candidates_(pixels) {
    std::fill(sums_, sums_ + task.restarts * clusters_ * width_, 0.0);
    std::fill(counts_, counts_ + task.restarts * clusters_, 0);
  }

  // Reads positions [first, first + count). Scores them against all centroids of all restarts if there are no bounds.
  void read(int64_t first, int64_t count) {
    first_ = first, count_ = count;
    T* scores = task_.labels == nullptr ? static_cast<T*>(scores_) : nullptr;
    score_tile<T>(task_.points, first, count, tile_, tile_, norm_, scores);
    for (int64_t i = 0; i < count; ++i) {
      const bool counts = norm_[i] <= std::numeric_limits<T>::max() && norm_[i] > 0;
      weight_[i] = counts ? 1 / std::sqrt(norm_[i]) : T(0);
    }
  }

  // Writes labels and bounds of restart b, and adds to its sums and counts.
  void relabel(int64_t b) {
    const int64_t positions = task_.points.a.positions(), offset = b * positions + first_;
    const int64_t size = task_.restarts * positions;
    const Bounds<T> bounds{task_.bounds + offset, task_.bounds + size + offset};
    if (task_.labels == nullptr) {
      std::fill(label_ + 0, label_ + count_, -1);
      for (int64_t i = 0; i < count_; ++i) candidates_[i] = static_cast<int32_t>(i);
      const int64_t columns = score_columns<T>(task_.restarts * clusters_);
      choose<T, true>(scores_, columns, b * clusters_, clusters_, count_, best_, second_);
      accept(b, 0, count_, bounds);
    } else {
      const T* former = task_.former_bounds + offset;
      std::copy(task_.labels + offset, task_.labels + offset + count_, label_ + 0);
      const int64_t found = find_candidates(b, {former, former + size}, bounds);
      for (int64_t begin = 0; begin < found; begin += kChunk) {
        score_candidates(b, begin, std::min(kChunk, found - begin), bounds);
      }
    }
    std::copy(label_ + 0, label_ + count_, task_.new_labels + offset);
  }

 private:
  // Copies candidates [begin, begin + count) to a small tile and scores them against all centroids of restart b.
  void score_candidates(int64_t b, int64_t begin, int64_t count, const Bounds<T>& bounds) {
    for (int64_t s = 0; s < tile_.slabs; ++s) {
      const T* from = tile_.slab(s);
      T* to = few_.slab(s);
      for (int64_t j = 0; j < count; ++j) store(to + j * kLanes<T>, load(from + candidates_[begin + j] * kLanes<T>));
    }
    score_packed<T>(few_, count, task_.packed + b * task_.packed_size, clusters_, scores_);
    choose<T, true>(scores_, score_columns<T>(clusters_), 0, clusters_, count, best_, second_);
    accept(b, begin, count, bounds);
  }

  // Moves the bounds, and lists the positions whose label can change. Returns their number.
  int64_t find_candidates(int64_t b, const Bounds<const T>& former, const Bounds<T>& bounds) {
    const T margin = rounding_margin<T>(task_.points.a.c);
    const T *own = task_.moved + b * clusters_, *others = own + task_.restarts * clusters_;
    int64_t unsure = 0, found = 0;
    for (int64_t i = 0; i < count_; ++i) {
      bounds.lower[i] = former.lower[i] - own[label_[i]];
      bounds.upper[i] = former.upper[i] + others[label_[i]];
      candidates_[unsure] = static_cast<int32_t>(i);
      unsure += !(bounds.lower[i] > bounds.upper[i] + margin) && weight_[i] != 0;
    }
    score_labels<T>(tile_, task_.rows + b * clusters_ * width_, width_, label_, candidates_, unsure, own_);
    for (int64_t j = 0; j < unsure; ++j) {
      const int32_t i = candidates_[j];
      bounds.lower[i] = own_[j] * weight_[i];
      candidates_[found] = i;
      found += !(bounds.lower[i] > bounds.upper[i] + margin);
    }
    return found;
  }

  // Takes labels and bounds of candidates [begin, begin + count) from their best two scores.
  void accept(int64_t b, int64_t begin, int64_t count, const Bounds<T>& bounds) {
    for (int64_t j = 0; j < count; ++j) {
      const int32_t i = candidates_[begin + j];
      if (weight_[i] == 0) {
        label_[i] = 0;
        bounds.lower[i] = bounds.upper[i] = 0;
        continue;
      }
      bounds.lower[i] = best_.score[j] * weight_[i];
      bounds.upper[i] = norm_[i] >= smallest_square<T>() ? second_[j] * weight_[i] : std::numeric_limits<T>::infinity();
      const int32_t label = static_cast<int32_t>(best_.label[j]);
      if (label != label_[i]) move(i, b * clusters_ + label, label_[i] < 0 ? -1 : b * clusters_ + label_[i]);
      label_[i] = label;
    }
  }

  // Moves position i from one cluster, or from none, to another.
  void move(int32_t i, int64_t to, int64_t from) {
    const T weight = weight_[i];
    for (int64_t s = 0; s < tile_.slabs; ++s) {
      // Adding and subtracting grid rounds to multiples of its unit in the last place.
      const Vec<T> unit = (load(tile_.slab(s) + i * kLanes<T>) * weight + task_.grid) - task_.grid;
      add_to<T>(sums_ + to * width_ + s * kLanes<T>, unit);
      if (from >= 0) add_to<T>(sums_ + from * width_ + s * kLanes<T>, -unit);
    }
    ++counts_[to];
    if (from >= 0) --counts_[from];
  }

  const PrunedTask<T>& task_;
  const int64_t clusters_, width_;
  double* const sums_;             // [B, K, width]
  int64_t* const counts_;          // [B, K]
  const Tile<T> tile_, few_;       // few_ holds candidates
  const Buffer<T> scores_, norm_;  // norm_: squared norms
  const Buffer<T> weight_;         // 1/|x|, or 0 for a position that does not count
  const Buffer<T> own_, second_;   // scores of the label, and second-best scores
  const Best<T> best_;
  const Buffer<int32_t> label_, candidates_;
  int64_t first_ = 0, count_ = 0;
};

template <typename T>
void pruned_kernel(const PrunedTask<T>& task, int64_t part, int64_t parts) {
  const int64_t positions = task.points.a.positions();
  const int64_t pixels = std::min(kPrunedTile<T>, tile_pixels<T>(task.points.a.c, (positions + parts - 1) / parts));
  const int64_t tiles = (positions + pixels - 1) / pixels;
  PrunedTile<T> tile(task, part, pixels);
  for (int64_t t = part_begin(tiles, part, parts); t < part_begin(tiles, part + 1, parts); ++t) {
    tile.read(t * pixels, std::min(pixels, positions - t * pixels));
    for (int64_t b = 0; b < task.restarts; ++b) tile.relabel(b);
  }
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
