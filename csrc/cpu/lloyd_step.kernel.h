// SPDX-License-Identifier: Apache-2.0
// Kernel of lloyd_step. A part owns a range of tiles and its own sums.
//
// A tile is read once. While it is in cache, it is scored against the centroids of all restarts; then each restart
// chooses labels, sorts the positions by label, and adds the unit vectors of each run. Sums of T are flushed to double
// every kTilesPerFlush tiles.
#include "runs.h"

namespace stylefast {
namespace STYLEFAST_ISA {

inline constexpr int64_t kTilesPerFlush = 64;  // bounds the rounding errors for any N

// Adds sums [slabs, clusters, kLanes] to total [clusters, width] and clears them.
template <typename T>
void flush(T* sums, int64_t slabs, int64_t clusters, double* total, int64_t width) {
  for (int64_t s = 0; s < slabs; ++s) {
    for (int64_t k = 0; k < clusters; ++k, sums += kLanes<T>) {
      add_to<T>(total + k * width + s * kLanes<T>, load(sums));
      store(sums, Vec<T>{});
    }
  }
}

template <typename T>
void lloyd_kernel(const LloydTask<T>& task, int64_t part, int64_t parts) {
  constexpr int L = kLanes<T>;
  const Source& a = task.points.a;
  const int64_t positions = a.positions(), pixels = tile_pixels<T>(a.c, (positions + parts - 1) / parts);
  const int64_t tiles = (positions + pixels - 1) / pixels;
  const Tile<T> tile(a.c, pixels);
  const int64_t clusters = task.restarts * task.clusters, columns = score_columns<T>(clusters), width = padded<T>(a.c);
  double* total = task.sums + part * clusters * width;
  int64_t* counts = task.counts + part * clusters;
  double* objective = task.objective + part * task.restarts;

  const Buffer<T> scores(scores_size<T>(pixels, clusters)), sums(tile.slabs * clusters * L);
  const Buffer<T> norm(pixels), similarity(pixels), weight(pixels);
  const Buffer<int32_t> label(pixels);
  const Best<T> best(pixels);
  std::vector<Runs> runs;
  runs.reserve(task.restarts);
  for (int64_t b = 0; b < task.restarts; ++b) runs.emplace_back(pixels, task.clusters);
  std::fill(sums + 0, sums + tile.slabs * clusters * L, T(0));
  std::fill(total, total + clusters * width, 0.0);
  std::fill(counts, counts + clusters, 0);
  std::fill(objective, objective + task.restarts, 0.0);

  const int64_t begin = part_begin(tiles, part, parts), end = part_begin(tiles, part + 1, parts);
  for (int64_t t = begin; t < end; ++t) {
    const int64_t first = t * pixels, count = std::min(pixels, positions - first);
    score_tile<T>(task.points, first, count, tile, tile, norm, scores);
    for (int64_t b = 0; b < task.restarts; ++b) {
      choose<T>(scores, columns, b * task.clusters, task.clusters, count, best);
      finish_labels<T>(best, norm, count, label, similarity, weight);
      std::copy(label + 0, label + count, task.labels + b * positions + first);
      for (int64_t i = 0; i < count; ++i) {
        objective[b] += similarity[i];
        if (weight[i] == 0) label[i] = -1;  // excludes the position from the sums
      }
      runs[b].sort(label, count);
      int32_t start = 0;
      for (const Run& run : runs[b]) counts[b * task.clusters + run.label] += run.end - std::exchange(start, run.end);
    }
    for (int64_t s = 0; s < tile.slabs; s += 2) {
      const auto add = s + 1 < tile.slabs ? add_runs<T, 2> : add_runs<T, 1>;
      for (int64_t b = 0; b < task.restarts; ++b) {
        add(tile.slab(s), tile.stride * L, weight, runs[b], sums + (s * clusters + b * task.clusters) * L,
            clusters * L);
      }
    }
    if ((t - begin + 1) % kTilesPerFlush == 0 || t + 1 == end) flush<T>(sums, tile.slabs, clusters, total, width);
  }
}

}  // namespace STYLEFAST_ISA
}  // namespace stylefast
