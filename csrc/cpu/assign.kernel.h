// SPDX-License-Identifier: Apache-2.0
// stylefast::assign: one read of the activations, no [N, K, H, W] of scores.
#include "score.h"

namespace stylefast {
namespace STYLEFAST_ISA {

template <typename T>
void assign_kernel(const AssignTask<T>& task, int64_t part, int64_t parts) {
  const Source& a = task.a;
  const int64_t positions = a.positions(), pixels = tile_pixels<T>(a.c, positions);
  const int64_t tiles = (positions + pixels - 1) / pixels;
  Buffer<T> tile(a.c * pixels), weight(pixels);
  const Best<T> best(pixels);
  for (int64_t t = share(tiles, part, parts); t < share(tiles, part + 1, parts); ++t) {
    const int64_t first = t * pixels, count = std::min(pixels, positions - first);
    pack<T>(a, first, count, tile, pixels);
    make_features<T>(a, task.features, task.statistics, first, count, tile, pixels);
    score_tile<T>(tile, pixels, a.c, task.centroids, task.clusters, best);
    finish_labels<T>(best, count, task.labels + first, task.similarity + first, weight);
  }
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
