// SPDX-License-Identifier: Apache-2.0
// Kernel of assign. A part owns a range of tiles. A tile is packed, scored and labelled while it is in cache:
// activations are read once, and scores [N, K, H, W] are never written to memory.
#include "score.h"

namespace stylefast {
namespace STYLEFAST_ISA {

template <typename T>
void assign_kernel(const AssignTask<T>& task, int64_t part, int64_t parts) {
  const Points<T>& points = task.points;
  const int64_t positions = points.a.positions(), pixels = tile_pixels<T>(points.a.c, (positions + parts - 1) / parts);
  const int64_t tiles = (positions + pixels - 1) / pixels;
  const Tile<T> tile(points.a.c, pixels);
  const Best<T> best(pixels);
  const Buffer<T> norm(pixels), weight(pixels), scores(scores_size<T>(pixels, points.clusters));
  for (int64_t t = part_begin(tiles, part, parts); t < part_begin(tiles, part + 1, parts); ++t) {
    const int64_t first = t * pixels, count = std::min(pixels, positions - first);
    score_tile<T>(points, first, count, tile, tile, norm, scores);
    choose<T>(scores, score_columns<T>(points.clusters), 0, points.clusters, count, best);
    finish_labels<T>(best, norm, count, task.labels + first, task.similarity + first, weight);
  }
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
