// SPDX-License-Identifier: Apache-2.0
// Labels of a tile: inner products of its positions (broadcast) with the centroids (in the lanes), and their argmax.
#include "tile.h"

namespace stylefast {
namespace STYLEFAST_ISA {

// What scoring a tile leaves for one set of centroids: per position the best score and its cluster.
template <typename T>
struct Best {
  explicit Best(int64_t pixels) : score(pixels), label(pixels) {}
  Buffer<T> score;
  Buffer<IndexOf<T>> label;
};

// From scores to results. A point counts if its norm is finite and not zero: weight 1/|x|; else weight 0, label 0 and
// similarity 0 (zero vector) or NaN. So has a point without a single score that is a number.
template <typename T>
void finish_labels(const Best<T>& best, const T* norms, int64_t count, int32_t* label, T* similarity, T* weight) {
  constexpr T kHuge = std::numeric_limits<T>::max(), kNan = std::numeric_limits<T>::quiet_NaN();
  for (int64_t i = 0; i < count; ++i) {
    const T square = norms[i];
    const bool finite = square <= kHuge, counts = finite && square > 0;
    const T norm = std::sqrt(square);
    label[i] = counts ? static_cast<int32_t>(best.label[i]) : 0;
    const bool scored = best.score[i] > -std::numeric_limits<T>::infinity();
    similarity[i] = counts && scored ? best.score[i] / norm : finite && !counts ? T(0) : kNan;
    weight[i] = counts ? 1 / norm : T(0);
  }
}

template <typename T>
int64_t score_columns(int64_t clusters) {
  return round_up(clusters, kLanes<T>);
}

// Room for scores of a tile [pixels][score_columns], and for what is touched behind them.
template <typename T>
int64_t scores_size(int64_t pixels, int64_t clusters) {
  return (pixels + Tile<T>::kSpare) * score_columns<T>(clusters);
}

// Compiled in score.cpp:

// Centroids [clusters, channels] in the order in which they are read.
template <typename T>
void pack_centroids(const T* from, int64_t clusters, int64_t channels, T* to);

// Packs positions [first, first + count) into `tile`, turns them into `features` (the same tile if they are raw), and
// leaves their squared norms and their scores against all centroids.
template <typename T>
void score_tile(const Points<T>& points, int64_t first, int64_t count, const Tile<T>& tile, const Tile<T>& features,
                T* norm, T* scores);

// The best of clusters [first, first + clusters) at every position; of equal scores, the lowest.
template <typename T>
void choose(const T* scores, int64_t columns, int64_t first, int64_t clusters, int64_t count, const Best<T>& best);

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
