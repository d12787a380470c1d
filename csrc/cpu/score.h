// SPDX-License-Identifier: Apache-2.0
// Labels of a tile: inner products of its positions with all centroids, and the argmax per position.
#include "tile.h"

namespace stylefast {
namespace STYLEFAST_ISA {

// Best score and its cluster per position of a tile, for the centroids of one restart.
template <typename T>
struct Best {
  explicit Best(int64_t pixels) : score(pixels), label(pixels) {}
  Buffer<T> score;           // [pixels]
  Buffer<IndexOf<T>> label;  // [pixels]
};

// Computes label, similarity and weight of `count` points from their best scores and their squared norms.
// A point with a finite, nonzero norm has weight 1/|x|. Any other point has weight 0, label 0 and similarity 0 (zero
// vector) or NaN (norm not finite). A point without a score above -Inf, for example because all are NaN, has
// similarity NaN, too.
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

// Length of a row of scores: clusters, rounded up to whole vectors.
template <typename T>
int64_t score_columns(int64_t clusters) {
  return round_up(clusters, kLanes<T>);
}

// Size of a buffer for the scores of a tile, [pixels, score_columns], including the rows that kernels write past its
// end.
template <typename T>
int64_t scores_size(int64_t pixels, int64_t clusters) {
  return (pixels + Tile<T>::kSpare) * score_columns<T>(clusters);
}

// The following functions are compiled in score.cpp.

// Copies centroids [clusters, channels] into the order in which score_tile() reads them.
template <typename T>
void pack_centroids(const T* from, int64_t clusters, int64_t channels, T* to);

// Packs positions [first, first + count) into `tile`, computes `features` (the same tile for raw and rectified
// features), and writes their squared norms [pixels] and, unless `scores` is nullptr, their scores against all
// centroids [pixels, score_columns].
template <typename T>
void score_tile(const Points<T>& points, int64_t first, int64_t count, const Tile<T>& tile, const Tile<T>& features,
                T* norm, T* scores);

// Writes the scores of the first `count` positions of a filled tile against `clusters` packed centroids, with the same
// bits as score_tile().
template <typename T>
void score_packed(const Tile<T>& tile, int64_t count, const T* centroids, int64_t clusters, T* scores);

// Finds the best of clusters [first, first + clusters) per position. Labels count from `first`. The lowest label wins
// ties; NaN never wins. With kSecond, also writes the second-best score per position, or -Inf.
template <typename T, bool kSecond = false>
void choose(const T* scores, int64_t columns, int64_t first, int64_t clusters, int64_t count, const Best<T>& best,
            T* second = nullptr);

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
