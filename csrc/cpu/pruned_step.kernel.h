// SPDX-License-Identifier: Apache-2.0
// Kernel of pruned_step: scores only positions whose label can change, and updates sums only by those whose label does.
//
// Every position has a lower bound on the cosine to the centroid of its label, and an upper bound on the cosines to all
// other centroids. After the centroids moved by at most d, the bounds move by d. As long as the lower bound is above
// the upper bound, the label stays. Otherwise the lower bound is replaced by the cosine, and if it is still not above,
// the position is a candidate. Usually few centroids move much. A candidate whose lower bound is above the upper bound
// for the other centroids is scored against these few, and only if it remains a candidate, against all. Candidates are
// copied to a small tile and scored there.
#include "exact_sums.h"

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
        sums_(task, part, pixels),
        tile_(task.points.a.c, pixels),
        few_(task.points.a.c, kChunk),
        scores_(scores_size<T>(std::max(pixels, kChunk), task.restarts * clusters_)),
        norm_(pixels),
        weight_(pixels),
        own_(pixels + 4),
        second_(std::max(pixels, kChunk)),
        best_(std::max(pixels, kChunk)),
        label_(pixels),
        candidates_(pixels),
        screened_(pixels) {}

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

  // Writes labels and bounds of all restarts, and adds to their sums and counts.
  void relabel() {
    for (int64_t b = 0; b < task_.restarts; ++b) relabel(b);
    if (task_.labels == nullptr) sums_.add(tile_, weight_, count_);
  }

  // Finishes the sums after the last tile.
  void finish() { sums_.finish(); }

 private:
  void relabel(int64_t b) {
    const int64_t positions = task_.points.a.positions(), offset = b * positions + first_;
    const int64_t size = task_.restarts * positions;
    const Bounds<T> bounds{task_.bounds + offset, task_.bounds + size + offset};
    if (task_.labels == nullptr) {
      for (int64_t i = 0; i < count_; ++i) candidates_[i] = static_cast<int32_t>(i);
      const int64_t columns = score_columns<T>(task_.restarts * clusters_);
      choose<T, true>(scores_, columns, b * clusters_, clusters_, count_, best_, second_);
      accept(b, 0, count_, bounds);
      sums_.sort(b, label_, weight_, count_);
    } else {
      const T* former = task_.former_bounds + offset;
      std::copy(task_.labels + offset, task_.labels + offset + count_, label_ + 0);
      const Bounds<const T> former_bounds{former, former + size};
      const auto [screened, unsure] = find_candidates(b, former_bounds, bounds);
      const int64_t found = screen(b, screened, unsure, former_bounds, bounds);
      for (int64_t begin = 0; begin < found; begin += kChunk) {
        score_candidates(b, begin, std::min(kChunk, found - begin), bounds);
      }
    }
    std::copy(label_ + 0, label_ + count_, task_.new_labels + offset);
  }

  // Copies listed positions to a small tile and scores them against `clusters` packed centroids.
  void score_few(const int32_t* positions, int64_t count, const T* packed, int64_t clusters) {
    for (int64_t s = 0; s < tile_.slabs; ++s) {
      const T* from = tile_.slab(s);
      T* to = few_.slab(s);
      for (int64_t j = 0; j < count; ++j) store(to + j * kLanes<T>, load(from + positions[j] * kLanes<T>));
    }
    score_packed<T>(few_, count, packed, clusters, scores_);
  }

  // Scores candidates [begin, begin + count) against all centroids of restart b.
  void score_candidates(int64_t b, int64_t begin, int64_t count, const Bounds<T>& bounds) {
    score_few(candidates_ + begin, count, task_.packed + b * task_.packed_size, clusters_);
    choose<T, true>(scores_, score_columns<T>(clusters_), 0, clusters_, count, best_, second_);
    accept(b, begin, count, bounds);
  }

  // Moves the bounds, and lists the positions whose label can change: in screened_ if only the centroids that moved
  // most can be better than that of the label, otherwise in candidates_. Returns the lengths of both lists.
  std::pair<int64_t, int64_t> find_candidates(int64_t b, const Bounds<const T>& former, const Bounds<T>& bounds) {
    const T margin = rounding_margin<T>(task_.points.a.c), rest = task_.rest[b];
    const T *own = task_.moved + b * clusters_, *others = own + task_.restarts * clusters_;
    int64_t screened = 0, unsure = 0, found = 0;
    const auto screens = [&](int32_t i) { return bounds.lower[i] > former.upper[i] + rest + margin; };
    for (int32_t i = 0; i < count_; ++i) {
      bounds.lower[i] = former.lower[i] - own[label_[i]];
      bounds.upper[i] = former.upper[i] + others[label_[i]];
      screened_[screened] = candidates_[unsure] = i;
      const bool sure = bounds.lower[i] > bounds.upper[i] + margin || weight_[i] == 0;
      screened += !sure && screens(i), unsure += !sure && !screens(i);
    }
    score_labels<T>(tile_, task_.rows + b * clusters_ * width_, width_, label_, candidates_, unsure, own_);
    for (int64_t j = 0; j < unsure; ++j) {
      const int32_t i = candidates_[j];
      bounds.lower[i] = own_[j] * weight_[i];
      screened_[screened] = candidates_[found] = i;
      const bool sure = bounds.lower[i] > bounds.upper[i] + margin;
      screened += !sure && screens(i), found += !sure && !screens(i);
    }
    return {screened, found};
  }

  // Scores positions in screened_ against the centroids that moved most. Adds those whose label can change to
  // candidates_ and returns its new length.
  int64_t screen(int64_t b, int64_t screened, int64_t found, const Bounds<const T>& former, const Bounds<T>& bounds) {
    const T margin = rounding_margin<T>(task_.points.a.c), rest = task_.rest[b];
    const int64_t movers = task_.movers_count, columns = score_columns<T>(movers);
    const int32_t* mover = task_.movers + b * movers;
    for (int64_t begin = 0; begin < screened; begin += kChunk) {
      const int64_t count = std::min(kChunk, screened - begin);
      score_few(screened_ + begin, count, task_.packed_movers + b * task_.packed_movers_size, movers);
      for (int64_t j = 0; j < count; ++j) {
        const int32_t i = screened_[begin + j];
        T upper = former.upper[i] + rest;
        for (int64_t m = 0; m < movers; ++m) {
          if (mover[m] != label_[i]) upper = std::max(upper, scores_[j * columns + m] * weight_[i]);
        }
        if (bounds.lower[i] > upper + margin) {
          bounds.upper[i] = upper;
        } else {
          candidates_[found++] = i;
        }
      }
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
      if (task_.labels != nullptr && label != label_[i]) sums_.move(tile_, i, weight_[i], b, label_[i], label);
      label_[i] = label;
    }
  }

  const PrunedTask<T>& task_;
  const int64_t clusters_, width_;
  ExactSums<T> sums_;
  const Tile<T> tile_, few_;       // few_ holds candidates
  const Buffer<T> scores_, norm_;  // norm_: squared norms
  const Buffer<T> weight_;         // 1/|x|, or 0 for a position that does not count
  const Buffer<T> own_, second_;   // scores of the label, and second-best scores
  const Best<T> best_;
  const Buffer<int32_t> label_, candidates_, screened_;
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
    tile.relabel();
  }
  tile.finish();
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
