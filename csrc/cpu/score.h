// SPDX-License-Identifier: Apache-2.0
// Labels of a tile: inner products of its positions (in the lanes) with the centroids (broadcast), and their argmax.
#include "tile.h"

namespace stylefast {
namespace STYLEFAST_ISA {

// Per position of a tile: the best score so far, its cluster, and |x|^2.
template <typename T>
struct Best {
  explicit Best(int64_t pixels) : score(pixels), label(pixels), norm(pixels) {}
  Buffer<T> score;
  Buffer<IndexOf<T>> label;
  Buffer<T> norm;
};

// From scores to results. A point counts if its norm is finite and not zero: weight 1/|x|; else weight 0, label 0 and
// similarity 0 (zero vector) or NaN. So has a point without a single score that is a number.
template <typename T>
void finish_labels(const Best<T>& best, int64_t count, int32_t* label, T* similarity, T* weight) {
  constexpr T kHuge = std::numeric_limits<T>::max(), kNan = std::numeric_limits<T>::quiet_NaN();
  for (int64_t i = 0; i < count; ++i) {
    const T square = best.norm[i];
    const bool finite = square <= kHuge, counts = finite && square > 0;
    const T norm = std::sqrt(square);
    label[i] = counts ? static_cast<int32_t>(best.label[i]) : 0;
    const bool scored = best.score[i] > -std::numeric_limits<T>::infinity();
    similarity[i] = counts && scored ? best.score[i] / norm : finite && !counts ? T(0) : kNan;
    weight[i] = counts ? 1 / norm : T(0);
  }
}

// Compiled in score.cpp:

// Centroids [B, K, C] in the order in which they are read: for every restart, for every block, [C][clusters of it].
template <typename T>
void pack_centroids(const T* from, int64_t restarts, int64_t clusters, int64_t channels, T* to);

// Scores all positions of a tile against K packed centroids.
template <typename T>
void score_tile(const T* tile, int64_t pixels, int64_t channels, const T* centroids, int64_t clusters,
                const Best<T>& best);

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
